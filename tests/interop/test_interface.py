"""A guest and the host's kernel over an existing interface: one end of a veth in the namespace
where vionet runs, the kernel of another namespace at the other end.
"""

import re
import signal

import pytest

from tests.interop.end import End
from tests.interop.lab import Lab
from tests.interop.peers.netns import Capture, Namespace
from tests.interop.peers.traffic import converse, no_bad_checksums, transfer
from tests.interop.peers.vionet import fabric

pytestmark = pytest.mark.root
NEAR, FAR = "wnear", "wfar"


def veth(
    lab: Lab, mtu: int = 1500, off: str = "", far_off: str = ""
) -> tuple[Namespace, Namespace]:
    """The namespace for vionet and the one beyond the veth."""
    near, far = lab.namespace("near"), lab.namespace("far")
    near.run(
        f"ip link add {NEAR} mtu {mtu} type veth peer name {FAR} mtu {mtu} netns {far.name} && "
        f"echo 1 >/proc/sys/net/ipv6/conf/{NEAR}/disable_ipv6 && ip link set {NEAR} up"
        + (f" && ethtool -K {NEAR} {off}" if off else "")
    )
    far.run(f"ip link set {FAR} up")
    far.interface = FAR
    if far_off:
        far.run(f"ethtool -K {FAR} {far_off}")
    return near, far


def promiscuity(place: Namespace) -> int:
    """How many want the near end to take every frame."""
    found = re.search(r"promiscuity (\d+)", place.run(f"ip -d link show {NEAR}"))
    assert found
    return int(found[1])


@pytest.mark.parametrize(
    ("kind", "end", "port", "off"),
    [
        ("wire", "uml", "", ""),
        ("switch", "uml", "", ""),
        ("wire", "uml", ",offload=off", ""),
        ("switch", "uml", ",offload=off", ""),
        ("switch", "uml", ",offload=csum", "tso off"),
        ("wire", "uml offload=off", "", ""),
        ("switch", "uml", "", "tx off tso off gso off"),
        ("wire", "qemu", "", ""),
        ("switch", "qemu mrg_rxbuf=off", ",offload=off", ""),
    ],
)
def test_w9_w10_guest_and_interface(lab: Lab, kind: str, end: str, port: str, off: str) -> None:
    """TCP and datagrams of every size, both ways and families, with and without a virtio-net
    header on the packet socket; beyond the veth no frame is too long (W9, W10, W13)."""
    one = End.read(end)
    near, far = veth(lab, off=off, far_off="gro off")
    text = f"interface:{NEAR}{port}"
    if kind == "wire":
        vionet = lab.wire(lab.guest("a", one.port), text, place=near)
    else:
        vionet = lab.switch({"a": one.port}, f"b={text}", place=near)
    guest = one.start(lab, "a")
    lab.boot(guest)
    far.configure(2)
    one.check(guest, vionet.ports()["a"])
    assert 1 == promiscuity(near)
    converse(guest, far, size=1_500_000 if one.kind == "qemu" else 6_000_000)
    ledgers = {name: shown["ledger"] for name, shown in vionet.ports().items()}
    drops = {reason for reason, count in vionet.ports()["b"]["drops"].items() if count}
    # A veth's backlog is short; the far kernel speaks before the guest is there.
    assert drops <= {"interface_full", "no_other_port"}
    if port == "" and one.takes_partial:
        assert 0 == ledgers["b"]["payload_bytes_copied"], "written from the guest's memory"
        assert ledgers["b"]["csum_elided"] > 1000
        assert ledgers["a"]["csum_elided"] > 100
        if one.kind == "uml":
            assert ledgers["b"]["gso_passed"] > 10
            assert ledgers["a"]["gso_passed"] > 10
    if "offload=off" in port:
        assert 0 == ledgers["b"]["csum_elided"] == ledgers["b"]["gso_passed"]


@pytest.mark.parametrize("port", ["", ",offload=off"])
@pytest.mark.parametrize("mtu", [1500, 9000])
def test_w13_w57_what_leaves_by_an_interface(lab: Lab, port: str, mtu: int) -> None:
    """Where the interface offloads nothing, every frame beyond it is finished and within the MTU,
    whether the kernel does that or vionet (W13, W57)."""
    near, far = veth(lab, mtu, off="tx off tso off gso off", far_off="gro off")
    vionet = lab.switch({"a": f"mtu={mtu}"}, f"b=interface:{NEAR}{port}", place=near)
    guest = lab.uml("a")
    lab.boot(guest)
    guest.run(f"ip link set eth0 mtu {mtu}")
    far.configure(2)
    End.read("uml").check(guest, vionet.ports()["a"])
    capture = Capture(far, FAR, lab.folder)
    converse(guest, far, size=2_000_000, largest=300)
    capture.stop()
    sent = f"ip.src == {guest.address4} or ipv6.src == {guest.address6}"
    assert 0 == capture.bad(sent)
    assert 400 < capture.judged(sent)
    assert 0 == capture.count(f"frame.len > {mtu + 14} and ({sent})")
    assert 0 < capture.count(f"frame.len == {mtu + 14} and ({sent})")
    no_bad_checksums(guest, far)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_no_promiscuous_mode_is_left(lab: Lab, end: signal.Signals) -> None:
    """However vionet ends, the interface is as it was."""
    near, _ = veth(lab)
    ports = lab.guest("a"), f"interface:{NEAR}"
    vionet = lab.stack.enter_context(
        fabric("wire", lab.folder, *ports, tidy=False, enter=near.enter)
    )
    assert 1 == promiscuity(near)
    vionet.child.process.send_signal(end)
    vionet.child.wait(60)
    assert 0 == promiscuity(near)


def test_namespace_reaches_a_guest_it_did_not_know(lab: Lab) -> None:
    """A transfer that the far kernel begins, over a wire with a locked guest: the socket's filter
    keeps back what is for others, and the guest's own traffic passes."""
    near, far = veth(lab)
    mac = "52:54:00:00:00:61"
    vionet = lab.wire(lab.guest("a", f"mac={mac},locked"), f"interface:{NEAR}", place=near)
    guest = lab.uml("a")
    lab.boot(guest)
    far.configure(2)
    far.run(f"ip neigh add 192.0.2.77 lladdr 52:54:00:00:00:77 dev {FAR}")
    before = vionet.ports()["b"]["ledger"]["tx_frames"]
    far.run("ping -c 30 -i 0.02 -W 1 192.0.2.77 || true")
    came = vionet.ports()["b"]["ledger"]["tx_frames"] - before
    assert came < 15, "none of the thirty; groups of the far kernel's own may come meanwhile"
    transfer(far, guest, guest.address4, 3_000_000).check()
    no_bad_checksums(guest, far)
