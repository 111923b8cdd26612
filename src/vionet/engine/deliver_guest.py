"""Delivery into a guest's receive ring: one copy, summed while copying where the plan wants it.

How it works: the private head copy (with the checksum field as this receiver is to see it, and
the virtio-net header put in front) and the untouched rest of the sender's bytes go into the
chosen receive buffers.  Order: payload, then the L4 field, then the virtio-net header, then (at
the end of the burst) the used index.

Invariants: the sender's bytes are never written.  What is verified is what was delivered.  Flags
are 0 unless the receiver agreed (spec RX-06), which `plan` has seen to.
"""

from vionet.engine.checksum import (
    copy_and_sum,
    fold,
    pseudo_header,
    sum_delivered,
    sum_piece,
)
from vionet.engine.guest import copy_head
from vionet.engine.layout import FRAME, STATE, WORK, Frame, State, Work
from vionet.engine.parse import swap16
from vionet.engine.receive import chains_for, commit, reserve, write_at
from vionet.engine.seal import field_off, finished, write_header
from vionet.engine.status import (
    CSUM_BAD,
    CSUM_ELIDED,
    CSUM_FILLED,
    CSUM_UNFILLED,
    CSUM_VERIFIED,
    OK,
    PAYLOAD_BYTES_COPIED,
    PAYLOAD_BYTES_SUMMED,
    RX_CHAIN_INVALID,
    RX_RING_BROKEN,
    Action,
    Csum,
)
from vionet.engine.tell import break_ring, touch
from vionet.jit.kernel import INT, kernel
from vionet.jit.raw import copy, load_u16, store_u16
from vionet.spec.packet import IPPROTO_UDP, UDP_CSUM_OFF
from vionet.spec.virtio_net import (
    VIRTIO_NET_HDR_F_DATA_VALID,
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
)

PASS = int(Action.PASS)
PASS_VALID = int(Action.PASS_VALID)
PASS_PARTIAL = int(Action.PASS_PARTIAL)
FILL = int(Action.FILL)
UNFILL = int(Action.UNFILL)
FILL_THEN_VERIFY = int(Action.FILL_THEN_VERIFY)
INNER_PARTIAL = int(Csum.INNER_PARTIAL)
PARTIAL = int(Csum.PARTIAL)
UNKNOWN = int(Csum.UNKNOWN)


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
        else:
            copy(work.dst_hva[d] + off, work.seg_hva[s] + s_off, piece)
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
        state.ledger[out, PAYLOAD_BYTES_COPIED] += rest
        s = frame.first_seg
        if not want_sum and rest <= work.seg_len[s] and off + rest <= work.dst_seg_len[0]:
            copy(work.dst_hva[0] + off, work.seg_hva[s], rest)
            return 0
        total = scatter(work, frame, off, rest, want_sum)
    if want_sum:
        state.ledger[out, PAYLOAD_BYTES_SUMMED] += rest
    return total


@kernel(INT, STATE, WORK, FRAME, INT, inline=True)
def place_head(state: State, work: Work, frame: Frame, out: int) -> int:
    """Copy the virtio-net header and the head copy into the first bytes of the buffers."""
    port = state.ports[out]
    header_len = port.header_len
    source = work.head_hva - header_len
    if work.n_chains > 1:
        store_u16(source + 10, chains_for(work, header_len + frame.length))
    length = header_len + frame.head_len
    if work.dst_seg_len[0] >= length:
        copy(work.dst_hva[0], source, length)
    else:
        write_at(work, 0, source, length)
    return 0


@kernel(INT, STATE, WORK, FRAME, INT, INT, inline=True)
def place_payload(state: State, work: Work, frame: Frame, out: int, want_sum: int) -> int:
    """Copy what follows the head, if there is any."""
    if frame.length <= frame.head_len:
        return 0
    return place_rest(state, work, frame, out, want_sum)


@kernel(INT, STATE, WORK, FRAME, INT, INT, inline=True)
def place(state: State, work: Work, frame: Frame, out: int, want_sum: int) -> int:
    """Payload, then header and head."""
    place_payload(state, work, frame, out, want_sum)
    return place_head(state, work, frame, out)


@kernel(INT, WORK, INT, INT)
def store_delivered(work: Work, off: int, value: int) -> int:
    """Store a 16-bit word, as summed, at offset `off` of the chosen buffers."""
    store_u16(work.scratch_hva, value)
    return write_at(work, off, work.scratch_hva, 2)


@kernel(INT, STATE, WORK, FRAME, INT, INT)
def fill_inner(state: State, work: Work, frame: Frame, out: int, action: int) -> int:
    """Finish a sum inside a tunnel in the receiver's buffers; the sender's seed stands (SG-02).

    With `FILL_THEN_VERIFY` the outermost sum is then treated as UNKNOWN.
    """
    port = state.ports[out]
    header_len = port.header_len
    write_header(work, header_len, 0, 0, 0)
    place(state, work, frame, out, 0)
    start = header_len + frame.csum_start
    end = header_len + frame.length
    total = sum_delivered(work, start, end)
    udp = frame.csum_offset == UDP_CSUM_OFF
    store_delivered(work, start + frame.csum_offset, finished(total, udp))
    state.ledger[out, CSUM_FILLED] += 1
    state.ledger[out, PAYLOAD_BYTES_SUMMED] += end - start
    if action != FILL_THEN_VERIFY or frame.outer != UNKNOWN:
        return 0
    start = header_len + frame.l4_off
    end = start + frame.l4_len
    state.ledger[out, CSUM_VERIFIED] += 1
    state.ledger[out, PAYLOAD_BYTES_SUMMED] += end - start
    seed = pseudo_header(work, frame)
    if fold(sum_delivered(work, start, end) + seed) != 0xFFFF:
        state.ledger[out, CSUM_BAD] += 1
        return 0
    if end != header_len + frame.length:
        return 0  # bytes behind the datagram: complete as it is, and not ours to trim here
    field = field_off(frame)
    store_delivered(work, header_len + field, seed)
    state.ledger[out, CSUM_UNFILLED] += 1
    write_header(work, header_len, VIRTIO_NET_HDR_F_NEEDS_CSUM, frame.l4_off, field - frame.l4_off)
    if work.n_chains > 1:
        store_u16(work.head_hva - 2, chains_for(work, header_len + frame.length))
    return write_at(work, 0, work.head_hva - header_len, header_len)


@kernel(INT, FRAME, inline=True)
def trim(frame: Frame) -> int:
    """Cut padding and trailers off a frame that goes out partial (spec SG-04)."""
    frame.length = frame.l4_off + frame.l4_len
    frame.head_len = min(frame.head_len, frame.length)
    return 0


@kernel(INT, STATE, WORK, FRAME, INT, INT, INT, inline=True)
def outermost(state: State, work: Work, frame: Frame, out: int, action: int, field: int) -> int:
    """Every action on the outermost TCP or UDP checksum, whose field is in the head copy."""
    port = state.ports[out]
    head = work.head_hva
    start = frame.l4_off
    flags = 0
    if action == PASS_PARTIAL or action == UNFILL:
        if action == UNFILL:
            trim(frame)
            store_u16(head + field, pseudo_header(work, frame))
        flags = VIRTIO_NET_HDR_F_NEEDS_CSUM
        counter = CSUM_ELIDED if action == PASS_PARTIAL else CSUM_UNFILLED
        state.ledger[out, counter] += 1
        place_payload(state, work, frame, out, 0)
    elif action == PASS_VALID:
        flags = VIRTIO_NET_HDR_F_DATA_VALID
        place_payload(state, work, frame, out, 0)
    else:
        total = place_payload(state, work, frame, out, 1)
        end = min(frame.head_len, start + frame.l4_len)
        total += sum_piece(head + start, end - start, 0)
        if action == FILL:
            store_u16(head + field, finished(fold(total), frame.l4 == IPPROTO_UDP))
            state.ledger[out, CSUM_FILLED] += 1
        elif fold(total + pseudo_header(work, frame)) == 0xFFFF:
            trim(frame)
            store_u16(head + field, pseudo_header(work, frame))
            flags = VIRTIO_NET_HDR_F_NEEDS_CSUM
            state.ledger[out, CSUM_VERIFIED] += 1
            state.ledger[out, CSUM_UNFILLED] += 1
        else:
            state.ledger[out, CSUM_VERIFIED] += 1
            state.ledger[out, CSUM_BAD] += 1
    if flags == VIRTIO_NET_HDR_F_NEEDS_CSUM:
        write_header(work, port.header_len, flags, start, field - start)
    else:
        write_header(work, port.header_len, flags, 0, 0)
    return place_head(state, work, frame, out)


@kernel(INT, STATE, WORK, INT, INT)
def refused(state: State, work: Work, out: int, status: int) -> int:
    """No buffers were chosen: publish a chain given back, report a broken ring.  *returns* why."""
    if status == RX_CHAIN_INVALID:
        touch(state, work, out)
    elif status == RX_RING_BROKEN and not state.ports[out].queues[0].broken:
        break_ring(state, work, out, 0)
    return status


@kernel(INT, STATE, WORK, FRAME, INT, INT)
def to_buffers(state: State, work: Work, frame: Frame, out: int, action: int) -> int:
    """`to_guest` for every action and any chosen buffers.  *returns* the bytes used."""
    port = state.ports[out]
    if action == PASS:
        write_header(work, port.header_len, 0, 0, 0)
        place(state, work, frame, out, 0)
        return port.header_len + frame.length
    if frame.state == INNER_PARTIAL:
        fill_inner(state, work, frame, out, action)
        return port.header_len + frame.length
    field = field_off(frame)
    saved = load_u16(work.head_hva + field)
    length = frame.length
    head_len = frame.head_len
    outermost(state, work, frame, out, action, field)
    store_u16(work.head_hva + field, saved)
    used = port.header_len + frame.length
    frame.length = length
    frame.head_len = head_len
    return used


@kernel(INT, STATE, WORK, FRAME, INT, INT, inline=True)
def to_guest(state: State, work: Work, frame: Frame, out: int, action: int) -> int:
    """Deliver into the receive ring of guest `out`.  *returns* OK or a drop reason.

    What is passed into one chain, as nearly every frame is, is written here without a call.
    """
    port = state.ports[out]
    queue = port.queues[0]
    header_len = port.header_len
    used = header_len + frame.length
    if not frame.in_place:
        status = reserve(port, queue, work, used)
        if status != OK:
            return refused(state, work, out, status)
    head_len = header_len + frame.head_len
    passed = action == PASS or (action == PASS_PARTIAL and frame.state == PARTIAL)
    if not passed or work.n_chains > 1 or work.dst_seg_len[0] < head_len:
        used = to_buffers(state, work, frame, out, action)
    else:
        if frame.length > frame.head_len:
            place_rest(state, work, frame, out, 0)
        if action == PASS:
            write_header(work, header_len, 0, 0, 0)
        else:
            start = frame.csum_start
            write_header(work, header_len, VIRTIO_NET_HDR_F_NEEDS_CSUM, start, frame.csum_offset)
            state.ledger[out, CSUM_ELIDED] += 1
        copy_head(work.dst_hva[0], work.head_hva - header_len, head_len)
    commit(queue, work, used)
    return touch(state, work, out)
