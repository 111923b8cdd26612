"""A worker: one compiled loop that serves its ports, polls while busy and sleeps while idle.

How it works: each round gives every port of this worker one burst. While rounds bring frames,
nobody is asked to kick. After `spin_ns` without a frame the rings are armed, looked at once more,
and the thread blocks in `epoll_wait` on the kick eventfds, the taps and the control plane's
wake-up. Eventfds are registered edge-triggered and never read: each write is an event of its own.
Where a round brought much, ports that have long been quiet are looked at in few of the next.
While busy, epoll is looked at without blocking every `PEEK_ROUNDS` rounds, for taps and first
kicks, and before each burst while a receive ring waits for its first kick (`engine.kick`).

Where a round brought little, others who want this core have it first: guests that share it then
fill larger bursts (two User Mode Linux guests on 2 cores: 2.9 to 4.3 Gbit/s of TCP), and on a core
of its own the loop loses nothing.

Invariants: returns only between bursts, so nothing popped is ever left unfinished (spec VU-34).
A ring starts with its first kick (VU-25).

Threads: each worker's thread runs this without the GIL (`engine.share` has what they share); the
control plane asks them to return by `state.stop` and the wake eventfds, then owns all state until
they call `run` again.
"""

from vionet.engine.burst import from_guest, from_queues, from_tap
from vionet.engine.control import call_drivers
from vionet.engine.interface import from_interface
from vionet.engine.kick import take_events
from vionet.engine.layout import PATIENCE_NS, STATE, WORK, State, Work
from vionet.engine.ring import arm
from vionet.engine.status import PortKind
from vionet.engine.stream import from_stream
from vionet.jit.kernel import INT, kernel
from vionet.jit.libc import clock_gettime, read, sched_yield, write
from vionet.jit.raw import load_acquire_i64

PEEK_ROUNDS = 32
YIELD_FRAMES = 32  # a round of fewer frames lets others have the core first
QUIET_LOOKS = 64  # after so many in vain a port is looked at
QUIET_MASK = 31  # in one of 32 crowded rounds: a look costs 30 ns or more, such a round 5 us
QUIET_BYTES = 1 << 20  # or after so many from guests, whichever comes first: 0.1 ms
SHORT_MS = 1  # of sleep while a frame waits for a driver that is late
CLOCK_MONOTONIC = 1
GUEST = int(PortKind.GUEST)
INTERFACE = int(PortKind.INTERFACE)
STREAM = int(PortKind.STREAM)


@kernel(INT, WORK)
def read_clock(work: Work) -> int:
    """Set and *return* `work.now_ns`."""
    clock_gettime(CLOCK_MONOTONIC, work.clock_hva)
    work.now_ns = work.clock[0] * 1_000_000_000 + work.clock[1]
    return work.now_ns


@kernel(INT, STATE, WORK)
def enlist(state: State, work: Work) -> int:
    """Note which ports are this worker's; *returns* their number."""
    work.n_ports = work.crowded = 0
    for index in range(state.n_ports):
        if state.ports[index].worker == work.number:
            work.served[work.n_ports] = index
            work.quiet[work.n_ports] = 0
            work.n_ports += 1
    return work.n_ports


@kernel(INT, STATE, WORK, INT)
def serve_port(state: State, work: Work, index: int) -> int:
    """One burst from one port.  *returns* the frames taken."""
    port = state.ports[index]
    if port.kind == GUEST:
        if not port.up:
            return 0
        if port.tx_pairs > 1:
            return from_queues(state, work, index)
        return from_guest(state, work, index, 1)
    if not port.readable:
        return 0
    if state.unstarted:
        take_events(state, work, 0)
    if port.kind == STREAM:
        return from_stream(state, work, index)
    if port.kind == INTERFACE:
        return from_interface(state, work, index)
    return from_tap(state, work, index)


@kernel(INT, STATE, WORK)
def serve(state: State, work: Work) -> int:
    """One burst from every port, or from those that were not quiet.  *returns* the frames taken."""
    done = 0
    if work.crowded and work.rounds & QUIET_MASK and work.moved < QUIET_BYTES:
        for i in range(work.n_active):
            done += serve_port(state, work, work.active[i])
    else:
        work.n_active = work.moved = 0
        for i in range(work.n_ports):
            index = work.served[i]
            taken = serve_port(state, work, index)
            done += taken
            work.quiet[i] = 0 if taken else work.quiet[i] + 1
            if work.quiet[i] < QUIET_LOOKS:
                work.active[work.n_active] = index
                work.n_active += 1
    work.crowded = 1 if done >= YIELD_FRAMES else 0
    return done


@kernel(INT, STATE, WORK)
def arm_all(state: State, work: Work) -> int:
    """Ask every driver to kick.  *returns* 1 if a frame or an awaited buffer is there already, -1
    if a wire's frame waits for a driver with whom patience may end, else 0.

    Also if the control plane has asked the worker to return: its wake-up may have been taken by
    a look without blocking since `stop` was last read.
    """
    found = state.stop
    waits = 0
    for i in range(work.n_ports):
        port = state.ports[work.served[i]]
        if port.kind != GUEST or not port.up:
            continue
        for pair in range(max(port.tx_pairs, port.n_pairs)):
            queue = port.queues[2 * pair + 1]
            if queue.ready and queue.started and not queue.broken and not queue.held:
                found |= arm(port, queue)
            queue = port.queues[2 * pair]
            if queue.starved and queue.ready and not queue.broken and arm(port, queue):
                queue.starved = 0
                found = 1
            if queue.starved and work.now_ns - queue.waits_ns < 2 * PATIENCE_NS:
                waits = -1
    return found if found else waits


@kernel(INT, STATE, WORK)
def run(state: State, work: Work) -> int:
    """Serve until `state.stop`.  *returns* 0."""
    idle_since = 0
    rounds = 0
    read_clock(work)
    enlist(state, work)
    call_drivers(state, work)
    while load_acquire_i64(work.stop_hva) == 0:
        rounds += 1
        work.rounds += 1
        if rounds >= PEEK_ROUNDS:
            rounds = 0
            read_clock(work)
            take_events(state, work, 0)
        taken = serve(state, work)
        if taken > 0:
            idle_since = 0
            if taken < YIELD_FRAMES:
                sched_yield()
            continue
        read_clock(work)
        if idle_since == 0:
            idle_since = work.now_ns
        if work.now_ns - idle_since < state.spin_ns:
            sched_yield()
            continue
        found = arm_all(state, work)
        if found > 0:
            idle_since = 0
            continue
        take_events(state, work, SHORT_MS if found else state.sleep_ms)
        if state.watched == 0:
            state.watched = 1
            write(state.notice_fd, work.one_hva, 8)
        read_clock(work)
        rounds = 0
        idle_since = 0
    return 0


@kernel(INT, STATE, WORK)
def work_on(state: State, work: Work) -> int:
    """Serve until `state.closing`, and stand still while the control plane wants all state.

    All of it is compiled, because a thread that came back to Python would wait for the GIL, and
    the control plane keeps that for milliseconds.  *returns* 0.
    """
    while True:
        run(state, work)
        write(work.parked_fd, work.one_hva, 8)
        while read(work.go_fd, work.scratch_hva, 8) != 8:  # a signal interrupts it
            pass
        if state.closing:
            return 0
