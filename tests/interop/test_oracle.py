"""The oracles of these tests see faults: nothing below proves anything if they do not."""

import pytest

from tests.interop.lab import Lab
from tests.interop.peers.netns import Capture
from tests.interop.peers.process import until
from tests.interop.peers.traffic import converse, datagrams, no_bad_checksums, transfer

pytestmark = pytest.mark.root


def test_w47_capture_tells_finished_checksums_from_partial_ones(lab: Lab) -> None:
    """tshark finds bad sums where a veth leaves them partial, and none where it finishes them."""
    near, far = lab.namespace("near"), lab.namespace("far")
    near.run(f"ip link add vnear type veth peer name vfar netns {far.name}")
    near.interface, far.interface = "vnear", "vfar"
    far.run("ethtool -K vfar gro off")
    near.configure(1)
    far.configure(2)
    near.await_link("vnear")
    found = {}
    for state in ("on", "off"):
        near.run(f"ethtool -K vnear tx {state} tso off gso off")
        far.run(f"ethtool -K vfar tx {state}")
        capture = Capture(far, "vfar", lab.folder / state)
        transfer(near, far, far.address4, 1_000_000).check()
        datagrams(near, far, far.address6, largest=100)
        capture.stop()
        found[state] = (capture.bad() > 100, capture.judged() > 100)
    assert {"on": (True, False), "off": (False, True)} == found


def test_watch_tells_partial_from_complete(lab: Lab) -> None:
    """The packet socket shows NEEDS_CSUM and the unfinished field, and neither when finished."""
    near, far = lab.namespace("near"), lab.namespace("far")
    near.run(f"ip link add vnear type veth peer name vfar netns {far.name}")
    near.interface, far.interface = "vnear", "vfar"
    near.configure(1)
    far.configure(2)
    near.await_link("vnear")
    seen = {}
    for state in ("on", "off"):
        near.run(f"ethtool -K vnear tx {state}")
        watching = far.start_endpoint("watch vfar timeout=60 count=2")
        watching.await_output("watching")
        near.endpoint(f"udp-to {far.address4} 68 source=67 sizes=300,301")
        seen[state] = watching.results()[0]["seen"]
    assert {
        "on": {"udp/68 flags=1 gso=0 incomplete": 2},
        "off": {"udp/68 flags=0 gso=0 complete": 2},
    } == seen


def test_counters_count(lab: Lab) -> None:
    """A datagram with a wrong checksum is counted, so a zero elsewhere means something."""
    place = lab.namespace("place")
    place.run(
        "ip link add one type veth peer name two && ip link set one up && ip link set two up && "
        "ip addr add 192.0.2.1/24 dev two"
    )
    place.await_link("one", "two")
    place.endpoint("bad-udp one 5201")
    until(lambda: place.bad_checksums()["UdpInCsumErrors"], 60, "the bad datagram")
    assert 1 == place.bad_checksums()["UdpInCsumErrors"]
    with pytest.raises(AssertionError, match=place.name):
        no_bad_checksums(place)


def test_namespaces_converse(lab: Lab) -> None:
    """The traffic itself is sound: two namespaces on one veth exchange all of it."""
    near, far = lab.namespace("near"), lab.namespace("far")
    near.run(f"ip link add vnear type veth peer name vfar netns {far.name}")
    near.interface, far.interface = "vnear", "vfar"
    near.configure(1)
    far.configure(2)
    near.await_link("vnear")
    converse(near, far)
