"""The table of guests: what each acknowledges, how it posts, sends, and takes what it receives.

A guest differs from others in a few habits only, so each is one row (spec 4.6).  `read` says what
such a guest would have concluded from one delivery: whether its stack had taken the frame, why,
and what it would have sent on where it routes or bridges.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from vionet.check import judge
from vionet.check.judge import Sum
from vionet.check.packet import PORT_VXLAN
from vionet.check.rules.linux import refused
from vionet.check.segment import ECN, expanded, segments
from vionet.spec import virtio
from vionet.spec import virtio_net as net

RAW_PORTS: Final = {(67, 68), (68, 67), (546, 547), (547, 546)}  # their readers see raw bytes
TAKEN: Final = (Sum.COMPLETE, Sum.ABSENT, Sum.NONE)


class Partial(Enum):
    """What a driver makes of NEEDS_CSUM."""

    FINISH = "finished where csum_start says"
    REPARSE = "taken as good, to be computed anew by the outer headers (GU-07)"
    VERIFIED = "taken as verified, the field left as it is (GU-13)"
    IGNORED = "not looked at: the field is verified"


def _bits(*names: str) -> int:
    return virtio.mask(
        virtio.BITS.get(f"VIRTIO_NET_F_{name}", virtio.BITS.get(f"VIRTIO_F_{name}", 0))
        for name in names
    )


CSUMS: Final = ("CSUM", "GUEST_CSUM")
TSOS: Final = ("HOST_TSO4", "HOST_TSO6", "GUEST_TSO4", "GUEST_TSO6")
ECNS: Final = ("HOST_ECN", "GUEST_ECN")
USOS: Final = ("HOST_USO", "GUEST_USO4", "GUEST_USO6")
RINGS: Final = ("EVENT_IDX", "INDIRECT_DESC")


@dataclass(frozen=True, slots=True)
class Guest:
    """One row."""

    name: str
    title: str
    features: int  # acknowledged where offered
    partial: Partial = Partial.FINISH
    gso_types: tuple[int, ...] = (1, 4, 5)  # understood; others are frames that are too large
    shape: tuple[int, ...] = (2048,)  # of a receive buffer
    buffers: int = 64
    size: int = 256  # of its rings
    polls: bool = False  # asks for no notifications
    tags: int = 9  # VLAN tags that it sees through
    strict: bool = False  # refuses headers as Linux does
    seeds: str = "length"  # what its seeds of large frames contain
    sends: tuple[str, ...] = ("plain", "partial", "large")
    layout: tuple[int, ...] = ()  # descriptors of a frame that it sends
    refill: int = 8


_LINUX: Final = ("VERSION_1", *CSUMS, *TSOS, *ECNS, *USOS, *RINGS)
_BIG: Final = (12, 4084, *(4096,) * 16)  # header, then pages
_BSD: Final = ("VERSION_1", *CSUMS, *TSOS, "EVENT_IDX")

GUESTS: Final = {
    guest.name: guest
    for guest in (
        Guest(
            "linux",
            "Linux virtio_net, mergeable buffers",
            _bits(*_LINUX, "MRG_RXBUF"),
            shape=(1536,),
            buffers=200,
            strict=True,
            sends=("plain", "partial", "large", "tunnel"),
        ),
        Guest(
            "linux-big",
            "Linux virtio_net without mergeable buffers",
            _bits(*_LINUX),
            shape=_BIG,
            buffers=12,
            strict=True,
        ),
        Guest(
            "linux-big-2025",
            "the same, of mid-2025, which lost NEEDS_CSUM (LX-22)",
            _bits(*_LINUX),
            Partial.IGNORED,
            shape=_BIG,
            buffers=12,
            strict=True,
        ),
        Guest(
            "openbsd",
            "OpenBSD vio(4)",
            _bits(*_BSD, "MRG_RXBUF"),
            Partial.REPARSE,
            gso_types=(1, 4),
            buffers=100,
        ),
        Guest(
            "openbsd-no-mrg",
            "OpenBSD vio(4), header and frame in two descriptors (GU-09)",
            _bits("VERSION_1", *CSUMS, "HOST_TSO4", "HOST_TSO6"),
            Partial.REPARSE,
            gso_types=(),
            shape=(12, 2036),
        ),
        Guest(
            "freebsd",
            "FreeBSD vtnet(4) since August 2025",
            _bits(*_BSD, *ECNS, "MRG_RXBUF", "INDIRECT_DESC"),
            Partial.REPARSE,
            gso_types=(1, 4),
            buffers=100,
            tags=1,
            sends=("plain", "partial", "large", "valid"),
        ),
        Guest(
            "freebsd-old",
            "FreeBSD vtnet(4) until 2025: NEEDS_CSUM is verified, and forwarded as it is",
            _bits(*_BSD, *ECNS, "MRG_RXBUF", "INDIRECT_DESC"),
            Partial.VERIFIED,
            gso_types=(1, 4),
            buffers=100,
            tags=1,
        ),
        Guest(
            "netkvm",
            "Windows NetKVM",
            _bits(*_LINUX, "MRG_RXBUF"),
            shape=(4096,),
            buffers=100,
            seeds="no length",
            sends=("plain", "partial", "large", "astray"),
        ),
        Guest(
            "netkvm-seed",
            "Windows NetKVM that shows the seed to its stack (GU-17, W5)",
            _bits(*_LINUX, "MRG_RXBUF"),
            Partial.IGNORED,
            shape=(4096,),
            buffers=100,
            seeds="no length",
        ),
        Guest(
            "firmware",
            "iPXE, EDK2, unikernels: four buffers, polling",
            _bits("VERSION_1", "MAC"),
            Partial.IGNORED,
            gso_types=(),
            shape=(1526,),
            buffers=4,
            size=16,
            polls=True,
            sends=("plain",),
            refill=4,
        ),
        Guest(
            "legacy",
            "a driver of virtio 0.9.5, header in a descriptor of its own",
            _bits(*CSUMS, "HOST_TSO4", "HOST_TSO6"),
            gso_types=(),
            shape=(10, 1514),
            layout=(10, 14),
        ),
    )
}


class Reading(NamedTuple):
    """What a guest made of one delivery."""

    accepted: bool
    why: str
    forwarded: list[bytes]  # as it would leave by a wire that finishes nothing


def _summed(frame: bytes) -> bytes:
    """The frame with its outermost sum made from scratch."""
    return segments(frame, len(frame))[0] if judge.parse(frame).csum_off else frame


def _inner(frame: bytes) -> bytes:
    """The frame inside VXLAN; nothing if there is none."""
    at = judge.parse(frame)
    port = int.from_bytes(frame[at.l4_off + 2 : at.l4_off + 4], "big")
    is_vxlan = at.protocol == judge.PROTOCOL_UDP and port == PORT_VXLAN
    return frame[at.l4_off + 16 :] if is_vxlan else b""


def read(guest: Guest, header: net.NetHeader, frame: bytes) -> Reading:
    """What `guest` would have concluded."""
    at = judge.parse(frame)
    ports = frame[at.l4_off : at.l4_off + 4]
    if why := _unfit(guest, header, frame):
        return Reading(False, why, [])
    pair = int.from_bytes(ports[:2], "big"), int.from_bytes(ports[2:], "big")
    is_raw = at.protocol == judge.PROTOCOL_UDP and pair in RAW_PORTS and not at.fragment
    partial = bool(header.flags & net.VIRTIO_NET_HDR_F_NEEDS_CSUM)
    if is_raw and judge.l4_sum(frame) not in TAKEN:
        return Reading(False, f"a raw reader finds {judge.l4_sum(frame).value}", [])
    if partial and guest.partial is not Partial.IGNORED:
        how, forwarded = guest.partial.value, _sent_on(guest, header, frame)
    else:
        state = judge.l4_sum(frame)
        vouched = bool(header.flags & net.VIRTIO_NET_HDR_F_DATA_VALID)
        if not vouched and (state not in TAKEN):
            return Reading(False, f"the field holds {state.value}", [])
        how = "DATA_VALID" if vouched else state.value
        forwarded = expanded(header, frame)
    seen = forwarded[0] if guest.partial is Partial.FINISH else frame
    if (inner := _inner(seen)) and judge.l4_sum(inner) not in TAKEN:
        return Reading(False, f"the sum in the tunnel is {judge.l4_sum(inner).value}", forwarded)
    return Reading(True, how, forwarded)


def _unfit(guest: Guest, header: net.NetHeader, frame: bytes) -> str:
    """Why a driver throws the frame away before anybody looks at its sum."""
    gso = header.gso_type & ~ECN
    if len(frame) < 14:
        return "shorter than an Ethernet header"
    if guest.strict and (why := refused(header, frame)):
        return why
    if gso and gso not in guest.gso_types:
        return f"gso_type {header.gso_type:#x} is not understood: too large"
    if not gso and len(frame) > 14 + 4 * 4 + 9000:
        return f"{len(frame)} bytes, and not said to be large"
    if not judge.ip_header_right(frame):
        return "the sum of the IPv4 header is wrong"
    return ""


def _sent_on(guest: Guest, header: net.NetHeader, frame: bytes) -> list[bytes]:
    """What leaves where a guest forwards a partial frame to a wire that finishes nothing."""
    if guest.partial is Partial.VERIFIED:
        return [frame]
    if guest.partial is Partial.REPARSE and not header.gso_type:
        return [_summed(frame) if judge.parse(frame).tags <= guest.tags else frame]
    return expanded(header, frame)
