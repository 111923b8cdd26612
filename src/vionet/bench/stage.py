"""The path of a frame, ended early: what each stage adds.

How it works: `walk` does for each burst what `engine.burst.from_guest` and `engine.forward.forward`
do for the usual frame (one descriptor, known addresses, one region), with the engine's own kernels
in the same order, but goes only as far as it is told.  The difference between one depth and the
next is what that stage costs where it stands, the processor working ahead as it does; the
differences add up to the whole by themselves.

Invariants: the last depth is the whole path and is compared with the engine's (`cost`).  After
`walk` the rings are where they would be had everything been delivered.
"""

from typing import Final

from vionet.bench.pair import LAP, RX, TX, Lap, now, post
from vionet.engine.deliver import deliver
from vionet.engine.deliver_guest import flush
from vionet.engine.fdb import lookup
from vionet.engine.forward import check_source
from vionet.engine.ingress import (
    copy_heads,
    read_addresses,
    return_burst,
    stage_burst,
    take_chain,
)
from vionet.engine.judge import judge, read_header
from vionet.engine.layout import STATE, WORK, State, Work
from vionet.engine.parse import parse_plain
from vionet.engine.plan import plan
from vionet.engine.receive import reserve
from vionet.engine.seal import plant_seed
from vionet.engine.tell import finish, list_ring
from vionet.jit.kernel import INT, kernel

# What each depth adds to the one before it.
STAGES: Final = (
    "pop",  # descriptors read and translated, and heads copied once
    "header",  # heads copied; its fields read
    "parse",
    "judge",
    "table",
    "plan",
    "buffer",
    "account",
    "copy",
    "give back",
    "publish",
)
(POP, HEADER, PARSE, JUDGE, TABLE, PLAN, BUFFER, ACCOUNT, COPY, GIVE_BACK, PUBLISH) = range(
    len(STAGES)
)


@kernel(INT, STATE, WORK, INT, INT)
def decide(state: State, work: Work, count: int, depth: int) -> int:
    """Each staged frame, up to its place in the receiver's ring.  *returns* the plans' sum."""
    port = state.ports[0]
    queue = port.queues[1]
    frame = work.frame[0]
    receiver = state.ports[1]
    rx = receiver.queues[0]
    header_len = port.header_len
    total = 0
    for i in range(count):
        if depth >= HEADER:
            take_chain(port, queue, work, frame, i)
            read_header(work, frame, header_len)
        if depth >= PARSE:
            total += parse_plain(work, frame)
        if depth >= JUDGE:
            total += judge(port, work, frame)
            total += plant_seed(work, frame)
        out = 1
        if depth >= TABLE:
            read_addresses(work, frame)
            total += check_source(state, work, frame, 0, 0)
            out = lookup(state, frame.dst, work.now_ns)
        if depth >= ACCOUNT:
            work.rx_ring = 0
            total += deliver(state, work, frame, out)
            continue
        if depth >= PLAN:
            total += plan(frame.state, state.ports[out].accepts)
        if depth >= BUFFER:
            total += reserve(receiver, rx, work, header_len + frame.length)
            rx.avail_idx = (rx.avail_idx + 1) & 0xFFFF
    return total


@kernel(INT, STATE, WORK, LAP, INT, INT)
def walk(state: State, work: Work, lap: Lap, depth: int, laps: int) -> int:
    """Take so many laps to `depth`; *returns* the nanoseconds, -1 if a burst was empty.

    *requires* split rings, and one buffer for each frame.  Depth -1: what comes before all.
    """
    port = state.ports[0]
    queue = port.queues[1]
    rx = state.ports[1].queues[0]
    elapsed = 0
    for _ in range(laps):
        left = post(lap.sides[TX])
        post(lap.sides[RX])
        start = now(lap)
        while left > 0:
            work.n_late = 0
            count = stage_burst(port, queue, work)
            if count <= 0:
                return -1
            left -= count
            if depth < 0:  # so that the second copy is what a head costs
                copy_heads(work, count, port.header_len)
            decide(state, work, count, depth)
            if depth < BUFFER:
                rx.avail_idx = (rx.avail_idx + count) & 0xFFFF
            if depth >= COPY:
                flush(work)
            if depth >= GIVE_BACK:
                return_burst(queue, work, count)
            else:
                queue.avail_idx = (queue.avail_idx + count) & 0xFFFF
            if depth >= PUBLISH:
                list_ring(work, 0, 1)
                finish(state, work)
        elapsed += now(lap) - start
    finish(state, work)
    return elapsed
