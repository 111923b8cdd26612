"""Telling drivers: publish used entries, interrupt, report a broken ring.

How it works: deliveries of a burst `touch` a receive ring; at its end `finish` publishes each
touched ring once and interrupts its driver if that one wants it.  Call descriptors are
non-blocking; a counter that is full already says what it has to (spec VU-43).

Trust: a front-end shares the flags of the descriptors that it gave, and can make them blocking
again.  `Work.telling` says whose write a stuck worker waits in (`fabric.worker.Worker.stuck`).
"""

from vionet.engine.layout import STATE, WORK, State, Work
from vionet.engine.ring import disarm, publish
from vionet.engine.status import CALLS, CALLS_SUPPRESSED, RING_BROKEN
from vionet.jit.kernel import INT, kernel
from vionet.jit.libc import write


@kernel(INT, WORK, INT, INT, inline=True)
def signal(work: Work, index: int, fd: int) -> int:
    """Write a descriptor that the front-end of port `index` gave us; who is told is noted."""
    work.telling = index + 1
    write(fd, work.one_hva, 8)
    work.telling = 0
    return 0


@kernel(INT, STATE, WORK, INT, INT, inline=True)
def touch(state: State, work: Work, index: int, ring: int) -> int:
    """A receive ring of port `index` has entries to publish at the end of the burst."""
    port = state.ports[index]
    queue = port.queues[ring]
    if not queue.touched:
        disarm(port, queue)
        queue.touched = 1
        work.touched[work.n_touched] = index << 8 | ring
        work.n_touched += 1
    return 0


@kernel(INT, STATE, WORK, INT, INT)
def break_ring(state: State, work: Work, index: int, ring: int) -> int:
    """The driver broke the ring: it stops until it is set up anew; its error fd is told (VU-44)."""
    queue = state.ports[index].queues[ring]
    queue.broken = 1
    queue.live = 0
    work.drops[index, RING_BROKEN] += 1
    if queue.err_fd >= 0:
        signal(work, index, queue.err_fd)
    write(state.notice_fd, work.one_hva, 8)
    return 0


@kernel(INT, STATE, WORK, INT, INT)
def notify(state: State, work: Work, index: int, ring: int) -> int:
    """Publish a ring's used entries and interrupt the driver if it wants that."""
    port = state.ports[index]
    queue = port.queues[ring]
    if queue.published_idx == queue.used_idx and queue.published_wrap == queue.used_wrap:
        return 0
    if publish(port, queue) and queue.call_fd >= 0:
        signal(work, index, queue.call_fd)
        work.ledger[index, CALLS] += 1
    else:
        work.ledger[index, CALLS_SUPPRESSED] += 1
    return 0


@kernel(INT, STATE, WORK)
def finish(state: State, work: Work) -> int:
    """The end of a burst: publish and notify every receive ring that was written."""
    for i in range(work.n_touched):
        index = work.touched[i] >> 8
        ring = work.touched[i] & 0xFF
        state.ports[index].queues[ring].touched = 0
        notify(state, work, index, ring)
    work.n_touched = 0
    return 0
