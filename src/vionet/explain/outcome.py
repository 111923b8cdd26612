"""What became of one frame at one port, in words and for programs, from the engine's record of it.

How it works: `outcome` reads a record (state, column, cell of the table, whether it was segmented,
why it was dropped), adds what the receiver's end really got, and finds the words and the rules in
`explain.reason`.  Where a large frame was cut, the port's own record says what it lacks for a whole
one: the bits that the engine compared.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Final

from vionet.engine.layout import (
    FACT_BAD,
    FACT_FLOODED,
    FACT_JUDGED,
    FACT_REPAIRED,
    FACT_SEGMENTED,
    FACT_WHOLE,
    Port,
)
from vionet.engine.segment import UDP_WHOLE_MAX
from vionet.engine.status import (
    DROP_REASONS,
    GSO_UDP4,
    GSO_UDP6,
    Accepts,
    Action,
    Csum,
)
from vionet.explain import reason
from vionet.explain.end import Delivered
from vionet.explain.reason import Why
from vionet.spec import virtio_net as net

_FLAGS: Final = {
    net.VIRTIO_NET_HDR_F_NEEDS_CSUM: "NEEDS_CSUM",
    net.VIRTIO_NET_HDR_F_DATA_VALID: "DATA_VALID",
}
GSO_TYPES: Final = {
    net.VIRTIO_NET_HDR_GSO_TCPV4: "TCPV4",
    net.VIRTIO_NET_HDR_GSO_TCPV6: "TCPV6",
    net.VIRTIO_NET_HDR_GSO_UDP: "UDP",
    net.VIRTIO_NET_HDR_GSO_UDP_L4: "UDP_L4",
}
ECN: Final = net.VIRTIO_NET_HDR_GSO_ECN


def flag_names(flags: int) -> str:
    """The header's flags by name."""
    known = [name for bit, name in _FLAGS.items() if flags & bit]
    rest = flags & ~sum(_FLAGS)
    return " ".join([*known, *([f"{rest:#x}"] if rest else [])]) or "0"


def gso_name(gso_type: int) -> str:
    """The header's gso_type by name."""
    name = GSO_TYPES.get(gso_type & ~ECN, str(gso_type & ~ECN))
    return f"{name} ECN" if gso_type & ECN else name


def decided(record: SimpleNamespace) -> dict[str, Any]:
    """What was decided, in the engine's words."""
    judged = record.facts & FACT_JUDGED
    planned = record.action >= 0
    return {
        "state": Csum(record.state).name if judged else None,
        "accepts": Accepts(record.accepts).name if planned else None,
        "action": Action(record.action).name if planned else None,
        "whole": bool(record.facts & FACT_WHOLE),
        "segmented": bool(record.facts & FACT_SEGMENTED),
        "segments": record.segments,
        "flooded": bool(record.facts & FACT_FLOODED),
        "repaired": bool(record.facts & FACT_REPAIRED),
        "bad": bool(record.facts & FACT_BAD),
        "drop": DROP_REASONS[record.drop] or None,
    }


def reasons(record: SimpleNamespace, port: Port, needs_gso: int) -> list[Why]:
    """Why, one sentence for each decision; `port` is the receiver's."""
    found = []
    if record.drop:
        found.append(reason.dropped(DROP_REASONS[record.drop]))
    if record.action < 0 or not record.facts & FACT_JUDGED:
        return found
    if record.accepts != port.accepts:
        found.append(reason.DHCP)
    if record.facts & FACT_WHOLE:
        found.append(reason.WHOLE)
    elif record.facts & FACT_SEGMENTED:
        found += _cut(record, port, needs_gso)
    found.append(reason.cell(record.state, record.accepts, record.action))
    if record.facts & FACT_REPAIRED:
        found.append(reason.REPAIRED)
    if record.facts & FACT_BAD:
        found.append(reason.BAD)
    return found


def _cut(record: SimpleNamespace, port: Port, needs_gso: int) -> list[Why]:
    """What a receiver that got segments lacked for the whole."""
    found = []
    if record.accepts in (Accepts.COMPLETE, Accepts.STREAM):
        found.append(reason.SEGMENTED_SUMS)
    if needs_gso & ~port.takes_gso:
        found.append(reason.not_agreed(needs_gso, port.takes_gso))
    if needs_gso & (GSO_UDP4 | GSO_UDP6) and record.segments > UDP_WHOLE_MAX:
        found.append(reason.SEGMENTED_MANY)
    return found or [reason.SEGMENTED_ROOM]


def seen_by(received: Sequence[Delivered]) -> dict[str, Any] | None:
    """What a receiver's end really got."""
    if not received:
        return None
    header, data = received[0]
    return {
        "frames": len(received),
        "bytes": len(data),
        "flags": flag_names(header.flags),
        "gso_type": gso_name(header.gso_type) if header.gso_type else None,
        "gso_size": header.gso_size,
        "csum_start": header.csum_start,
        "csum_offset": header.csum_offset,
    }


def listed(whys: Iterable[Why]) -> list[Mapping[str, Any]]:
    """Sentences for a program."""
    return [{"text": one.text, "rules": list(one.rules)} for one in whys]
