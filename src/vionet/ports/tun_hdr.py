"""OpenBSD's `struct tun_hdr`, and what of it can be said in our words (docs/tun_hdr.md).

How it works: eight bytes in host order stand in front of a frame on tun(4) and tap(4): flags, a
pad, a VLAN tag, a segment size.  A flag names the *protocol* whose checksum is still to be
computed, not where it is: `from_tun` therefore has to parse the frame, and says what must be
written into its private copy.  `to_tun` needs no parsing, but most of what we know has no word.

Pure functions over bytes; nothing here opens a device.  What cannot be said is a `TunError`.
"""

import struct
from dataclasses import dataclass
from typing import Final

from vionet.engine.status import GSO_ECN, GSO_TCP4, GSO_TCP6, Csum
from vionet.spec import packet

LENGTH: Final = 8
TUN_H_PRIO_MASK: Final = 0x0007
TUN_H_VTAG: Final = 0x0010
TUN_H_TCP_MSS: Final = 0x0020
TUN_H_IPV4_CSUM: Final = 0x0100
TUN_H_TCP_CSUM: Final = 0x0200
TUN_H_UDP_CSUM: Final = 0x0400
TUN_H_ICMP_CSUM: Final = 0x0800
FRAME_MAX: Final = packet.ETH_HLEN + 65536

_LAYOUT: Final = struct.Struct("=HHHH")
_L4_BITS: Final = TUN_H_TCP_CSUM | TUN_H_UDP_CSUM | TUN_H_ICMP_CSUM
_KNOWN: Final = TUN_H_PRIO_MASK | TUN_H_VTAG | TUN_H_TCP_MSS | TUN_H_IPV4_CSUM | _L4_BITS
_TAGS: Final = (packet.ETH_P_8021Q, packet.ETH_P_8021AD, packet.ETH_P_QINQ1)
_EXTENSIONS: Final = (packet.IPPROTO_HOPOPTS, packet.IPPROTO_ROUTING, packet.IPPROTO_DSTOPTS)
_ICMP: Final = {4: 1, 6: 58}
_ICMP_CSUM_OFF: Final = 2
_CWR: Final = 0x80


class TunError(ValueError):
    """What one of the two headers says has no words in the other."""


@dataclass(frozen=True, slots=True)
class Meta:
    """What is known of a frame: the fields of `engine.layout.Frame` that both sides speak of."""

    state: Csum = Csum.UNKNOWN
    csum_start: int = 0
    csum_offset: int = 0
    gso: int = 0  # GSO_* bits
    gso_size: int = 0
    tci: int | None = None  # a tag that is not in the frame


@dataclass(frozen=True, slots=True)
class _Headers:
    version: int
    l3_off: int
    l4_off: int
    l4: int
    l4_len: int
    addresses: bytes
    fragment: bool
    routed: bool


def to_tun(meta: Meta, length: int) -> bytes:
    """The header that goes in front of a frame of `length` bytes for the kernel."""
    if not packet.ETH_HLEN <= length <= FRAME_MAX:
        raise TunError(f"{length} bytes: the device takes {packet.ETH_HLEN} to {FRAME_MAX}")
    flags = 0
    if meta.state is Csum.INNER_PARTIAL:
        raise TunError("the sum is inside a tunnel: the kernel would look for it outside")
    if meta.state is Csum.PARTIAL:
        bits = {packet.TCP_CSUM_OFF: TUN_H_TCP_CSUM, packet.UDP_CSUM_OFF: TUN_H_UDP_CSUM}
        if meta.csum_offset not in bits:
            raise TunError(f"csum_offset {meta.csum_offset}: only TCP's 16 and UDP's 6 have a flag")
        flags |= bits[meta.csum_offset]
    if meta.gso:
        if meta.gso & GSO_ECN:
            raise TunError("ECN: the kernel would repeat CWR in every segment")
        if meta.gso not in (GSO_TCP4, GSO_TCP6):
            raise TunError("only TCP can be segmented")
        if flags != TUN_H_TCP_CSUM or not 0 < meta.gso_size <= 0xFFFF:
            raise TunError(f"segments of {meta.gso_size} bytes without a TCP sum to finish")
        flags |= TUN_H_TCP_MSS
    if meta.tci is not None:
        flags |= TUN_H_VTAG
    return _LAYOUT.pack(flags, 0, meta.tci or 0, meta.gso_size if meta.gso else 0)


def from_tun(header: bytes, head: bytes, length: int) -> tuple[Meta, dict[int, int]]:
    """What the kernel's header says of a frame of `length` bytes that begins with `head`.

    *returns* also the 16-bit words that have to be written, by their offset: the pseudo-header
    sum that a partial frame starts from, the IPv4 header checksum if it was left to do.
    """
    flags, _, tci, mss = _LAYOUT.unpack(header)
    if flags & ~_KNOWN:
        raise TunError(f"flags {flags & ~_KNOWN:#06x} are unknown")
    l4_bit = flags & _L4_BITS
    if l4_bit & (l4_bit - 1):
        raise TunError("more than one L4 checksum is left to do")
    if flags & TUN_H_TCP_MSS and (l4_bit != TUN_H_TCP_CSUM or mss == 0):
        raise TunError(f"segments of {mss} bytes without a TCP sum to finish")
    tag = tci if flags & TUN_H_VTAG else None
    if not flags & (TUN_H_IPV4_CSUM | _L4_BITS):
        return Meta(tci=tag), {}
    found = _parse(head, length)
    writes = _ipv4_csum(head, found) if flags & TUN_H_IPV4_CSUM else {}
    if not l4_bit:
        return Meta(tci=tag), writes
    if found.fragment or found.routed:
        raise TunError("no sum can be finished over a fragment or on the way through a router")
    protocol, offset = {
        TUN_H_TCP_CSUM: (packet.IPPROTO_TCP, packet.TCP_CSUM_OFF),
        TUN_H_UDP_CSUM: (packet.IPPROTO_UDP, packet.UDP_CSUM_OFF),
        TUN_H_ICMP_CSUM: (_ICMP[found.version], _ICMP_CSUM_OFF),
    }[l4_bit]
    if found.l4 != protocol or found.l4_len < offset + 2:
        raise TunError(f"the sum of protocol {protocol}, but the frame carries {found.l4}")
    pseudo = struct.pack(">IxxxB", found.l4_len, protocol)
    seeded = protocol != _ICMP[4]  # ICMP for IPv4 has no pseudo-header
    writes[found.l4_off + offset] = _sum(found.addresses + pseudo) if seeded else 0
    state = Csum.INNER_PARTIAL if l4_bit == TUN_H_ICMP_CSUM else Csum.PARTIAL
    gso = 0
    if flags & TUN_H_TCP_MSS:
        gso = GSO_TCP4 if found.version == 4 else GSO_TCP6
        gso |= GSO_ECN if _byte(head, found.l4_off + 13) & _CWR else 0
    return Meta(state, found.l4_off, offset, gso, mss if gso else 0, tag), writes


def _byte(head: bytes, off: int) -> int:
    if off >= len(head):
        raise TunError(f"byte {off} decides, and only {len(head)} are here")
    return head[off]


def _word(head: bytes, off: int) -> int:
    return _byte(head, off) << 8 | _byte(head, off + 1)


def _sum(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    return (total - 1) % 0xFFFF + 1 if total else 0


def _ipv4_csum(head: bytes, found: _Headers) -> dict[int, int]:
    if found.version != 4:
        raise TunError("an IPv4 header checksum, but the frame carries IPv6")
    start, end = found.l3_off, found.l3_off + 4 * (head[found.l3_off] & 15)
    _byte(head, end - 1)
    return {start + 10: _sum(head[start : start + 10] + head[start + 12 : end]) ^ 0xFFFF}


def _parse(head: bytes, length: int) -> _Headers:
    """Find what the flags do not say: which IP, where L4 begins and how long it is."""
    off = packet.ETH_HLEN
    kind = _word(head, 12)
    while kind in _TAGS:
        kind = _word(head, off + 2)
        off += 4
    if kind == packet.ETH_P_IP:
        header_len = 4 * (_byte(head, off) & 15)
        end = off + _word(head, off + 2)
        fragment, routed = bool(_word(head, off + 6) & 0x3FFF), False
        l4, l4_off, l3_off = _byte(head, off + 9), off + header_len, off
        addresses = head[off + 12 : off + 20]
        wrong = head[off] >> 4 != 4 or header_len < 20
    elif kind == packet.ETH_P_IPV6:
        end = off + 40 + _word(head, off + 4)
        l4, l4_off, l3_off, fragment, routed = _byte(head, off + 6), off + 40, off, False, False
        addresses = head[off + 8 : off + 40]
        wrong = head[off] >> 4 != 6
        while l4 in _EXTENSIONS:
            routed |= l4 == packet.IPPROTO_ROUTING and _byte(head, l4_off + 3) > 0
            l4, l4_off = _byte(head, l4_off), l4_off + 8 * (_byte(head, l4_off + 1) + 1)
        fragment = l4 == packet.IPPROTO_FRAGMENT
    else:
        raise TunError(f"a checksum is left to do, but ethertype {kind:#06x} has none")
    if wrong or end > length or l4_off > end:
        raise TunError("the IP header does not fit the frame")
    _byte(head, l4_off - 1)
    return _Headers(
        4 if kind == packet.ETH_P_IP else 6,
        l3_off,
        l4_off,
        l4,
        end - l4_off,
        addresses,
        fragment,
        routed,
    )
