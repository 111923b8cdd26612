"""Ways to do the same thing, timed in turns on one core.

How it works: each way runs once a round, so that what else the machine does falls on all alike.
Ratios are of rates: the other way's time by this one's, round by round.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from typing import Final

from vionet.bench.command import Common
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


@contextmanager
def core(common: Common) -> Iterator[None]:
    """This thread on the core of what is measured."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {common.core})
    try:
        if common.real_time:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        yield
    finally:
        if common.real_time:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.sched_setaffinity(0, before)
