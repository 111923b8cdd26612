"""Guests on two hosts: a switch on each, joined by the kernel's VXLAN over a veth.

A veth carries what the kernel knows of a frame to its other end, so nobody has to finish a sum, and
nobody does: W19 and W59 are about what stands in its place elsewhere.  `tx off` on the veth makes
of it what a NIC without offloads is.
"""

import json
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from tests.interop.lab import Lab
from tests.interop.peers.netns import Capture, Namespace
from tests.interop.peers.process import PeerError
from tests.interop.peers.shell import Console
from tests.interop.peers.traffic import converse, transfer
from tests.interop.peers.vionet import Vionet

pytestmark = pytest.mark.root
UNDER = "under"
VNI = 42
# A tunnelled datagram has headers around the frame: Ethernet's inside, VXLAN, UDP, IPv4.
OVERHEAD = 14 + 8 + 8 + 20
# What a guest quotes in an ICMP error is as it was delivered: partial, which is right.
FINISHED = "vxlan and not icmp and not icmpv6"
# A machine on the way: two interfaces, whole frames from one to the other, and no idea of offloads.
FORWARD = """
import select, socket, sys
ends = []
for name in sys.argv[1:]:
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    end.setsockopt(263, 23, 1)  # PACKET_IGNORE_OUTGOING
    end.bind((name, 3))
    ends.append(end)
print("forwarding", flush=True)
while True:
    for end in select.select(ends, [], [])[0]:
        frame = end.recv(1 << 17)
        if len(frame) <= 1514:
            ends[end is ends[0]].send(frame)
"""
PARTIAL_AND_LARGE = {
    f"VIRTIO_NET_F_{side}" for side in ("CSUM", "GUEST_CSUM", "HOST_TSO4", "GUEST_TSO4")
}


@dataclass
class Host:
    """One host: its own kernel's network, and in there a switch for one guest."""

    place: Namespace
    vionet: Vionet
    guest: Console

    def port(self, name: str) -> dict[str, Any]:
        """What vionet says of `guest` or `away`."""
        return self.vionet.ports()[name]


def join(lab: Lab, mtu: int, middle: bool) -> tuple[Namespace, Namespace]:
    """Two hosts whose interfaces UNDER are the ends of a veth, or have a machine in between."""
    one, two = lab.namespace("one"), lab.namespace("two")
    pair = f"ip link add {UNDER} mtu {mtu} type veth peer name"
    if not middle:
        one.run(f"{pair} {UNDER} mtu {mtu} netns {two.name}")
    else:
        between = lab.namespace("middle")
        for host, end in ((one, "left"), (two, "right")):
            host.run(f"{pair} {end} mtu {mtu} netns {between.name}")
            between.run(f"echo 1 >/proc/sys/net/ipv6/conf/{end}/disable_ipv6")
            between.run(f"ip link set {end} up")
        (lab.folder / "forward.py").write_text(FORWARD)
        program = f"{sys.executable} -IS {lab.folder / 'forward.py'} left right"
        between.start(program).await_output("forwarding")
    return one, two


def build(
    lab: Lab,
    *,
    off: str = "",
    mtu: int = 1500,
    told: int | None = None,
    options: str = "",
    middle: bool = False,
    first: str = "uml",
) -> tuple[Host, Host]:
    """Two hosts with static peers, and a booted guest on each, which is told its MTU."""
    inner = mtu - OVERHEAD if told is None else told
    hosts = []
    for number, place in enumerate(join(lab, mtu, middle), 1):
        place.run(f"ip addr add 10.0.0.{number}/24 dev {UNDER} && ip link set {UNDER} up")
        if off:
            place.run(f"ethtool -K {UNDER} {off}")
        place.run(
            f"ip link add vx0 type vxlan id {VNI} dstport 4789 local 10.0.0.{number} dev {UNDER} "
            f"{options} && bridge fdb append 00:00:00:00:00:00 dev vx0 dst 10.0.0.{3 - number} && "
            "echo 1 >/proc/sys/net/ipv6/conf/vx0/disable_ipv6 && ip link set vx0 up"
        )
        assert f" mtu {mtu - OVERHEAD} " in place.run("ip link show vx0")
        folder = lab.folder / str(number)
        folder.mkdir()
        own = Lab(folder, lab.stack)
        kind = first if number == 1 else "uml"
        # QEMU keeps the MTU to itself.
        limit = f"mtu={inner}" if kind == "uml" and inner != 1500 else ""
        vionet = own.switch({f"guest{number}": limit}, "away=interface:vx0", place=place)
        mine = f"guest{number}"
        guest = own.uml(mine) if kind == "uml" else own.qemu(mine, {"host_mtu": str(inner)})
        hosts.append(Host(place, vionet, guest))
    lab.boot(*(host.guest for host in hosts))
    for number, host in enumerate(hosts, 1):
        assert str(inner) == host.guest.run("cat /sys/class/net/eth0/mtu").strip()
        for port in (f"guest{number}", "away"):
            assert PARTIAL_AND_LARGE <= set(host.port(port)["features"])
    return hosts[0], hosts[1]


def check_ledgers(one: Host, two: Host) -> None:
    """vionet finished no sum and copied no payload on its way out; the kernel learnt where to."""
    for host, other in ((one, two), (two, one)):
        away = host.port("away")
        # A veth's backlog is short.
        assert {k for k, v in away["drops"].items() if v} <= {
            "reserved_multicast",
            "interface_full",
        }
        ledger = away["ledger"]
        assert ledger["csum_elided"] > 1000
        assert 0 == ledger["csum_filled"] == ledger["payload_bytes_copied"]
        assert 0 == ledger["payload_bytes_summed"] == ledger["gso_segmented"]
        mac = other.guest.run("cat /sys/class/net/eth0/address").strip()
        learnt = json.loads(host.place.run("bridge -json fdb show dev vx0"))
        number = 2 if other is two else 1
        assert [f"10.0.0.{number}"] == [entry["dst"] for entry in learnt if entry["mac"] == mac]
        assert "interface" == away["kind"]


@pytest.mark.parametrize(
    ("off", "options", "first"),
    [
        ("tx off", "", "uml"),
        ("tx off", "noudpcsum", "uml"),
        ("tx off", "", "qemu"),
        ("", "", "uml"),
        ("", "noudpcsum", "qemu"),
    ],
)
def test_w19_w59_guests_on_two_hosts(lab: Lab, off: str, options: str, first: str) -> None:
    """Bulk TCP and datagrams both ways, both families, with an outer checksum and without; partial
    as far as the kernel, which finishes and cuts them where the interface below does not take them
    so, and leaves them as they are on a veth that does."""
    one, two = build(lab, off=off, options=options, first=first)
    capture = Capture(two.place, UNDER, lab.folder)
    converse(one.guest, two.guest, size=3_000_000 if first == "uml" else 1_500_000, largest=1400)
    capture.stop()
    check_ledgers(one, two)
    if first == "uml":
        assert one.port("away")["ledger"]["gso_passed"] > 10
    good, bad = capture.judged(FINISHED), capture.bad(FINISHED)
    without = capture.count(f"udp.dstport == 4789 and udp.checksum == 0 and {FINISHED}")
    assert bool(options) == (without > 1000), "of the outer datagrams"
    if off:
        assert (0, True) == (bad, good > 1000)
        assert 0 == capture.count(f"vxlan and frame.len > {1500 + 14}")
        assert 0 < capture.count(f"vxlan and frame.len == {1500 + 14}")
    else:
        assert bad > 1000, "seen from outside; nobody needed them"
        assert 0 < capture.count(f"vxlan and frame.len > {1500 + 14}")


@pytest.mark.parametrize("options", ["", "noudpcsum"])
def test_w19_nobody_finishes_what_a_veth_takes(lab: Lab, options: str) -> None:
    """Where what comes behind a veth knows nothing of partial checksums, guests on two hosts hear
    only each other's ARP: the outer sum, which counts on the inner one, is bad for the other host,
    or without it the inner one for the guest.  With `tx off` all of it arrives."""
    one, two = build(lab, middle=True, options=options)
    sufferer = two.guest if options else two.place
    other = two.place if options else two.guest
    served = two.guest.start_endpoint(f"udp-serve {two.guest.address4} 5201 timeout=4")
    with pytest.raises(PeerError):
        one.guest.endpoint(f"udp-send {two.guest.address4} 5201 largest=100 timeout=3", 30)
    assert 0 < sufferer.bad_checksums()["UdpInCsumErrors"]
    assert 0 == other.bad_checksums()["UdpInCsumErrors"]
    with pytest.raises(PeerError):
        served.results()
    shells = [shell for host in (one, two) for shell in (host.guest, host.place)]
    for host in (one, two):
        host.place.run(f"ethtool -K {UNDER} tx off")
    before = [shell.bad_checksums() for shell in shells]
    transfer(one.guest, two.guest, two.guest.address4, 2_000_000).check()
    transfer(two.guest, one.guest, one.guest.address6, 2_000_000).check()
    assert before == [shell.bad_checksums() for shell in shells]


def test_jumbo_underlay(lab: Lab) -> None:
    """Where the network between the hosts carries larger frames, guests keep their 1500."""
    one, two = build(lab, off="tx off", mtu=1500 + OVERHEAD)
    converse(one.guest, two.guest)
    check_ledgers(one, two)


def test_guests_that_are_not_told_the_mtu(lab: Lab) -> None:
    """Frames too large for the tunnel are dropped and counted by name, not sent in pieces; small
    ones pass.  With the MTU set in the guests the rest passes, too."""
    one, two = build(lab, off="tx off", told=1500)
    with pytest.raises(PeerError):
        transfer(one.guest, two.guest, two.guest.address4, 100_000, timeout=3).check()
    assert 0 < one.port("away")["drops"]["mtu_exceeded"]
    for host in (one, two):
        host.guest.run(f"ip link set eth0 mtu {1500 - OVERHEAD}")
    transfer(one.guest, two.guest, two.guest.address4, 1_000_000, port=5202).check()
