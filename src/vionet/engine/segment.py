"""Delivery of a frame that is larger than its wire: whole, or in segments.

How it works: `deliver_large` passes the frame whole where the receiver has agreed to everything
that it needs (`Frame.gso`, `Port.takes_gso`) and has room for it; else `segment` makes ordinary
frames of it, each delivered by the same code and the same cell of the table as any other.  The
headers of a segment are made in private memory from the head copy; its payload goes from the
sender's memory to the receiver in one copy, summed meanwhile where the receiver takes no partial
sum.

Rules (spec SG-05 to SG-09): IPv4 identification counts up, the header checksum is computed anew,
sequence numbers advance, FIN and PSH are on the last segment only, CWR on the first only, options
are repeated; a UDP datagram has its own length.  The pseudo-header sum is computed for each from
scratch (SG-07); with a routing header under way the sender's own is corrected by the length.

Invariants: scatter list and frame are the same afterwards as before.  At most `GSO_SEGMENTS_MAX`
segments (judged at ingress); `Work.n_segments` counts them, which ends the burst.
"""

from vionet.engine.checksum import fold, ipv4_header_sum, pseudo_header
from vionet.engine.deliver_guest import refused, to_buffers, to_guest
from vionet.engine.deliver_stream import push, put
from vionet.engine.deliver_tap import to_tap
from vionet.engine.ingress import take_back
from vionet.engine.layout import FRAME, STATE, WORK, Frame, State, Work
from vionet.engine.parse import be16, swap16
from vionet.engine.plan import plan
from vionet.engine.receive import commit, count_waiting, outgrown, reserve
from vionet.engine.seal import field_off
from vionet.engine.status import (
    GSO_PASSED,
    GSO_SEGMENTED,
    HEADER_BYTES,
    MTU_EXCEEDED,
    OK,
    PAYLOAD_BYTES_COPIED,
    RX_BUFFER_TOO_SMALL,
    RX_BYTES,
    RX_FRAMES,
    RX_RING_BROKEN,
    RX_RING_FULL,
    SEGMENTS,
    STREAM_FULL,
    Accepts,
    Csum,
    FabricKind,
    PortKind,
)
from vionet.engine.tell import touch
from vionet.jit.kernel import INT, kernel
from vionet.jit.raw import copy, load_u16, load_u32, store_u16, store_u32
from vionet.spec.packet import ETH_HLEN, ETH_P_IP, IPPROTO_UDP
from vionet.spec.virtio_net import VIRTIO_NET_HDR_GSO_UDP_L4

COMPLETE = int(Accepts.COMPLETE)
STREAM = int(Accepts.STREAM)
PARTIAL = int(Csum.PARTIAL)
GUEST = int(PortKind.GUEST)
STREAM_PORT = int(PortKind.STREAM)
WIRE = int(FabricKind.WIRE)
UDP_WHOLE_MAX = 64  # an older Linux guest refuses more segments in one frame (spec LX-09)
LAST_ONLY = 0x09  # FIN and PSH
FIRST_ONLY = 0x80  # CWR


@kernel(INT, INT, inline=True)
def swap32(value: int) -> int:
    """The four bytes of a 32-bit word reversed."""
    return swap16(value & 0xFFFF) << 16 | swap16(value >> 16)


@kernel(INT, WORK, FRAME)
def lift(work: Work, frame: Frame) -> int:
    """Take a frame that was read into receive buffers back into private memory (a wire whose
    guest has ceased to take large frames)."""
    rest = frame.length - frame.head_len
    take_back(work, frame, work.packet_hva, rest)
    frame.in_place = 0
    frame.first_seg = 0
    work.seg_hva[0] = work.packet_hva
    work.seg_len[0] = rest
    return rest


@kernel(INT, WORK, FRAME)
def mend(work: Work, frame: Frame) -> int:
    """Give the scatter entry in hand back what `skip` cut off its front."""
    if work.cut:
        work.seg_hva[frame.first_seg] -= work.cut
        work.seg_len[frame.first_seg] += work.cut
        work.cut = 0
    return 0


@kernel(INT, WORK, FRAME, INT, INT, INT)
def make_header(work: Work, frame: Frame, n: int, ip_sum: int, whole_len: int) -> int:
    """Give the header in `work.segment_hva` what differs in segment `n`, the seed of its sum last.

    *requires* frame.length and frame.l4_len of this segment; the frame's own are in the head copy,
    `whole_len` is its l4_len, `ip_sum` from `ipv4_header_sum`.
    """
    source = work.head_hva
    header = work.segment_hva
    l3 = header + frame.l3_off
    l3_len = frame.length - frame.l3_off
    if frame.l3 == ETH_P_IP:
        ident = swap16((be16(work, frame.l3_off + 4) + n) & 0xFFFF)
        store_u16(l3 + 2, swap16(l3_len))
        store_u16(l3 + 4, ident)
        store_u16(l3 + 10, fold(ip_sum + swap16(l3_len) + ident) ^ 0xFFFF)
    else:
        store_u16(l3 + 4, swap16(l3_len - 40))
    l4 = header + frame.l4_off
    if frame.l4 == IPPROTO_UDP:
        store_u16(l4 + 4, swap16(frame.l4_len))
    else:
        seq = swap32(load_u32(source + frame.l4_off + 4)) + n * frame.gso_size
        store_u32(l4 + 4, swap32(seq & 0xFFFFFFFF))
        flags = load_u16(source + frame.l4_off + 12)
        if n:
            flags &= ~(FIRST_ONLY << 8)
        if n + 1 < frame.gso_segments:
            flags &= ~(LAST_ONLY << 8)
        store_u16(l4 + 12, flags)
    field = field_off(frame)
    if frame.routed:
        seed = load_u16(source + field) + (swap16(whole_len) ^ 0xFFFF) + swap16(frame.l4_len)
        store_u16(header + field, fold(seed))
    else:
        store_u16(header + field, pseudo_header(work, frame))
    return 0


@kernel(INT, WORK, FRAME, INT)
def skip(work: Work, frame: Frame, length: int) -> int:
    """Go on by `length` bytes in the scatter list; each entry is whole again once it is passed."""
    while length > 0:
        s = frame.first_seg
        piece = min(length, work.seg_len[s])
        work.seg_hva[s] += piece
        work.seg_len[s] -= piece
        work.cut += piece
        length -= piece
        if work.seg_len[s] == 0:
            mend(work, frame)
            frame.first_seg += 1
    return 0


@kernel(INT, STATE, WORK, FRAME, INT, INT)
def deliver_segment(state: State, work: Work, frame: Frame, out: int, action: int) -> int:
    """Deliver what is in hand, an ordinary frame now, at once.  *returns* OK or a drop reason."""
    port = state.ports[out]
    if port.kind == STREAM_PORT:
        status = put(state, work, frame, out, action)
    elif port.kind != GUEST:
        status = to_tap(state, work, frame, out, action)
    else:
        queue = port.queues[work.rx_ring]
        status = reserve(port, queue, work, port.header_len + frame.length)
        if status != OK:
            return refused(state, work, out, status)
        commit(queue, work, to_buffers(state, work, frame, out, action))
        touch(state, work, out, work.rx_ring)
    if status == OK:
        work.ledger[out, RX_FRAMES] += 1
        work.ledger[out, RX_BYTES] += frame.length
        work.ledger[out, HEADER_BYTES] += frame.head_len
    return status


@kernel(INT, STATE, WORK, FRAME, INT, INT)
def each_segment(state: State, work: Work, frame: Frame, out: int, action: int) -> int:
    """Make and deliver one segment after the other; *returns* how many were taken, and leaves in
    `work.status` why not all were.  Frame and scatter list are left in the middle of it."""
    length = frame.length
    l4_len = frame.l4_len
    head_hva = work.head_hva
    head_len = frame.head_len
    header_len = frame.gso_header_len
    ip_sum = ipv4_header_sum(head_hva + frame.l3_off) if frame.l3 == ETH_P_IP else 0
    in_head = header_len  # payload that lies in the head copy: from here to head_len
    for n in range(frame.gso_segments):
        payload = min(frame.gso_size, length - header_len - n * frame.gso_size)
        frame.length = header_len + payload
        frame.l4_len = frame.length - frame.l4_off
        make_header(work, frame, n, ip_sum, l4_len)
        piece = min(payload, head_len - in_head)
        copy(work.segment_hva + header_len, head_hva + in_head, piece)
        frame.head_len = header_len + piece
        work.head_hva = work.segment_hva
        work.status = deliver_segment(state, work, frame, out, action)
        work.head_hva = head_hva
        if work.status != OK:
            return n
        in_head += piece
        skip(work, frame, payload - piece)
    return frame.gso_segments


@kernel(INT, STATE, WORK, FRAME, INT, INT)
def segment(state: State, work: Work, frame: Frame, out: int, accepts: int) -> int:
    """Deliver the frame in hand in segments.  *returns* OK or a drop reason.

    Where the receiver takes only some of them, the others are counted here.
    """
    length = frame.length
    head_len = frame.head_len
    first_seg = frame.first_seg
    l4_len = frame.l4_len
    gso_type = frame.gso_type
    frame.gso_type = 0
    work.cut = 0
    copy(work.segment_hva, work.head_hva, frame.gso_header_len)
    taken = each_segment(state, work, frame, out, plan(PARTIAL, accepts))
    work.made = taken
    mend(work, frame)
    frame.length = length
    frame.head_len = head_len
    frame.first_seg = first_seg
    frame.l4_len = l4_len
    frame.gso_type = gso_type
    work.n_segments += taken
    if taken == 0:
        return work.status
    if state.ports[out].kind == STREAM_PORT:
        push(state, work, out)  # all of them together
    work.ledger[out, GSO_SEGMENTED] += 1
    work.ledger[out, SEGMENTS] += taken
    if taken < frame.gso_segments:
        work.drops[out, work.status] += frame.gso_segments - taken
    return OK


@kernel(INT, STATE, WORK, FRAME, INT, INT)
def deliver_whole(state: State, work: Work, frame: Frame, out: int, action: int) -> int:
    """Deliver the frame in hand as it is.  *returns* OK, RX_BUFFER_TOO_SMALL where it has to be
    segmented, or a drop reason."""
    port = state.ports[out]
    if port.kind == GUEST:
        queue = port.queues[work.rx_ring]
        status = to_guest(state, work, frame, out, action)
        if status == OK:
            queue.posted_max = max(queue.posted_max, work.n_chains)
            queue.waits_ns = 0
        elif (
            status == RX_RING_FULL
            and work.n_chains
            and outgrown(work, queue, work.n_chains, work.n_chains + 1)
        ):
            status = RX_BUFFER_TOO_SMALL
    else:
        status = to_tap(state, work, frame, out, action)
    if status == OK:
        work.ledger[out, GSO_PASSED] += 1
        work.ledger[out, RX_FRAMES] += 1
        work.ledger[out, RX_BYTES] += frame.length
        work.ledger[out, HEADER_BYTES] += frame.head_len
    return status


@kernel(INT, STATE, WORK, FRAME, INT, INT)
def deliver_large(state: State, work: Work, frame: Frame, out: int, accepts: int) -> int:
    """Deliver a frame that still has to be segmented.  *returns* OK or a drop reason.

    One whose segments exceed the receiver's MTU is dropped, as such a frame would be.
    """
    port = state.ports[out]
    l2_len = frame.l3_off if frame.l3_off else ETH_HLEN
    if port.mtu and frame.gso_header_len + frame.gso_size > port.mtu + l2_len:
        return MTU_EXCEEDED
    if (
        frame.gso & ~port.takes_gso == 0
        and accepts != COMPLETE
        and accepts != STREAM
        and (frame.gso_type != VIRTIO_NET_HDR_GSO_UDP_L4 or frame.gso_segments <= UDP_WHOLE_MAX)
    ):
        status = deliver_whole(state, work, frame, out, plan(PARTIAL, accepts))
        if status != RX_BUFFER_TOO_SMALL:
            return status
    if frame.in_place:
        rest = lift(work, frame)
        work.ledger[out, PAYLOAD_BYTES_COPIED] += rest
    if port.kind == STREAM_PORT and not port.writable:
        return STREAM_FULL
    queue = port.queues[work.rx_ring]
    if state.kind == WIRE and port.kind == GUEST and queue.live:
        # A wire keeps the frame where it is until there is room for all of it.
        waiting = count_waiting(queue, frame.gso_segments)
        if waiting < 0:
            return refused(state, work, out, RX_RING_BROKEN)
        if not outgrown(work, queue, waiting, frame.gso_segments):
            return RX_RING_FULL
    return segment(state, work, frame, out, accepts)
