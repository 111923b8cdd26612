"""`vionet bench cost`: where the nanoseconds of a frame go, and what each feature adds.

How it works: one thread and simulated ports (`pair`), so the figures are the engine's alone; what
cores wait for each other comes on top and is in `bench forward`.  Stages are differences of the
path ended early (`stage`).  Features are whole bursts of the engine with the feature and without
it, in turns within each round, on frames and buffers that stay cached.  Filling and segmenting are
also measured over four times the last-level cache.  Ratios are of rates: the other one's time by
this one's.

Every case is checked before it is timed: each delivered byte against frames made in Python
(`case`), and the ledger against what had to be done.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Final

import numpy as np

from vionet.bench import case as cases
from vionet.bench.command import Common, bench_command, progress
from vionet.bench.copying import last_level_cache
from vionet.bench.pair import Case, Pair, copy_frames
from vionet.bench.place import placed
from vionet.bench.result import Figure, Result
from vionet.bench.stage import STAGES, walk
from vionet.bench.turns import take_turns

SIZES: Final = (64, 1500)
FILL_SIZES: Final = {"1500 B": 1500, "9000 B": 9000, "64 KB": 65535}
STAY_NS: Final = 3_000_000  # how long one case runs in one round
CACHED: Final = 192 << 10  # bytes sent in a lap that is to stay in a core's own cache
LLC_GUESS: Final = 32 << 20
WORKING_SET_MAX: Final = 1 << 30
MTU_FRAME: Final = cases.HEADERS + cases.SEGMENT
# Beside the plain path: what it is made of, from the features.
EXTRA: Final = {"sum": "filled", "notify": "interrupts wanted, one a burst"}
BEYOND: Final = "beyond the cache"
GOALS: Final = {
    "64 B: locked, VLAN, learning": "features-64",
    f"1500 B, {BEYOND}: filled": "fill-1500",
    f"9000 B, {BEYOND}: filled": "fill-9000",
    f"64 KB, {BEYOND}: filled": "fill-64k",
    f"64 KB to 1448, {BEYOND}: segmented, complete": "segment",
}


def laps_for(pair: Pair, quick: bool) -> int:
    """How many laps take about `STAY_NS` and go through the whole working set."""
    if quick:
        return 1
    whole = int(pair.lap.sides[0].buffers) // pair.case.chains if pair.case.working_set else 1
    return max(whole, int(STAY_NS / pair.run(2) / pair.case.chains))


def stages(result: Result, common: Common, size: int, call_fd: int) -> None:
    """Where the time of the plain path goes, and what a sum and an interrupt come to."""
    progress(f"{size} B: stages")
    table = cases.features(size, call_fd)
    pair, *others = (Pair(table[name][0]) for name in ("plain", *EXTRA.values()))
    for each in (pair, *others):
        each.check(2)
    laps = laps_for(pair, common.quick)
    ends: list[list[float]] = [[] for _ in range(len(STAGES) + 1 + len(others))]
    for _ in range(common.rounds):
        for depth in range(len(STAGES)):
            elapsed = walk(pair.state, pair.work, pair.lap, depth, laps)
            ends[depth].append(elapsed / (laps * pair.case.chains))
        for i, each in enumerate((pair, *others)):
            ends[len(STAGES) + i].append(each.run(laps))
    pair.check(2)
    result.faults += [fault for each in (pair, *others) for fault in each.faults]
    pop, twice, *later = (np.array(values) for values in ends)
    path, whole = [pop, *later[: len(STAGES) - 2]], later[len(STAGES) - 2]
    head = twice - pop
    parts = [pop - head, head, *(late - early for early, late in pairwise(path)), whole - path[-1]]
    parts += [other - whole for other in later[len(STAGES) - 1 :]]
    for name, values in zip((*STAGES, "the rest", *EXTRA), parts, strict=True):
        share = float(np.median(values / whole))
        times = tuple(map(float, values))
        figure = Figure(f"{size} B: {name}", "vionet", "ns", times, share, "the whole path")
        result.figures.append(figure)
    name = f"{size} B: the whole path"
    result.figures.append(Figure(name, "vionet", "ns", tuple(map(float, whole))))


def features(result: Result, common: Common, size: int, call_fd: int) -> None:
    """What each feature adds to the plain path."""
    progress(f"{size} B: features")
    runs, pairs = {}, []
    for name, (case, against) in cases.features(size, call_fd).items():
        pair = Pair(case)
        pair.check(2)
        pairs.append(pair)
        runs[name] = partial(pair.run, laps_for(pair, common.quick)), against
    take_turns(result, common.rounds, f"{size} B", runs, GOALS)
    result.faults += [fault for pair in pairs for fault in pair.faults]


def bulk(
    result: Result, common: Common, group: str, table: Sequence[Case], pieces: Mapping[str, int]
) -> None:
    """Ways to deliver the same frames from and to the same pools, each against memcpy in pieces of
    so many bytes, or against the first way."""
    progress(group)
    pair = Pair(table[0], max(len(case.received) for case in table))
    length = len(table[0].sent[0])
    laps = laps_for(pair, common.quick)

    def forward(case: Case) -> float:
        pair.configure(case)
        return pair.run(laps)

    runs: dict[str, tuple[Callable[[], float], str]] = {}
    for case in table:
        pair.configure(case)
        pair.check(1)
        against = table[0].name
        if case.name in pieces:
            against = f"{cases.MEMCPY}, pieces of {pieces[case.name]}"
            runs[against] = partial(pair.run_bare, laps, copy_frames, length, pieces[case.name]), ""
        runs[case.name] = partial(forward, case), against
    take_turns(result, common.rounds, group, runs, GOALS)
    result.faults += [f"{group}: {fault}" for fault in pair.faults]


def measure(common: Common) -> Result:
    """Where the nanoseconds of a frame go."""
    result = Result("cost")
    cache = last_level_cache() or LLC_GUESS
    beyond = min(4 * cache, WORKING_SET_MAX)
    result.notes += [
        "one thread, simulated ports, no other core; ratios are of rates",
        "stages: differences of the path ended early; one that hides behind another is near 0",
        "sum and notify are not in the whole path: what filling and one interrupt a burst add",
        f"{BEYOND}: {beyond >> 20} MiB, last-level cache {cache >> 20} MiB",
    ]
    if common.quick:
        beyond = 4 << 20
    with placed(common.core, common.real_time):
        call_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        for size in SIZES:
            stages(result, common, size, call_fd)
            features(result, common, size, call_fd)
        os.close(call_fd)
        for where, working_set in (("cached", 0), (BEYOND, beyond)):
            for name, size in FILL_SIZES.items():
                chains = min(64, max(2, CACHED // size))
                table = cases.fill(size, chains, working_set)
                group = f"{name}, {where}"
                bulk(result, common, group, table, {table[0].name: len(table[0].sent[0])})
            table = cases.segment(2 if not working_set else 16, working_set)
            group = f"64 KB to {cases.SEGMENT}, {where}"
            pieces = {case.name: MTU_FRAME for case in table} | {table[0].name: 2048}
            bulk(result, common, group, table, pieces)
    return result


command = bench_command("cost", rounds=15)(measure)
