"""The goals: what each figure is held against, and whether it was reached.

How it works: a `Figure` names its goal by a key of `GOALS`.  A goal without a unit is about the
figure's ratio, one with a unit about its median in that unit.  Several figures may name the same
goal (one a kind of ring, say): the worst of them decides.  A quick run judges nothing.
"""

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from vionet.bench.result import Figure, Result, digits

_SIGNS: Final = {"≥": operator.ge, "≤": operator.le, "<": operator.lt, "=": operator.eq}


@dataclass(frozen=True)
class Goal:
    """One line of the table of goals."""

    bench: str
    words: str
    sign: str
    limit: float
    unit: str = ""  # of the figure's median; empty: the goal is about its ratio

    def read(self, figure: Figure) -> float | None:
        """What `figure` says about this goal; None where there was nothing to compare with."""
        assert figure.unit == self.unit or not self.unit, f"{figure.name}: not in {self.unit}"
        return figure.value if self.unit else figure.ratio

    def met(self, measured: float) -> bool:
        """Whether that is enough."""
        return bool(_SIGNS[self.sign](measured, self.limit))

    @property
    def is_floor(self) -> bool:
        """Whether more is better."""
        return self.sign == "≥"

    @property
    def bound(self) -> str:
        """`≥ 1.5`, `< 250 MiB`."""
        return f"{self.sign} {self.limit:g} {self.unit}".rstrip()


CORE: Final = "% of a core"
GOALS: Final[dict[str, Goal]] = {
    "forward-64-wire": Goal(
        "peers", "64 B both ways: wire against testpmd io forwarding", "≥", 1.5
    ),
    "forward-64-switch": Goal("peers", "64 B both ways: switch against testpmd", "≥", 1.2),
    "forward-1500-wire": Goal("peers", "1500 B both ways: wire against testpmd", "≥", 2.5),
    "forward-1500-switch": Goal("peers", "1500 B both ways: switch against testpmd", "≥", 2.3),
    "ovs-64": Goal("peers", "64 B: switch against Open vSwitch-DPDK, NORMAL", "≥", 1.7),
    "ovs-1500": Goal("peers", "1500 B: switch against Open vSwitch-DPDK, NORMAL", "≥", 4),
    "gso-64k": Goal(
        "forward", "64 KB GSO frames against memcpy of the same lists, beyond the cache", "≥", 0.85
    ),
    "fill-1500": Goal("cost", "fill while copying against the plain copy, 1500 B", "≥", 0.95),
    "fill-9000": Goal("cost", "fill while copying against the plain copy, 9000 B", "≥", 0.85),
    "fill-64k": Goal("cost", "fill while copying against the plain copy, 64 KB", "≥", 0.7),
    "segment": Goal(
        "cost", "64 KB segmented to 1448, sums complete, against the plain copy", "≥", 0.4
    ),
    "tap": Goal("tap", "wire, guest to tap, against the bare writev loop", "≥", 0.95),
    "tap-copies": Goal("tap", "the same: payload copied", "=", 0, "bytes"),
    "features-64": Goal(
        "cost", "locked address, VLAN and learning against neither, 64 B", "≥", 0.85
    ),
    "silent-ports": Goal("scale", "62 silent ports added, against 2 ports", "≥", 0.95),
    "addresses": Goal("scale", "10,000 addresses in the table, 2 in use, against 2", "≥", 0.9),
    "idle": Goal("idle", "16 silent guests: processor time", "<", 0.5, CORE),
    "idle-wakes": Goal("idle", "16 silent guests: periodic wake-ups", "=", 0, "a second"),
    "wake": Goal("wake", "round trip after 10 ms idle against an eventfd's", "≤", 1.5),
    "workers": Goal("scale", "two workers against one, two ports and a core each", "≥", 1.7),
    "warm-start": Goal("start", "warm start to `ready`", "<", 1, "s"),
    "cold-compile": Goal("start", "cold compile", "<", 20, "s"),
    "memory": Goal("start", "16 guests: resident, without what they share", "<", 250, "MiB"),
}


class Verdict(NamedTuple):
    """What became of one goal."""

    key: str
    goal: Goal
    measured: float | None  # None: not measured
    met: bool | None

    @property
    def word(self) -> str:
        """For people."""
        return "not measured" if self.met is None else "met" if self.met else "missed"

    @property
    def number(self) -> str:
        """The figure, as it is written."""
        if self.measured is None:
            return "-"
        return f"{digits(self.measured)} {self.goal.unit}".rstrip()


def judge(figure: Figure) -> bool | None:
    """Whether a figure reaches the goal that it names; None where there is nothing to judge."""
    goal = GOALS[figure.goal] if figure.goal else None
    measured = goal.read(figure) if goal else None
    return None if goal is None or measured is None else goal.met(measured)


def verdicts(results: Iterable[Result]) -> list[Verdict]:
    """One for each goal, in the order of `GOALS`."""
    found: dict[str, list[float]] = {}
    for result in results:
        for figure in result.figures:
            if figure.goal and not result.quick:
                measured = GOALS[figure.goal].read(figure)
                found.setdefault(figure.goal, []).extend([] if measured is None else [measured])
    return [_verdict(key, goal, found.get(key) or []) for key, goal in GOALS.items()]


def _verdict(key: str, goal: Goal, measured: list[float]) -> Verdict:
    if not measured:
        return Verdict(key, goal, None, None)
    worst = min(measured) if goal.is_floor else max(measured)
    return Verdict(key, goal, worst, goal.met(worst))
