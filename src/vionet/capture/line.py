"""A packet in one line for people, in the manner of tcpdump; only what is short enough to scan."""

import struct
import time
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from vionet.capture.note import Kind, short
from vionet.capture.reader import Reader
from vionet.spec.packet import (
    ETH_P_8021AD,
    ETH_P_8021Q,
    ETH_P_ARP,
    ETH_P_IP,
    ETH_P_IPV6,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_SCTP,
    IPPROTO_TCP,
    IPPROTO_UDP,
)

_PROTOCOLS: Final = {
    IPPROTO_TCP: "tcp", IPPROTO_UDP: "udp", IPPROTO_ICMP: "icmp", IPPROTO_ICMPV6: "icmp6",
    IPPROTO_SCTP: "sctp",
}  # fmt: skip
_WITH_PORTS: Final = (IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP)


def line(reader: Reader, block: memoryview) -> str:
    """The line of an Enhanced Packet Block."""
    high, low, cap_len, length = struct.unpack_from("<IIII", block, 12)
    seconds, fraction = divmod(high << 32 | low, 10**9)
    clock = time.strftime("%H:%M:%S", time.localtime(seconds))
    frame = bytes(block[28 : 28 + cap_len])
    kind = reader.kinds.get(bytes(block[28 + (cap_len + 3 & ~3) : -4]))
    ends = facts = ""
    if kind is not None:
        ends, facts = _ends(reader, kind), short(kind)
    return f"{clock}.{fraction // 1000:06d} {ends} {addresses(frame)} length {length}: {facts}"


def _ends(reader: Reader, kind: Kind) -> str:
    target = reader.name(kind.out_serial) if kind.out_serial else "*"
    return f"{reader.name(kind.in_serial)} → {target}"


def addresses(frame: bytes) -> str:
    """Who sends to whom, as far as the bytes say."""
    off, kind = 14, int.from_bytes(frame[12:14], "big")
    tags = ""
    while kind in (ETH_P_8021Q, ETH_P_8021AD) and len(frame) >= off + 4:
        tags += f"vlan {int.from_bytes(frame[off : off + 2], 'big') & 0xFFF} "
        kind = int.from_bytes(frame[off + 2 : off + 4], "big")
        off += 4
    packet = frame[off:]
    if kind == ETH_P_IP and len(packet) >= 20:
        source, target = IPv4Address(packet[12:16]), IPv4Address(packet[16:20])
        later = int.from_bytes(packet[6:8], "big") & 0x1FFF
        behind = b"" if later else packet[4 * (packet[0] & 15) :]
        return tags + _flow(f"{source}", f"{target}", packet[9], behind)
    if kind == ETH_P_IPV6 and len(packet) >= 40:
        source6, target6 = IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
        return tags + _flow(f"[{source6}]", f"[{target6}]", packet[6], packet[40:])
    name = "arp" if kind == ETH_P_ARP else f"ethertype {kind:#06x}"
    return f"{tags}{frame[6:12].hex(':')} > {frame[:6].hex(':')} {name}"


def _flow(source: str, target: str, protocol: int, behind: bytes) -> str:
    name = _PROTOCOLS.get(protocol, f"protocol {protocol}")
    if protocol in _WITH_PORTS and len(behind) >= 4:
        ports = struct.unpack_from(">HH", behind)
        return f"{source}:{ports[0]} > {target}:{ports[1]} {name}"
    return f"{source} > {target} {name}"
