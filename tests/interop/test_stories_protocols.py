"""What went wrong elsewhere with SCTP, VXLAN and LACP (docs/field.md), between real kernels."""

import contextlib
from collections.abc import Iterator

import pytest

from tests.interop.end import End
from tests.interop.lab import Lab
from tests.interop.peers.process import until
from tests.interop.peers.traffic import check_bulk, converse, transfer
from tests.interop.peers.uml import NET_MODULES, Uml
from tests.interop.peers.vionet import Vionet
from tests.interop.story import IP, lasting_lab, place

TUNNELS = ("kernel/net/ipv4/udp_tunnel", "kernel/net/ipv6/ip6_udp_tunnel")
SCTP_AND_VXLAN = (*TUNNELS, "kernel/net/sctp/sctp", "kernel/drivers/net/vxlan/vxlan")


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
        guest.await_boot()
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
        until(lambda: reserved(vionet, "a") > 1 and reserved(vionet, "b") > 1, 60, "LACP", 0.2)
        assert [NOBODY] * 4 == [partner(guest) for guest in guests]
        return
    until(lambda: (macs[b], macs[a]) == (partner(a), partner(b)), 60, "partners", 0.2)
    assert [NOBODY] * 2 == [partner(guest) for guest in (c, d)]
    assert [0] * 4 == [reserved(vionet, name) for name in "abcd"]
    transfer(a, b, b.address4, 1_000_000).check()


def reserved(vionet: Vionet, name: str) -> int:
    """Frames for the next bridge that were dropped."""
    count: int = vionet.ports()[name]["drops"].get("reserved_multicast", 0)
    return count
