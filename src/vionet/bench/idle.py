"""`vionet bench idle`: what a switch costs while its guests say nothing.

How it works: silent guests are attached to a switch, all their rings set up; when it has come to
rest, its processor time and the times that a thread of it slept and woke are read twice from
/proc, some seconds apart.  A port that connects and finds nobody tries again every two seconds,
which is all that wakes such a daemon; it is shown beside.
"""

import time
from contextlib import ExitStack
from typing import Final

import click

from vionet.bench.command import Common, bench_command, progress
from vionet.bench.daemon import Daemon, Usage
from vionet.bench.goals import CORE
from vionet.bench.result import Figure, Result

GUESTS: Final = 16
SECONDS: Final = 10.0  # of one round
QUICK_S: Final = 2.0
REST_S: Final = 1.5  # without a wake-up: it has come to rest
REST_MAX_S: Final = 15.0
STEP_S: Final = 0.2


@click.option("--guests", type=click.IntRange(1, 64), default=GUESTS, show_default=True)
def measure(common: Common, guests: int) -> Result:
    """What a switch costs while its guests say nothing: processor time and wake-ups."""
    result = Result("idle")
    seconds = QUICK_S if common.quick else SECONDS
    with ExitStack() as stack:
        silent = attached(stack, result, guests)
        nobody = f"c=guest:{silent.folder}/nobody.sock,client"
        seeking = attached(stack, result, guests, nobody)
        if not come_to_rest(silent):
            result.notes.append(f"it did not come to rest within {REST_MAX_S:g} s")
        for daemon, subject, goals in (
            (silent, f"{guests} silent guests", ("idle", "idle-wakes")),
            (seeking, "and a client alone", ("", "")),
        ):
            progress(f"idle: {subject}, {common.rounds} times {seconds:g} s")
            used = [idle(daemon, seconds) for _ in range(common.rounds)]
            shares = tuple(100 * one.core_ns / 1e9 / seconds for one in used)
            wakes = tuple(one.wakes / seconds for one in used)
            result.figures += [
                Figure("processor time", subject, CORE, shares, goal=goals[0]),
                Figure("wake-ups", subject, "a second", wakes, goal=goals[1]),
            ]
    return result


def attached(stack: ExitStack, result: Result, guests: int, *extra: str) -> Daemon:
    """A switch whose guests are silent."""
    daemon = stack.enter_context(Daemon(guests, *extra))
    for number in range(guests):
        daemon.attach(number)
    result.faults += daemon.faults()
    return daemon


def come_to_rest(daemon: Daemon) -> bool:
    """Wait until nothing has woken it for a while, but not for ever."""
    deadline = time.monotonic() + REST_MAX_S
    rests_since = time.monotonic()
    while time.monotonic() < deadline:
        if idle(daemon, STEP_S).wakes:
            rests_since = time.monotonic()
        elif time.monotonic() - rests_since > REST_S:
            return True
    return False


def idle(daemon: Daemon, seconds: float) -> Usage:
    """What it uses in so much time."""
    before = daemon.usage()
    time.sleep(seconds)
    return daemon.usage() - before


command = bench_command("idle", rounds=3)(measure)
