"""Ways to do the same thing, timed in turns on one core.

How it works: each way runs once a round, so that what else the machine does falls on all alike.
Ratios are of rates: the other way's time by this one's, round by round.
"""

from collections.abc import Callable, Mapping
from statistics import median
from typing import Final

from vionet.bench.result import Figure, Result, ratios

YARDSTICKS: Final = ("memcpy", "bare")  # how the names of those begin that are not vionet
Runs = Mapping[str, tuple[Callable[[], float], str]]  # nanoseconds a frame; what to compare with


def take_turns(
    result: Result, rounds: int, group: str, runs: Runs, goals: Mapping[str, str]
) -> None:
    """Time every way; a figure for each, compared with the way that it names."""
    values: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, (run, _) in runs.items():
            values[name].append(run())
    for name, (_, against) in runs.items():
        times, whole = values[name], f"{group}: {name}"
        ratio, added = None, {}
        if against:
            ratio = ratios(values[against], times)
            more = (mine - other for mine, other in zip(times, values[against], strict=True))
            added = {"added_ns": round(median(more), 2)}
        subject = name if name.startswith(YARDSTICKS) else "vionet"
        result.figures.append(
            Figure(whole, subject, "ns", tuple(times), ratio, against, goals.get(whole, ""), added)
        )
