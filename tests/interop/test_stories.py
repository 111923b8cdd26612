"""What went wrong elsewhere, with kernels in every place (docs/field.md): a router or a switch of
addresses between guests, guests of different abilities, choices changed under load, SCTP, tunnels.

One boot for several stories: what a test believes to be negotiated it asks for itself.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.interop.end import End
from tests.interop.lab import Lab
from tests.interop.peers.process import until
from tests.interop.peers.shell import Console
from tests.interop.peers.traffic import (
    PORT,
    Transfer,
    check_bulk,
    converse,
    datagrams,
    no_bad_checksums,
    transfer,
)
from tests.interop.peers.uml import NET_MODULES, Uml
from tests.interop.peers.vionet import Vionet

XDP = Path(__file__).with_name("xdp.py")
IP, TC = "/usr/sbin/ip", "/usr/sbin/tc"  # busybox's own know less
TUNNELS = ("kernel/net/ipv4/udp_tunnel", "kernel/net/ipv6/ip6_udp_tunnel")
SCTP_AND_VXLAN = (*TUNNELS, "kernel/net/sctp/sctp", "kernel/drivers/net/vxlan/vxlan")
NAT = tuple(f"kernel/net/sched/{name}" for name in ("sch_ingress", "cls_matchall", "act_nat"))


def place(guest: Console, device: str, four: str, six: str) -> None:
    """Addresses of one interface."""
    guest.run(
        f"echo 0 >/proc/sys/net/ipv6/conf/{device}/accept_dad ; {IP} link set {device} up && "
        f"{IP} addr add {four}/24 dev {device} && {IP} addr add {six}/64 dev {device}"
    )


def segments(guest: Console) -> dict[str, int]:
    """The TCP counters of a guest's kernel."""
    names, values = guest.run("grep ^Tcp: /proc/net/snmp").splitlines()
    return {
        name: int(value) for name, value in zip(names.split()[1:], values.split()[1:], strict=True)
    }


# --- a guest in the middle ----------------------------------------------------------------------
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
            guest.await_boot(40)
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


@pytest.mark.timeout(180)
@pytest.mark.parametrize("options", ["", "offload=off", "offload=csum"])
def test_w12_w15_w29_a_router_between_guests(lab: Lab, options: str) -> None:
    """TCP and datagrams of every size through a guest that routes, both families: with every
    offload (what it was given partial it has to send on partial) and with none."""
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


# --- guests of different abilities --------------------------------------------------------------
@dataclass
class Trio:
    """Two guests with everything, and one with nothing."""

    vionet: Vionet
    a: Uml
    b: Uml
    plain: Uml

    def ledger(self, name: str) -> dict[str, int]:
        """The counters of a port."""
        found: dict[str, int] = self.vionet.ports()[name]["ledger"]
        return found


@contextlib.contextmanager
def lasting_lab() -> Iterator[Lab]:
    """A lab for several tests."""
    folder = Path(tempfile.mkdtemp(prefix="vn-"))
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        stack.callback(shutil.rmtree, folder, True)
        yield Lab(folder, stack)


@pytest.fixture(scope="module")
def trio() -> Iterator[Trio]:
    """One boot."""
    with lasting_lab() as lab:
        vionet = lab.switch({"a": "", "b": "", "c": "offload=off"})
        guests = [lab.uml(name) for name in "abc"]
        lab.boot(*guests)
        for name, guest, text in zip("abc", guests, ("", "", " offload=off"), strict=True):
            End.read(f"uml{text}").check(guest, vionet.ports()[name])
        yield Trio(vionet, *guests)


def test_w25_one_plain_guest_costs_only_itself(trio: Trio) -> None:
    """While the plain guest transfers both ways, the frames between the other two pass whole and
    unfinished; nothing is cut up or summed for them.  The rates are reported."""
    before = {name: trio.ledger(name) for name in "abc"}
    pairs = [(trio.a, trio.b), (trio.b, trio.a), (trio.a, trio.plain), (trio.plain, trio.b)]
    jobs = [
        transfer(one, other, other.address4, 4_000_000, port=PORT + i)
        for i, (one, other) in enumerate(pairs)
    ]
    for (one, other), job in zip(pairs, jobs, strict=True):
        (sent,), (received,) = job.sending.results(60), job.serving.results(60)
        check_bulk(job.size, sent, received)
        print(f"{one.name} to {other.name}: {job.size / received['seconds'] / 1e6:.0f} MB/s")
    change = {
        name: {key: trio.ledger(name)[key] - count for key, count in ledger.items()}
        for name, ledger in before.items()
    }
    for name in "ab":
        assert change[name]["gso_passed"] > 50
        assert 0 == change[name]["gso_segmented"] == change[name]["segments"]
        assert 0 == change[name]["csum_filled"]
    assert 1000 > change["a"]["payload_bytes_summed"], "only what the plain guest answered"
    assert change["c"]["gso_segmented"] > 10 and 0 == change["c"]["gso_passed"]
    no_bad_checksums(trio.a, trio.b, trio.plain)


def test_w27_large_frames_to_a_receiver_of_small_ones(trio: Trio) -> None:
    """The segments are full ones, and hardly any is sent again: no collapse.  The rate is
    reported, beside that between two guests with everything."""
    for receiver, name in ((trio.b, "b"), (trio.plain, "c")):
        before, sent = trio.ledger(name), segments(trio.a)
        job = transfer(trio.a, receiver, receiver.address6, 8_000_000)
        (_,), (received,) = job.sending.results(60), job.serving.results(60)
        print(f"a to {name}: {8 / received['seconds']:.0f} MB/s")
        after, resent = trio.ledger(name), segments(trio.a)
        again = resent["RetransSegs"] - sent["RetransSegs"]
        assert again * 20 < resent["OutSegs"] - sent["OutSegs"]
        frames = after["rx_frames"] - before["rx_frames"]
        mean = (after["rx_bytes"] - before["rx_bytes"]) / frames
        if name == "c":
            assert 1400 < mean <= 1514
            cut = after["gso_segmented"] - before["gso_segmented"]
            assert 10 < cut < after["segments"] - before["segments"]
        else:
            assert 3000 < mean
    no_bad_checksums(trio.a, trio.plain)


CHOICES = (
    ("policy=complete",),
    ("policy=natural", "offload=off"),
    ("policy=uniform", "offload=csum"),
    ("offload=full",),
)


@pytest.mark.parametrize("choice", CHOICES, ids=" ".join)
def test_w8_a_choice_is_changed_under_load(trio: Trio, choice: tuple[str, ...]) -> None:
    """TCP both ways between two guests while their ports' policies and offloads change, and
    datagrams as a name server would answer: nothing is lost or broken."""
    rate, size = 1_500_000, 5_000_000
    before = {name: trio.ledger(name) for name in "ab"}
    jobs = [
        transfer(trio.a, trio.b, trio.b.address4, size, rate=rate),
        transfer(trio.b, trio.a, trio.a.address6, size, rate=rate, port=PORT + 1),
    ]
    for name in "ab":
        until(
            lambda: trio.ledger(name)["rx_bytes"] > before[name]["rx_bytes"] + 300_000,  # noqa: B023
            20, f"bytes to {name}", 0.1,
        )  # fmt: skip
    for name in "ab":
        trio.vionet.set(name, *choice)
    changed = {name: trio.ledger(name) for name in "ab"}
    datagrams(trio.plain, trio.a, trio.a.address4, largest=30)
    for job in jobs:
        job.check()
    for name in "ab":
        port = trio.vionet.ports()[name]
        later = port["ledger"]["rx_bytes"] - changed[name]["rx_bytes"]
        assert later > 300_000, "it was changed under load"
        assert later < size, "a part of it came before"
        assert 0 == port["ledger"]["csum_bad"]
        assert set(port["drops"]) <= {"rx_ring_full", "address_filtered"}
        passed = port["ledger"]["gso_passed"] - changed[name]["gso_passed"]
        assert (choice == ("offload=full",)) is (passed > 0)
    no_bad_checksums(trio.a, trio.b, trio.plain)


def test_w31_xdp_attached_under_load(trio: Trio) -> None:
    """XDP in the guest takes back what its driver agreed to, in the middle of a transfer: from
    then on every frame is complete and small; without it all is as before."""
    size, rate = 8_000_000, 1_500_000
    job = transfer(trio.b, trio.a, trio.a.address4, size, rate=rate)
    start = trio.ledger("a")["rx_bytes"]
    until(lambda: trio.ledger("a")["rx_bytes"] > start + 500_000, 20, "bytes to a", 0.1)
    attached = trio.a.start(f"{trio.a.python} -ISB {XDP} eth0 6")
    attached.await_output("attached")
    before = trio.ledger("a")
    job.check()
    after = trio.ledger("a")
    assert after["rx_bytes"] - before["rx_bytes"] > 500_000, "attached under load"
    assert after["csum_filled"] - before["csum_filled"] > 300
    for key in ("csum_elided", "csum_unfilled", "gso_passed"):
        assert before[key] == after[key], key
    attached.result()
    transfer(trio.b, trio.a, trio.a.address4, 2_000_000).check()
    assert trio.ledger("a")["gso_passed"] > after["gso_passed"]
    no_bad_checksums(trio.a, trio.b)


# --- what is neither TCP nor UDP, and what is inside UDP ----------------------------------------
@pytest.fixture(scope="module")
def tunnelled() -> Iterator[tuple[Vionet, Uml, Uml]]:
    """Two guests that know SCTP and VXLAN; the second takes no partial sums."""
    with lasting_lab() as lab:
        vionet = lab.switch({"a": "", "b": "-guest_csum"})
        a, b = (lab.uml(name, modules=(*NET_MODULES, *SCTP_AND_VXLAN)) for name in "ab")
        lab.boot(a, b)
        End.read("uml").check(a, vionet.ports()["a"])
        End.read("uml -guest_csum").check(b, vionet.ports()["b"])
        for guest in (a, b):  # its kernel has no cipher for cookies
            guest.run("echo none >/proc/sys/net/sctp/cookie_hmac_alg")
        yield vionet, a, b


@pytest.mark.parametrize("family", ["address4", "address6"])
def test_w58_sctp_between_guests(tunnelled: tuple[Vionet, Uml, Uml], family: str) -> None:
    """Associations both ways: the kernels verify every CRC32c, and find none wrong."""
    vionet, a, b = tunnelled
    size = 300_000
    for one, other in ((a, b), (b, a)):
        address = getattr(other, family)
        serving = other.start_endpoint(f"sctp-serve {address} 5500 bytes={size}")
        sent = one.endpoint(f"sctp-send {address} 5500 bytes={size}", 60)
        (received,) = serving.results(60)
        check_bulk(size, sent, received)
    for guest in (a, b):
        counted = dict(line.split() for line in guest.run("cat /proc/net/sctp/snmp").splitlines())
        assert "0" == counted["SctpChecksumErrors"]
        assert 100 < int(counted["SctpInSCTPPacks"])
    assert all("csum_on_sctp" not in port["drops"] for port in vionet.ports().values())


OUTER = {
    ("address4", True): "udpcsum",
    ("address4", False): "noudpcsum",
    ("address6", True): "",
    ("address6", False): "udp6zerocsumtx udp6zerocsumrx",
}


@contextlib.contextmanager
def tunnel(one: Uml, other: Uml, family: str, option: str) -> Iterator[None]:
    """VXLAN between two guests, whose addresses are meanwhile those inside it."""
    guests, real = (one, other), [(g.address4, g.address6) for g in (one, other)]
    for guest, peer in ((one, other), (other, one)):
        ends = f"local {getattr(guest, family)} remote {getattr(peer, family)}"
        guest.run(
            f"{IP} link add vx0 mtu 1400 type vxlan id 7 dstport 4789 {ends} dev eth0 {option} && "
            f"echo 1 >/proc/sys/net/ipv6/conf/vx0/disable_ipv6 && {IP} link set vx0 up"
        )
    try:
        for number, guest in enumerate(guests, 1):  # quiet until both ends know zero sums
            guest.run("echo 0 >/proc/sys/net/ipv6/conf/vx0/disable_ipv6")
            guest.address4, guest.address6 = f"198.51.100.{number}", f"fd00:7::{number}"
            place(guest, "vx0", guest.address4, guest.address6)
        yield
    finally:
        for guest, addresses in zip(guests, real, strict=True):
            guest.address4, guest.address6 = addresses
            guest.run("echo 1 >/proc/sys/net/ipv6/conf/vx0/disable_ipv6")
        for guest in guests:
            guest.run(f"{IP} link del vx0")


@pytest.mark.parametrize(("family", "summed"), OUTER)
def test_w59_w60_vxlan_between_guests(
    tunnelled: tuple[Vionet, Uml, Uml], family: str, summed: bool
) -> None:
    """Guests as nodes of a cluster: TCP and datagrams inside VXLAN, the outer sum there or
    absent, over both families; no kernel finds a wrong sum, inside or out.  Linux 6.1 finishes
    inner sums itself; partial ones are in `tests/stories/test_protocols.py`."""
    vionet, a, b = tunnelled
    before = vionet.ports()["a"]["ledger"]
    with tunnel(a, b, family, OUTER[family, summed]):
        converse(a, b, size=400_000, largest=300)
    after = vionet.ports()["a"]["ledger"]
    change = {key: after[key] - before[key] for key in after}
    assert 500 < change["tx_frames"] and 500 < change["rx_frames"]
    wrong = 0 if family == "address4" or summed else change["csum_verified"]
    assert wrong == change["csum_bad"], "over IPv6 none is as good as a wrong one (W54)"
    assert 0 == after["pseudo_header_repaired"]


# --- what is meant for the next bridge ----------------------------------------------------------
BOND = ("kernel/drivers/net/bonding/bonding",)
NOBODY = "00:00:00:00:00:00"


def partner(guest: Uml) -> str:
    """The other end's address, as this end's LACP has learnt it."""
    return guest.run("cat /sys/class/net/b0/bonding/ad_partner_mac").strip()


@pytest.mark.parametrize("passing", [(), ("--reserved", "none")], ids=["usual", "none"])
def test_w66_w67_lacp_between_guests(lab: Lab, passing: tuple[str, ...]) -> None:
    """Two guests aggregate their links over a switch that lets LACP pass, if they were told a
    speed; a pair that was not told one never begins, and a switch may be set to pass nothing."""
    told, untold = "vlan=10,speed=10000", "vlan=20"
    vionet = lab.switch({"a": told, "b": told, "c": untold, "d": untold}, *passing)
    a, b, c, d = guests = [lab.uml(name, modules=(*NET_MODULES, *BOND)) for name in "abcd"]
    for guest in guests:
        guest.await_boot(40)
    speeds = {
        name: "VIRTIO_NET_F_SPEED_DUPLEX" in p["features"] for name, p in vionet.ports().items()
    }
    assert {"a": True, "b": True, "c": False, "d": False} == speeds
    for number, guest in enumerate(guests, 1):
        guest.run(
            f"{IP} link add b0 type bond mode 802.3ad miimon 50 lacp_rate fast && "
            f"{IP} link set eth0 down && {IP} link set eth0 master b0"
        )
        guest.interface = "b0"
        guest.configure(number)
    macs = {guest: guest.run("cat /sys/class/net/b0/address").strip() for guest in guests}
    if passing:
        until(lambda: reserved(vionet, "a") > 1 and reserved(vionet, "b") > 1, 20, "LACP", 0.2)
        assert [NOBODY] * 4 == [partner(guest) for guest in guests]
        return
    until(lambda: (macs[b], macs[a]) == (partner(a), partner(b)), 20, "partners", 0.2)
    assert [NOBODY] * 2 == [partner(guest) for guest in (c, d)]
    assert [0] * 4 == [reserved(vionet, name) for name in "abcd"]
    transfer(a, b, b.address4, 1_000_000).check()


def reserved(vionet: Vionet, name: str) -> int:
    """Frames for the next bridge that were dropped."""
    count: int = vionet.ports()[name]["drops"].get("reserved_multicast", 0)
    return count
