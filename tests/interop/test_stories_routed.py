"""What went wrong elsewhere with a guest in the middle, which routes or rewrites addresses
(docs/field.md): every hop with real kernels.
"""

import pytest

from tests.interop.end import End
from tests.interop.lab import Lab
from tests.interop.peers.traffic import (
    PORT,
    Transfer,
    converse,
    datagrams,
    no_bad_checksums,
    transfer,
)
from tests.interop.peers.uml import NET_MODULES, Uml
from tests.interop.story import IP, TC, place

NAT = tuple(f"kernel/net/sched/{name}" for name in ("sch_ingress", "cls_matchall", "act_nat"))


class Routed:
    """Two guests in VLANs of their own and a guest with a leg in each, which routes."""

    def __init__(self, lab: Lab, options: str) -> None:
        end = End.read(f"uml {options}")
        legs = {"r1": "vlan=10", "r2": "vlan=20"}
        ports = {name: ",".join(filter(None, (vlan, options))) for name, vlan in legs.items()}
        self.vionet = lab.switch({"a": "vlan=10", "b": "vlan=20", **ports})
        self.a, self.b = lab.uml("a"), lab.uml("b")
        second = f"virtio_uml.device={lab.socket('r2')}:1"
        modules = (*NET_MODULES, *NAT)
        self.router = Uml("r", lab.socket("r1"), lab.folder, modules=modules, device=second)
        lab.stack.callback(self.router.kill)
        for guest in (self.a, self.b, self.router):
            guest.await_boot()
        self._configure()
        end.check(self.router, self.vionet.ports()["r1"])
        shown = self.vionet.ports()
        assert shown["r1"]["features"] == shown["r2"]["features"]
        for name, guest in (("a", self.a), ("b", self.b)):
            End.read("uml").check(guest, shown[name])

    def _configure(self) -> None:
        nets = (("198.51.100", "fd00:a::"), ("203.0.113", "fd00:b::"))
        for number, (four, six) in enumerate(nets):
            place(self.router, f"eth{number}", f"{four}.254", f"{six}fe")
            guest = (self.a, self.b)[number]
            guest.address4, guest.address6 = f"{four}.1", f"{six}1"
            place(guest, "eth0", guest.address4, guest.address6)
            guest.run(
                f"{IP} route add default via {four}.254 && {IP} -6 route add default via {six}fe"
            )
        # The kernel turns large receiving off for this, by the control queue (W29).
        self.router.run("echo 1 >/proc/sys/net/ipv4/ip_forward")
        self.router.run("echo 1 >/proc/sys/net/ipv6/conf/all/forwarding")

    def check(self) -> None:
        """No hop found a wrong sum, and everything was in vionet's hands twice."""
        no_bad_checksums(self.a, self.b, self.router)
        ports = self.vionet.ports()
        assert 0 == sum(port["ledger"]["csum_bad"] for port in ports.values())
        assert 500 < min(port["ledger"]["rx_frames"] for port in ports.values())


@pytest.mark.parametrize("options", ["", "offload=off", "offload=csum"])
def test_w12_w15_w16_w29_a_router_between_guests(lab: Lab, options: str) -> None:
    """TCP and datagrams of every size through a guest that routes, both families: with every
    offload (what it was given partial it has to send on partial) and with none; then with
    addresses rewritten in the middle."""
    net = Routed(lab, options)
    converse(net.a, net.b, size=2_000_000, largest=600)
    net.check()
    ledger = net.vionet.ports()["r1"]["ledger"]
    if options == "offload=off":
        assert ledger["csum_filled"] > 300 and ledger["gso_passed"] == 0
        assert ledger["gso_segmented"] > 10
    else:
        assert ledger["csum_elided"] > 300
    if options == "":
        translated(net)


def translated(net: Routed) -> None:
    """W16: the same with addresses rewritten in the middle, sums updated on the way."""
    inside, outside = net.a.address4, "203.0.113.77"
    rule = "protocol ip matchall action nat"
    net.router.run(
        f"{IP} addr add {outside}/24 dev eth1 && {TC} qdisc add dev eth1 clsact && "
        f"{TC} filter add dev eth1 egress {rule} egress {inside}/32 {outside} && "
        f"{TC} filter add dev eth1 ingress {rule} ingress {outside}/32 {inside}"
    )
    before = net.vionet.ports()["b"]["ledger"]["rx_frames"]
    transfer(net.a, net.b, net.b.address4, 2_000_000).check()
    serving = net.a.start_endpoint(f"tcp-serve {inside} {PORT + 1}")
    sending = net.b.start_endpoint(f"tcp-send {outside} {PORT + 1} bytes=2000000")
    Transfer(2_000_000, serving, sending).check()
    datagrams(net.a, net.b, net.b.address4, largest=300)
    assert outside in net.b.run(f"{IP} neigh show dev eth0")
    assert before + 300 < net.vionet.ports()["b"]["ledger"]["rx_frames"]
    net.check()
