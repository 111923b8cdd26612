"""Bursts: up to `BURST_MAX` frames from one port, before the next has its turn.

How it works: each frame is taken, judged, forwarded and given a place in the receiver's ring before
the next, the usual ones by the straight path (`plain`).  What is merely passed on is written at the
end of the burst (`flush`); then used entries are published and drivers notified, once (`finish`).
A guest with several transmit rings gets one burst a turn from one of them.  A burst that makes many
segments in software ends early.

Invariants: a transmit chain is given back whatever became of the frame, with length 0 (spec
TX-15), in order; on a wire only after it was delivered.  A ring that is started but disabled, or
beyond the pairs in use, is drained and its frames are dropped (VU-27, CV-29).
"""

from vionet.engine.capture import note_given, note_sent
from vionet.engine.deliver_guest import flush, refused
from vionet.engine.forward import HELD, WIRE, forward, forward_read, forward_seen, turn_away
from vionet.engine.ingress import read_tap, read_tap_in_place, return_burst, stage_burst, take_chain
from vionet.engine.kick import take_events
from vionet.engine.layout import (
    BURST_MAX,
    BURST_SEGMENTS,
    FRAME_MAX,
    IOV_MAX,
    PORT,
    QUEUE,
    STATE,
    WORK,
    Port,
    Queue,
    State,
    Work,
)
from vionet.engine.plain import pass_staged
from vionet.engine.receive import outgrown, reserve
from vionet.engine.share import CAPTURED
from vionet.engine.status import (
    FRAME_TOO_SHORT,
    LINK_DOWN,
    OK,
    QUEUE_UNUSED,
    RING_DISABLED,
    RX_RING_FULL,
    STREAM_FULL,
    TAP_ERROR,
    TX_BYTES,
    TX_FRAMES,
    PortKind,
)
from vionet.engine.talk import tell_talks
from vionet.engine.tell import break_ring, finish, list_ring
from vionet.jit.kernel import INT, kernel
from vionet.jit.libc import errno

GUEST = int(PortKind.GUEST)
STREAM = int(PortKind.STREAM)
EAGAIN = 11
EINTR = 4
EINVAL = 22
BROKEN = -2  # the ring is; HELD is -1


@kernel(INT, PORT, INT)
def refusal(port: Port, ring: int) -> int:
    """Why every frame of a transmit ring is dropped; OK: they are not."""
    if port.link_down:
        return LINK_DOWN
    if not port.queues[ring].enabled:
        return RING_DISABLED
    return QUEUE_UNUSED if ring > 1 and ring > 2 * port.n_pairs else OK


@kernel(INT, STATE, WORK, QUEUE, INT, INT, INT)
def take_seen(state: State, work: Work, queue: Queue, in_port: int, i: int, discarded: int) -> int:
    """`take_one` while something of the fabric is captured: what is discarded is looked at too."""
    frame = work.frame[0]
    status = take_chain(state.ports[in_port], queue, work, frame, i)
    frame.chain = i
    frame.pieces = 1 if work.slot_len[i] else work.n_walked
    if discarded:
        return turn_away(state, work, frame, in_port, discarded) if status == OK else discarded
    if status == OK:
        length = frame.length  # `judge` may trim it
        status = forward_seen(state, work, frame, in_port)
        work.taken_bytes += length if status != HELD else 0
    return status


@kernel(INT, STATE, WORK, QUEUE, INT, INT, INT, inline=True)
def take_one(state: State, work: Work, queue: Queue, in_port: int, i: int, discarded: int) -> int:
    """Staged frame `i` goes the long way.  *returns* OK, a drop reason, HELD or BROKEN."""
    frame = work.frame[0]
    if work.slot_head[i] >= queue.entries:
        return BROKEN
    if state.n_captures:
        return take_seen(state, work, queue, in_port, i, discarded)
    if discarded:
        return discarded
    status = take_chain(state.ports[in_port], queue, work, frame, i)
    if status == OK:
        length = frame.length  # `judge` may trim it
        status = forward(state, work, frame, in_port)
        work.taken_bytes += length if status != HELD else 0
    return status


@kernel(INT, STATE, WORK, INT, INT)
def from_guest(state: State, work: Work, in_port: int, ring: int) -> int:
    """A burst from transmit ring `ring` of a guest.  *returns* the frames taken."""
    port = state.ports[in_port]
    queue = port.queues[ring]
    if not queue.ready or not queue.started or queue.broken:
        return 0
    count = stage_burst(port, queue, work)
    if count <= 0:
        if count < 0:
            break_ring(state, work, in_port, ring)
        return 0
    if state.unstarted:
        take_events(state, work, 0)
    queue.held = 0
    discarded = refusal(port, ring)
    work.tx_ring = ring
    work.n_segments = work.taken_bytes = work.passed_bytes = 0
    work.frame[0].in_place = work.frame[0].full = 0
    done = 0
    retry = count if discarded else 0  # the first frame to be tried on the straight path
    misses = 0
    while done < count:
        if done >= retry:
            i = done
            done = pass_staged(state, work, in_port, i, count)
            if done == count:
                break
            misses = misses + 1 if done == i else 0
            retry = done + misses
        status = take_one(state, work, queue, in_port, done, discarded)
        if status < 0:
            if status == BROKEN:
                break_ring(state, work, in_port, ring)
            else:
                queue.held = 1
            break
        if status != OK:
            work.drops[in_port, status] += 1
        done += 1
        if work.n_segments >= BURST_SEGMENTS:
            break
    flush(work)
    tell_talks(work, in_port)
    work.n_alts = 0
    return_burst(queue, work, done)
    work.ledger[in_port, TX_FRAMES] += done
    work.taken_bytes += work.passed_bytes
    work.moved += work.taken_bytes
    work.ledger[in_port, TX_BYTES] += work.taken_bytes
    list_ring(work, in_port, ring)
    finish(state, work)
    return done


@kernel(INT, STATE, WORK, INT)
def from_queues(state: State, work: Work, in_port: int) -> int:
    """One burst from a guest's transmit rings, each in its turn.  *returns* the frames taken."""
    port = state.ports[in_port]
    for _ in range(port.tx_pairs):
        ring = 2 * port.tx_next + 1
        port.tx_next = port.tx_next + 1 if port.tx_next + 1 < port.tx_pairs else 0
        done = from_guest(state, work, in_port, ring)
        if done:
            return done
    return 0


@kernel(INT, STATE, WORK, INT, INT)
def posted(state: State, work: Work, in_port: int, out: int) -> int:
    """Choose the guest's buffers for the largest frame of the tap, before reading.

    *returns* 1: read into them; 0: read privately (buffers too small or never as many, ring not
    usable, or several rings, of which the frame itself says which); -1: no buffers on a ring,
    leave the frame in the tap until the guest posts some.
    """
    port = state.ports[out]
    need = port.header_len + state.ports[in_port].max_frame_len
    large = state.ports[in_port].max_frame_len == FRAME_MAX
    chosen = 1
    for pair in range(port.n_pairs if port.steers else 1):
        work.rx_ring = 2 * pair
        queue = port.queues[2 * pair]
        status = reserve(port, queue, work, need)
        if status == RX_RING_FULL:
            if (
                not large
                or not work.n_chains
                or not outgrown(work, queue, work.n_chains, work.n_chains + 1)
            ):
                queue.starved = 1
                return -1
            chosen = 0  # this driver never posts as much
        elif status != OK:
            refused(state, work, out, status)
            chosen = 0
        elif large:
            queue.posted_max = max(queue.posted_max, work.n_chains)
            queue.waits_ns = 0
    # More pieces than one `readv` takes are filled from a private copy.
    return chosen if work.n_dst < IOV_MAX and not port.steers else 0


@kernel(INT, STATE, WORK, INT)
def from_tap(state: State, work: Work, in_port: int) -> int:
    """A burst from a tap.  *returns* the frames taken; clears `readable` when it is empty."""
    port = state.ports[in_port]
    frame = work.frame[0]
    done = 0
    out = 1 - in_port
    other = state.ports[out]
    joined = state.kind == WIRE and other.up and not other.link_down and not port.link_down
    direct = joined and other.kind == GUEST
    # What is recorded is read once more, so it may not lie where a guest can write.
    captured = (port.special | other.special) & CAPTURED if joined else 0
    work.n_segments = 0
    while done < BURST_MAX and work.n_segments < BURST_SEGMENTS:
        if joined and other.kind == STREAM and not other.writable:
            break
        in_place = 0
        if direct:
            in_place = posted(state, work, in_port, out)
            if in_place < 0:
                break
        if in_place and not captured:
            length = read_tap_in_place(port, work, frame, other.header_len)
        else:
            length = read_tap(port, work, frame)
        if length < 0:
            error = errno()
            if error == EINTR:
                continue
            if error != EAGAIN:
                work.drops[in_port, TAP_ERROR] += 1
            if error == EINVAL:  # a frame that no header can describe is lost (spec LX-19)
                done += 1
                continue
            port.readable = 0
            break
        done += 1
        if length == 0:
            work.drops[in_port, FRAME_TOO_SHORT] += 1
            continue
        work.ledger[in_port, TX_FRAMES] += 1
        work.ledger[in_port, TX_BYTES] += length
        status = forward_read(state, work, frame, in_port)
        if status == HELD:  # it was read privately and cannot go back
            full = RX_RING_FULL if other.kind == GUEST else STREAM_FULL
            work.drops[out, full] += 1
            if captured:
                note_given(state, work, frame, in_port, out, full)
                note_sent(state, work, frame, in_port, OK)
        elif status != OK:
            work.drops[in_port, status] += 1
    tell_talks(work, in_port)
    finish(state, work)
    return done
