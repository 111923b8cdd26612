"""`vionet bench churn`: does traffic stand still while ports come and go?

How it works: a thread on the load's core sends a frame from one guest to another every
`INTERVAL_US` and notes the longest time between two arrivals (`pulse`).  Meanwhile this process,
on the same core, does one thing to other ports of the switch: a guest attaches and detaches, a
port's options change, a port is added and removed.  The switch's worker has the other core; its
control plane shares the load's, as it would where a worker is pinned.

What the load missed itself, because it did not have its core, is not held against the switch: a
gap counts from the last time that the load looked in time.  The same without doing anything stands
beside, for what the machine itself brings about.
"""

import os
import time
from collections.abc import Callable
from statistics import median
from typing import Final

from vionet.bench.clock import now_ns
from vionet.bench.command import Common, bench_command, progress
from vionet.bench.daemon import Daemon, open_guest
from vionet.bench.frame import Csum, build_frame
from vionet.bench.place import REAL_TIME_PRIORITY, beside
from vionet.bench.pulse import PULSE, Pulse, pulse, send, take, usleep
from vionet.bench.result import Figure, Result, compared
from vionet.check.driver import Port
from vionet.jit.kernel import INT, kernel
from vionet.jit.raw import load_acquire_i64
from vionet.jit.record import Record, address_of, allocate, record_type

INTERVAL_US: Final = 30
LATE_NS: Final = 300_000  # a look that is later was not the switch's doing
UNDER_WAY: Final = 16  # frames at most: less than the receive ring has buffers
FRAME_LEN: Final = 60
TIMES: Final = 20  # of each thing in one round
QUIET_S: Final = 0.01  # before each
NOTHING: Final = "nothing"
Step = Callable[[], object]


class Flow(Record):
    """What a load knows of its flow."""

    stop: int
    stop_hva: int
    sent: int
    gap_ns: int  # the longest between two arrivals since somebody reset it
    late: int  # looks that came late since then


FLOW = record_type(Flow)


@kernel(INT, FLOW, PULSE, PULSE)
def run(flow: Flow, source: Pulse, sink: Pulse) -> int:
    """Send and take until `flow.stop`.  *returns* the number of frames that are under way."""
    looked = now_ns(source.clock_hva)
    arrived = looked
    while load_acquire_i64(flow.stop_hva) == 0:
        if flow.sent - sink.received < UNDER_WAY:
            send(source)
            flow.sent += 1
        usleep(INTERVAL_US)
        now = now_ns(source.clock_hva)
        if now - looked > LATE_NS:
            flow.late += 1
            arrived = now
        looked = now
        flow.gap_ns = max(flow.gap_ns, now - arrived)
        if take(sink):
            arrived = now
    for _ in range(1000):
        if sink.received >= flow.sent:
            break
        usleep(1000)
        take(sink)
    return flow.sent - sink.received


class Load:
    """A flow from one guest to another, in a thread of its own."""

    def __init__(self, daemon: Daemon, core: int, real_time: bool) -> None:
        """Attach two guests; frames flow until `close`."""
        ports = [daemon.attach(number) for number in range(2)]
        self.flow = allocate(Flow)
        self.flow.stop_hva = address_of(self.flow)
        self.ends = [pulse(p, build_frame(i, FRAME_LEN, Csum.NONE)[1]) for i, p in enumerate(ports)]
        self.missing = 0

        def drive() -> None:
            self.missing = run(self.flow, *self.ends)

        self._thread = beside(core, drive, real_time)

    def longest(self, what: Step) -> tuple[float, int]:
        """The longest gap in ms while `what` is done and a moment after, and late looks."""
        time.sleep(QUIET_S)
        self.flow.gap_ns = self.flow.late = 0
        what()
        time.sleep(QUIET_S)
        return int(self.flow.gap_ns) / 1e6, int(self.flow.late)

    def close(self) -> list[str]:
        """End it; what was wrong."""
        self.flow.stop = 1
        self._thread.join()
        wrong = sum(int(end.wrong) for end in self.ends)
        found = [f"{wrong} frames were not as they were sent"] if wrong else []
        if self.missing:
            found.append(f"{self.missing} of {int(self.flow.sent)} frames were lost")
        return found


def things(daemon: Daemon) -> dict[str, Step]:
    """What is done to a port that is not in the flow, each step after the one before it."""
    guests: list[Port] = []

    def asked(request: str, **members: object) -> Step:
        return lambda: daemon.ask(request, **members)

    return {
        NOTHING: lambda: None,
        "guest attaches": lambda: guests.append(open_guest(daemon.paths[2])),
        "guest detaches": lambda: guests.pop().close(),
        "port set": asked("set", port="p2", options=["isolated=on"]),
        "status": asked("status"),
        "port add": asked("add", port=f"x=guest:{daemon.folder}/added.sock"),
        "port remove": asked("remove", port="x"),
    }


def measure(common: Common) -> Result:
    """Does traffic stand still while ports come and go?"""
    result = Result("churn")
    times = 3 if common.quick else TIMES
    with Daemon(3) as daemon:
        # Every thread but the control plane's is a worker.
        for thread in daemon.threads():
            control = thread == daemon.process.pid
            os.sched_setaffinity(thread, {common.load_core if control else common.core})
            if common.real_time:
                priority = os.sched_param(REAL_TIME_PRIORITY - control)
                os.sched_setscheduler(thread, os.SCHED_FIFO, priority)
        load = Load(daemon, common.load_core, common.real_time)
        gaps: dict[str, list[tuple[float, ...]]] = {}
        late = 0
        try:
            result.faults += daemon.faults()
            steps = things(daemon)
            for number in range(common.rounds):
                progress(f"churn: round {number + 1} of {common.rounds}")
                found: dict[str, list[float]] = {kind: [] for kind in steps}
                for _ in range(times):
                    for kind, step in steps.items():
                        gap, missed = load.longest(step)
                        found[kind].append(gap)
                        late += missed
                for kind, values in found.items():
                    gaps.setdefault(kind, []).append(tuple(values))
        finally:
            result.faults += load.close()
    result.notes.append(f"the load had not its core {late} times; gaps count from then on")
    base = [median(values) for values in gaps[NOTHING]]
    for kind, rounds in gaps.items():
        medians = tuple(median(values) for values in rounds)
        worst = max(max(values) for values in rounds)
        held = () if kind == NOTHING else base
        result.figures += [
            compared("longest gap, usual", kind, "ms", medians, held, NOTHING),
            Figure("longest gap, worst", kind, "ms", (worst,)),
        ]
    return result


command = bench_command("churn", rounds=3)(measure)
