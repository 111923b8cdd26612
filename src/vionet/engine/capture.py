"""Captures: copies of frames, with what was decided about them, for a reader outside.

How it works: a capture names ports, a filter (`bpf`) and a ring in shared memory.  What is
delivered to one of `rx_ports`, or dropped there, is recorded as it left for that receiver
(`note_given`); what comes from one of `tx_ports` as it was sent (`note_sent`), unless the same
delivery is recorded already; what is refused at the sender, of any port that the capture knows.  A
frame has its record when its fate is known: one that a wire leaves where it is has none yet.

A record (`Seen`) has the judged bytes before anything was done about their checksum: the head copy,
our pseudo-header sum in it, and the rest, read from the sender's memory once more.  So only a
sender that rewrites its own payload in flight can make the record differ from what was delivered;
headers are those that were judged.  Finishing the sum is the reader's work.

The ring: records of any length, never one across the end; where one does not fit in front of it, a
length of 0 says so.  The reader moves `RING_TAIL`, we move `RING_HEAD`; a reader that sets
`RING_WAITS` and looks once more is written to (`expect`).

Invariants: nothing of the frame, of a guest's memory or of a ring changes, and no delivery waits.
A record that finds no room is counted and lost.  Where there are several workers, one has the ring.
Off, a capture costs nothing: ports are marked (`share.CAPTURED`), and what they do not send or get
is not asked about.  On the straight path a frame that no filter wants stays there.

Trust: the reader can write all of the ring.  Nothing is read from it but `RING_TAIL`, once a
record, and any value that cannot be is a full ring; and `RING_WAITS`, whose worst is a write to a
pipe that never blocks, because its end is our own.
"""

from typing import Final

from vionet.engine.bpf import run
from vionet.engine.ingress import take_chain
from vionet.engine.layout import (
    CAPTURE,
    FACT_BAD,
    FACT_FLOODED,
    FACT_JUDGED,
    FACT_REPAIRED,
    FACT_SEGMENTED,
    FACT_WHOLE,
    FRAME,
    PORT,
    RING_HEAD,
    RING_LOST,
    RING_PAGE,
    RING_TAIL,
    RING_WAITS,
    STATE,
    WORK,
    Capture,
    Frame,
    Port,
    Seen,
    State,
    Work,
)
from vionet.engine.plan import accepts_of, plan
from vionet.engine.share import let_capture_go, take_capture
from vionet.engine.status import OK, Csum, PortKind
from vionet.jit.kernel import INT, kernel
from vionet.jit.libc import clock_gettime, write
from vionet.jit.raw import (
    copy,
    fence,
    load_acquire_i64,
    load_i64,
    store_i64,
    store_release_i64,
)
from vionet.jit.record import dtype_of
from vionet.spec.virtio_net import VIRTIO_NET_HDR_F_NEEDS_CSUM

CLOCK_REALTIME = 0
GUEST = int(PortKind.GUEST)
PARTIAL = int(Csum.PARTIAL)
SEEN_LEN: Final = dtype_of(Seen).itemsize
NEEDS_CSUM = VIRTIO_NET_HDR_F_NEEDS_CSUM
START_SHIFT = 48  # of csum_start in the header's first word
SENT, GIVEN = 0, 1  # Seen.side


@kernel(INT, WORK, FRAME, INT)
def begin(work: Work, frame: Frame, header_len: int) -> int:
    """A frame is in hand, its header as it came: nobody has judged it, no filter has seen it."""
    work.asked = 0
    work.went = frame.state = -1
    frame.header = load_i64(work.head_hva - header_len)
    return 0


@kernel(INT, STATE, WORK, FRAME, INT)
def wants(state: State, work: Work, frame: Frame, c: int) -> int:
    """Whether the filter of capture `c` accepts the frame in hand; it is run once a frame."""
    bit = 1 << c
    if not work.asked & bit:
        work.asked |= bit
        capture = state.captures[c]
        work.wanted &= ~bit
        if capture.code_len == 0 or run(capture, work, frame):
            work.wanted |= bit
    return work.wanted & bit


@kernel(INT, STATE, WORK, FRAME, INT)
def look(state: State, work: Work, frame: Frame, out: int) -> int:
    """Run the filters that a delivery to `out` is for, before the frame's tag changes there."""
    for c in range(state.n_captures):
        if state.captures[c].on and state.captures[c].rx_ports >> out & 1:
            wants(state, work, frame, c)
    return 0


@kernel(INT, STATE, WORK, INT, INT, INT)
def wanted_plain(state: State, work: Work, in_port: int, out: int, i: int) -> int:
    """Whether staged frame `i` is to be recorded.  *requires* that it lies in one piece."""
    frame = work.frame[0]
    port = state.ports[in_port]
    take_chain(port, port.queues[1], work, frame, i)
    for c in range(state.n_captures):
        capture = state.captures[c]
        ports = capture.tx_ports >> in_port | capture.rx_ports >> out
        if capture.on and ports & 1 and (capture.code_len == 0 or run(capture, work, frame)):
            return 1
    return 0


@kernel(INT, WORK, FRAME, INT, INT)
def copy_bytes(work: Work, frame: Frame, destination: int, length: int) -> int:
    """Copy the first `length` bytes of the frame in hand."""
    piece = min(length, frame.head_len)
    copy(destination, work.head_hva, piece)
    s = frame.first_seg
    while piece < length:
        more = min(work.seg_len[s], length - piece)
        copy(destination + piece, work.seg_hva[s], more)
        piece += more
        s += 1
    return 0


@kernel(INT, WORK, FRAME, CAPTURE)
def push(work: Work, frame: Frame, capture: Capture) -> int:
    """Write the record in hand.  *returns* 0 where there is no room, and counts it."""
    seen = work.seen[0]
    page = capture.ring_hva
    ring_len = int(capture.ring_len)
    head = int(capture.head)
    size = int(seen.record_len)
    used = head - load_acquire_i64(page + RING_TAIL)
    at = head & ring_len - 1
    skip = ring_len - at if at + size > ring_len else 0
    if used < 0 or used > ring_len or used + skip + size > ring_len:
        capture.lost += 1
        store_i64(page + RING_LOST, capture.lost)
        return 0
    if skip:
        store_i64(page + RING_PAGE + at, 0)
        at = 0
    copy(page + RING_PAGE + at, work.seen_hva, SEEN_LEN)
    copy_bytes(work, frame, page + RING_PAGE + at + SEEN_LEN, seen.cap_len)
    capture.head = head + skip + size
    capture.records += 1
    store_release_i64(page + RING_HEAD, capture.head)
    fence()  # the head is seen before we look whether anybody waits for it
    if load_i64(page + RING_WAITS):
        store_i64(page + RING_WAITS, 0)
        write(capture.notify_fd, work.one_hva, 8)
    return 1


@kernel(INT, INT, INT)
def expect(page_hva: int, tail: int) -> int:
    """The reader, who has read up to `tail`, wants to be written to.  *returns* 1 where it need not
    wait, because there is more already."""
    store_i64(page_hva + RING_WAITS, 1)
    fence()
    return 1 if load_acquire_i64(page_hva + RING_HEAD) != tail else 0


@kernel(INT, WORK, FRAME, PORT, INT)
def tell_planned(work: Work, frame: Frame, port: Port, drop: int) -> int:
    """What was planned and done for one receiver, in the record in hand."""
    seen = work.seen[0]
    seen.out_serial = port.serial
    seen.out_features = port.features
    if not work.planned:
        return 0
    seen.accepts = accepts_of(port, frame)
    seen.action = plan(PARTIAL if frame.gso_type else frame.state, seen.accepts)
    seen.segments = work.made
    if work.made:
        seen.facts |= FACT_SEGMENTED
    elif frame.gso_type and drop == OK:
        seen.facts |= FACT_WHOLE
    if work.bad:
        seen.facts |= FACT_BAD
    return 0


@kernel(INT, STATE, WORK, FRAME, INT)
def tell_frame(state: State, work: Work, frame: Frame, in_port: int) -> int:
    """What the frame is and where it came from, in the record in hand."""
    port = state.ports[in_port]
    seen = work.seen[0]
    clock_gettime(CLOCK_REALTIME, work.wall_hva)
    seen.time_ns = work.wall[0] * 1_000_000_000 + work.wall[1]
    seen.in_serial = port.serial
    seen.in_features = port.features
    seen.out_serial = seen.out_features = seen.segments = 0
    seen.accepts = seen.action = -1
    seen.state = seen.facts = seen.vid = 0
    seen.header = frame.header
    seen.csum_offset = frame.csum_offset
    if frame.state >= 0:
        seen.state = frame.state
        seen.facts = FACT_JUDGED | (FACT_REPAIRED if frame.repaired else 0)
        seen.vid = frame.vid if state.vlan_aware else 0
        if frame.header & NEEDS_CSUM:  # it moved with a tag
            seen.header &= ~(-1 << START_SHIFT)
            seen.header |= frame.csum_start << START_SHIFT
    seen.chain = seen.ring = -1
    seen.pieces = 1
    if port.kind == GUEST:
        seen.chain = work.slot_head[frame.chain]
        seen.ring = work.tx_ring
        seen.pieces = frame.pieces
    seen.length = frame.length
    return 0


@kernel(INT, STATE, WORK, FRAME, INT, INT, INT, INT, INT)
def record(
    state: State, work: Work, frame: Frame, c: int, in_port: int, out: int, side: int, drop: int
) -> int:
    """Record the frame in hand for capture `c`; `out` is -1: offered to nobody, or to everybody."""
    capture = state.captures[c]
    seen = work.seen[0]
    tell_frame(state, work, frame, in_port)
    seen.side = side
    seen.drop = drop
    if out >= 0:
        tell_planned(work, frame, state.ports[out], drop)
    elif drop == OK:
        seen.facts |= FACT_FLOODED
    unfinished = capture.whole and frame.state >= PARTIAL
    seen.cap_len = frame.length if unfinished else min(frame.length, capture.snap_len)
    seen.record_len = SEEN_LEN + seen.cap_len + 7 & ~7
    take_capture(state, work, c)
    push(work, frame, capture)
    return let_capture_go(state, c)


@kernel(INT, STATE, WORK, FRAME, INT, INT, INT)
def note_given(state: State, work: Work, frame: Frame, in_port: int, out: int, drop: int) -> int:
    """The frame in hand was delivered to `out`, or dropped there."""
    for c in range(state.n_captures):
        capture = state.captures[c]
        if capture.on and capture.rx_ports >> out & 1 and wants(state, work, frame, c):
            record(state, work, frame, c, in_port, out, GIVEN, drop)
    return 0


@kernel(INT, STATE, WORK, FRAME, INT, INT)
def note_sent(state: State, work: Work, frame: Frame, in_port: int, refused: int) -> int:
    """The frame in hand came from `in_port`, and was `refused` (a drop reason) or offered to
    `work.went`."""
    out = work.went
    drop = refused if out < 0 else work.outcome
    for c in range(state.n_captures):
        capture = state.captures[c]
        ports = capture.tx_ports | (capture.rx_ports if refused else 0)
        if not capture.on or not ports >> in_port & 1 or (out >= 0 and capture.rx_ports >> out & 1):
            continue
        if wants(state, work, frame, c):
            record(state, work, frame, c, in_port, out, SENT, drop)
    return 0
