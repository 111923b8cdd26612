"""What a measurement says: figures, the ratio first, and whether they are right at all.

How it works: each bench returns one `Result`.  A figure is the median of several rounds taken in
one run; its ratio is the median of the ratios within each round, so that what else the machine
does falls on both sides alike.  A figure may name the goal that it is held against (`goal`).

Invariants: `faults` are wrong results (a frame that came damaged, a feature that was not
negotiated), never slow ones; what could not be measured stands in `left_out` with its reason.
`Result.read` gives back what `Result.document` wrote.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from statistics import median
from typing import Any, Self


@dataclass(frozen=True)
class Figure:
    """One row: what was measured, on whom, and how it compares."""

    name: str  # the case: "64 B both ways"
    subject: str  # who was measured: "vionet switch", "testpmd", "memcpy"
    unit: str  # "M frames/s", "ns", "GB/s"
    values: tuple[float, ...]  # one a round
    ratio: float | None = None  # to `against`, median over rounds; above 1: more than that
    against: str = ""
    goal: str = ""  # key in `goals.GOALS`; its figure is `ratio`, or `value` where it has a unit
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The median."""
        return median(self.values)

    def document(self) -> dict[str, Any]:
        """For JSON."""
        values = [float(value) for value in self.values]
        return vars(self) | {"value": median(values), "values": values}


@dataclass
class Result:
    """Everything that one bench found."""

    bench: str
    figures: list[Figure] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)  # what was not measured, and why
    notes: list[str] = field(default_factory=list)  # features negotiated, distance of the cores
    faults: list[str] = field(default_factory=list)
    quick: bool = False  # shows that everything works, and nothing about speed

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return vars(self) | {"figures": [figure.document() for figure in self.figures]}

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        """From `document`."""
        known = [f.name for f in fields(Figure)]
        figures = [
            Figure(**{name: row[name] for name in known} | {"values": tuple(row["values"])})
            for row in document["figures"]
        ]
        return cls(**{f.name: document[f.name] for f in fields(cls)} | {"figures": figures})


def compared(
    name: str,
    subject: str,
    unit: str,
    values: Sequence[float],
    base: Sequence[float] = (),
    against: str = "",
    goal: str = "",
    detail: Mapping[str, Any] | None = None,
) -> Figure:
    """A figure, held against what `base` has of the same rounds; where that is empty, alone."""
    held = (ratios(values, base), against, goal) if base else (None, "", "")
    return Figure(name, subject, unit, tuple(values), *held, detail or {})


def ratios(values: Sequence[float], base: Sequence[float]) -> float | None:
    """The median of the ratios round by round; None where there is nothing to compare."""
    found = [value / other for value, other in zip(values, base, strict=False) if other]
    return median(found) if found else None


def digits(number: float) -> str:
    """A number with three digits that count, and never an exponent: 0.934, 12.3, 1234."""
    size = abs(number)
    places = next((places for least, places in ((100, 0), (10, 1), (1, 2)) if size >= least), 3)
    return f"{number:.{places}f}" if number else "0"
