"""A record made a frame again, and finished.

How it works: `restore` makes what a record holds the frame in hand, with the virtio-net header that
its sender gave it, and has it parsed and judged by the engine's own kernels: given header and head
they say what they said before.  `finish` then has the engine deliver it once more, into the block
that is being written (`deliver_guest.to_buffers`) or, a large one in segments, into the send buffer
of a stream that nobody reads (`segment`).  So there is no second description of any of it, and what
a receiver was given is found by giving it again.

Invariants: nothing is computed from bytes that are not in the record; `finish` writes at most
`PACKET_MAX` bytes from 12 before its place.  Where the second judgement differs from the record,
the frame is shown as it was recorded.

Trust: the record was measured (`block.next_record`), not believed; the frame is a guest's.
"""

from vionet.capture.compiled.layout import (
    AS_RECORDED,
    CUT,
    FINISHED,
    PACKET_MAX,
    PORT_GUEST,
    PORT_IN,
    PORT_STREAM,
    READING,
    SEGMENTED,
    Reading,
)
from vionet.engine.deliver_guest import to_buffers
from vionet.engine.deliver_stream import gather
from vionet.engine.ingress import read_headers
from vionet.engine.judge import judge, read_header
from vionet.engine.layout import (
    FACT_JUDGED,
    FACT_SEGMENTED,
    FRAME,
    HEAD_LEN,
    STATE,
    WORK,
    Frame,
    State,
    Work,
)
from vionet.engine.parse import parse_plain
from vionet.engine.seal import HDR_LEN
from vionet.engine.segment import segment
from vionet.engine.status import OK, Accepts, Action, Csum
from vionet.engine.vlan import TAG_LEN
from vionet.jit.kernel import INT, kernel
from vionet.jit.raw import copy, store_i64, store_u32
from vionet.spec.packet import ETH_HLEN

PASS = int(Action.PASS)
PASS_PARTIAL = int(Action.PASS_PARTIAL)
FILL = int(Action.FILL)
UNKNOWN = int(Csum.UNKNOWN)
VALID = int(Csum.VALID)
PARTIAL = int(Csum.PARTIAL)
INNER_PARTIAL = int(Csum.INNER_PARTIAL)
STREAM = int(Accepts.STREAM)


@kernel(INT, STATE, WORK, READING, FRAME, INT)
def restore(state: State, work: Work, reading: Reading, frame: Frame, hva: int) -> int:
    """Make the record whose frame lies at `hva` the frame in hand.

    *returns* 1 where it is as it was judged before, so that it can be finished.
    """
    seen = reading.seen[0]
    work.head_hva = work.heads_hva
    store_i64(work.head_hva - HDR_LEN, seen.header)
    store_u32(work.head_hva - 4, seen.csum_offset)
    head_len = min(seen.cap_len, HEAD_LEN + TAG_LEN)
    copy(work.head_hva, hva, head_len)
    frame.in_place = frame.full = 0
    frame.length = seen.cap_len
    frame.head_len = head_len
    frame.first_seg = 0
    work.seg_hva[0] = hva + head_len
    work.seg_len[0] = seen.cap_len - head_len
    known = seen.facts & FACT_JUDGED and seen.cap_len == seen.length >= ETH_HLEN
    if not known:
        return 0
    read_header(work, frame, HDR_LEN)
    if not parse_plain(work, frame):
        read_headers(work, frame)
    status = judge(state.ports[PORT_IN], work, frame)
    finished = seen.state == UNKNOWN or seen.state == VALID
    if status == OK and (frame.state == seen.state or (finished and frame.outer == UNKNOWN)):
        frame.state = seen.state
        return 1
    frame.length = seen.cap_len
    return 0


@kernel(INT, READING, FRAME, inline=True)
def action_for(reading: Reading, frame: Frame) -> int:
    """What is done to the sum of the frame in hand: as for its receiver, or what finishes it."""
    if reading.delivered:
        return reading.seen[0].action
    return FILL if frame.state == PARTIAL or frame.state == INNER_PARTIAL else PASS


@kernel(INT, STATE, WORK, READING, FRAME, INT)
def finish(state: State, work: Work, reading: Reading, frame: Frame, hva: int) -> int:
    """Put the frame in hand, judged again, in one piece at `hva`.  *returns* its length."""
    action = action_for(reading, frame)
    if action <= PASS_PARTIAL:  # it is passed, or nothing was planned
        gather(work, frame, hva)
        return frame.length
    work.n_dst = 1
    work.dst_hva[0] = hva - HDR_LEN
    work.dst_seg_len[0] = work.chain_len[0] = PACKET_MAX
    if not reading.delivered:
        reading.shown = FINISHED
    return to_buffers(state, work, frame, PORT_GUEST, action) - HDR_LEN


@kernel(INT, STATE, WORK, READING, FRAME)
def make_segments(state: State, work: Work, reading: Reading, frame: Frame) -> int:
    """Segment the frame in hand, if it is to be shown so.  *returns* how many there are in the
    send buffer of the reader's stream, a prefix in front of each; 0: it is to be shown whole."""
    seen = reading.seen[0]
    if frame.gso_type == 0:
        return 0
    if reading.delivered:
        if not seen.facts & FACT_SEGMENTED or seen.accepts < 0:
            return 0
        accepts = seen.accepts
        most = seen.segments
    elif reading.segment:
        accepts = STREAM
        most = frame.gso_segments
    else:
        return 0
    port = state.ports[PORT_STREAM]
    port.out_len = port.out_off = port.writable = 0
    work.n_segments = 0
    if segment(state, work, frame, PORT_STREAM, accepts) != OK:
        return 0
    if work.n_segments < frame.gso_segments:  # the longest headers and the shortest segments
        return 0
    return min(most, frame.gso_segments)


@kernel(INT, STATE, WORK, READING, FRAME, INT, INT)
def show_frame(
    state: State, work: Work, reading: Reading, frame: Frame, source: int, hva: int
) -> int:
    """Make of the record at hand, whose frame lies at `source`, what is to be in the file.

    *returns* the bytes at `hva`, or 0: they are `reading.n_packets` segments.
    """
    reading.shown = AS_RECORDED
    reading.n_packets = 1
    if not restore(state, work, reading, frame, source):
        if reading.seen[0].cap_len < reading.seen[0].length:
            reading.shown = CUT
        copy(hva, source, reading.seen[0].cap_len)
        return reading.seen[0].cap_len
    n = make_segments(state, work, reading, frame)
    if n:
        reading.shown = SEGMENTED
        reading.n_packets = n
        return 0
    return finish(state, work, reading, frame, hva)
