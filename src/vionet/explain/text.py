"""Explanations for people: plain text of at most 80 columns, from the documents for programs.

Texts of rules and ports come in; nothing is decided here.  Frames to which the same happened for
the same reasons are told of together.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

from vionet.config.feature import FIXED, short_name
from vionet.engine.status import Accepts, Action, Csum
from vionet.explain.counter import filled
from vionet.explain.reason import ACTIONS, COLUMNS, STATES
from vionet.spec import virtio

_FORMS: Final = {
    "partial": "left partial",
    "finished": "finished by their sender",
    "vouched": "vouched for by the kernel",
    "large": "large",
    "full": "as large as their sender's MTU allows",
}
_INDENT: Final = " " * 12
_DECISION: Final = ("form", "state", "accepts", "action", "whole", "segments", "drop", "repaired")


def sentences(whys: Iterable[Mapping[str, Any]], indent: str) -> Iterator[str]:
    """Each reason with its ids."""
    for one in whys:
        ids = f" [{' '.join(one['rules'])}]" if one["rules"] else ""
        yield filled(f"- {one['text']}{ids}", indent, f"{indent}  ")


def features(names: Sequence[str]) -> str:
    """Feature names as people write them, without what is always there."""
    bits = [virtio.BITS[name] for name in names if name in virtio.BITS]
    return " ".join(short_name(bit) for bit in bits if not FIXED >> bit & 1) or "-"


def pair_text(document: Mapping[str, Any]) -> str:
    """What `explain.pair.pair` says."""
    one, other = document["ports"]
    lines = [f"{document['kind']} {document['fabric']}: {one['name']} and {other['name']}", ""]
    for port in (one, other):
        what = "" if not port["offered"] else f"; offload {port['offload']}"
        lines.append(f"{port['name']}: {port['kind']}, {port['state']}{what}")
        taken = "acknowledged" if port["kind"] == "guest" else "in use"
        for word, key in (("offered", "offered"), (taken, "features"), ("refused", "refused")):
            if port[key]:
                lines.append(filled(f"{word:13}{features(port[key])}", "  ", " " * 15))
        lines += [*sentences(port["limits"], "  "), ""]
    lines += sentences(document["notes"], "")
    for way in document["directions"]:
        lines += ["", f"{way['from']} → {way['to']}"]
        lines += sentences(way["notes"], "  ")
        drops = {frame["drop"] for frame in way["frames"]}
        if len(drops) == 1 and drops != {None}:
            lines += [f"  nothing passes: {drops.pop()}"]
            lines += sentences(way["frames"][0]["why"], "    ")
            continue
        for frames in _alike(way["frames"]):
            lines += _told(frames, way["to"])
    return "\n".join(lines)


def _alike(frames: Sequence[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """Groups to which the same happened, in the order of their forms."""

    def key(frame: Mapping[str, Any]) -> list[Any]:
        gso = frame["received"] and bool(frame["received"]["gso_type"])
        mostly = [str(frame[name]) for name in _DECISION], gso
        return [frame["kind"] == "DHCP", list(_FORMS).index(frame["form"]), *mostly]

    for _, group in groupby(sorted(frames, key=key), key):
        yield list(group)


def _told(frames: Sequence[Mapping[str, Any]], receiver: str) -> Iterator[str]:
    first, kinds = frames[0], [frame["kind"] for frame in frames]
    name = "TCP and UDP over IPv4 and IPv6" if len(kinds) == 4 else ", ".join(kinds)
    form = _FORMS[first["form"]]
    yield filled(f"large {name}" if first["form"] == "large" else f"{name}, {form}", "  ", "    ")
    yield filled(plan(first), "    ")
    yield filled(_received(frames, receiver), "    ")
    longest = max(len(frame["why"]) for frame in frames)
    merged = {
        frame["why"][at]["text"]: frame["why"][at]
        for at in range(longest)
        for frame in frames
        if at < len(frame["why"])
    }
    yield from sentences(merged.values(), "    ")


def frame_text(document: Mapping[str, Any]) -> str:
    """What `explain.frame` says."""
    frame, judged, way = (document[key] for key in ("frame", "judged", "forwarded"))
    how = "as it was recorded" if document["live"] else "as if it was sent now"
    lines = [f"a frame of {frame['bytes']} bytes from {document['from']}, {how}"]
    if chain := document["chain"]:
        where = f"transmitq{chain['queue']}, descriptor {chain['descriptor']}"
        pieces = "one piece" if chain["pieces"] == 1 else f"{chain['pieces']} pieces"
        lines.append(_step("taken", f"from {where}, in {pieces}"))
    lines += [_step("header", _header(document["header"])), _step("parsed", _parsed(frame))]
    state = STATES[Csum[judged["state"]]] if judged["state"] else ""
    lines.append(_step("judged", f"refused: {judged['drop']}" if judged["drop"] else state))
    lines += sentences(judged["why"], _INDENT)
    if way["how"]:
        vlan = f", VLAN {way['vlan']}" if way["vlan"] else ""
        lines.append(_step("forwarded", f"{way['how']}{vlan}"))
    for one in document["deliveries"]:
        lines.append(_step(f"to {one['to']}", plan(one)))
        lines.append(filled(_received([one], one["to"]), _INDENT))
        lines += sentences(one["why"], _INDENT)
    if differs := document.get("differs"):
        lines.append(_step("DIFFERS", f"{'; '.join(differs)}; please report it"))
    elif differs is not None:
        lines.append(_step("checked", "played again, it is decided in the same way"))
    return "\n".join(lines)


def _header(header: Mapping[str, Any]) -> str:
    said = f"flags {header['flags']}"
    if "NEEDS_CSUM" in header["flags"]:
        said += f", csum_start {header['csum_start']}, csum_offset {header['csum_offset']}"
    if header["gso_type"]:
        said += f", gso_type {header['gso_type']}, gso_size {header['gso_size']}"
    return said


def _parsed(frame: Mapping[str, Any]) -> str:
    words = [f"{frame['from']} to {frame['to']}: {frame['type']} at {frame['l3_off']}"]
    if frame["l4"]:  # without its place where there is nothing to be summed
        where = f" at {frame['l4_off']}, {frame['l4_len']} bytes" * bool(frame["l4_off"])
        words.append(f"{frame['l4']}{where}")
    words += [word for word in ("fragment", "dhcp") if frame[word]]
    return ", ".join([*words, *([f"{n} segments"] if (n := frame["segments"]) else [])])


def _step(word: str, text: str) -> str:
    return filled(f"{word:9} {text}", "  ", _INDENT)


def plan(frame: Mapping[str, Any]) -> str:
    """State, column and cell, as the table has them."""
    state = STATES[Csum[frame["state"]]] if frame["state"] else "not judged"
    if not frame["action"]:
        return f"{state}: nothing was planned"
    column = COLUMNS[Accepts[frame["accepts"]]]
    return f"{state}, to {column}: {ACTIONS[Action[frame['action']]]}"


def _received(frames: Sequence[Mapping[str, Any]], receiver: str) -> str:
    got, first = frames[0]["received"], frames[0]
    if first["drop"]:
        return f"{receiver} gets nothing: {first['drop']}"
    if got is None:
        return f"{receiver} gets nothing"
    if first["segments"]:
        what = f"{got['frames']} frames of ordinary size, flags {got['flags']}"
    elif first["whole"]:
        types = ", ".join(dict.fromkeys(one["received"]["gso_type"] or "none" for one in frames))
        what = f"the whole, flags {got['flags']}, gso_type {types}"
    else:
        what = f"it, flags {got['flags']}"
    return f"{receiver} gets {what}"
