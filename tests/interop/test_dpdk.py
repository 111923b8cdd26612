"""DPDK's virtio-user driver, which shares no code with Linux: switched, wired, into a kernel."""

import pytest

from tests.interop.balance import Ports, balanced_frames
from tests.interop.end import End
from tests.interop.lab import Lab
from tests.interop.peers import dpdk
from tests.interop.peers.process import until
from tests.interop.peers.traffic import converse, no_bad_checksums
from tests.interop.peers.vionet import Vionet
from tests.interop.test_pairs_large import rates

pytestmark = pytest.mark.root
GSO = {"HOST_TSO4", "HOST_TSO6", "GUEST_TSO4", "GUEST_TSO6"}
# DPDK's bits of what a queue does: sums of UDP and TCP; LRO; TSO; sending frames in pieces.  Its
# words for all sums would ask for those of IPv4, which virtio has not.
SUMS, LRO, TSO, PIECES = 0x0C, 0x10, 0x20, 0x8000
SUMMING = {"forward_mode": "csum", "rx_offloads": hex(SUMS), "tx_offloads": hex(SUMS | PIECES)}
LARGE = {
    "forward_mode": "csum",
    "rx_offloads": hex(SUMS | LRO),
    "tx_offloads": hex(SUMS | TSO | PIECES),
}
SUMMED = [f"csum set {kind} hw {port}" for kind in ("udp", "tcp") for port in (0, 1)]
SUMMED += [f"csum mac-swap off {port}" for port in (0, 1)]


def all_taken(vionet: Vionet, sent: int, names: str = "ab") -> Ports:
    """The ports once vionet has taken all that testpmd, which has stopped, says it has sent."""

    def taken() -> int:
        ports = vionet.ports()
        return sum(ports[name]["ledger"]["tx_frames"] for name in names)

    until(lambda: sent == taken(), 60, f"{sent} frames taken by vionet")
    return balanced_frames(vionet)


@pytest.mark.parametrize(
    ("kind", "arguments", "features"),
    [
        ("switch", "", {"MRG_RXBUF", "INDIRECT_DESC", "IN_ORDER"}),
        ("wire", ",mrg_rxbuf=0,queue_size=512", {"INDIRECT_DESC", "IN_ORDER"}),
        ("wire", ",in_order=0", {"MRG_RXBUF", "INDIRECT_DESC"}),
    ],
)
def test_frames_bounce_between_two_ports(
    lab: Lab, kind: str, arguments: str, features: set[str]
) -> None:
    """Frames that testpmd sends on one port come in at the other, as many as vionet counted."""
    vionet = (
        lab.switch({"a": "", "b": ""})
        if kind == "switch"
        else lab.wire(lab.guest("a"), lab.guest("b"))
    )
    sockets = [lab.socket("a"), lab.socket("b")]
    huge = lab.hugepages()
    with dpdk.virtio_user(lab.folder, huge, sockets, arguments) as testpmd:
        for port in vionet.ports().values():
            names = {name.rpartition("_F_")[2] for name in port["features"]}
            assert features == names & {"MRG_RXBUF", "INDIRECT_DESC", "IN_ORDER", "GUEST_CSUM"}
        testpmd.command("start tx_first 4")
        until(lambda: testpmd.counters(1)["RX-packets"] > 20_000, 60, "frames at port 1", 0.1)
        testpmd.command("stop")
        received = sum(testpmd.counters(port)["RX-packets"] for port in (0, 1))
        sent = sum(testpmd.counters(port)["TX-packets"] for port in (0, 1))
        ports = all_taken(vionet, sent)
    taken = sum(port["ledger"]["rx_frames"] for port in ports.values())
    assert received <= taken <= sent
    assert sent == taken + sum(sum(port["drops"].values()) for port in ports.values())


def test_guest_talks_to_a_kernel_behind_dpdk(lab: Lab) -> None:
    """TCP and UDP between a guest and a namespace that testpmd joins from virtio-user to a tap."""
    place = lab.namespace("behind")
    vionet = lab.switch({"a": "", "b": ""})
    huge = lab.hugepages()
    guest = lab.uml("a")
    lab.boot(guest)
    End.read("uml").check(guest, vionet.ports()["a"])
    with dpdk.into_kernel(lab.folder, huge, lab.socket("b"), "dtap0", place):
        place.interface = "dtap0"
        place.configure(2)
        assert "VIRTIO_NET_F_GUEST_CSUM" not in vionet.ports()["b"]["features"]
        converse(guest, place, size=3_000_000)
        assert 1000 < vionet.ports()["b"]["ledger"]["csum_filled"]


@pytest.mark.parametrize(
    ("options", "commands", "features"),
    [
        ({}, [], set()),
        (SUMMING, SUMMED, {"CSUM", "GUEST_CSUM"}),
        (LARGE, [*SUMMED, "tso set 1428 0", "tso set 1428 1"], {"CSUM", "GUEST_CSUM", *GSO}),
    ],
    ids=["plain", "sums", "large"],
)
def test_large_frames_through_dpdk(
    lab: Lab, options: dict[str, str], commands: list[str], features: set[str]
) -> None:
    """Kernels that send large frames talk through testpmd, which forwards between two VLANs.

    Every byte arrives.  A DPDK without TSO gets nothing but segments and sends nothing else; one
    with TSO and LRO gets large frames whole, and has those cut or passed that it sends.
    """
    vionet = lab.switch({"a": "vlan=10", "x": "vlan=10", "y": "vlan=20", "b": "vlan=20"})
    a, b = lab.uml("a"), lab.uml("b")
    sockets, huge = [lab.socket("x"), lab.socket("y")], lab.hugepages()
    lab.boot(a, b)
    with dpdk.virtio_user(lab.folder, huge, sockets, **options) as testpmd:
        for command in ["port stop all", *commands, "port start all"]:
            assert "Please stop" not in testpmd.command(command)
        assert "Not all ports were started" not in testpmd.command("start")
        ports = vionet.ports()
        for name in "ab":
            End.read("uml").check({"a": a, "b": b}[name], ports[name])
            assert {f"VIRTIO_NET_F_{gso}" for gso in GSO} <= set(ports[name]["features"])
        for name in "xy":
            names = {feature.rpartition("_F_")[2] for feature in ports[name]["features"]}
            assert features == names & {"CSUM", "GUEST_CSUM", *GSO}
        rates(a, b, 12_000_000)
        rates(b, a, 12_000_000)
        no_bad_checksums(a, b)
        testpmd.command("stop")
        counted = [testpmd.counters(port) for port in (0, 1)]
        ports = all_taken(vionet, sum(counts["TX-packets"] for counts in counted), "xy")
    ledger = {name: port["ledger"] for name, port in ports.items()}
    for name, counts in zip("xy", counted, strict=True):
        one = ledger[name]
        assert counts["TX-packets"] == one["tx_frames"]
        assert counts["RX-packets"] <= one["rx_frames"], "it misses some before start, after stop"
        if features >= GSO:
            assert 10 < one["gso_passed"]
        else:
            assert 0 == one["gso_passed"]
            assert 10 < one["gso_segmented"] < one["segments"]
    for name in "ab":
        assert (features >= GSO) is (ledger[name]["gso_passed"] > 0)
        assert 0 == ledger[name]["gso_segmented"]
