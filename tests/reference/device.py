"""The model of the whole device for one frame: what is refused, and what a receiver is given.

Written from design section 3 and the rules TX, RX and SG; plain functions on bytes that share no
code with the engine.  A result may be one of several where the documents leave a choice.
"""

from dataclasses import dataclass
from typing import Final

from tests.reference import checksum
from tests.reference.header import CSUM_OFF, SCTP, Headers, parse
from tests.reference.table import cell

NEEDS_CSUM: Final = 1
DATA_VALID: Final = 2
# Deviation of the engine: a frame with bytes behind its datagram is looked at as a whole only if
# it lies in the copy that is judged; this many bytes, more where IPv6 headers are long.
COPY_LEN: Final = 128


@dataclass(frozen=True, slots=True)
class Claim:
    """A frame that was let in, and what is known of its checksum."""

    state: str
    frame: bytes  # trimmed where its outermost sum is partial
    headers: Headers
    csum_start: int = 0
    csum_offset: int = 0


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a receiver finds: the fields of the virtio-net header, and the frame."""

    flags: int
    csum_start: int
    csum_offset: int
    frame: bytes


def judge(
    frame: bytes,
    *,
    flags: int = 0,
    gso_type: int = 0,
    csum_start: int = 0,
    csum_offset: int = 0,
    may_be_partial: bool = True,
    trusted: bool = False,
) -> Claim | str:
    """A claim, or the drop reason.  `may_be_partial`: CSUM was negotiated; `trusted`: a tap."""
    headers = parse(frame)
    if gso_type:
        return "gso_not_negotiated"
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
