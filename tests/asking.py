"""What a guest on a local interface asks, built by scapy, and how its answers are taken apart."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Any

from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_RS, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from vionet.services.answer import answer
from vionet.services.frame import Reason
from vionet.services.lease import Lease

GUEST = "52:54:00:00:00:ff"
GATEWAY = "02:00:00:00:00:01"
SERVICE = "52:54:00:00:00:00"  # the guest's with the last octet plus one
LINK_LOCAL = "fe80::5054:ff:fe00:ff"
LEASE = Lease(
    mac=0x5254000000FF,
    gateway_mac=0x020000000001,
    address=IPv4Interface("100.64.0.3/31"),
    gateway=IPv4Address("100.64.0.2"),
    address6=IPv6Interface("fd00:1:2::/64"),
)
RICH = replace(
    LEASE,
    resolvers=(IPv4Address("192.0.2.53"), IPv4Address("192.0.2.54")),
    resolvers6=(IPv6Address("2001:db8::53"), IPv6Address("2001:db8::54")),
    domains=("example.org", "lab.example.net"),
    host_name="web",
    boot_file="auto_install",
    mtu=1400,
)


def dhcp(kind: str | None = "discover", *options: Any, **fields: Any) -> Packet:
    """A DHCP request (BOOTP's without `kind`); `fields` of its parts as scapy names them."""
    parts: dict[str, dict[str, Any]] = {
        "ether": {"src": GUEST, "dst": "ff:ff:ff:ff:ff:ff"},
        "ip": {"src": "0.0.0.0", "dst": "255.255.255.255"},
        "udp": {"sport": 68, "dport": 67},
    }
    for part, values in parts.items():
        values |= fields.pop(part, {})
    chaddr = bytes.fromhex(GUEST.replace(":", ""))
    bootp = BOOTP(**{"xid": 0x12345678, "chaddr": chaddr} | fields)
    head = Ether(**parts["ether"]) / IP(**parts["ip"]) / UDP(**parts["udp"]) / bootp
    if kind is None:
        return head / (b"\x63\x82\x53\x63" + b"\xff".ljust(60, b"\0"))
    return head / DHCP(options=[("message-type", kind), *options, "end"])


def solicit(message: Any = None, ether: Any = None, **ip: Any) -> Packet:
    """A router solicitation."""
    head = Ether(**{"src": GUEST, "dst": "33:33:00:00:00:02"} | (ether or {}))
    network = IPv6(**{"src": LINK_LOCAL, "dst": "ff02::2", "hlim": 255} | ip)
    return head / network / (message or ICMPv6ND_RS() / ICMPv6NDOptSrcLLAddr(lladdr=GUEST))


def dhcp6(message: Packet, *, sport: int = 546, **ip: Any) -> Packet:
    """A DHCPv6 request."""
    network = IPv6(**{"src": LINK_LOCAL, "dst": "ff02::1:2"} | ip)
    head = Ether(src=GUEST, dst="33:33:00:01:00:02") / network
    return head / UDP(sport=sport, dport=547) / message


def told(packet: Packet, lease: Lease = LEASE) -> Packet:
    """The answer to `packet`, dissected; its checksums are right."""
    reply = answer(bytes(packet), lease)
    assert not isinstance(reply, Reason), reply
    check_sums(reply)
    return Ether(reply)


def options(reply: Packet) -> dict[str | int, Any]:
    """The DHCP options of a reply."""
    found: dict[str | int, Any] = {}
    for option in reply[DHCP].options:
        if isinstance(option, tuple):
            found[option[0]] = option[1] if len(option) == 2 else list(option[1:])
    return found


def check_sums(frame: bytes) -> None:
    """Scapy computes the same checksums; the frame has the least length of Ethernet."""
    assert 60 <= len(frame)
    packet = Ether(frame)
    for layer in packet.iterpayloads():
        if isinstance(layer, IPv6):
            continue
        for field in ("chksum", "cksum"):
            if field in layer.fields:
                assert layer.fields[field], f"{layer.name} has no sum"
                del layer.fields[field]
    assert frame == bytes(packet)
