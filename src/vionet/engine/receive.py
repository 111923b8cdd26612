"""Receive buffers: choosing a guest's chains for one frame, writing into them, using them.

How it works: `reserve` collects posted chains until the frame fits (one chain without
MRG_RXBUF, spec RB-06) as the scatter list `work.dst_*`, without taking them.  Bytes are then
written anywhere in that list.  `commit` takes the chains and writes their used entries, which the
driver sees at the end of the burst, all of one frame at once (spec RX-04).

Invariants: a frame that does not fit leaves the buffers as they are (spec SG-20).  All chains
but the last are filled (RX-03), `used.len` counts the header (SP-23).  A chain that breaks the
rules is given back with length 0, so that it cannot block the ring; a head beyond the ring or an
index that jumps cannot be answered, and the caller breaks the ring (`tell.break_ring`).
"""

from vionet.engine.guest import U32, translate, walk
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
from vionet.jit.raw import copy, load_acquire_u16, load_i64, prefetch
from vionet.spec.virtio import VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE

U16 = 0xFFFF
AHEAD = 16  # chains whose descriptors are hinted at in advance
WRITABLE = VRING_DESC_F_WRITE << 32
SPECIAL = (VRING_DESC_F_NEXT | VRING_DESC_F_WRITE | VRING_DESC_F_INDIRECT) << 32


@kernel(INT, QUEUE)
def recount(queue: Queue) -> int:
    """Read the driver's index anew.  *returns* the chains that wait, -1 where it is invalid."""
    queue.avail_seen = load_acquire_u16(queue.avail_hva + 2)
    count = (queue.avail_seen - queue.avail_idx) & U16
    return count if count <= queue.entries else -1


@kernel(INT, QUEUE, WORK, INT)
def refuse_chain(queue: Queue, work: Work, head: int) -> int:
    """Give an invalid chain back unused, and those chosen before it.  *returns* a reason."""
    for i in range(work.n_chains):
        push_used(queue, work.chain_head[i], 0)
    push_used(queue, head, 0)
    queue.avail_idx = (queue.avail_idx + work.n_chains + 1) & U16
    return RX_CHAIN_INVALID


@kernel(INT, PORT, QUEUE, WORK, INT)
def reserve_list(port: Port, queue: Queue, work: Work, need: int) -> int:
    """`reserve` for any chains, as many as it takes."""
    work.room = 0
    work.n_dst = 0
    work.n_chains = 0
    if not queue.live:
        return RX_RING_BROKEN if queue.broken else RX_RING_STOPPED
    idx = queue.avail_idx
    count = available(queue)
    while work.room < need:
        if work.n_chains > 0 and (not port.mergeable or work.n_chains >= CHAIN_MAX):
            return RX_BUFFER_TOO_SMALL
        if count == work.n_chains:
            # All that was seen is chosen; look whether the driver has posted more.
            count = recount(queue)
            if count == work.n_chains:
                # Of a ring that is posted to the last entry no more can be hoped for.
                return RX_BUFFER_TOO_SMALL if count == queue.entries else RX_RING_FULL
        if count < work.n_chains:
            break  # no valid index, or one that went backwards
        head = head_at(queue, idx)
        if head >= queue.entries:
            break
        if walk(port, queue, work, head, work.n_dst, 1) != OK:
            return refuse_chain(queue, work, head)
        work.n_dst = work.n_walked
        work.chain_head[work.n_chains] = head
        work.chain_len[work.n_chains] = work.walked_len
        work.n_chains += 1
        work.room += work.walked_len
        idx += 1
    return OK if work.room >= need else RX_RING_BROKEN


@kernel(INT, PORT, QUEUE, WORK, INT, inline=True)
def reserve(port: Port, queue: Queue, work: Work, need: int) -> int:
    """Choose chains that hold `need` bytes.  *returns* OK or a drop reason.

    The usual chain is one direct descriptor that is large enough.
    """
    if not queue.live or available(queue) <= 0:
        return reserve_list(port, queue, work, need)
    head = head_at(queue, queue.avail_idx)
    if head >= queue.entries:
        return reserve_list(port, queue, work, need)
    gpa = load_i64(queue.desc_hva + 16 * head)
    word = load_i64(queue.desc_hva + 16 * head + 8)
    length = word & U32
    if (word & SPECIAL) != WRITABLE or length < need:
        return reserve_list(port, queue, work, need)
    hva = translate(port, gpa, length)
    if hva == 0:
        return reserve_list(port, queue, work, need)
    ahead = head_at(queue, queue.avail_idx + AHEAD) & (queue.entries - 1)
    prefetch(queue.desc_hva + 16 * ahead)
    work.dst_hva[0] = hva
    work.dst_seg_len[0] = length
    work.chain_head[0] = head
    work.chain_len[0] = length
    work.n_dst = 1
    work.n_chains = 1
    work.room = length
    return OK


@kernel(INT, QUEUE, WORK, INT)
def commit_list(queue: Queue, work: Work, length: int) -> int:
    """`commit` over several chains."""
    n = 0
    while length > 0:
        used = min(length, work.chain_len[n])
        push_used(queue, work.chain_head[n], used)
        length -= used
        n += 1
    queue.avail_idx = (queue.avail_idx + n) & U16
    return n


@kernel(INT, QUEUE, WORK, INT, inline=True)
def commit(queue: Queue, work: Work, length: int) -> int:
    """Use the chosen chains for `length` bytes (header and frame).  *returns* how many."""
    if work.n_chains > 1:
        return commit_list(queue, work, length)
    push_used(queue, work.chain_head[0], length)
    queue.avail_idx = (queue.avail_idx + 1) & U16
    return 1


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
