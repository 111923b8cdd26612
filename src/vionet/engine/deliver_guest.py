"""Delivery into a guest's receive ring: one copy, summed while copying where the plan wants it.

How it works: the untouched rest of the sender's bytes, then a fresh virtio-net header, the private
head copy and the L4 field as this receiver is to see it go into the chosen receive buffers; the
used index follows at the end of the burst.  A frame that is passed from one piece into one buffer
is noted in `work.late` and written by `flush`, before anything is published.

Invariants: neither the sender's bytes nor the head copy are written, so that a flooded frame is
prepared for each receiver anew.  What is verified is what was delivered.  Flags are 0 unless the
receiver agreed (spec RX-06), which `plan` has seen to.
"""

from vionet.engine.checksum import copy_and_sum, fold, pseudo_header, sum_delivered, sum_piece
from vionet.engine.guest import copy_head, copy_line_pair
from vionet.engine.layout import FRAME, LATE_MAX, STATE, WORK, Frame, State, Work
from vionet.engine.parse import swap16
from vionet.engine.receive import chains_for, commit, reserve, use_one, write_at
from vionet.engine.seal import HDR_LEN, field_off, finished, gso_fields, write_header
from vionet.engine.status import (
    CSUM_BAD,
    CSUM_ELIDED,
    CSUM_FILLED,
    CSUM_UNFILLED,
    CSUM_VERIFIED,
    OK,
    PAYLOAD_BYTES_COPIED,
    PAYLOAD_BYTES_SUMMED,
    RX_BYTES,
    RX_CHAIN_INVALID,
    RX_RING_BROKEN,
    Action,
    Csum,
)
from vionet.engine.tell import break_ring, touch
from vionet.jit.kernel import INT, kernel
from vionet.jit.raw import (
    copy,
    copy_words,
    fence_release,
    load_u16,
    prefetch,
    prefetch_write,
    store_i64,
    store_u16,
    store_u32,
)
from vionet.spec.packet import IPPROTO_UDP, UDP_CSUM_OFF
from vionet.spec.virtio_net import VIRTIO_NET_HDR_F_DATA_VALID, VIRTIO_NET_HDR_F_NEEDS_CSUM

PASS = int(Action.PASS)
PASS_VALID = int(Action.PASS_VALID)
PASS_PARTIAL = int(Action.PASS_PARTIAL)
FILL = int(Action.FILL)
VERIFY = int(Action.VERIFY)
FILL_THEN_VERIFY = int(Action.FILL_THEN_VERIFY)
INNER_PARTIAL = int(Csum.INNER_PARTIAL)
PARTIAL = int(Csum.PARTIAL)
UNKNOWN = int(Csum.UNKNOWN)
NEEDS_CSUM = VIRTIO_NET_HDR_F_NEEDS_CSUM
AHEAD_MAX = 4096


@kernel(INT, WORK, FRAME, INT, INT, INT)
def scatter(work: Work, frame: Frame, off: int, rest: int, want_sum: int) -> int:
    """Copy `rest` bytes from the sender's scatter list to offset `off` of the buffers."""
    d = 0
    while off >= work.dst_seg_len[d]:
        off -= work.dst_seg_len[d]
        d += 1
    s = frame.first_seg
    s_off = 0
    total = 0
    odd = (frame.head_len - frame.l4_off) & 1
    while rest > 0:
        piece = min(min(work.seg_len[s] - s_off, work.dst_seg_len[d] - off), rest)
        if want_sum:
            total += copy_and_sum(work.dst_hva[d] + off, work.seg_hva[s] + s_off, piece, odd)
            odd ^= piece & 1
        else:  # beyond the cache a tenth faster than memcpy, sum and all
            copy_words(work.dst_hva[d] + off, work.seg_hva[s] + s_off, piece)
        rest -= piece
        s_off += piece
        off += piece
        if s_off == work.seg_len[s]:
            s += 1
            s_off = 0
        if off == work.dst_seg_len[d]:
            d += 1
            off = 0
    return total


@kernel(INT, STATE, WORK, FRAME, INT, INT)
def place_rest(state: State, work: Work, frame: Frame, out: int, want_sum: int) -> int:
    """Copy what follows the head into the chosen buffers.

    *returns* with `want_sum` the folded sum of those bytes up to the end of the IP datagram,
    relative to the start of the L4 header; else 0.
    """
    rest = frame.length - frame.head_len
    off = state.ports[out].header_len + frame.head_len
    total = 0
    if frame.in_place:
        if want_sum:
            odd = (frame.head_len - frame.l4_off) & 1
            total = sum_delivered(work, off, off + rest)
            total = swap16(total) if odd else total
    else:
        work.ledger[out, PAYLOAD_BYTES_COPIED] += rest
        total = scatter(work, frame, off, rest, want_sum)
    if want_sum:
        work.ledger[out, PAYLOAD_BYTES_SUMMED] += rest
    return total


@kernel(INT, STATE, WORK, FRAME, INT, INT, inline=True)
def place_payload(state: State, work: Work, frame: Frame, out: int, want_sum: int) -> int:
    """Copy what follows the head, if there is any; *returns* its sum as `place_rest` does."""
    if frame.length <= frame.head_len:
        return 0
    return place_rest(state, work, frame, out, want_sum)


@kernel(INT, WORK, FRAME, INT, INT, INT, INT, INT)
def place_head(
    work: Work, frame: Frame, header_len: int, length: int, flags: int, start: int, offset: int
) -> int:
    """Put header and head into the first bytes of the buffers, of a frame of `length` bytes."""
    head_len = min(frame.head_len, length)
    num_buffers = chains_for(work, header_len + length)
    if work.dst_seg_len[0] >= header_len + head_len:
        hva = work.dst_hva[0]
        write_header(hva, header_len, flags, start, offset, num_buffers)
        copy_head(hva + header_len, work.head_hva, head_len)
    else:
        source = work.head_hva - header_len
        write_header(source, header_len, flags, start, offset, num_buffers)
        write_at(work, 0, source, header_len + head_len)
    return 0


@kernel(INT, WORK, INT, INT)
def store_delivered(work: Work, off: int, value: int) -> int:
    """Store a 16-bit word, as summed, at offset `off` of the chosen buffers."""
    if off + 2 <= work.dst_seg_len[0]:
        store_u16(work.dst_hva[0] + off, value)
        return 0
    store_u16(work.scratch_hva, value)
    return write_at(work, off, work.scratch_hva, 2)


@kernel(INT, STATE, WORK, FRAME, INT, INT)
def fill_inner(state: State, work: Work, frame: Frame, out: int, action: int) -> int:
    """Finish a sum inside a tunnel in the receiver's buffers; the sender's seed stands (SG-02).

    With `FILL_THEN_VERIFY` the outermost sum is then treated as UNKNOWN.
    """
    header_len = state.ports[out].header_len
    length = frame.length
    place_payload(state, work, frame, out, 0)
    place_head(work, frame, header_len, length, 0, 0, 0)
    start = header_len + frame.csum_start
    end = header_len + length
    total = sum_delivered(work, start, end)
    udp = frame.csum_offset == UDP_CSUM_OFF
    store_delivered(work, start + frame.csum_offset, finished(total, udp))
    work.ledger[out, CSUM_FILLED] += 1
    work.ledger[out, PAYLOAD_BYTES_SUMMED] += end - start
    if action != FILL_THEN_VERIFY or frame.outer != UNKNOWN:
        return 0
    start = header_len + frame.l4_off
    end = start + frame.l4_len
    work.ledger[out, CSUM_VERIFIED] += 1
    work.ledger[out, PAYLOAD_BYTES_SUMMED] += end - start
    seed = pseudo_header(work, frame)
    if fold(sum_delivered(work, start, end) + seed) != 0xFFFF:
        work.ledger[out, CSUM_BAD] += 1
        return 0
    if end != header_len + length:
        return 0  # bytes behind the datagram: complete as it is, and not ours to trim here
    field = field_off(frame)
    store_delivered(work, header_len + field, seed)
    work.ledger[out, CSUM_UNFILLED] += 1
    header = work.head_hva - header_len
    num_buffers = chains_for(work, end)
    offset = field - frame.l4_off
    write_header(header, header_len, NEEDS_CSUM, frame.l4_off, offset, num_buffers)
    return write_at(work, 0, header, header_len)


@kernel(INT, STATE, WORK, FRAME, INT, INT)
def outermost(state: State, work: Work, frame: Frame, out: int, action: int) -> int:
    """Every action on the outermost TCP or UDP checksum.  *returns* the frame's length as sent.

    A frame that goes out partial loses padding and trailers (spec SG-04).
    """
    header_len = state.ports[out].header_len
    start = frame.l4_off
    field = field_off(frame)
    length = frame.length
    want_sum = 1 if action == FILL or action == VERIFY else 0
    total = place_payload(state, work, frame, out, want_sum)
    flags = 0
    value = 0
    if want_sum:
        end = min(frame.head_len, start + frame.l4_len)
        total = fold(total + sum_piece(work.head_hva + start, end - start, 0))
    if action == FILL:
        value = finished(total, frame.l4 == IPPROTO_UDP)
        work.ledger[out, CSUM_FILLED] += 1
    elif action == PASS_VALID:
        value = load_u16(work.head_hva + field)
        flags = VIRTIO_NET_HDR_F_DATA_VALID
    elif action == PASS_PARTIAL:
        value = load_u16(work.head_hva + field)
        flags = NEEDS_CSUM
        work.ledger[out, CSUM_ELIDED] += 1
    else:
        value = pseudo_header(work, frame)
        good = 1
        if action == VERIFY:
            work.ledger[out, CSUM_VERIFIED] += 1
            good = 1 if fold(total + value) == 0xFFFF else 0
        if good:
            flags = NEEDS_CSUM
            length = start + frame.l4_len
            if length != frame.length:
                work.ledger[out, RX_BYTES] -= frame.length - length  # `deliver` counts them all
            work.ledger[out, CSUM_UNFILLED] += 1
        else:
            value = load_u16(work.head_hva + field)
            work.ledger[out, CSUM_BAD] += 1
    if flags == NEEDS_CSUM:
        flags |= gso_fields(frame)
        place_head(work, frame, header_len, length, flags, start, field - start)
    else:
        place_head(work, frame, header_len, length, flags, 0, 0)
    store_delivered(work, header_len + field, value)
    return length


@kernel(INT, STATE, WORK, INT, INT)
def refused(state: State, work: Work, out: int, status: int) -> int:
    """No buffers were chosen: publish a chain given back, report a broken ring.  *returns* why."""
    if status == RX_CHAIN_INVALID:
        touch(state, work, out, work.rx_ring)
    elif status == RX_RING_BROKEN and not state.ports[out].queues[work.rx_ring].broken:
        break_ring(state, work, out, work.rx_ring)
    return status


@kernel(INT, STATE, WORK, FRAME, INT, INT)
def to_buffers(state: State, work: Work, frame: Frame, out: int, action: int) -> int:
    """`to_guest` for every action and any chosen buffers.  *returns* the bytes used."""
    header_len = state.ports[out].header_len
    length = frame.length
    if action == PASS:
        place_payload(state, work, frame, out, 0)
        place_head(work, frame, header_len, length, 0, 0, 0)
    elif frame.state == INNER_PARTIAL:
        fill_inner(state, work, frame, out, action)
    else:
        length = outermost(state, work, frame, out, action)
    return header_len + length


@kernel(INT, INT, INT, INT, INT, INT)
def copy_ahead(destination: int, source: int, length: int, next_to: int, next_from: int) -> int:
    """Copy `length` bytes, and meanwhile ask for the lines of the copy that comes next.

    Beyond a page the processor's own looking ahead does better.
    """
    if length < 128 or length > AHEAD_MAX:
        copy(destination, source, length)
        return 0
    last = length - 128
    off = 0
    while off < last:
        prefetch(next_from + off)
        prefetch(next_from + off + 64)
        prefetch_write(next_to + off)
        prefetch_write(next_to + off + 64)
        copy_line_pair(destination + off, source + off)
        off += 128
    return copy_line_pair(destination + last, source + last)


@kernel(INT, WORK, INT)
def settle_sum(work: Work, i: int) -> int:
    """Copy the rest of noted delivery `i` and sum it meanwhile: fill, or verify and unfill."""
    late = work.late[i]
    destination = late.dst_hva + late.header_len + late.head_len
    total = copy_and_sum(destination, late.src_hva, late.rest, late.head_len - late.l4_off & 1)
    total += sum_piece(late.head_hva + late.l4_off, late.head_len - late.l4_off, 0)
    work.ledger[late.out, PAYLOAD_BYTES_SUMMED] += late.rest
    if late.action == FILL:
        late.seed = finished(fold(total), late.field - late.l4_off == UDP_CSUM_OFF)
        work.ledger[late.out, CSUM_FILLED] += 1
        return 0
    work.ledger[late.out, CSUM_VERIFIED] += 1
    if fold(total + late.seed) == 0xFFFF:
        late.header = NEEDS_CSUM | late.l4_off << 48
        late.csum_offset = late.field - late.l4_off
        work.ledger[late.out, CSUM_UNFILLED] += 1
    else:
        late.seed = load_u16(late.head_hva + late.field)
        work.ledger[late.out, CSUM_BAD] += 1
    return 0


@kernel(INT, WORK)
def flush(work: Work) -> int:
    """Write every delivery that was put off: payloads, then heads, then used entries.

    The receiver's core has read the first lines of its buffers before, so a store there waits for
    that core to give the line up, and the processor's store queue holds only some 50 stores.
    Written close together, and behind the payloads that need not wait, these stores overlap: with
    cores far apart 8.4 million frames of 1500 B a second where it was 5.0.
    """
    for i in range(work.n_late):
        late = work.late[i]
        if late.action:
            settle_sum(work, i)
        elif late.rest:
            skip = late.header_len + late.head_len
            ahead = work.late[i + 1 if i + 1 < work.n_late else i]
            destination = late.dst_hva + skip
            copy_ahead(destination, late.src_hva, late.rest, ahead.dst_hva + skip, ahead.src_hva)
    for i in range(work.n_late):
        late = work.late[i]
        hva = late.dst_hva
        store_i64(hva, late.header)
        if late.header_len == HDR_LEN:
            store_u32(hva + 8, late.csum_offset | 1 << 16)
        else:
            store_u16(hva + 8, late.csum_offset)
        copy_head(hva + late.header_len, late.head_hva, late.head_len)
        if late.action:
            store_u16(hva + late.header_len + late.field, late.seed)
    fence_release()  # a packed ring's driver sees a used entry at once
    for i in range(work.n_late):
        store_i64(work.late[i].used_hva, work.late[i].used)
    work.n_late = 0
    return 0


@kernel(INT, STATE, WORK, FRAME, INT, INT, inline=True)
def to_guest(state: State, work: Work, frame: Frame, out: int, action: int) -> int:
    """Deliver into the receive ring of guest `out`.  *returns* OK or a drop reason.

    What is passed from one piece of memory into one chain, as nearly every frame is, is only
    noted here; `flush` writes it, before the sender's and the receiver's rings are published.
    """
    port = state.ports[out]
    queue = port.queues[work.rx_ring]
    header_len = port.header_len
    used = header_len + frame.length
    if not frame.in_place:
        status = reserve(port, queue, work, used)
        if status != OK:
            return refused(state, work, out, status)
    rest = frame.length - frame.head_len
    if (
        not (action == PASS or (action == PASS_PARTIAL and frame.state == PARTIAL))
        or work.n_dst > 1
        or frame.in_place
        or frame.gso_type
        or (rest and work.seg_len[frame.first_seg] < rest)
    ):
        used = to_buffers(state, work, frame, out, action)
        commit(queue, work, used)
        return touch(state, work, out, work.rx_ring)
    if work.n_late == LATE_MAX:
        flush(work)
    late = work.late[work.n_late]
    work.n_late += 1
    late.dst_hva = work.dst_hva[0]
    late.header_len = header_len
    late.action = 0
    if action == PASS:
        late.header = 0
        late.csum_offset = 0
    else:
        late.header = VIRTIO_NET_HDR_F_NEEDS_CSUM | frame.csum_start << 48
        late.csum_offset = frame.csum_offset
        work.ledger[out, CSUM_ELIDED] += 1
    late.head_hva = work.head_hva
    late.head_len = frame.head_len
    late.rest = rest
    if rest:
        late.src_hva = work.seg_hva[frame.first_seg]
        work.ledger[out, PAYLOAD_BYTES_COPIED] += rest
    use_one(queue, work, work.n_late - 1, used)
    return touch(state, work, out, work.rx_ring)
