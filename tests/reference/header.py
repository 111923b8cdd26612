"""What a frame's headers say: the model of the engine's parser, on bytes, without any limits
but those that the engine documents.

Sources: IEEE 802.1Q, RFC 791, 8200, 4302 (AH), 6275 (home address).  Shares no code with the
engine.  `tests/unit/test_engine_reference.py` compares it with scapy.
"""

from dataclasses import dataclass, replace
from typing import Final

from tests.reference.checksum import TCP, UDP, ones_sum, pseudo_header, word

IPV4: Final = 0x0800
IPV6: Final = 0x86DD
TAGS: Final = (0x8100, 0x88A8, 0x9100)
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION = 0, 43, 44, 51, 60
SCTP: Final = 132
HOME_ADDRESS: Final = 0xC9
# Deviation of the engine: headers beyond this many bytes of a frame are not looked at.
WINDOW_LEN: Final = 512
CSUM_OFF: Final = {TCP: 16, UDP: 6}
L4_MIN: Final = {TCP: 20, UDP: 8}


@dataclass(frozen=True, slots=True)
class Headers:
    """What was found.  Offsets are from the start of the frame."""

    l3_off: int = 0
    ethertype: int = 0
    headers_end: int = 0  # nothing before this belongs to L4
    l4_off: int = 0  # of a whole TCP or UDP header, else 0
    protocol: int = -1
    end: int = 0  # of the IP datagram
    fragment: bool = False
    routed: bool = False  # the pseudo-header is not ours to know
    dhcp: bool = False
    bad_len: bool = False
    src: bytes = b""
    dst: bytes = b""

    @property
    def field(self) -> int:
        """Where the outermost checksum is.  *requires* `l4_off`."""
        return self.l4_off + CSUM_OFF[self.protocol]

    def seed(self) -> int:
        """The pseudo-header sum.  *requires* `l4_off`."""
        return pseudo_header(self.src, self.dst, self.protocol, self.end - self.l4_off)

    def verifiable(self, frame: bytes) -> bool:
        """Whether there is an outermost TCP or UDP checksum that somebody could verify."""
        if not self.l4_off or self.routed:
            return False
        if self.protocol == UDP:
            absent = word(frame, self.field) == 0 and self.ethertype == IPV4
            return not absent and word(frame, self.l4_off + 4) == self.end - self.l4_off
        return True

    def right(self, frame: bytes) -> bool:
        """Whether the outermost checksum is complete and right.  *requires* `l4_off`."""
        return ones_sum(frame[self.l4_off : self.end], self.seed()) == 0xFFFF


def parse(frame: bytes) -> Headers:
    """Find the outermost headers of `frame`, which has 14 bytes or more."""
    seen = frame[:WINDOW_LEN]
    off = 14
    ethertype = word(seen, 12)
    while ethertype in TAGS:
        if off + 4 > len(seen):
            return Headers(headers_end=off)
        ethertype = word(seen, off + 2)
        off += 4
    found = Headers(l3_off=off, ethertype=ethertype, headers_end=off)
    if ethertype == IPV4:
        return _parse_ipv4(seen, len(frame), found)
    if ethertype == IPV6:
        return _parse_ipv6(seen, len(frame), found)
    return found


def _parse_ipv4(seen: bytes, length: int, found: Headers) -> Headers:
    off = found.l3_off
    if off + 20 > len(seen):
        return found
    header_len = 4 * (seen[off] & 15)
    if seen[off] >> 4 != 4 or header_len < 20:
        return found
    found = replace(found, headers_end=off + header_len)
    total = word(seen, off + 2)
    if total < header_len or off + total > length:
        return replace(found, bad_len=True)
    found = replace(
        found,
        protocol=seen[off + 9],
        fragment=bool(word(seen, off + 6) & 0x3FFF),
        end=off + total,
        src=seen[off + 12 : off + 16],
        dst=seen[off + 16 : off + 20],
    )
    if off + header_len > len(seen):
        return found
    routed = _has_source_route(seen[off + 20 : off + header_len])
    return _parse_l4(seen, replace(found, routed=routed), off + header_len)


def _parse_ipv6(seen: bytes, length: int, found: Headers) -> Headers:
    off = found.l3_off
    if off + 40 > len(seen) or seen[off] >> 4 != 6:
        return found
    end = off + 40 + word(seen, off + 4)
    found = replace(
        found, headers_end=off + 40, end=end, src=seen[off + 8 : off + 24],
        dst=seen[off + 24 : off + 40],
    )  # fmt: skip
    if end > length:
        return replace(found, bad_len=True)
    kind, off = seen[off + 6], off + 40
    while kind in (HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION):
        if off + 8 > end:
            return replace(found, bad_len=True)
        if off + 8 > len(seen):
            return found
        header_len = _extension_len(kind, seen[off + 1])
        if off + header_len > end:
            return replace(found, bad_len=True)
        if kind == DESTINATION and off + header_len > len(seen):
            return found
        found = replace(
            found,
            fragment=_is_fragment(seen, kind, off),
            routed=found.routed
            or (kind == ROUTING and seen[off + 3] != 0)
            or (kind == DESTINATION and _has_home_address(seen[off + 2 : off + header_len])),
        )
        kind, off = seen[off], off + header_len
        found = replace(found, headers_end=off)
        if found.fragment:
            break
    return _parse_l4(seen, replace(found, protocol=kind), off)


def _extension_len(kind: int, value: int) -> int:
    if kind == FRAGMENT:
        return 8
    return 4 * (value + 2) if kind == AUTHENTICATION else 8 * (value + 1)


def _is_fragment(seen: bytes, kind: int, off: int) -> bool:
    return kind == FRAGMENT and bool(word(seen, off + 2) & 0xFFF9)


def _has_source_route(options: bytes) -> bool:
    """A loose or strict source route among IPv4 options (RFC 791)."""
    off = 0
    while off + 2 <= len(options) and options[off] != 0:
        if options[off] in (131, 137):
            return True
        off += 1 if options[off] == 1 else max(2, options[off + 1])
    return False


def _has_home_address(options: bytes) -> bool:
    off = 0
    while off + 2 <= len(options):
        if options[off] == HOME_ADDRESS:
            return True
        off += 1 if options[off] == 0 else 2 + options[off + 1]
    return False


def _parse_l4(seen: bytes, found: Headers, off: int) -> Headers:
    least = L4_MIN.get(found.protocol, 0)
    if found.fragment or not least or found.end - off < least:
        return found
    if off + CSUM_OFF[found.protocol] + 2 > len(seen):
        return found
    dhcp = found.protocol == UDP and not {67, 68, 546, 547}.isdisjoint(
        {word(seen, off), word(seen, off + 2)}
    )
    return replace(found, l4_off=off, dhcp=dhcp)
