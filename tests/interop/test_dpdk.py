"""DPDK's virtio-user driver, which shares no code with Linux: switched, wired, into a kernel."""

import pytest

from tests.interop.end import End
from tests.interop.lab import Lab
from tests.interop.peers import dpdk
from tests.interop.peers.process import until
from tests.interop.peers.traffic import converse

pytestmark = pytest.mark.root


@pytest.mark.parametrize(
    ("kind", "arguments", "features"),
    [
        ("switch", "", {"MRG_RXBUF", "INDIRECT_DESC"}),
        ("wire", ",mrg_rxbuf=0,queue_size=512", {"INDIRECT_DESC"}),
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
            assert features == names & {"MRG_RXBUF", "INDIRECT_DESC", "GUEST_CSUM"}
        testpmd.command("start tx_first 4")
        until(lambda: testpmd.counters(1)["RX-packets"] > 20_000, 20, "frames at port 1", 0.1)
        testpmd.command("stop")
        received = sum(testpmd.counters(port)["RX-packets"] for port in (0, 1))
        sent = sum(testpmd.counters(port)["TX-packets"] for port in (0, 1))
        ledgers = [port["ledger"] for port in vionet.ports().values()]
        drops = [port["drops"] for port in vionet.ports().values()]
    assert sent == sum(ledger["tx_frames"] for ledger in ledgers)
    taken = sum(ledger["rx_frames"] for ledger in ledgers)
    assert received <= taken <= sent
    assert sent == taken + sum(sum(reasons.values()) for reasons in drops)


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
