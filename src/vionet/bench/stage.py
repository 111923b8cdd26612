"""The path of a usual frame, ended early: what each stage adds.

How it works: `walk` does for each burst what `engine.burst.from_guest` and `engine.plain` do for
usual frames from one sender to one receiver, with the engine's own kernels in the same order, but
goes only as far as it is told.  The difference between one depth and the next is what that stage
costs where it stands, the processor working ahead as it does; the differences add up to the whole
by themselves.  Who the receiver is, is looked up once a burst, as there.

Invariants: the last depth is the whole path and is compared with the engine's (`cost`).  After
`walk` the rings are where they would be had everything been delivered.
"""

from typing import Final

from vionet.bench.clock import now_ns
from vionet.bench.pair import LAP, RX, TX, Lap, post
from vionet.engine.deliver_guest import flush
from vionet.engine.ingress import copy_heads, return_burst, stage_burst
from vionet.engine.layout import HEAD_LEN, SLOT_LEN, STATE, WORK, State, Work
from vionet.engine.pass_on import note
from vionet.engine.plain import count_passed, receiver, state_of
from vionet.engine.plan import plan
from vionet.engine.tell import finish, list_ring
from vionet.jit.kernel import INT, kernel
from vionet.jit.raw import load_i64, load_u32

# What each depth adds to the one before it.
STAGES: Final = (
    "pop",  # descriptors read and translated; heads copied, which is told apart
    "header",  # heads copied once more
    "parse",  # and judged
    "table",
    "plan",
    "buffer",  # the receiver's, reserved and noted
    "copy",
    "give back",
    "publish",
)
(POP, HEADER, PARSE, TABLE, PLAN, BUFFER, COPY, GIVE_BACK, PUBLISH) = range(len(STAGES))


@kernel(INT, STATE, WORK, INT, INT)
def decide(state: State, work: Work, count: int, depth: int) -> int:
    """Each staged frame, up to its place in the receiver's ring.  *returns* the plans' sum."""
    header_len = state.ports[0].header_len
    low = high = out = octets = header_octets = total = accepts = 0
    for i in range(count):
        length = work.slot_len[i]
        head = work.heads_hva + SLOT_LEN * i
        csum = 0
        if depth >= PARSE:
            csum = state_of(head, header_len, length)
            total += csum
        if depth >= TABLE and (load_i64(head) != low or load_u32(head + 8) != high):
            out = receiver(state, work, 0, head)
            low = load_i64(head)
            high = load_u32(head + 8)
            accepts = state.ports[out].accepts
        action = 0
        if depth >= PLAN:
            action = plan(csum, accepts)
            total += action
        if depth >= BUFFER:
            total += note(state, work, out, i, header_len, action)
            octets += length
            header_octets += min(length, HEAD_LEN)
    if depth >= BUFFER:
        count_passed(state, work, out, count, octets, header_octets)
    return total


@kernel(INT, STATE, WORK, LAP, INT, INT)
def walk(state: State, work: Work, lap: Lap, depth: int, laps: int) -> int:
    """Take so many laps to `depth`; *returns* the nanoseconds, -1 if a burst was empty.

    *requires* split rings, and one buffer for each frame.
    """
    port = state.ports[0]
    queue = port.queues[1]
    rx = state.ports[1].queues[0]
    elapsed = 0
    for _ in range(laps):
        left = post(lap.sides[TX])
        post(lap.sides[RX])
        start = now_ns(lap.clock_hva)
        while left > 0:
            work.n_late = 0
            count = stage_burst(port, queue, work)
            if count <= 0:
                return -1
            left -= count
            if depth == HEADER:
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
        elapsed += now_ns(lap.clock_hva) - start
    finish(state, work)
    return elapsed
