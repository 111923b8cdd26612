"""What a receiver's driver hands up, read from a packet socket in the guest.

DHCP clients read raw frames and know nothing of partial checksums (war stories W1 to W4); a guest
that did not agree to partial checksums never sees one, whatever is sent to it.
"""

import re

import pytest

from tests.interop.end import End
from tests.interop.lab import Lab
from tests.interop.peers.netns import TAP
from tests.interop.peers.shell import Shell
from tests.interop.peers.traffic import converse, no_bad_checksums

SIZES = "1,2,299,300,548,1023,1024,1399,1400,1452"  # the last fills an IPv6 packet
COUNT = SIZES.count(",") + 1


def watched(receiver: Shell, sender: Shell, address: str, ports: tuple[int, int]) -> dict[str, int]:
    """What `receiver` sees of datagrams of SIZES from `sender`; source and destination `ports`."""
    source, destination = ports
    job = receiver.start_endpoint(f"watch {receiver.interface} timeout=60 count={COUNT}")
    job.await_output("watching")
    if destination == 9999:  # not one that `watch` counts: end with one that it does
        sender.endpoint(f"udp-to {address} {destination} source={source} sizes={SIZES}")
        sizes = ",".join(["300"] * COUNT)
        sender.endpoint(f"udp-to {address} 68 source=67 sizes={sizes}")
    else:
        sender.endpoint(f"udp-to {address} {destination} source={source} sizes={SIZES}")
    seen: dict[str, int] = job.results()[0]["seen"]
    return {key: count for key, count in seen.items() if key.startswith(f"udp/{destination} ")}


@pytest.mark.root
def test_w1_w2_w3_dhcp_is_delivered_complete(lab: Lab) -> None:
    """UDP 67, 68, 546 and 547 arrive finished with flags 0, from a guest and from the host."""
    place = lab.namespace("server")
    vionet = lab.switch({"a": "", "b": ""}, f"c=tap:{TAP}")
    place.take(TAP)
    a, b = lab.uml("a"), lab.uml("b")
    lab.boot(a, b)
    place.configure(3)
    b.run("ethtool -K eth0 gro off")
    for name, guest in (("a", a), ("b", b)):
        End.read("uml").check(guest, vionet.ports()[name])
    for sender in (a, place):
        partial = watched(b, sender, b.address4, (9998, 9999))
        assert {"udp/9999 flags=1 gso=0 incomplete": COUNT} == partial, "these may be partial"
        for address, ports in (
            (b.address4, (67, 68)),
            (b.address4, (68, 67)),
            ("192.0.2.255", (67, 68)),
            (b.address6, (547, 546)),
            (b.address6, (546, 547)),
        ):
            seen = watched(b, sender, address, ports)
            assert {f"udp/{ports[1]} flags=0 gso=0 complete": COUNT} == seen
    no_bad_checksums(a, b, place)


@pytest.mark.root
@pytest.mark.parametrize("receiver", ["uml -guest_csum", "uml offload=off", "uml policy=complete"])
def test_w7_no_partial_frame_reaches_a_guest_that_declined(lab: Lab, receiver: str) -> None:
    """Each TCP and UDP frame comes with flags 0 and a finished checksum."""
    end, place = End.read(receiver), lab.namespace("host")
    vionet = lab.switch({"a": "", "b": end.port}, f"c=tap:{TAP}")
    place.take(TAP)
    a, b = lab.uml("a"), lab.uml("b")
    lab.boot(a, b)
    place.configure(3)
    end.check(b, vionet.ports()["b"])
    b.run("ethtool -K eth0 gro off")
    watching = b.start_endpoint("watch eth0 timeout=200 count=1")
    watching.await_output("watching")
    for sender in (a, place):
        converse(sender, b, size=500_000, largest=200)
    place.endpoint(f"udp-to {b.address4} 68 source=67 sizes=300")  # which is the end of it
    seen = watching.results()[0]["seen"]
    wrong = {key: n for key, n in seen.items() if not re.search(r"flags=0 gso=0 complete$", key)}
    assert {} == wrong
    assert 500 < sum(seen.values())
