"""`vionet bench wake`: from a driver's kick to the delivery, when everything has slept for a while.

How it works: a thread on the load's core drives both ends (`pulse`).  After 10 ms of silence it
sends a frame at one end, which kicks the switch on the other core, and sleeps until the call
descriptor of the other end wakes it: one wake-up there, one back.  The yardstick is the least that
two threads on these cores can do: a write to an eventfd, on which a thread on the other core waits
as the switch does (epoll, edge-triggered), and its write to another one.  Both take turns within a
round.  `there and back` goes on with an answer, which finds a switch that has not slept yet.
"""

import os
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Final

import numpy as np

from vionet.bench.clock import now_ns
from vionet.bench.command import Common, bench_command, progress
from vionet.bench.daemon import Daemon
from vionet.bench.frame import Csum, build_frame
from vionet.bench.place import beside, placed
from vionet.bench.pulse import PULSE, Pulse, hear, pulse, send, take, usleep
from vionet.bench.result import Figure, Result, compared
from vionet.jit import libc
from vionet.jit.kernel import INT, kernel
from vionet.jit.raw import store_i64
from vionet.jit.record import Ints, address_of, allocate

IDLE_US: Final = 10_000
PATIENCE_MS: Final = 1000
TRIES: Final = 40  # of each kind in one round
TURN: Final = 10  # of one kind, before the other's
FRAME_LEN: Final = 60
KINDS: Final = ("kick to delivery", "there and back")
Run = Callable[[int, int], int]  # where the times go, how many; how many came
Samples = dict[tuple[str, bool], list[Ints]]  # by kind, and whether it is ours


@kernel(INT, PULSE, PULSE)
def cross(source: Pulse, sink: Pulse) -> int:
    """One frame from end to end.  *returns* 1, or 0 if it did not arrive."""
    send(source)
    while take(sink) == 0:
        if hear(sink, sink.call_fd, PATIENCE_MS) == 0:
            return 0
    return 1


@kernel(INT, PULSE, PULSE, INT, INT, INT)
def time_frames(source: Pulse, sink: Pulse, back: int, out_hva: int, count: int) -> int:
    """Time `count` frames after silence, with `back` and an answer.  *returns* how many arrived."""
    for i in range(count):
        usleep(IDLE_US)
        start = now_ns(source.clock_hva)
        arrived = cross(source, sink)
        if arrived and back:
            arrived = cross(sink, source)
        if not arrived:
            return i
        store_i64(out_hva + 8 * i, now_ns(source.clock_hva) - start)
    return count


@kernel(INT, PULSE, INT, INT, INT, INT, INT)
def time_eventfd(
    end: Pulse, there_fd: int, here_fd: int, times: int, out_hva: int, count: int
) -> int:
    """The same with two eventfds, `times` to and fro.  *returns* how many came back."""
    for i in range(count):
        usleep(IDLE_US)
        start = now_ns(end.clock_hva)
        for _ in range(times):
            libc.write(there_fd, end.one_hva, 8)
            if hear(end, here_fd, PATIENCE_MS) == 0:
                return i
        store_i64(out_hva + 8 * i, now_ns(end.clock_hva) - start)
    return count


@kernel(INT, PULSE, INT, INT)
def echo(end: Pulse, epoll_fd: int, here_fd: int) -> int:
    """Answer each event until `end.wrong` is set.  *returns* the number of events."""
    count = 0
    while end.wrong == 0:
        libc.epoll_wait(epoll_fd, end.room_hva, 1, -1)
        libc.write(here_fd, end.one_hva, 8)
        count += 1
    return count


@contextmanager
def echoing(core: int, real_time: bool) -> Iterator[tuple[Pulse, int, int]]:
    """A thread on `core` that answers: a record for its partner, and the two eventfds."""
    there, here = (os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(2))
    ours, theirs = allocate(Pulse), allocate(Pulse)
    for end in (ours, theirs):
        end.one_hva, end.room_hva, end.clock_hva = map(address_of, (end.one, end.room, end.clock))
        end.one[0] = 1
    with select.epoll() as epoll:
        epoll.register(there, select.EPOLLIN | select.EPOLLET)
        thread = beside(core, partial(echo, theirs, epoll.fileno(), here), real_time)
        try:
            yield ours, there, here
        finally:
            theirs.wrong = 1
            os.eventfd_write(there, 1)
            thread.join()
    os.close(there)
    os.close(here)


def measure(common: Common) -> Result:
    """From a driver's kick to the delivery after 10 ms of silence, against a bare eventfd."""
    result = Result("wake")
    tries = TURN if common.quick else TRIES
    samples: Samples = {(kind, ours): [] for kind in KINDS for ours in (True, False)}
    with (
        Daemon(2, core=common.core, real_time=common.real_time) as daemon,
        echoing(common.core, common.real_time) as (partner, there, here),
    ):
        ports = [daemon.attach(number) for number in range(2)]
        result.faults += daemon.faults()
        ends = [pulse(p, build_frame(i, FRAME_LEN, Csum.NONE)[1]) for i, p in enumerate(ports)]
        runs: dict[tuple[str, bool], Run] = {}
        for back, kind in enumerate(KINDS):
            runs[kind, True] = partial(time_frames, ends[0], ends[1], back)
            runs[kind, False] = partial(time_eventfd, partner, there, here, back + 1)
        with placed(common.load_core, common.real_time):
            for number in range(common.rounds):
                progress(f"wake: round {number + 1} of {common.rounds}")
                for case, times in _round(runs, tries).items():
                    samples[case].append(times)
        _judge(result, daemon, ends, samples)
    for kind in KINDS:
        result.figures += _figures(kind, samples)
    return result


def _round(runs: dict[tuple[str, bool], Run], tries: int) -> dict[tuple[str, bool], Ints]:
    """Every kind in turns; the times of those that arrived."""
    found: dict[tuple[str, bool], Ints] = {kind: np.zeros(0, np.int64) for kind in runs}
    for _ in range(tries // TURN):
        for kind, run in runs.items():
            times: Ints = np.zeros(TURN, np.int64)
            found[kind] = np.concatenate([found[kind], times[: run(address_of(times), TURN)]])
    return found


def _judge(result: Result, daemon: Daemon, ends: list[Pulse], samples: Samples) -> None:
    """What went wrong: frames that did not arrive, or a switch that did not sleep."""
    asked = max(len(times) for rounds in samples.values() for times in rounds)
    for (kind, ours), rounds in samples.items():
        if missing := sum(asked - len(times) for times in rounds):
            subject = "frames" if ours else "events"
            result.faults.append(f"{kind}: {missing} {subject} did not arrive")
    if wrong := sum(int(end.wrong) for end in ends):
        result.faults.append(f"{wrong} frames were not as they were sent")
    woken = daemon.ports()["p0"]["ledger"]["wakeups"]
    slept = sum(len(times) for kind in KINDS for times in samples[kind, True])
    result.notes.append(f"{woken} kicks woke the switch, after {slept} silences")
    if woken < slept * 3 // 4:
        result.faults.append("the switch did not sleep between frames")


def _figures(kind: str, samples: Samples) -> list[Figure]:
    """The switch, and what it is held against."""
    medians = {
        ours: tuple(median(times.tolist()) / 1000 for times in samples[kind, ours] if len(times))
        for ours in (True, False)
    }
    if not all(medians.values()):
        return []
    detail = {
        ours: {"p99": float(np.percentile(np.concatenate(samples[kind, ours]), 99)) / 1000}
        for ours in medians
    }
    goal = "wake" if kind == KINDS[0] else ""
    ours, bare = medians[True], medians[False]
    return [
        compared(kind, "vionet switch", "µs", ours, bare, "eventfd", goal, detail[True]),
        compared(kind, "eventfd", "µs", bare, detail=detail[False]),
    ]


command = bench_command("wake")(measure)
