"""Taking one frame: from a guest's transmit ring, or from a tap.

How it works: afterwards the frame in hand is a private copy of its virtio-net header and its
first bytes (a slot of `work.heads`, the header in front), and a scatter list of the rest.  Every
decision is made on the copies, and the head copy is what will be delivered: the guest may rewrite
shared memory at any moment (spec DS-12).

Invariants: at most `HEAD_MAX` bytes of a frame are copied here.  The header may be split over
descriptors anywhere (spec HD-10).
"""

from vionet.engine.guest import U16, U32, copy_head, translate, walk
from vionet.engine.layout import (
    BURST_MAX,
    FRAME,
    FRAME_MAX,
    HEAD_LEN,
    HEAD_MAX,
    PORT,
    QUEUE,
    SLOT_LEN,
    WORK,
    Frame,
    Port,
    Queue,
    Work,
)
from vionet.engine.packed import (
    BROKEN,
    INDIRECT,
    NEXT,
    WRITE,
    measure,
    use_packed,
    waits,
    walk_packed,
)
from vionet.engine.parse import parse, swap16
from vionet.engine.ring import disarm
from vionet.engine.split import available, head_at, push_used, used_entry
from vionet.engine.status import FRAME_TOO_LONG, FRAME_TOO_SHORT, HEADER_TRUNCATED, OK
from vionet.jit.kernel import INT, kernel
from vionet.jit.libc import readv
from vionet.jit.raw import (
    copy,
    load_acquire_i64,
    load_i64,
    load_u16,
    load_u32,
    prefetch,
    prefetch_write,
)
from vionet.spec.packet import ETH_HLEN
from vionet.spec.virtio import VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE

HDR_LEN = 12
SPECIAL = (VRING_DESC_F_NEXT | VRING_DESC_F_WRITE | VRING_DESC_F_INDIRECT) << 32


@kernel(INT, WORK, FRAME, INT, INT)
def take(work: Work, frame: Frame, destination: int, length: int) -> int:
    """Copy `length` bytes off the front of the frame's scatter list.  *requires* it has them."""
    while length > 0:
        s = frame.first_seg
        piece = min(work.seg_len[s], length)
        copy(destination, work.seg_hva[s], piece)
        destination += piece
        length -= piece
        if piece == work.seg_len[s]:
            frame.first_seg += 1
        else:
            work.seg_hva[s] += piece
            work.seg_len[s] -= piece
    return 0


@kernel(INT, PORT, QUEUE, WORK, FRAME, INT)
def take_list(port: Port, queue: Queue, work: Work, frame: Frame, i: int) -> int:
    """`take_chain` for any chain."""
    if queue.packed:
        status = walk_packed(port, queue, work, work.slot_head[i], work.slot_span[i], 0, 0)
    else:
        status = walk(port, queue, work, work.slot_head[i], 0, 0)
    if status != OK:
        return status
    frame.first_seg = 0
    header_len = port.header_len
    length = work.walked_len - header_len
    if length < 0:
        return HEADER_TRUNCATED
    if length < ETH_HLEN:
        return FRAME_TOO_SHORT
    if length > FRAME_MAX:
        return FRAME_TOO_LONG
    frame.length = length
    frame.head_len = min(length, HEAD_LEN)
    return take(work, frame, work.head_hva - header_len, header_len + frame.head_len)


@kernel(INT, WORK, INT, INT, inline=True)
def copy_heads(work: Work, count: int, header_len: int) -> int:
    """Copy the heads of the staged frames into their slots."""
    for i in range(count):
        if work.slot_len[i]:
            slot = work.heads_hva + SLOT_LEN * i - header_len
            copy_head(slot, work.slot_hva[i], header_len + min(work.slot_len[i], HEAD_LEN))
    return 0


@kernel(INT, PORT, QUEUE, WORK, INT)
def stage(port: Port, queue: Queue, work: Work, count: int) -> int:
    """Copy the heads of the next `count` frames into slots, where one descriptor holds the frame.

    The driver's core has just written descriptors and frames.  Asking for all of them first and
    copying afterwards lets the transfers overlap; and a head that was copied a while ago is read
    back without waiting for stores to other memory.
    """
    header_len = port.header_len
    for i in range(0, count + 7, 8):
        prefetch_write(used_entry(queue, queue.used_idx + i))
    for i in range(count):
        head = head_at(queue, queue.avail_idx + i)
        work.slot_head[i] = head
        prefetch(queue.desc_hva + 16 * (head & (queue.entries - 1)))
    for i in range(count):
        work.slot_len[i] = 0
        head = work.slot_head[i]
        if head >= queue.entries:
            continue
        gpa = load_i64(queue.desc_hva + 16 * head)
        word = load_i64(queue.desc_hva + 16 * head + 8)
        length = (word & U32) - header_len
        if word & SPECIAL or length < ETH_HLEN or length > FRAME_MAX:
            continue
        hva = translate(port, gpa, header_len + length)
        if hva:
            prefetch(hva)
            prefetch(hva + 64)
            work.slot_hva[i] = hva
            work.slot_len[i] = length
    return copy_heads(work, count, header_len)


@kernel(INT, PORT, QUEUE, WORK)
def stage_packed(port: Port, queue: Queue, work: Work) -> int:
    """`stage_burst` of a packed ring: measure the chains that wait, then as `stage`.

    A chain that is not whole, because it leads to what does not wait, ends the burst; it breaks
    the ring when it is the first.
    """
    header_len = port.header_len
    slot = queue.avail_idx
    lap = queue.avail_wrap
    left = queue.entries
    count = 0
    while count < BURST_MAX and left > 0:
        word = load_acquire_i64(queue.desc_hva + 16 * slot + 8)
        if not waits(word, lap):
            break
        work.slot_head[count] = slot
        work.slot_len[count] = 0
        span = 1
        if word & NEXT:
            measured = measure(queue, slot, lap, left)
            if measured == BROKEN:
                if count == 0:
                    return -1
                break
            span = measured & U16
            work.slot_id[count] = measured >> 16
        else:
            work.slot_id[count] = word >> 32 & U16
            length = (word & U32) - header_len
            if not word & (WRITE | INDIRECT) and ETH_HLEN <= length <= FRAME_MAX:
                hva = translate(port, load_i64(queue.desc_hva + 16 * slot), header_len + length)
                if hva:
                    prefetch(hva)
                    prefetch(hva + 64)
                    work.slot_hva[count] = hva
                    work.slot_len[count] = length
        work.slot_span[count] = span
        left -= span
        count += 1
        slot += span
        if slot >= queue.entries:
            slot -= queue.entries
            lap = 1 - lap
    queue.avail_seen = lap << 15 | slot
    copy_heads(work, count, header_len)
    return count


@kernel(INT, PORT, QUEUE, WORK)
def stage_burst(port: Port, queue: Queue, work: Work) -> int:
    """Stage what waits in a transmit ring.  *returns* the chains, at most `BURST_MAX`; -1: broken.

    None of them is taken before `return_burst`.
    """
    if queue.packed:
        count = stage_packed(port, queue, work)
    else:
        count = min(available(queue), BURST_MAX)
        if count > 0:
            stage(port, queue, work, count)
    if count > 0:
        disarm(port, queue)
    return count


@kernel(INT, QUEUE, WORK, INT)
def return_burst(queue: Queue, work: Work, count: int) -> int:
    """Take the first `count` staged chains and give them back, in order (spec TX-15, RF-04)."""
    if queue.packed:
        for i in range(count):
            use_packed(queue, work.slot_id[i], work.slot_span[i], 0)
        return count
    for i in range(count):
        push_used(queue, work.slot_head[i], 0)
    queue.avail_idx = (queue.avail_idx + count) & U16
    return count


@kernel(INT, PORT, QUEUE, WORK, FRAME, INT, inline=True)
def take_chain(port: Port, queue: Queue, work: Work, frame: Frame, i: int) -> int:
    """Make the burst's frame `i` the frame in hand.  *returns* OK or a drop reason."""
    work.head_hva = work.heads_hva + SLOT_LEN * i
    length = work.slot_len[i]
    if length == 0:
        return take_list(port, queue, work, frame, i)
    head_len = min(length, HEAD_LEN)
    frame.length = length
    frame.head_len = head_len
    frame.first_seg = 0
    work.seg_hva[0] = work.slot_hva[i] + port.header_len + head_len
    work.seg_len[0] = length - head_len
    return OK


@kernel(INT, WORK, FRAME, INT, INT)
def take_back(work: Work, frame: Frame, destination: int, length: int) -> int:
    """Copy `length` bytes behind the head of a frame that was read into receive buffers.

    The guest may have changed them since: what is copied is judged and delivered.
    """
    off = frame.in_place + frame.head_len
    for i in range(work.n_dst):
        room = work.dst_seg_len[i]
        if off >= room:
            off -= room
            continue
        piece = min(room - off, length)
        copy(destination, work.dst_hva[i] + off, piece)
        destination += piece
        length -= piece
        off = 0
        if length == 0:
            break
    return 0


@kernel(INT, WORK, FRAME, INT)
def lengthen_head(work: Work, frame: Frame, needed: int) -> int:
    """Have `needed` bytes of the frame in the head copy.  *returns* 1, or 0 where it cannot be."""
    missing = needed - frame.head_len
    if missing <= 0:
        return 1
    if needed > frame.length or needed > HEAD_MAX:
        return 0
    if frame.in_place:
        take_back(work, frame, work.head_hva + frame.head_len, missing)
    else:
        take(work, frame, work.head_hva + frame.head_len, missing)
    frame.head_len = needed
    return 1


@kernel(INT, WORK, FRAME)
def read_headers(work: Work, frame: Frame) -> int:
    """Parse, taking more of the frame into the head copy where the headers are longer."""
    while True:
        needed = parse(work, frame)
        if needed <= frame.head_len:
            return 0
        lengthen_head(work, frame, min(min(needed + 64, HEAD_MAX), frame.length))


@kernel(INT, WORK, FRAME, inline=True)
def read_addresses(work: Work, frame: Frame) -> int:
    """The two Ethernet addresses as 48-bit numbers, the first octet highest."""
    base = work.head_hva
    low = load_u32(base + 2)
    frame.dst = (swap16(load_u16(base)) << 32) | (swap16(low & 0xFFFF) << 16) | swap16(low >> 16)
    low = load_u32(base + 8)
    frame.src = (
        (swap16(load_u16(base + 6)) << 32) | (swap16(low & 0xFFFF) << 16) | swap16(low >> 16)
    )
    return 0


@kernel(INT, PORT, WORK, FRAME)
def read_tap(port: Port, work: Work, frame: Frame) -> int:
    """Read one frame into private memory.  *returns* its bytes, 0: too short, -1: none (errno).

    A switch does not know the receiver before it has read.  There is room for the largest frame and
    a tag (spec TP-15); one that fills it may have been cut off.
    """
    work.iov[0] = work.head_hva - HDR_LEN
    work.iov[1] = HDR_LEN + HEAD_LEN
    work.iov[2] = work.packet_hva
    work.iov[3] = FRAME_MAX - HEAD_LEN
    length = readv(port.fd, work.iov_hva, 2)
    if length < 0:
        return -1
    length -= HDR_LEN
    if length < ETH_HLEN:
        return 0
    frame.in_place = 0
    frame.full = 1 if length == FRAME_MAX else 0
    frame.length = length
    frame.head_len = min(length, HEAD_LEN)
    frame.first_seg = 0
    work.seg_hva[0] = work.packet_hva
    work.seg_len[0] = length - frame.head_len
    return length


@kernel(INT, PORT, WORK, FRAME, INT)
def read_tap_in_place(port: Port, work: Work, frame: Frame, header_len: int) -> int:
    """Read one frame past its head straight into the chosen receive buffers (a wire).

    *requires* `receive.reserve` for the largest frame.  *returns* as `read_tap`; a frame that
    fills the buffers to the last byte may have been cut off by the kernel (spec TP-15).
    """
    work.iov[0] = work.head_hva - HDR_LEN
    work.iov[1] = HDR_LEN + HEAD_LEN
    n = 1
    off = header_len + HEAD_LEN
    room = FRAME_MAX - HEAD_LEN
    for i in range(work.n_dst):
        if off >= work.dst_seg_len[i]:
            off -= work.dst_seg_len[i]
            continue
        piece = min(work.dst_seg_len[i] - off, room)
        work.iov[2 * n] = work.dst_hva[i] + off
        work.iov[2 * n + 1] = piece
        room -= piece
        off = 0
        n += 1
        if room == 0:
            break
    length = readv(port.fd, work.iov_hva, n)
    if length < 0:
        return -1
    length -= HDR_LEN
    if length < ETH_HLEN:
        return 0
    frame.in_place = header_len
    frame.full = 1 if length + header_len >= work.room or length == FRAME_MAX else 0
    frame.length = length
    frame.head_len = min(length, HEAD_LEN)
    frame.first_seg = 0
    return length
