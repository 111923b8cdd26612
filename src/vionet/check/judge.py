"""The tester's oracle: what is this frame, and is what its checksum field holds right?

How it works: everything is computed from the bytes of one frame, slowly and plainly, by the words
of RFC 791, 793, 768, 1071 and 8200.  Nothing is taken from the code under test, and nothing from a
packet library.

`finish` does what a receiver that trusts the virtio-net header would do; a delivered frame is
right when `finish` of it equals the frame that its sender meant (spec section 7, the oracle).

Trust: the bytes may be anything; a frame that does not parse is described as far as it goes.
"""

import struct
from dataclasses import dataclass
from enum import Enum
from typing import Final

from vionet.spec import virtio_net as net

ETHERTYPE_IPV4: Final = 0x0800
ETHERTYPE_IPV6: Final = 0x86DD
ETHERTYPES_VLAN: Final = frozenset({0x8100, 0x88A8, 0x9100})
PROTOCOL_TCP: Final = 6
PROTOCOL_UDP: Final = 17
PROTOCOL_SCTP: Final = 132
NEXT_HOP_BY_HOP: Final = 0
NEXT_ROUTING: Final = 43
NEXT_FRAGMENT: Final = 44
NEXT_DESTINATION: Final = 60
CSUM_OFF: Final = {PROTOCOL_TCP: 16, PROTOCOL_UDP: 6}


def ones_sum(data: bytes, start: int = 0) -> int:
    """The ones'-complement sum of `data` as 16-bit big-endian words, folded, not inverted."""
    if len(data) % 2:
        data += b"\0"
    total: int = start + sum(struct.unpack(f">{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def checksum(data: bytes, start: int = 0) -> int:
    """The Internet checksum of `data` (RFC 1071)."""
    return ~ones_sum(data, start) & 0xFFFF


class Sum(Enum):
    """What the L4 checksum field of a frame holds."""

    NONE = "no L4 checksum to speak of"
    ABSENT = "UDP without a checksum"
    COMPLETE = "a complete checksum"
    PARTIAL = "the pseudo-header sum"
    BAD = "neither a complete checksum nor the pseudo-header sum"


@dataclass(frozen=True, slots=True)
class Parsed:
    """Where the headers of a frame are.  Offsets are from the start of the frame; 0 = not there."""

    tags: int = 0
    ethertype: int = 0
    l3_off: int = 0
    l3_end: int = 0  # end of the IP datagram by its own length
    l4_off: int = 0
    protocol: int = -1
    fragment: bool = False
    segments_left: int = 0  # of an IPv6 routing header
    pseudo: bytes = b""  # the pseudo-header

    @property
    def csum_off(self) -> int:
        """Offset of the checksum inside the L4 header; 0 if it has none that we know."""
        return CSUM_OFF.get(self.protocol, 0)


def parse(frame: bytes) -> Parsed:
    """Find the outermost headers of `frame`."""
    off, tags = 12, 0
    ethertype = int.from_bytes(frame[off : off + 2], "big")
    while ethertype in ETHERTYPES_VLAN:
        off, tags = off + 4, tags + 1
        ethertype = int.from_bytes(frame[off : off + 2], "big")
    off += 2
    if ethertype == ETHERTYPE_IPV4 and len(frame) >= off + 20 and frame[off] >> 4 == 4:
        return _parse_ipv4(frame, off, tags)
    if ethertype == ETHERTYPE_IPV6 and len(frame) >= off + 40 and frame[off] >> 4 == 6:
        return _parse_ipv6(frame, off, tags)
    return Parsed(tags, ethertype, off)


def _parse_ipv4(frame: bytes, off: int, tags: int) -> Parsed:
    header_len = (frame[off] & 15) * 4
    total, _, fragment = struct.unpack_from(">HHH", frame, off + 2)
    protocol = frame[off + 9]
    length = total - header_len
    pseudo = frame[off + 12 : off + 20] + struct.pack(">BBH", 0, protocol, length & 0xFFFF)
    return Parsed(
        tags, ETHERTYPE_IPV4, off, off + total, off + header_len, protocol,
        bool(fragment & 0x3FFF), 0, pseudo,
    )  # fmt: skip


def _parse_ipv6(frame: bytes, off: int, tags: int) -> Parsed:
    end = off + 40 + int.from_bytes(frame[off + 4 : off + 6], "big")
    following, l4_off = frame[off + 6], off + 40
    fragment, left = False, 0
    while following in (NEXT_HOP_BY_HOP, NEXT_ROUTING, NEXT_DESTINATION, NEXT_FRAGMENT):
        if l4_off + 8 > len(frame):
            return Parsed(tags, ETHERTYPE_IPV6, off, end)
        if following == NEXT_FRAGMENT:
            fragment, length = True, 8
        else:
            left = frame[l4_off + 3] if following == NEXT_ROUTING else left
            length = 8 + 8 * frame[l4_off + 1]
        following, l4_off = frame[l4_off], l4_off + length
    length = end - l4_off
    if length < 0:
        return Parsed(tags, ETHERTYPE_IPV6, off, end)
    pseudo = frame[off + 8 : off + 40] + struct.pack(">IxxxB", length, following)
    return Parsed(tags, ETHERTYPE_IPV6, off, end, l4_off, following, fragment, left, pseudo)


def l4_sum(frame: bytes, partial: bool = False) -> Sum:
    """What the outermost L4 checksum field of `frame` holds.

    Of 65536 frames one holds both sums, which are then equal: it is `partial` or not as its header
    says.
    """
    at = parse(frame)
    field = at.l4_off + at.csum_off
    if not at.csum_off or at.fragment or at.l3_end > len(frame) or field + 2 > at.l3_end:
        return Sum.NONE
    held = int.from_bytes(frame[field : field + 2], "big")
    if held == 0 and at.protocol == PROTOCOL_UDP:
        return Sum.ABSENT if at.ethertype == ETHERTYPE_IPV4 else Sum.BAD
    pseudo = ones_sum(at.pseudo)
    if partial and held == pseudo:
        return Sum.PARTIAL
    if ones_sum(frame[at.l4_off : at.l3_end], pseudo) == 0xFFFF:
        return Sum.COMPLETE
    return Sum.PARTIAL if held == pseudo else Sum.BAD


def ip_header_right(frame: bytes) -> bool:
    """The IPv4 header checksum is right; true of everything that has none (spec SG-05)."""
    at = parse(frame)
    if at.ethertype != ETHERTYPE_IPV4 or not at.l4_off:
        return True
    return ones_sum(frame[at.l3_off : at.l4_off]) == 0xFFFF


def finish(header: net.NetHeader, frame: bytes) -> bytes:
    """The frame after a receiver has done what `header` asks of it (spec RX-17, SG-01, SG-03)."""
    if not header.flags & net.VIRTIO_NET_HDR_F_NEEDS_CSUM:
        return frame
    field = header.csum_start + header.csum_offset
    if field + 2 > len(frame):
        return frame
    value = checksum(frame[header.csum_start :])
    if value == 0 and header.csum_offset == CSUM_OFF[PROTOCOL_UDP]:
        value = 0xFFFF
    return frame[:field] + value.to_bytes(2, "big") + frame[field + 2 :]


def objections(header: net.NetHeader, frame: bytes) -> list[str]:
    """What is wrong with a delivered frame whatever was negotiated; empty if nothing is."""
    found = []
    partial = bool(header.flags & net.VIRTIO_NET_HDR_F_NEEDS_CSUM)
    at, state = parse(frame), l4_sum(frame, partial)
    if partial:
        if header.csum_start + header.csum_offset + 2 > len(frame):
            found.append("csum_start + csum_offset beyond the frame")
        if at.fragment:
            found.append("NEEDS_CSUM on a fragment")
        elif at.protocol == PROTOCOL_SCTP:
            found.append("NEEDS_CSUM on SCTP")
        elif (header.csum_start, header.csum_offset) == (at.l4_off, at.csum_off):
            if state is not Sum.PARTIAL and not at.segments_left:
                found.append(f"NEEDS_CSUM, but the field holds {state.value}")
        elif header.csum_start < at.l4_off:
            found.append(f"csum_start {header.csum_start} before the L4 header at {at.l4_off}")
    elif header.flags & net.VIRTIO_NET_HDR_F_DATA_VALID and state in (Sum.PARTIAL, Sum.BAD):
        found.append(f"DATA_VALID, but the field holds {state.value}")
    elif state is Sum.PARTIAL:
        found.append("the field holds the pseudo-header sum and NEEDS_CSUM is clear")
    if not ip_header_right(frame):
        found.append("the IPv4 header checksum is wrong")
    return found
