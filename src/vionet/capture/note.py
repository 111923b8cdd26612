"""What happened to a packet, in one line: the comment beside it in the file.

`web → db: PARTIAL csum_start=34 csum_offset=16 → passed partial; gso tcp4 size=1448, whole; …`

How it works: from the facts of a record, all of them numbers that the engine wrote; only the names
of ports come from elsewhere.  The words for what the plan did are a table.
"""

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from vionet.capture.compiled.layout import CUT, FINISHED, SEGMENTED
from vionet.engine.layout import (
    FACT_BAD,
    FACT_FLOODED,
    FACT_JUDGED,
    FACT_REPAIRED,
    FACT_SEGMENTED,
    FACT_WHOLE,
)
from vionet.engine.status import DROP_REASONS, Action, Csum
from vionet.spec import virtio, virtio_net

_DONE: Final = {
    Action.PASS: "passed as it is",
    Action.PASS_VALID: "passed as valid",
    Action.PASS_PARTIAL: "passed partial",
    Action.FILL: "filled",
    Action.UNFILL: "unfilled",
    Action.VERIFY: "verified, unfilled",
    Action.FILL_THEN_VERIFY: "inner sum filled, outer one verified",
}
_SHOWN: Final = {
    FINISHED: "finished in this copy",
    CUT: "this copy is cut off, and as it was",
    SEGMENTED: "one of its segments",
}
_GSO: Final = {
    virtio_net.VIRTIO_NET_HDR_GSO_TCPV4: "tcp4",
    virtio_net.VIRTIO_NET_HDR_GSO_TCPV6: "tcp6",
    virtio_net.VIRTIO_NET_HDR_GSO_UDP_L4: "udp",
    virtio_net.VIRTIO_NET_HDR_GSO_UDP: "ufo",
}
_ECN: Final = virtio_net.VIRTIO_NET_HDR_GSO_ECN
_SENDS: Final = re.compile(r"VIRTIO_NET_F_(CSUM|HOST_\w+)")
_TAKES: Final = re.compile(r"VIRTIO_NET_F_(GUEST_(?!ANNOUNCE)\w+)")


class Kind(NamedTuple):
    """What a packet shares with all others to which the same happened (`compiled.block`)."""

    in_serial: int
    out_serial: int
    in_features: int
    out_features: int
    side: int
    shown: int
    drop: int
    state: int
    accepts: int
    action: int
    segments: int
    header: int
    csum_offset: int
    vid: int
    facts: int

    @classmethod
    def of(cls, key: list[int]) -> "Kind":
        """From the words of the kernels' key."""
        codes = [(key[6] >> shift & 255) - 1 for shift in (0, 8, 16)]
        return cls._make([*key[:4], key[4] & 1, key[4] >> 8, key[5], *codes, *key[7:]])

    @property
    def serial(self) -> int:
        """Of the port where it was seen."""
        return self.out_serial if self.side else self.in_serial


def comment(kind: Kind, name: Callable[[int], str]) -> str:
    """The line; `name` is that of the port with a serial number."""
    flooded = kind.facts & FACT_FLOODED and not kind.out_serial
    target = name(kind.out_serial) if kind.out_serial else "all" if flooded else "nobody"
    vlan = f" vlan {kind.vid}" if kind.vid else ""
    parts = [f"{name(kind.in_serial)} → {target}{vlan}: {_sum(kind)}{_plan(kind)}"]
    parts += _large(kind)
    if kind.facts & FACT_REPAIRED:
        parts.append("its pseudo-header sum was wrong and was repaired")
    if kind.drop:
        parts.append(f"drop={DROP_REASONS[kind.drop]}")
    if kind.shown in _SHOWN:
        parts.append(_SHOWN[kind.shown])
    return "; ".join([*parts, *_negotiated(kind, name)])


def short(kind: Kind) -> str:
    """The same for a line on a terminal: what happened to the sum, and what became of the frame."""
    parts = [_sum(kind).partition(" ")[0] + _plan(kind), *_large(kind)]
    return ", ".join(parts + ([f"drop={DROP_REASONS[kind.drop]}"] if kind.drop else []))


def _sum(kind: Kind) -> str:
    if kind.state < 0 or not kind.facts & FACT_JUDGED:
        flags = kind.header & 0xFF
        return f"not judged, flags={flags:#x}" if flags else "not judged"
    word = Csum(kind.state).name
    if kind.state not in (Csum.PARTIAL, Csum.INNER_PARTIAL):
        return word
    return f"{word} csum_start={kind.header >> 48 & 0xFFFF} csum_offset={kind.csum_offset}"


def _plan(kind: Kind) -> str:
    if kind.action < 0:
        return ""
    bad = ": bad, passed as it is" if kind.facts & FACT_BAD else ""
    done = _DONE[Action(kind.action)]
    return f" → {done.removesuffix(', unfilled') + bad if bad else done}"


def _large(kind: Kind) -> list[str]:
    gso = kind.header >> 8 & 0xFF
    if not gso:
        return []
    name = _GSO.get(gso & ~_ECN, f"type {gso}") + (" ecn" if gso & _ECN else "")
    how = ", whole" if kind.facts & FACT_WHOLE else ""
    if kind.facts & FACT_SEGMENTED:
        how = f", {kind.segments} segments"
    return [f"gso {name} size={kind.header >> 32 & 0xFFFF}{how}"]


def _negotiated(kind: Kind, name: Callable[[int], str]) -> list[str]:
    ends = (kind.in_serial, kind.in_features, _SENDS), (kind.out_serial, kind.out_features, _TAKES)
    return [
        f"negotiated {name(serial)}: {_offloads(features, pattern)}"
        for serial, features, pattern in ends
        if serial and features
    ]


def _offloads(features: int, pattern: re.Pattern[str]) -> str:
    matches = map(pattern.fullmatch, virtio.names(features))
    return " ".join(match[1] for match in matches if match) or "no offload"
