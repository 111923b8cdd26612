"""Packed rings with real drivers: DPDK's and Linux's, and a vionet that is killed under them."""

import pytest

from tests.interop.lab import Lab
from tests.interop.peers import dpdk
from tests.interop.peers.process import until
from tests.interop.peers.traffic import converse, lasting, no_bad_checksums, transfer
from tests.interop.test_dpdk import all_taken
from tests.interop.test_restart import RATE, await_bytes, boot_id

PACKED = "VIRTIO_F_RING_PACKED"
OFFER = {"a": "+ring_packed", "b": "+ring_packed"}


@pytest.mark.root
@pytest.mark.parametrize("kind", ["switch", "wire"])
@pytest.mark.parametrize("in_order", [0, 1])
@pytest.mark.parametrize("mergeable", [0, 1])
def test_dpdk(lab: Lab, kind: str, in_order: int, mergeable: int) -> None:
    """Frames bounce between two ports of testpmd; what it counts is what vionet counts."""
    if kind == "switch":
        vionet = lab.switch(OFFER)
    else:
        vionet = lab.wire(lab.guest("a", OFFER["a"]), lab.guest("b", OFFER["b"]))
    words = f",packed_vq=1,in_order={in_order},mrg_rxbuf={mergeable},queue_size=256"
    sockets = [lab.socket("a"), lab.socket("b")]
    with dpdk.virtio_user(lab.folder, lab.hugepages(), sockets, words) as testpmd:
        for port in vionet.ports().values():
            features = set(port["features"])
            assert PACKED in features
            assert bool(in_order) == ("VIRTIO_F_IN_ORDER" in features)
            assert bool(mergeable) == ("VIRTIO_NET_F_MRG_RXBUF" in features)
        testpmd.command("start tx_first 4")
        until(lambda: testpmd.counters(1)["RX-packets"] > 50_000, 60, "frames at port 1", 0.1)
        testpmd.command("stop")
        received = sum(testpmd.counters(port)["RX-packets"] for port in (0, 1))
        sent = sum(testpmd.counters(port)["TX-packets"] for port in (0, 1))
        ports = all_taken(vionet, sent).values()
    taken = sum(port["ledger"]["rx_frames"] for port in ports)
    assert received <= taken <= sent
    assert sent == taken + sum(sum(port["drops"].values()) for port in ports)


@pytest.mark.parametrize(
    "properties", [{}, {"mrg_rxbuf": "off"}, {"indirect_desc": "off", "event_idx": "off"}]
)
def test_linux(lab: Lab, properties: dict[str, str]) -> None:
    """TCP and datagrams of every size between a packed guest and a split one, both ways."""
    vionet = lab.switch({"a": "+ring_packed", "b": ""})
    a, b = lab.qemu("a", {"packed": "on", **properties}), lab.uml("b")
    lab.boot(a, b)
    assert PACKED in vionet.ports()["a"]["features"]
    assert PACKED not in vionet.ports()["b"]["features"]
    converse(a, b, size=2_000_000)


def test_not_offered_unless_asked_for(lab: Lab) -> None:
    """A guest that would have packed rings gets split ones from a port that does not say so."""
    vionet = lab.switch({"a": "", "b": ""})
    a, b = lab.qemu("a", {"packed": "on"}), lab.uml("b")
    lab.boot(a, b)
    assert PACKED not in vionet.ports()["a"]["features"]
    transfer(a, b, b.address4, 500_000).check()


@pytest.mark.parametrize("kills", [1, 3])
def test_vionet_is_killed_and_restarted(lab: Lab, kills: int) -> None:
    """TCP connections between packed QEMU guests outlive SIGKILLs of vionet, though QEMU gives the
    new one the position of the start; the guests do not reboot."""
    vionet = lab.switch(OFFER)
    packed = {"packed": "on"}
    a, b = lab.qemu("a", packed, reconnect=True), lab.qemu("b", packed, reconnect=True)
    lab.boot(a, b)
    for port in vionet.ports().values():
        assert PACKED in port["features"]
    before = [boot_id(guest) for guest in (a, b)]
    transfers = [
        lasting(a, b, b.address4, RATE, port=5301),
        lasting(b, a, a.address6, RATE, port=5302),
    ]
    for kill in range(kills + 1):  # before each and after the last they are under way
        for name in "ab":
            await_bytes(vionet, name, RATE)
        if kill < kills:
            vionet.kill_and_restart()
    for one in transfers:
        one.check()
    assert before == [boot_id(guest) for guest in (a, b)]
    for port in vionet.ports().values():
        assert PACKED in port["features"]
    no_bad_checksums(a, b)
