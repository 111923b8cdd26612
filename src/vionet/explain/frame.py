"""The life of one frame: from its sender's ring to each receiver, as the engine saw it.

How it works: the frame goes through a twin of the fabric (`explain.twin`), and the engine's records
are told in the order of its way: where it lay, its virtio-net header, what the headers say, how it
was judged, where it was forwarded to, what was planned and delivered there.  A frame that the live
engine has recorded is played again as its sender sent it, and both records are compared: what the
table and the judgement say must be the same.  What depends on the moment (a full ring, the buffers
that a guest had posted) is told from the live record alone.
"""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Final

from vionet.config import PortConfig
from vionet.engine.layout import FACT_FLOODED, FACT_JUDGED, Frame
from vionet.engine.status import DROP_REASONS, Csum
from vionet.explain import reason
from vionet.explain.outcome import (
    decided,
    flag_names,
    gso_name,
    listed,
    reasons,
    seen_by,
)
from vionet.explain.twin import Played, Twin, options_of
from vionet.spec.counter import counters
from vionet.spec.virtio_net import VIRTIO_NET_HDR_F_NEEDS_CSUM, NetHeader

_TAG: Final = b"\x81\x00"
_MOMENT: Final = ("slow", "host", "normal")  # kinds of drops that no frame is the reason of,
_BUFFERS: Final = ("rx_buffer_too_small", "rx_chain_invalid", "rx_ring_broken")  # and others
_DECISION: Final = ("state", "accepts", "action", "drop", "segmented")
_PROTOCOLS: Final = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}
_TYPES: Final = {0x0800: "IPv4", 0x86DD: "IPv6", 0x0806: "ARP"}


def life(
    document: Mapping[str, Any], sender: str, receiver: str | None, data: bytes, header: NetHeader,
    vid: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """As if `sender` sent this frame, and the switch knew its destination behind `receiver`.

    With a `vid` it may have the tag of another port of that VLAN.
    """
    (port,) = (port for port in document["ports"] if port["name"] == sender)
    data, header = retagged(data, header, vid, options_of(port))
    with Twin(document) as twin:
        played = _played(twin, sender, receiver, data, header)
        return _told(twin, sender, data, header, played, None)


def replay(document: Mapping[str, Any], record: SimpleNamespace) -> dict[str, Any]:
    """Of a frame that a capture of the live fabric has recorded."""
    names = {port["serial"]: port for port in document["ports"]}
    if record.in_serial not in names or record.out_serial not in (0, *names):
        raise LookupError("a port of this frame is gone; ask again")
    sender = names[record.in_serial]
    data, header = as_sent(record, options_of(sender))
    with Twin(document) as twin:
        receiver = names[record.out_serial]["name"] if record.out_serial else None
        played = _played(twin, sender["name"], receiver, data, header, record.vid)
        record.out_serial = twin.record(receiver).serial if receiver else 0
        told = _told(twin, sender["name"], data, header, played, record)
        again = _matching(played.records, record)
        return told | {"differs": differences(record, again), "time_ns": record.time_ns}


def as_sent(record: SimpleNamespace, sender: PortConfig) -> tuple[bytes, NetHeader]:
    """The frame with the tag that its sender put there, and the header that came with it."""
    raw = int(record.header) & (1 << 64) - 1
    header = NetHeader.unpack(raw.to_bytes(8, "little"))
    header = header._replace(csum_offset=record.csum_offset)
    return retagged(record.data, header, record.vid if record.side else 0, sender)


def retagged(
    data: bytes, header: NetHeader, vid: int, sender: PortConfig
) -> tuple[bytes, NetHeader]:
    """A frame of VLAN `vid`, 0 if that is not known, with the tag that its sender puts there."""
    tagged, wanted = data[12:14] == _TAG, vid not in (0, sender.vlan)
    if not vid or tagged == wanted:
        return data, header
    if wanted:
        data = data[:12] + _TAG + vid.to_bytes(2, "big") + data[12:]
    else:
        data = data[:12] + data[16:]
    if header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM:
        header = header._replace(csum_start=header.csum_start + (4 if wanted else -4))
    return data, header


def differences(record: SimpleNamespace, again: SimpleNamespace | None) -> list[str]:
    """Where a replay decided otherwise: nothing, unless there is a fault in vionet."""
    if again is None:
        return ["it was not seen"]
    drop, drop_again = DROP_REASONS[record.drop], DROP_REASONS[again.drop]
    if drop and (drop in _BUFFERS or counters()[drop].kind in _MOMENT):
        return []
    if drop_again in _BUFFERS:  # the guest's were larger than those of the stand-in
        return []
    before, after = decided(record), decided(again)
    keys = [key for key in _DECISION if before[key] != after[key]]
    if keys == ["segmented"] and after["whole"]:  # its buffers did not hold the whole then
        return []
    return [f"{key}: {before[key]}, and {after[key]} when played again" for key in keys]


def _played(
    twin: Twin, sender: str, receiver: str | None, data: bytes, header: NetHeader, vid: int = 0
) -> Played:
    """The frame through the twin, which knows the destination if a flood would reach it there."""
    address = int.from_bytes(data[:6], "big")
    if receiver and receiver != sender and vid and not address >> 40 & 1:
        twin.teach(receiver, address, vid)
    played = twin.play(sender, data, header)
    sent = next((one for one in played.records if one.facts & FACT_FLOODED), None)
    if not receiver or sent is None or address >> 40 & 1:
        return played
    if twin.record(receiver).serial not in {one.out_serial for one in played.records}:
        return played  # it is in another VLAN, where no switch would know it
    twin.teach(receiver, address, sent.vid)
    return twin.play(sender, data, header)


def _matching(
    records: Sequence[SimpleNamespace], record: SimpleNamespace
) -> SimpleNamespace | None:
    return next((one for one in records if one.out_serial == record.out_serial), None)


def _told(
    twin: Twin, sender: str, data: bytes, header: NetHeader, played: Played,
    live: SimpleNamespace | None,
) -> dict[str, Any]:  # fmt: skip
    records = list(played.records)
    if live is not None:  # what really happened stands for its replay
        records = [live if one.out_serial == live.out_serial else one for one in records] or [live]
    first = records[0] if records else None
    flooded = [one for one in records if one.facts & FACT_FLOODED]
    return {
        "from": sender,
        "live": live is not None,
        "chain": _chain(live),
        "header": {
            **header._asdict(), "flags": flag_names(header.flags),
            "gso_type": gso_name(header.gso_type) if header.gso_type else None,
        },
        "frame": _frame(twin.frame, data),
        "judged": _judged(first),
        "forwarded": {
            "how": "flooded" if flooded else "one receiver" if first and first.out_serial else None,
            "vlan": first.vid if first else 0,
        },
        "deliveries": [
            _delivery(twin, one, played, one is live) for one in records if one.out_serial
        ],
    }  # fmt: skip


def _chain(live: SimpleNamespace | None) -> dict[str, int] | None:
    if live is None or live.chain < 0:
        return None
    return {"descriptor": live.chain, "pieces": live.pieces, "queue": live.ring // 2 + 1}


def _frame(frame: Frame, data: bytes) -> dict[str, Any]:
    """What the engine found in the headers."""
    kind = int.from_bytes(data[12:14], "big")
    l3, l4 = int(frame.l3) or kind, int(frame.l4)
    return {
        "bytes": len(data),
        "to": data[:6].hex(":"),
        "from": data[6:12].hex(":"),
        "type": _TYPES.get(l3, f"{l3:#06x}"),
        "l4": _PROTOCOLS.get(l4, str(l4)) if frame.l3_off and l4 >= 0 else None,
        "l3_off": int(frame.l3_off),
        "l4_off": int(frame.l4_off),
        "l4_len": int(frame.l4_len),
        "fragment": bool(frame.fragment),
        "dhcp": bool(frame.dhcp),
        "segments": int(frame.gso_segments) if frame.gso_type else 0,
    }


def _judged(record: SimpleNamespace | None) -> dict[str, Any]:
    if record is None:
        return {"state": None, "drop": None, "why": []}
    known = record.facts & FACT_JUDGED
    refused = record.drop and not record.out_serial
    found = [reason.STATES_WHY[Csum(record.state)]] if known else []
    if refused:
        found.append(reason.dropped(DROP_REASONS[record.drop]))
    return {
        "state": Csum(record.state).name if known else None,
        "drop": DROP_REASONS[record.drop] if refused else None,
        "why": listed(found),
    }


def _delivery(twin: Twin, record: SimpleNamespace, played: Played, live: bool) -> dict[str, Any]:
    name = twin.name_of(record.out_serial)
    received = None if live and record.drop else seen_by(played.received[name])
    return {
        "to": name, **decided(record), "received": received,
        "why": listed(reasons(record, twin.record(name), played.needs_gso)),
    }  # fmt: skip
