"""What ports do in a second, from one status document to the next, and which of them are shown.

How it works: `Rates.update` is given the fabrics of every sample (`web.sample`: judged, counters as
text) and compares each port with itself in the sample before, over the time between the two on
vionet's own clock.

Invariants: nothing is compared across a restart: a port with another serial, or with a counter that
went back, and all ports of a fabric whose workers' clocks went back, begin anew and have no rates
until the next sample.  Every text here is printable.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

Document = Mapping[str, Any]


class Column(NamedTuple):
    """One figure of a port."""

    word: str  # what people sort by, and the heading where there is room
    short: str  # the heading where there is not, at most four letters
    key: str  # of the ledger; "": all drops
    rank: int  # in a narrow terminal the highest goes first


COLUMNS: Final = (
    Column("tx", "tx", "tx_frames", 0),
    Column("rx", "rx", "rx_frames", 1),
    Column("tx-bytes", "txB", "tx_bytes", 3),
    Column("rx-bytes", "rxB", "rx_bytes", 4),
    Column("elided", "elid", "csum_elided", 5),
    Column("filled", "fill", "csum_filled", 6),
    Column("verified", "vrfy", "csum_verified", 7),
    Column("copied", "copy", "payload_bytes_copied", 8),
    Column("summed", "sum", "payload_bytes_summed", 9),
    Column("segments", "segs", "segments", 10),
    Column("dropped", "drop", "", 2),
    Column("wakeups", "wake", "wakeups", 11),
    Column("calls", "call", "calls", 12),
)
WORDS: Final = ("port", *(column.word for column in COLUMNS))


@dataclass(frozen=True, slots=True)
class Row:
    """One port; without figures while there is nothing to compare with."""

    fabric: str
    port: str
    kind: str
    state: str
    figures: Mapping[str, float]  # by the columns' words
    reasons: Sequence[tuple[str, int, float]]  # of drops: how many, and in a second; most first


@dataclass(frozen=True, slots=True)
class Fabric:
    """One fabric, and how much of a core each of its workers took."""

    name: str
    kind: str
    ports: int
    loads: Sequence[float | None]


def printable(text: object) -> str:
    """Nothing in it controls a terminal."""
    return "".join(sign if sign.isprintable() else "?" for sign in str(text))


class Rates:
    """Compares each sample with the one before; or, for `totals`, with nothing."""

    def __init__(self, *, totals: bool = False) -> None:
        self._totals = totals
        self._before: dict[tuple[str, str], Document] = {}

    def update(self, documents: Iterable[Document]) -> tuple[list[Fabric], list[Row]]:
        """What every fabric and every port of the newest sample does."""
        fabrics, rows, seen = list[Fabric](), list[Row](), {}
        for now in documents:
            whose = now["socket"], now["name"]
            seen[whose] = now
            before = self._before.get(whose, {"time_ns": 0, "workers": [], "ports": []})
            passed_s = (int(now["time_ns"]) - int(before["time_ns"])) / 1e9
            spent = _spent(now, before)
            if passed_s <= 0 or any(one is not None and one < 0 for one in spent):
                before, spent = {"ports": []}, [None] * len(spent)
            loads = [None if one is None else one / passed_s / 1e9 for one in spent]
            name = printable(now["name"])
            fabrics.append(Fabric(name, printable(now["kind"]), len(now["ports"]), loads))
            known = {(port["name"], port["serial"]): port for port in before["ports"]}
            for port in now["ports"]:
                old = known.get((port["name"], port["serial"]))
                rows.append(self._row(name, port, old, passed_s))
        self._before = seen
        return fabrics, rows

    def _row(self, fabric: str, now: Document, before: Document | None, passed_s: float) -> Row:
        counts, drops = _counts(now), _numbers(now["drops"])
        old, lost = (_counts(before), _numbers(before["drops"])) if before else ({}, {})
        anew = not old or self._totals
        anew = anew or any(counts[word] < count for word, count in old.items())
        anew = anew or any(drops.get(reason, 0) < count for reason, count in lost.items())
        figures: dict[str, float] = dict(counts) if self._totals else {}
        rates = dict.fromkeys(drops, 0.0)
        if not anew:
            figures = {word: (counts[word] - old[word]) / passed_s for word in counts}
            rates = {
                reason: (count - lost.get(reason, 0)) / passed_s for reason, count in drops.items()
            }
        reasons = [(printable(reason), count, rates[reason]) for reason, count in drops.items()]
        reasons.sort(key=lambda one: (-one[2], -one[1]))
        name, kind, state = (printable(now[key]) for key in ("name", "kind", "state"))
        return Row(fabric, name, kind, state, figures, reasons)


def _numbers(counts: Mapping[str, str]) -> dict[str, int]:
    return {key: int(count) for key, count in counts.items()}


def _counts(port: Document) -> dict[str, int]:
    ledger, dropped = _numbers(port["ledger"]), sum(_numbers(port["drops"]).values())
    return {one.word: ledger.get(one.key, 0) if one.key else dropped for one in COLUMNS}


def _spent(now: Document, before: Document) -> list[int | None]:
    """Nanoseconds that each worker ran since then."""
    known = {one["number"]: int(one["cpu_ns"]) for one in before["workers"]}
    return [
        int(one["cpu_ns"]) - known[one["number"]] if one["number"] in known else None
        for one in now["workers"]
    ]


def wanted(rows: Sequence[Row], text: str, several: bool) -> list[Row]:
    """Those that have every word of `text`, or whose state, kind, fabric or port it says."""

    def has(row: Row, word: str) -> bool:
        key, equals, value = word.partition("=")
        if equals and key in ("fabric", "kind", "port", "state"):
            return bool(getattr(row, key) == value)
        return word in name_of(row, several)

    return [row for row in rows if all(has(row, word) for word in text.split())]


def ordered(rows: Sequence[Row], word: str, *, backwards: bool) -> list[Row]:
    """By a figure, the largest first; by port, as vionet has them."""
    if word == "port":
        return list(reversed(rows)) if backwards else list(rows)
    return sorted(rows, key=lambda row: row.figures.get(word, -1), reverse=not backwards)


def name_of(row: Row, several: bool) -> str:
    """What a port is called where one or `several` fabrics are shown."""
    return f"{row.fabric}/{row.port}" if several else row.port
