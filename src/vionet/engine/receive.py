"""Receive buffers: choosing a guest's chains for one frame, writing into them, using them.

How it works: `reserve` collects posted chains until the frame fits (one chain without
MRG_RXBUF, spec RB-06) as the scatter list `work.dst_*`, without taking them.  Bytes are then
written anywhere in that list.  `commit` takes the chains and writes their used entries, which the
driver sees at the end of the burst, all of one frame at once (spec RX-04).

Invariants: a frame that does not fit leaves the buffers as they are (spec SG-20).  All chains
but the last are filled (RX-03), `used.len` counts the header (SP-23).  A chain that breaks the
rules is given back with length 0, so that it cannot block the ring; a head beyond the ring
cannot be given back and breaks it.
"""

from vionet.engine.guest import walk
from vionet.engine.layout import CHAIN_MAX, PORT, QUEUE, WORK, Port, Queue, Work
from vionet.engine.split import available, head_at, push_used
from vionet.engine.status import (
    OK,
    RX_BUFFER_TOO_SMALL,
    RX_CHAIN_INVALID,
    RX_RING_BROKEN,
    RX_RING_FULL,
    RX_RING_STOPPED,
)
from vionet.jit.kernel import INT, kernel
from vionet.jit.raw import copy, prefetch

U16 = 0xFFFF


@kernel(INT, QUEUE)
def recount(queue: Queue) -> int:
    """Read the driver's index anew.  *returns* the chains that wait, or -1: the ring is broken."""
    seen = queue.avail_seen
    queue.avail_seen = queue.avail_idx
    count = available(queue)
    if count < 0:
        queue.avail_seen = seen
        queue.broken = 1
    return count


@kernel(INT, QUEUE, WORK, INT)
def refuse_chain(queue: Queue, work: Work, head: int) -> int:
    """Give an invalid chain back unused if it is the first in the ring.  *returns* a reason."""
    if work.n_chains == 0:
        push_used(queue, head, 0)
        queue.avail_idx = (queue.avail_idx + 1) & U16
    return RX_CHAIN_INVALID


@kernel(INT, PORT, QUEUE, WORK, INT, inline=True)
def reserve(port: Port, queue: Queue, work: Work, need: int) -> int:
    """Choose chains that hold `need` bytes.  *returns* OK or a drop reason."""
    work.room = 0
    work.n_dst = 0
    work.n_chains = 0
    if not queue.ready or not queue.started or not queue.enabled:
        return RX_RING_STOPPED
    if queue.broken:
        return RX_RING_BROKEN
    idx = queue.avail_idx
    count = available(queue)
    if count < 0:
        queue.broken = 1
        return RX_RING_BROKEN
    while work.room < need:
        if work.n_chains > 0 and (not port.mergeable or work.n_chains >= CHAIN_MAX):
            return RX_BUFFER_TOO_SMALL
        if count == work.n_chains:
            # All that was seen is chosen; look whether the driver has posted more.
            count = recount(queue)
            if count < 0:
                return RX_RING_BROKEN
            if count == work.n_chains:
                return RX_RING_FULL
        head = head_at(queue, idx)
        if head >= queue.entries:
            queue.broken = 1
            return RX_RING_BROKEN
        if walk(port, queue, work, head, work.n_dst, 1) != OK:
            return refuse_chain(queue, work, head)
        work.n_dst = work.n_walked
        work.chain_head[work.n_chains] = head
        work.chain_len[work.n_chains] = work.walked_len
        work.n_chains += 1
        work.room += work.walked_len
        idx += 1
    return OK


@kernel(INT, QUEUE, WORK, INT)
def commit(queue: Queue, work: Work, length: int) -> int:
    """Use the chosen chains for `length` bytes (header and frame).  *returns* how many."""
    n = 0
    while length > 0:
        used = min(length, work.chain_len[n])
        push_used(queue, work.chain_head[n], used)
        length -= used
        n += 1
    queue.avail_idx = (queue.avail_idx + n) & U16
    return n


@kernel(INT, WORK, INT)
def chains_for(work: Work, length: int) -> int:
    """How many of the chosen chains `length` bytes fill: `num_buffers` (spec RX-02)."""
    n = 0
    while length > 0:
        length -= work.chain_len[n]
        n += 1
    return n


@kernel(INT, WORK, INT, INT, INT)
def write_at(work: Work, off: int, source: int, length: int) -> int:
    """Copy `length` bytes to offset `off` of the chosen buffers.  *requires* off + length fit."""
    for i in range(work.n_dst):
        room = work.dst_seg_len[i]
        if off < room:
            piece = min(room - off, length)
            copy(work.dst_hva[i] + off, source, piece)
            source += piece
            length -= piece
            off = 0
            if length == 0:
                break
        else:
            off -= room
    return 0


@kernel(INT, PORT, QUEUE)
def prefetch_ring(port: Port, queue: Queue) -> int:
    """Hint at the descriptor of a chain a few ahead of the next one."""
    if queue.ready:
        head = head_at(queue, queue.avail_idx + 4)
        prefetch(queue.desc_hva + 16 * (head & (queue.entries - 1)))
    return 0
