"""Receive buffers: choosing a guest's chains for one frame, writing into them, using them.

How it works: `reserve` collects posted chains until the frame fits (one chain without
MRG_RXBUF, spec RB-06) as the scatter list `work.dst_*`, without taking them.  Bytes are then
written anywhere in that list.  `commit` takes the chains and writes their used entries, which the
driver sees at the end of the burst, all of one frame at once (spec RX-04).

Invariants: a frame that does not fit leaves the buffers as they are (spec SG-20).  All chains
but the last are filled (RX-03), `used.len` counts the header (SP-23).  A chain that breaks the
rules is given back with length 0, so that it cannot block the ring; a head beyond the ring, an
index that jumps, or a packed chain without an end cannot be answered, and the caller breaks the
ring (`tell.break_ring`).
"""

from vionet.engine.guest import U16, U32, translate, walk
from vionet.engine.layout import (
    CHAIN_MAX,
    PATIENCE_NS,
    PORT,
    QUEUE,
    WORK,
    Port,
    Queue,
    Work,
)
from vionet.engine.packed import (
    BROKEN,
    NEXT,
    measure,
    take_slots,
    unpublished,
    use_packed,
    used_word,
    waits,
    walk_packed,
)
from vionet.engine.split import available, head_at, push_used, used_entry
from vionet.engine.status import (
    OK,
    RX_BUFFER_TOO_SMALL,
    RX_CHAIN_INVALID,
    RX_RING_BROKEN,
    RX_RING_FULL,
    RX_RING_STOPPED,
)
from vionet.jit.kernel import INT, kernel
from vionet.jit.raw import (
    copy,
    fence_release,
    load_acquire_i64,
    load_acquire_u16,
    load_i64,
    prefetch,
    store_i64,
)
from vionet.spec.virtio import VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE

AHEAD = 16  # chains whose descriptors are hinted at in advance
WRITABLE = VRING_DESC_F_WRITE << 32
SPECIAL = (VRING_DESC_F_NEXT | VRING_DESC_F_WRITE | VRING_DESC_F_INDIRECT) << 32


@kernel(INT, QUEUE)
def recount(queue: Queue) -> int:
    """Read the driver's index anew.  *returns* the chains that wait, -1 where it is invalid."""
    queue.avail_seen = load_acquire_u16(queue.avail_hva + 2)
    count = (queue.avail_seen - queue.avail_idx) & U16
    return count if count <= queue.entries else -1


@kernel(INT, QUEUE, INT)
def count_waiting(queue: Queue, most: int) -> int:
    """How many chains may be taken at once, at most `most`; -1 where the ring is invalid.

    `avail_seen` is left where another may be posted, for `ring.arm`.
    """
    if not queue.packed:
        return min(recount(queue), most)
    slot = queue.avail_idx
    lap = queue.avail_wrap
    left = queue.entries - unpublished(queue)
    n = 0
    while n < most and left > 0:
        if not waits(load_acquire_i64(queue.desc_hva + 16 * slot + 8), lap):
            break
        measured = measure(queue, slot, lap, left)
        if measured == BROKEN:
            if unpublished(queue):
                break  # its end may be behind what is not published yet
            return -1
        n += 1
        left -= measured & U16
        slot += measured & U16
        if slot >= queue.entries:
            slot -= queue.entries
            lap = 1 - lap
    queue.avail_seen = lap << 15 | slot
    return n


@kernel(INT, WORK, QUEUE, INT, INT)
def outgrown(work: Work, queue: Queue, waiting: int, needed: int) -> int:
    """Whether `needed` buffers are more than this driver ever has waiting, as far as is known.

    A driver with a handful of buffers must not wait for ever for a frame that they cannot hold;
    one that is merely behind must not have it cut up.  What was seen (`posted_max`) counts until
    the driver has not come up to it for `PATIENCE_NS`.
    """
    queue.posted_max = max(queue.posted_max, waiting)
    if waiting >= min(needed, queue.posted_max):
        queue.waits_ns = 0
        return 1
    if waiting == 0:  # it has taken all that it had; patience begins with what it posts next
        queue.waits_ns = 0
        return 0
    if queue.waits_ns == 0:
        queue.waits_ns = work.now_ns
    if work.now_ns - queue.waits_ns < PATIENCE_NS:
        return 0
    queue.waits_ns = 0
    queue.posted_max = waiting
    return 1


@kernel(INT, QUEUE, WORK, INT)
def refuse_chain(queue: Queue, work: Work, head: int) -> int:
    """Give an invalid chain back unused, and those chosen before it.  *returns* a reason.

    `head` is its descriptor; of a packed ring it stands behind the chosen ones in `work`.
    """
    if queue.packed:
        for i in range(work.n_chains + 1):
            use_packed(queue, work.chain_head[i], work.chain_span[i], 0)
        return RX_CHAIN_INVALID
    for i in range(work.n_chains):
        push_used(queue, work.chain_head[i], 0)
    push_used(queue, head, 0)
    queue.avail_idx = (queue.avail_idx + work.n_chains + 1) & U16
    return RX_CHAIN_INVALID


@kernel(INT, PORT, QUEUE, WORK, INT)
def reserve_packed(port: Port, queue: Queue, work: Work, need: int) -> int:
    """`reserve_list` of a packed ring.

    What was posted again since the last publication is left for the next burst: a ring that is
    lapped before it is shown has no order that an event could be compared with.
    """
    slot = queue.avail_idx
    lap = queue.avail_wrap
    left = queue.entries
    while work.room < need:
        n = work.n_chains
        if n > 0 and (not port.mergeable or n >= CHAIN_MAX):
            return RX_BUFFER_TOO_SMALL
        if left == 0:
            return RX_BUFFER_TOO_SMALL  # the whole ring is posted, so no more can be hoped for
        queue.avail_seen = lap << 15 | slot
        word = load_acquire_i64(queue.desc_hva + 16 * slot + 8)
        if not waits(word, lap):
            return RX_RING_FULL
        span = 1
        work.chain_head[n] = word >> 32 & U16
        if word & NEXT:
            measured = measure(queue, slot, lap, left)
            if measured == BROKEN:
                return RX_RING_BROKEN
            span = measured & U16
            work.chain_head[n] = measured >> 16
        if unpublished(queue) + queue.entries - left + span > queue.entries:
            return RX_RING_FULL
        work.chain_span[n] = span
        if walk_packed(port, queue, work, slot, span, work.n_dst, 1) != OK:
            return refuse_chain(queue, work, 0)
        work.n_dst = work.n_walked
        work.chain_len[n] = work.walked_len
        work.n_chains += 1
        work.room += work.walked_len
        left -= span
        slot += span
        if slot >= queue.entries:
            slot -= queue.entries
            lap = 1 - lap
    return OK


@kernel(INT, PORT, QUEUE, WORK, INT)
def reserve_list(port: Port, queue: Queue, work: Work, need: int) -> int:
    """`reserve` for any chains, as many as it takes, and for packed rings."""
    work.room = 0
    work.n_dst = 0
    work.n_chains = 0
    if not queue.live:
        return RX_RING_BROKEN if queue.broken else RX_RING_STOPPED
    if queue.packed:
        return reserve_packed(port, queue, work, need)
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
    if not queue.live or queue.packed or available(queue) <= 0:
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
def commit_packed(queue: Queue, work: Work, length: int) -> int:
    """`commit_list` of a packed ring: the first descriptor is marked last (spec PK-16)."""
    first_hva = queue.desc_hva + 16 * queue.used_idx + 8
    first = used_word(queue, work.chain_head[0], min(length, work.chain_len[0]))
    n = 0
    while length > 0:
        used = min(length, work.chain_len[n])
        hva = queue.desc_hva + 16 * queue.used_idx + 8
        word = used_word(queue, work.chain_head[n], used)
        take_slots(queue, work.chain_span[n])
        fence_release()
        if n:
            store_i64(hva, word)
        length -= used
        n += 1
    fence_release()
    store_i64(first_hva, first)
    return n


@kernel(INT, QUEUE, WORK, INT, INT)
def use_one_packed(queue: Queue, work: Work, n: int, length: int) -> int:
    """`use_one` of a packed ring."""
    late = work.late[n]
    late.used_hva = queue.desc_hva + 16 * queue.used_idx + 8
    late.used = used_word(queue, work.chain_head[0], length)
    return take_slots(queue, work.chain_span[0])


@kernel(INT, QUEUE, WORK, INT, INT, inline=True)
def use_one(queue: Queue, work: Work, n: int, length: int) -> int:
    """Use the only chosen chain, whose used entry is not written but noted in `work.late[n]`."""
    if queue.packed:
        return use_one_packed(queue, work, n, length)
    late = work.late[n]
    late.used_hva = used_entry(queue, queue.used_idx)
    late.used = work.chain_head[0] | length << 32
    queue.used_idx = (queue.used_idx + 1) & U16
    queue.avail_idx = (queue.avail_idx + 1) & U16
    return 0


@kernel(INT, QUEUE, WORK, INT)
def commit_list(queue: Queue, work: Work, length: int) -> int:
    """`commit` over several chains."""
    if queue.packed:
        return commit_packed(queue, work, length)
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
    if work.n_chains > 1 or queue.packed:
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
