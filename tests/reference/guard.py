"""The model of what a port locked to IP addresses may send: `verdict` for one frame.

It shares no code with the engine: addresses are `ipaddress`'s, headers are cut out of bytes.  It
says every reason that there is to refuse a frame; which of them the engine names is left to it.
"""

import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

IP, ARP, IPV6, TAGS = 0x0800, 0x0806, 0x86DD, (0x8100, 0x88A8, 0x9100)
HOP, ROUTING, FRAGMENT, AH, OPTIONS = 0, 43, 44, 51, 60
EXTENSIONS = (HOP, ROUTING, FRAGMENT, AH, OPTIONS)
ICMP, UDP, ICMPV6 = 1, 17, 58
GATEWAY = IPv6Address("fe80::1")
LINK_LOCAL = IPv6Network("fe80::/10")

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


class Unreadable(Exception):
    """The headers do not go on where they should."""


@dataclass
class Lock:
    """A port's addresses, and what was found about one frame."""

    mac: bytes
    ip: tuple[Network, ...]
    keep_off: tuple[Network, ...] = ()
    reach: tuple[Network, ...] = ()
    reasons: set[str] = field(default_factory=set)
    asks: bool = False

    def own(self, address: Address) -> bool:
        """Whether the port may speak for an address."""
        if any(address in network for network in self.ip):
            return True
        return address in LINK_LOCAL and address != GATEWAY

    def off_limits(self, address: Address) -> bool:
        """Whether the port may not speak to an address."""
        kept = any(address in network for network in self.keep_off)
        return kept and not self.own(address) and not any(address in net for net in self.reach)


def verdict(lock: Lock, frame: bytes) -> Lock:
    """`lock` with what there is to say about `frame`; without a reason it passes."""
    if frame[6:12] != lock.mac:
        lock.reasons.add("source_mac_locked")
    try:
        kind, packet = untagged(frame)
        if kind == ARP:
            judge_arp(lock, packet)
        elif kind == IP:
            judge_ipv4(lock, packet)
        elif kind == IPV6:
            judge_ipv6(lock, packet)
        else:
            lock.reasons.add("protocol_locked")
    except Unreadable:
        lock.reasons.add("protocol_locked")
    return lock


def cut(data: bytes, off: int, size: int) -> bytes:
    """`size` bytes, all of them."""
    if off + size > len(data):
        raise Unreadable
    return data[off : off + size]


def untagged(frame: bytes) -> tuple[int, bytes]:
    """Ethertype and payload behind all tags."""
    off = 12
    while (kind := int.from_bytes(cut(frame, off, 2), "big")) in TAGS:
        off += 4
    return kind, frame[off + 2 :]


def judge_arp(lock: Lock, packet: bytes) -> None:
    """RFC 826, RFC 5227."""
    form = struct.unpack(">HHBBH6s4s6s4s", cut(packet, 0, 28))
    *head, operation, sender_mac, sender, _, target = form
    if head != [1, IP, 6, 4] or operation not in (1, 2):
        raise Unreadable
    if sender_mac != lock.mac:
        lock.reasons.add("neighbour_locked")
    claimed = target if operation == 1 and sender == bytes(4) else sender
    if not lock.own(IPv4Address(claimed)):
        lock.reasons.add("neighbour_locked")
    if lock.off_limits(IPv4Address(target)):
        lock.reasons.add("kept_off")


def judge_ipv4(lock: Lock, packet: bytes) -> None:
    """RFC 791."""
    head = cut(packet, 0, 20)
    size = 4 * (head[0] & 15)
    total, fragment = struct.unpack(">2xH2xH", head[:8])
    if head[0] >> 4 != 4 or size < 20 or not size <= total <= len(packet):
        raise Unreadable
    options = packet[20:size]
    while options:
        if options[0] == 0:
            break
        if options[0] in (131, 137) and len(options) > 1:
            raise Unreadable  # a source route
        length = 1 if options[0] == 1 or len(options) < 2 else max(2, options[1])
        options = options[length:]
    more = fragment & 0x3FFF
    judge_ends(lock, head[12:16], head[16:20])
    judge_upper(lock, head, packet[size:total], bool(more), fragment & 0x1FFF, head[9])


def judge_ipv6(lock: Lock, packet: bytes) -> None:
    """RFC 8200."""
    head = cut(packet, 0, 40)
    if head[0] >> 4 != 6:
        raise Unreadable
    body = cut(packet, 40, int.from_bytes(head[4:6], "big"))
    kind = head[6]
    more, later = False, 0
    while kind in EXTENSIONS:
        first = cut(body, 0, 8)
        size = {FRAGMENT: 8, AH: 4 * (first[1] + 2)}.get(kind, 8 * (first[1] + 1))
        extension = cut(body, 0, size)
        if kind == ROUTING and first[3]:
            raise Unreadable
        if kind == OPTIONS and has_home_address(extension[2:]):
            raise Unreadable
        word = int.from_bytes(first[2:4], "big")
        here, kind, body = kind, first[0], body[size:]
        if here == FRAGMENT and word & 0xFFF9:
            more, later = True, word & 0xFFF8
            break
    if more and not later and kind in EXTENSIONS:
        raise Unreadable
    judge_ends(lock, head[8:24], head[24:40])
    judge_upper(lock, head, body, more, later, kind)


def has_home_address(options: bytes) -> bool:
    """RFC 6275."""
    while len(options) >= 2:
        if options[0] == 0xC9:
            return True
        options = options[1 if options[0] == 0 else 2 + options[1] :]
    return False


def judge_ends(lock: Lock, source: bytes, destination: bytes) -> None:
    """IP addresses."""
    if source != bytes(len(source)) and not lock.own(ip_address(source)):
        lock.reasons.add("source_ip_locked")
    if lock.off_limits(ip_address(destination)):
        lock.reasons.add("kept_off")


def judge_upper(
    lock: Lock, head: bytes, body: bytes, fragmented: bool, later: int, kind: int
) -> None:
    """UDP and ICMP; `later` is not 0 where they are in another fragment."""
    version = head[0] >> 4
    source = head[12:16] if version == 4 else head[8:24]
    nobody = source == bytes(len(source))
    allowed = not nobody
    if not later and kind in (UDP, ICMP if version == 4 else ICMPV6):
        first = cut(body, 0, 8)
        if kind == UDP:
            ports = struct.unpack(">HH", first[:4])
            server, client = (67, 68) if version == 4 else (547, 546)
            if ports[0] == server or ports[1] == client:
                lock.reasons.add("service_forged")
            if ports[1] == server:
                if fragmented:
                    raise Unreadable
                allowed |= version == 4 and ports[0] == client
                lock.asks = True
        elif version == 4:
            if first[0] in (5, 9):
                lock.reasons.add("service_forged")
        else:
            allowed |= first[0] in (131, 132, 133, 135, 143)
            judge_icmpv6(lock, body, nobody, fragmented)
    if not allowed:
        lock.reasons.add("source_ip_locked")


def judge_icmpv6(lock: Lock, body: bytes, nobody: bool, fragmented: bool) -> None:
    """RFC 4861, RFC 6980."""
    if body[0] in (134, 137):
        lock.reasons.add("service_forged")
    if body[0] not in (133, 135, 136):
        return
    lock.asks |= body[0] == 133
    options = body[8 if body[0] == 133 else 24 :]
    if fragmented or len(body) < (8 if body[0] == 133 else 24):
        lock.reasons.add("neighbour_locked")
        return
    if body[0] != 133:
        target = IPv6Address(body[8:24])
        if lock.off_limits(target):
            lock.reasons.add("kept_off")
        if (nobody or body[0] == 136) and not lock.own(target):
            lock.reasons.add("neighbour_locked")
    while options:
        size = 8 * options[1] if len(options) >= 8 else 0
        link = options[0] in (1, 2) and (nobody or options[1:8] != b"\1" + lock.mac)
        if size == 0 or size > len(options) or link:
            lock.reasons.add("neighbour_locked")
            return
        options = options[size:]
