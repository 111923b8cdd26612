"""Telling drivers: publish used entries, interrupt, report a broken ring.

How it works: deliveries of a burst `touch` a receive ring; at its end `finish` publishes each
touched ring once and interrupts its driver if that one wants it.  Call descriptors are
non-blocking; a counter that is full already says what it has to (spec VU-43).

Trust: a front-end shares the flags of the descriptors that it gave, and can make them blocking
again.  `Work.telling` says whose write a stuck worker waits in (`fabric.worker.Worker.stuck`).
"""

from vionet.engine.layout import STATE, WORK, State, Work
from vionet.engine.ring import disarm, publish
from vionet.engine.share import let_go
from vionet.engine.status import CALLS, CALLS_SUPPRESSED, RING_BROKEN
from vionet.jit.kernel import INT, kernel
from vionet.jit.libc import write

RING = 0x1F  # of an entry of `Work.touched`: the ring
CALL = 0x40  # its driver wants to be interrupted
ERROR = 0x80  # its front-end is to be told that it is broken


@kernel(INT, WORK, INT, INT, inline=True)
def signal(work: Work, index: int, fd: int) -> int:
    """Write a descriptor that the front-end of port `index` gave us; who is told is noted."""
    work.telling = index + 1
    write(fd, work.one_hva, 8)
    work.telling = 0
    return 0


@kernel(INT, WORK, INT, INT, inline=True)
def list_ring(work: Work, index: int, ring: int) -> int:
    """A ring has entries to publish at the end of the burst."""
    work.touched[work.n_touched] = index << 8 | ring
    work.n_touched += 1
    return 0


@kernel(INT, STATE, WORK, INT, INT, inline=True)
def touch(state: State, work: Work, index: int, ring: int) -> int:
    """A receive ring of port `index` has entries to publish at the end of the burst."""
    port = state.ports[index]
    queue = port.queues[ring]
    if not queue.touched:
        disarm(port, queue)
        queue.touched = 1
        list_ring(work, index, ring)
    return 0


@kernel(INT, WORK, INT, INT)
def list_error(work: Work, index: int, ring: int) -> int:
    """A ring's error descriptor is to be written at the end of the burst."""
    word = index << 8 | ring
    for i in range(work.n_touched):
        if work.touched[i] == word:
            work.touched[i] = word | ERROR
            return 0
    return list_ring(work, index, ring | ERROR)


@kernel(INT, STATE, WORK, INT, INT)
def break_ring(state: State, work: Work, index: int, ring: int) -> int:
    """The driver broke the ring: it stops until it is set up anew; its error fd is told (VU-44),
    at once or, where ports are held, when they are let go of.
    """
    queue = state.ports[index].queues[ring]
    queue.broken = 1
    queue.live = 0
    work.drops[index, RING_BROKEN] += 1
    if work.n_held:
        list_error(work, index, ring)
    elif queue.err_fd >= 0:
        signal(work, index, queue.err_fd)
    write(state.notice_fd, work.one_hva, 8)
    return 0


@kernel(INT, STATE, WORK, INT, INT)
def show(state: State, work: Work, index: int, ring: int) -> int:
    """Publish a ring's used entries; *returns* 1 where its driver wants to be interrupted."""
    port = state.ports[index]
    queue = port.queues[ring]
    if queue.published_idx == queue.used_idx and queue.published_wrap == queue.used_wrap:
        return 0
    if publish(port, queue) and queue.call_fd >= 0:
        return 1
    work.ledger[index, CALLS_SUPPRESSED] += 1
    return 0


@kernel(INT, STATE, WORK)
def finish(state: State, work: Work) -> int:
    """The end of a burst: publish every ring that was listed, then interrupt, the last one first.

    Ports are let go of in between: no worker waits for a call that a front-end makes block.
    """
    n = 0
    for i in range(work.n_touched):
        word = work.touched[i]
        state.ports[word >> 8].queues[word & RING].touched = 0
        if show(state, work, word >> 8, word & RING):
            word |= CALL
        if word & (CALL | ERROR):
            work.touched[n] = word
            n += 1
    work.n_touched = 0
    if work.n_held:
        let_go(state, work)
    while n > 0:
        n -= 1
        word = work.touched[n]
        index = word >> 8
        queue = state.ports[index].queues[word & RING]
        if word & CALL:
            signal(work, index, queue.call_fd)
            work.ledger[index, CALLS] += 1
        if word & ERROR and queue.err_fd >= 0:
            signal(work, index, queue.err_fd)
    return 0
