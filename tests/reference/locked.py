"""Frames that a port locked to IP addresses may send or not, built by scapy: one for each rule, and
one for each way round the lock that was thought of.
"""

import struct
from ipaddress import ip_network
from typing import Any

from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import DHCP6_Advertise, DHCP6_Solicit
from scapy.layers.inet import (
    ICMP,
    IP,
    TCP,
    UDP,
    IPOption_LSRR,
    IPOption_NOP,
    IPOption_Router_Alert,
)
from scapy.layers.inet6 import (
    HAO,
    ICMPv6EchoRequest,
    ICMPv6MLReport,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from tests.reference.frame import MACS
from tests.reference.plug import Options

MAC, PEER = (mac.hex(":") for mac in MACS[:2])
IP4, IP6 = "100.64.0.3", "fd00:0:0:1::5"
LINK = "fe80::ff:fe00:0"
LOCKED = Options(
    mac=int.from_bytes(MACS[0], "big"),
    locked=True,
    ip=(ip_network("100.64.0.3/32"), ip_network("192.0.2.0/28"), ip_network("fd00:0:0:1::/64")),
    keep_off=(ip_network("100.64.0.0/10"), ip_network("fd00::/48")),
    reach=(ip_network("100.64.0.2/32"), ip_network("fd00:0:0:9::53/128")),
)
KEPT4 = "100.64.0.9"  # kept off
KEPT6 = "fd00:0:0:2::1"


def v4(upper: Packet, src: str = IP4, dst: str = "203.0.113.1", **fields: Any) -> bytes:
    """A frame around IPv4."""
    return bytes(Ether(src=MAC, dst="ff:ff:ff:ff:ff:ff") / IP(src=src, dst=dst, **fields) / upper)


def v6(upper: Packet, src: str = IP6, dst: str = "2001:db8::1", hlim: int = 255) -> bytes:
    """A frame around IPv6."""
    ether = Ether(src=MAC, dst="ff:ff:ff:ff:ff:ff", type=0x86DD)
    return bytes(ether / IPv6(src=src, dst=dst, hlim=hlim) / upper)


def arp(op: int = 1, src: str = IP4, dst: str = "203.0.113.1", mac: str = MAC, **of: Any) -> bytes:
    """A frame around ARP."""
    ether = Ether(src=MAC, dst="ff:ff:ff:ff:ff:ff")
    return bytes(ether / ARP(op=op, hwsrc=mac, psrc=src, pdst=dst, **of))


def tagged(frame: bytes, *tags: int) -> bytes:
    """The frame behind tags, outermost first."""
    return frame[:12] + b"".join(struct.pack(">HH", tag, 5) for tag in tags) + frame[12:]


def solicit(target: str, **more: Any) -> Packet:
    """A neighbour solicitation that says who asks."""
    return ICMPv6ND_NS(tgt=target) / ICMPv6NDOptSrcLLAddr(lladdr=more.get("mac", MAC))


def advert(target: str, mac: str = MAC) -> Packet:
    """A neighbour advertisement."""
    return ICMPv6ND_NA(tgt=target) / ICMPv6NDOptDstLLAddr(lladdr=mac)


DISCOVER = UDP(sport=68, dport=67) / BOOTP(op=1) / DHCP(options=[("message-type", 1), "end"])
OFFER = UDP(sport=67, dport=68) / BOOTP(op=2) / DHCP(options=[("message-type", 2), "end"])
SOLICIT = UDP(sport=546, dport=547) / DHCP6_Solicit()
RS = ICMPv6ND_RS() / ICMPv6NDOptSrcLLAddr(lladdr=MAC)
RA = ICMPv6ND_RA() / ICMPv6NDOptSrcLLAddr(lladdr=MAC)
DATA = UDP(sport=4000, dport=4001) / Raw(b"x" * 40)
HOP = IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 6)])
OPTIONS = IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 6)])
MANY = IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 250), PadN(optdata=b"\0" * 250)])

PASSES = {
    "udp": v4(DATA),
    "tcp": v4(TCP()),
    "second address": v4(DATA, "192.0.2.15"),
    "gateway": v4(DATA, dst="100.64.0.2"),
    "options": v4(DATA, options=[IPOption_Router_Alert(), IPOption_NOP()]),
    "echo": v4(ICMP() / Raw(b"x" * 56)),
    "first fragment": v4(DATA, flags="MF"),
    "later fragment": v4(Raw(b"\0\x43\0\x44" * 4), frag=4, proto=17),
    "tagged": tagged(v4(DATA), 0x8100),
    "tagged twice": tagged(v6(DATA), 0x88A8, 0x8100),
    "trailing bytes": v4(DATA) + b"trailer",
    "another protocol": v4(Raw(b"x" * 20), proto=47),
    "arp request": arp(),
    "arp reply": arp(2),
    "arp announcement": arp(1, IP4, IP4),
    "arp probe": arp(1, "0.0.0.0", IP4),
    "arp padded": arp().ljust(60, b"\0"),
    "arp tagged": tagged(arp(), 0x8100),
    "udp6": v6(DATA),
    "tcp6": v6(TCP()),
    "link-local": v6(DATA, LINK),
    "echo6": v6(ICMPv6EchoRequest(data=b"x" * 56)),
    "extensions": v6(HOP / OPTIONS / DATA),
    "reached": v6(DATA, dst="fd00:0:0:9::53"),
    "neighbour's question": v6(solicit("2001:db8::1")),
    "neighbour's answer": v6(advert(IP6)),
    "link-local answer": v6(advert(LINK), LINK),
    "duplicate?": v6(ICMPv6ND_NS(tgt=LINK), "::"),
    "group": v6(IPv6ExtHdrHopByHop() / ICMPv6MLReport(mladdr="ff02::1:ff00:5"), "::", hlim=1),
    "first fragment6": v6(IPv6ExtHdrFragment(m=1) / DATA),
    "later fragment6": v6(IPv6ExtHdrFragment(offset=9, nh=58) / Raw(b"\x86" + bytes(31))),
    "echo in fragments": v6(IPv6ExtHdrFragment(m=1) / ICMPv6EchoRequest(data=b"x" * 56)),
}
ASKS = {
    "discover": v4(DISCOVER, "0.0.0.0", "255.255.255.255"),
    "renew": v4(DISCOVER, dst="100.64.0.2"),
    "any port": v4(UDP(sport=999, dport=67) / Raw(b"x" * 300)),
    "tagged": tagged(v4(DISCOVER, "0.0.0.0", "255.255.255.255"), 0x8100),
    "solicit": v6(SOLICIT, LINK, "ff02::1:2"),
    "solicit behind headers": v6(HOP / OPTIONS / SOLICIT, LINK, "ff02::1:2"),
    "routers?": v6(RS, LINK, "ff02::2"),
    "routers? from nobody": v6(ICMPv6ND_RS(), "::", "ff02::2"),
}
MAC2 = "02:00:00:00:00:09"
REFUSED = [
    ("source_ip_locked", "another's", v4(DATA, KEPT4)),
    ("source_ip_locked", "one beyond", v4(DATA, "192.0.2.16")),
    ("source_ip_locked", "gateway's", v4(DATA, "100.64.0.2")),
    ("source_ip_locked", "nobody", v4(DATA, "0.0.0.0")),
    ("source_ip_locked", "nobody's echo", v4(ICMP(), "0.0.0.0")),
    ("source_ip_locked", "nobody's tcp", v4(TCP(), "0.0.0.0")),
    ("source_ip_locked", "nobody asks oddly", v4(UDP(sport=69, dport=67) / Raw(b"x"), "0.0.0.0")),
    ("source_ip_locked", "nobody sends", v4(UDP(sport=68, dport=7) / Raw(b"x"), "0.0.0.0")),
    ("source_ip_locked", "later fragment", v4(Raw(b"x" * 16), KEPT4, frag=4, proto=17)),
    ("source_ip_locked", "later, nobody", v4(Raw(b"x" * 16), "0.0.0.0", frag=4, proto=17)),
    ("source_ip_locked", "tagged", tagged(v4(DATA, KEPT4), 0x8100, 0x8100)),
    ("source_ip_locked", "pre-standard tag", tagged(v4(DATA, KEPT4), 0x9100, 0x88A8)),
    ("source_ip_locked", "options", v4(DATA, KEPT4, options=[IPOption_NOP()] * 4)),
    ("source_ip_locked", "another's6", v6(DATA, KEPT6)),
    ("source_ip_locked", "gateway's6", v6(DATA, "fe80::1")),
    ("source_ip_locked", "nobody6", v6(DATA, "::")),
    ("source_ip_locked", "nobody answers", v6(ICMPv6EchoRequest(), "::")),
    ("source_ip_locked", "nobody's solicit", v6(SOLICIT, "::", "ff02::1:2")),
    ("source_ip_locked", "IPv4 in IPv6", v6(DATA, "::ffff:100.64.0.3")),
    ("source_ip_locked", "almost link-local", v6(DATA, "fec0::5")),
    ("source_ip_locked", "later6", v6(IPv6ExtHdrFragment(offset=9, nh=17) / Raw(b"x" * 16), KEPT6)),
    ("source_ip_locked", "behind headers", v6(HOP / OPTIONS / DATA, KEPT6)),
    ("neighbour_locked", "arp for another", arp(2, KEPT4)),
    ("neighbour_locked", "arp for the gateway", arp(2, "100.64.0.2", IP4)),
    ("neighbour_locked", "arp, another's mac", arp(2, mac=MAC2)),
    ("neighbour_locked", "probe for another's", arp(1, "0.0.0.0", "100.64.0.2")),
    ("neighbour_locked", "answer from nobody", arp(2, "0.0.0.0", IP4)),
    ("neighbour_locked", "arp tagged", tagged(arp(2, "100.64.0.2"), 0x88A8)),
    ("neighbour_locked", "answer for another", v6(advert(KEPT6.replace("2::1", "9::53")))),
    ("neighbour_locked", "answer for the gateway", v6(advert("fe80::1"), LINK)),
    ("neighbour_locked", "answer, another's mac", v6(advert(IP6, MAC2))),
    ("neighbour_locked", "question, another's mac", v6(solicit("2001:db8::1", mac=MAC2))),
    ("neighbour_locked", "routers?, another's mac",
     v6(ICMPv6ND_RS() / ICMPv6NDOptSrcLLAddr(lladdr=MAC2), LINK, "ff02::2")),
    ("neighbour_locked", "second option",
     v6(solicit("2001:db8::1") / ICMPv6NDOptSrcLLAddr(lladdr=MAC2))),
    ("neighbour_locked", "duplicate of another's?", v6(ICMPv6ND_NS(tgt="2001:db8::1"), "::")),
    ("neighbour_locked", "nobody with a mac", v6(solicit(LINK), "::")),
    ("neighbour_locked", "empty option", v6(ICMPv6ND_NA(tgt=IP6) / Raw(bytes(8)))),
    ("neighbour_locked", "cut option", v6(ICMPv6ND_NA(tgt=IP6) / Raw(b"\2\2" + bytes(6)))),
    ("neighbour_locked", "half an option", v6(ICMPv6ND_NA(tgt=IP6) / Raw(b"\2\1" + bytes(2)))),
    ("neighbour_locked", "long option",
     v6(ICMPv6ND_NA(tgt=IP6) / Raw(b"\2\2" + MACS[0] + bytes(8)))),
    ("neighbour_locked", "in a fragment", v6(IPv6ExtHdrFragment(m=1) / advert(IP6))),
    ("neighbour_locked", "without target", v6(Raw(b"\x88" + bytes(11)), hlim=255)
     .replace(b"\x3b\xff", b"\x3a\xff", 1)),
    ("neighbour_locked", "behind headers", v6(HOP / OPTIONS / advert("fe80::1"), LINK)),
    ("neighbour_locked", "too many options",
     v6(ICMPv6ND_NA(tgt=IP6) / Raw((b"\x0e\1" + bytes(6)) * 60))),
    ("service_forged", "offer", v4(OFFER)),
    ("service_forged", "from any port", v4(UDP(sport=4000, dport=68) / BOOTP(op=2))),
    ("service_forged", "from port 67", v4(UDP(sport=67, dport=4000) / BOOTP(op=2))),
    ("service_forged", "offer in a fragment", v4(OFFER, flags="MF")),
    ("service_forged", "advertise", v6(UDP(sport=547, dport=546) / DHCP6_Advertise(), LINK)),
    ("service_forged", "advertise, any port", v6(UDP(dport=546) / DHCP6_Advertise(), LINK)),
    ("service_forged", "router", v6(RA, LINK, "ff02::1")),
    ("service_forged", "router behind headers", v6(HOP / OPTIONS / RA, LINK, "ff02::1")),
    ("service_forged", "router in a fragment", v6(IPv6ExtHdrFragment(m=1) / RA, LINK)),
    ("service_forged", "router, whole fragment", v6(IPv6ExtHdrFragment() / RA, LINK)),
    ("service_forged", "redirect", v6(ICMPv6ND_Redirect(tgt="2001:db8::1"), LINK)),
    ("service_forged", "redirect4", v4(ICMP(type=5) / IP() / UDP())),
    ("service_forged", "router4", v4(ICMP(type=9))),
    ("kept_off", "neighbour", v4(DATA, dst=KEPT4)),
    ("kept_off", "arp", arp(1, IP4, KEPT4)),
    ("kept_off", "neighbour6", v6(DATA, dst=KEPT6)),
    ("kept_off", "question", v6(solicit(KEPT6))),
    ("kept_off", "fragment", v4(Raw(b"x" * 16), dst=KEPT4, frag=4, proto=17)),
    ("protocol_locked", "lldp", MACS[1] + MACS[0] + b"\x88\xcc" + bytes(46)),
    ("protocol_locked", "rarp", tagged(arp(), 0x8100).replace(b"\x08\x06\0\1", b"\x80\x35\0\1")),
    ("protocol_locked", "llc", MACS[1] + MACS[0] + b"\0\x2e\xaa\xaa\3\0\0\0" + v4(DATA)[12:]),
    ("protocol_locked", "tags only", tagged(v4(DATA), 0x8100)[:16]),
    ("protocol_locked", "too many tags", tagged(v4(DATA), *[0x8100] * 130)),
    ("protocol_locked", "source route", v4(DATA, options=[IPOption_LSRR(routers=[KEPT4])])),
    ("protocol_locked", "short IPv4", v4(DATA)[:33]),
    ("protocol_locked", "longer than it is", v4(DATA, len=2000)),
    ("protocol_locked", "shorter than its header", v4(DATA, len=19)),
    ("protocol_locked", "no version", v4(DATA, version=5)),
    ("protocol_locked", "short header", v4(DATA, ihl=4)),
    ("protocol_locked", "half a UDP header", v4(Raw(b"\0\x43\0\x44"), proto=17)),
    ("protocol_locked", "half an ICMP header", v4(Raw(b"\5\0\0\0"), proto=1)),
    ("protocol_locked", "discover in fragments", v4(DISCOVER, flags="MF")),
    ("protocol_locked", "arp of other networks", arp(hwtype=6)),
    ("protocol_locked", "arp of another protocol", arp(ptype=0x86DD)),
    ("protocol_locked", "arp with long addresses", arp(hwlen=8, mac=MAC)[:60].ljust(60, b"\0")),
    ("protocol_locked", "inverse arp", arp(8)),
    ("protocol_locked", "short arp", arp()[:41]),
    ("protocol_locked", "short IPv6", v6(DATA)[:53]),
    ("protocol_locked", "IPv6 that is none", v6(DATA)[:14] + b"\x45" + v6(DATA)[15:]),
    ("protocol_locked", "longer than it is6", v6(DATA)[:-1]),
    ("protocol_locked", "routing header",
     v6(IPv6ExtHdrRouting(addresses=[KEPT6], segleft=1) / DATA)),
    ("protocol_locked", "home address", v6(IPv6ExtHdrDestOpt(options=[HAO(hoa=KEPT6)]) / DATA)),
    ("protocol_locked", "endless headers", v6(MANY / RA, LINK)),
    ("protocol_locked", "headers out of sight", v6(OPTIONS / MANY / Raw(b"x"))),
    ("protocol_locked", "long last header",
     v6(IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(250))] * 2) / Raw(b"x"))),
    ("protocol_locked", "source route out of sight",
     tagged(v4(DATA, options=[IPOption_LSRR(routers=[KEPT4])]), *[0x8100] * 118)),
    ("protocol_locked", "headers in the next fragment",
     v6(IPv6ExtHdrFragment(m=1, nh=60) / OPTIONS)),
    ("protocol_locked", "no ICMP at all", v6(Raw(b""))[:20] + b"\x3a" + v6(Raw(b""))[21:]),
    ("source_mac_locked", "another's mac", v4(DATA).replace(MACS[0], MACS[9], 1)),
]  # fmt: skip
