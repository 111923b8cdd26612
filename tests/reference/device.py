"""The model of the whole device for one frame: what is refused, and what a receiver is given.

Written from design section 3 and the rules TX, RX, LX and SG; plain functions on bytes that share
no code with the engine.  A result may be one of several where the documents leave a choice.
"""

from dataclasses import dataclass, replace
from typing import Final

from tests.reference import checksum, segment
from tests.reference.checksum import TCP, UDP
from tests.reference.header import CSUM_OFF, IPV4, IPV6, SCTP, WINDOW_LEN, Headers, parse
from tests.reference.table import GSO_NEEDS, cell

NEEDS_CSUM: Final = 1
DATA_VALID: Final = 2
# Deviation of the engine: a frame with bytes behind its datagram is looked at as a whole only if
# it lies in the copy that is judged; this many bytes, more where IPv6 headers are long.
COPY_LEN: Final = 128
ECN: Final = 0x80  # in gso_type
TCPV4, UFO, TCPV6, UDP_L4 = 1, 3, 4, 5
SIZES_REFUSED: Final = (0, 0xFFFF)
SEGMENTS_MAX: Final = {TCP: 2048, UDP: 128}
UDP_WHOLE_MAX: Final = 64  # segments of a frame that is passed on as it is (LX-09)
NOTHING: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Claim:
    """A frame that was let in, and what is known of its checksum."""

    state: str
    frame: bytes  # trimmed where its outermost sum is partial
    headers: Headers
    csum_start: int = 0
    csum_offset: int = 0
    gso_type: int = 0  # 0: an ordinary frame
    gso_size: int = 0

    @property
    def header_len(self) -> int:
        """Bytes in front of the payload."""
        return segment.header_len(self.frame, self.headers)

    @property
    def needs(self) -> frozenset[str]:
        """What a receiver must have agreed to, to be given it whole."""
        kinds = {GSO_NEEDS[self.headers.protocol, self.headers.ethertype]}
        return frozenset(kinds | ({"ecn"} if self.gso_type & ECN else set()))

    @property
    def count(self) -> int:
        """Into how many segments it is cut."""
        return -(-segment.payload_len(self.frame, self.headers) // self.gso_size)


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a receiver finds: the fields of the virtio-net header, and the frame."""

    flags: int
    csum_start: int
    csum_offset: int
    frame: bytes
    gso_type: int = 0
    hdr_len: int = 0
    gso_size: int = 0


def judge(
    frame: bytes,
    *,
    flags: int = 0,
    gso_type: int = 0,
    csum_start: int = 0,
    csum_offset: int = 0,
    gso_size: int = 0,
    may_be_partial: bool = True,
    may_be_large: frozenset[str] = NOTHING,
    trusted: bool = False,
) -> Claim | str:
    """A claim, or the drop reason.

    `may_be_partial`: CSUM was negotiated; `may_be_large`: what of GSO; `trusted`: a tap.
    """
    headers = parse(frame)
    if gso_type:
        if trusted and flags & (NEEDS_CSUM | DATA_VALID) == DATA_VALID and not headers.routed:
            # A kernel may leave to its header only that it vouches for the sum (LX-12).
            flags |= NEEDS_CSUM
            csum_start, csum_offset = headers.l4_off, CSUM_OFF.get(headers.protocol, 0)
        reason = _misuse(flags, gso_type, gso_size, may_be_partial, may_be_large)
        reason = reason or _mismatch(frame, headers, gso_type, csum_start, csum_offset)
        if reason:
            return reason
        claim = Claim("partial", frame[: headers.end], headers, csum_start, csum_offset)
        if segment.payload_len(frame, headers) <= gso_size:
            return claim  # W44: one segment is an ordinary frame
        ecn = gso_type & ECN or (ECN if segment.has_cwr(frame, headers) else 0)
        claim = replace(claim, gso_type=gso_type & ~ECN | ecn, gso_size=gso_size)
        too_many = claim.count > SEGMENTS_MAX[headers.protocol]
        return "gso_too_many_segments" if too_many else claim
    if not flags & NEEDS_CSUM:
        state = "unknown" if headers.verifiable(frame) else "none"
        if trusted and flags & DATA_VALID and state == "unknown":
            state = "valid"
        return Claim(state, frame, headers)
    if not may_be_partial:
        return "csum_not_negotiated"
    if csum_start + csum_offset + 2 > len(frame):
        return "csum_out_of_frame"
    if headers.fragment:
        return "csum_on_fragment"
    if headers.protocol == SCTP:
        return "csum_on_sctp"
    if headers.bad_len:
        return "ip_length_invalid"
    if csum_start < headers.headers_end:
        return "csum_start_in_header"
    outermost = csum_start == headers.l4_off and csum_offset == CSUM_OFF.get(headers.protocol)
    if outermost:
        return Claim("partial", frame[: headers.end], headers, csum_start, csum_offset)
    return Claim("inner partial", frame, headers, csum_start, csum_offset)


def _misuse(
    flags: int, gso_type: int, gso_size: int, may_be_partial: bool, may_be_large: frozenset[str]
) -> str:
    """What is wrong with a GSO frame whatever its bytes are (TD-03 to TD-11, LX-01, LX-02)."""
    kind = gso_type & ~ECN
    if kind not in (TCPV4, UFO, TCPV6, UDP_L4):
        return "gso_type_unknown"
    one_of = {TCPV4: {"tcp4"}, TCPV6: {"tcp6"}, UDP_L4: {"udp4", "udp6"}}.get(kind, set())
    agreed = may_be_partial and not one_of.isdisjoint(may_be_large)
    if not agreed or (gso_type & ECN and "ecn" not in may_be_large):
        return "gso_not_negotiated"
    if gso_size in SIZES_REFUSED:
        return "gso_size_invalid"
    return "" if flags & NEEDS_CSUM else "gso_without_csum"


def _mismatch(frame: bytes, headers: Headers, gso_type: int, start: int, offset: int) -> str:
    """Where a GSO frame's bytes are not what its type says (SG-11, SG-12, LX-05 to LX-08)."""
    if headers.fragment:
        return "csum_on_fragment"
    if headers.bad_len:
        return "ip_length_invalid"
    means = {
        TCPV4: (TCP, (IPV4,)), TCPV6: (TCP, (IPV6,)), UDP_L4: (UDP, (IPV4, IPV6)),
        UDP_L4 | ECN: (-2, ()), TCPV4 | ECN: (TCP, (IPV4,)), TCPV6 | ECN: (TCP, (IPV6,)),
    }  # fmt: skip
    protocol, ethertypes = means[gso_type]
    right = (
        protocol == headers.protocol
        and headers.ethertype in ethertypes
        and headers.l4_off
        and (start, offset) == (headers.l4_off, CSUM_OFF[protocol])
        and segment.header_len(frame[:WINDOW_LEN], headers)
        and segment.header_len(frame, headers) <= WINDOW_LEN
    )
    return "" if right else "gso_header_mismatch"


def column(kind: str, policy: str, takes_partial: bool) -> str:
    """The table's column of an egress."""
    if kind == "tap":
        return "kernel" if takes_partial else "stream"
    return policy if takes_partial else "complete"


def deliver(claim: Claim, column: str) -> list[Delivery]:
    """What the receiver of that column may be given."""
    headers = claim.headers
    if headers.dhcp and column in ("uniform", "natural"):
        column = "complete"
    action = cell(claim.state, column)
    frame = claim.frame
    if action == "pass":
        return [Delivery(0, 0, 0, frame)]
    if action == "pass valid":
        return [Delivery(DATA_VALID, 0, 0, frame)]
    if action == "pass partial":
        return [_partial(_seeded(claim), claim.csum_start, claim.csum_offset)]
    if action == "fill" or action == "fill inner":
        done = checksum.finish(_seeded(claim), claim.csum_start, claim.csum_offset)
        return [Delivery(0, 0, 0, done)]
    if action == "fill inner, then as unknown":
        done = checksum.finish(frame, claim.csum_start, claim.csum_offset)
        if not headers.verifiable(frame):
            return [Delivery(0, 0, 0, done)]
        choices = _unfilled(done, headers)
        if len(done) > headers.end:
            choices.append(Delivery(0, 0, 0, done))
        return choices
    choices = _unfilled(frame, headers)
    if len(frame) > headers.end and len(frame) > COPY_LEN:
        choices.append(Delivery(0, 0, 0, frame))
    return choices


def deliver_large(
    claim: Claim, column: str, takes: frozenset[str] = NOTHING, *, fits: bool = True
) -> list[Delivery]:
    """All that a receiver of that column is given of a GSO frame, whole or in segments.

    `takes`: what of GSO it agreed to; `fits`: its buffers have room for the whole frame.
    """
    headers = claim.headers
    if headers.dhcp and column in ("uniform", "natural"):
        column = "complete"
    partial = cell("partial", column) == "pass partial"
    few = headers.protocol != UDP or claim.count <= UDP_WHOLE_MAX
    if partial and fits and few and claim.needs <= takes:
        whole = _partial(_seeded(claim), claim.csum_start, claim.csum_offset)
        large = (claim.gso_type, claim.header_len, claim.gso_size)
        return [replace(whole, gso_type=large[0], hdr_len=large[1], gso_size=large[2])]
    made = segment.segment(claim.frame, headers, claim.gso_size, partial=partial)
    if partial:
        return [_partial(one, claim.csum_start, claim.csum_offset) for one in made]
    return [Delivery(0, 0, 0, one) for one in made]


def exceeds(claim: Claim, mtu: int) -> bool:
    """Whether the frame, or its largest segment, is too long for a port with this MTU."""
    l2_len = claim.headers.l3_off or 14
    length = claim.header_len + claim.gso_size if claim.gso_type else len(claim.frame)
    return length > mtu + l2_len


def _partial(frame: bytes, start: int, offset: int) -> Delivery:
    return Delivery(NEEDS_CSUM, start, offset, frame)


def _seeded(claim: Claim) -> bytes:
    """The frame with our own pseudo-header sum where it is ours to know."""
    if claim.state != "partial" or claim.headers.routed:
        return claim.frame
    return checksum.put(claim.frame, claim.headers.field, claim.headers.seed())


def _unfilled(frame: bytes, headers: Headers) -> list[Delivery]:
    """Good: partial, trimmed to the datagram.  Bad: as it is."""
    if not headers.right(frame):
        return [Delivery(0, 0, 0, frame)]
    seeded = checksum.put(frame, headers.field, headers.seed())[: headers.end]
    return [_partial(seeded, headers.l4_off, CSUM_OFF[headers.protocol])]
