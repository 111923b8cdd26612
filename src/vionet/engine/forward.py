"""Forwarding: who gets the frame in hand, and a burst from one port.

How it works: `from_guest` and `from_tap` take up to `BURST_MAX` frames from a port; each one is
judged, forwarded and given a place in the receiver's ring before the next.  What is merely passed
on is written at the end of the burst (`flush`); then used entries are published and drivers
notified, once (`finish`).  A switch learns and looks up addresses; a wire gives
everything to the other port and, where that one has no buffer, leaves the frame where it is.

Invariants: a transmit chain is given back whatever became of the frame, with length 0 (spec
TX-15), in order; on a wire only after it was delivered.  Every frame that goes nowhere is counted
by its reason: refusals at the sender's port, failed deliveries at the receiver's.
"""

from vionet.engine.deliver import deliver
from vionet.engine.deliver_guest import flush
from vionet.engine.fdb import REFRESH_NS, learn, lookup
from vionet.engine.ingress import (
    read_addresses,
    read_headers,
    read_tap,
    read_tap_in_place,
    stage,
    take_chain,
)
from vionet.engine.judge import judge, read_header
from vionet.engine.layout import BURST_MAX, FRAME, IOV_MAX, STATE, WORK, Frame, State, Work
from vionet.engine.parse import parse_plain
from vionet.engine.receive import reserve
from vionet.engine.seal import plant_seed
from vionet.engine.split import available, disarm, push_used
from vionet.engine.status import (
    DESTINATION_MAC_LOCKED,
    FDB_FULL,
    FRAME_TOO_LONG,
    FRAME_TOO_SHORT,
    ISOLATED,
    NO_OTHER_PORT,
    OK,
    PSEUDO_HEADER_REPAIRED,
    RING_DISABLED,
    RX_CHAIN_INVALID,
    RX_RING_BROKEN,
    RX_RING_FULL,
    SAME_PORT,
    SOURCE_MAC_INVALID,
    SOURCE_MAC_LOCKED,
    TAP_ERROR,
    TAP_TRUNCATED,
    TX_BYTES,
    TX_FRAMES,
    FabricKind,
    PortKind,
)
from vionet.engine.tell import break_ring, finish, notify, touch
from vionet.jit.kernel import INT, kernel
from vionet.jit.libc import errno

GROUP = 1 << 40  # the group bit of an address
SWITCH = int(FabricKind.SWITCH)
WIRE = int(FabricKind.WIRE)
FREE = int(PortKind.FREE)
GUEST = int(PortKind.GUEST)
EAGAIN = 11
EINTR = 4
HELD = -1  # a wire's frame stays where it is


@kernel(INT, STATE, WORK, FRAME, INT, INT, inline=True)
def offer(state: State, work: Work, frame: Frame, in_port: int, out: int) -> int:
    """Deliver to one port unless a rule of that port forbids it.  *returns* a drop reason."""
    port = state.ports[out]
    if port.isolated and state.ports[in_port].isolated:
        return ISOLATED
    if port.locked and not frame.dst & GROUP and frame.dst != port.mac:
        return DESTINATION_MAC_LOCKED
    return deliver(state, work, frame, out)


@kernel(INT, STATE, WORK, FRAME, INT)
def flood(state: State, work: Work, frame: Frame, in_port: int) -> int:
    """Deliver to every other port, each in its own form.  *returns* OK or NO_OTHER_PORT."""
    found = NO_OTHER_PORT
    for out in range(state.n_ports):
        if out != in_port and state.ports[out].up:
            found = OK
            status = offer(state, work, frame, in_port, out)
            if status != OK:
                state.drops[out, status] += 1
    return found


@kernel(INT, STATE, INT, INT)
def undelivered(state: State, out: int, status: int) -> int:
    """One port did not take the frame: count it there, or HELD where a wire can wait for it."""
    if status == RX_RING_FULL and state.kind == WIRE:
        state.ports[out].queues[0].starved = 1
        return HELD
    state.drops[out, status] += 1
    return OK


@kernel(INT, STATE, FRAME, INT, inline=True)
def check_source(state: State, frame: Frame, in_port: int) -> int:
    """The source address: group addresses, locked ports, learning.  *returns* a drop reason."""
    port = state.ports[in_port]
    src = frame.src
    if src & GROUP or src == 0:
        return SOURCE_MAC_INVALID
    if port.locked and src != port.mac:
        return SOURCE_MAC_LOCKED
    if state.kind == SWITCH and (
        src != port.last_src or state.now_ns - port.last_seen_ns > REFRESH_NS
    ):
        status = learn(state, src, in_port)
        if status == FDB_FULL:
            state.drops[in_port, FDB_FULL] += 1  # noted; the frame goes its way
            return OK
        if status == OK:
            port.last_seen_ns = state.now_ns  # of `last_src`, which any other status leaves
        return status
    return OK


@kernel(INT, STATE, WORK, FRAME, INT, inline=True)
def forward(state: State, work: Work, frame: Frame, in_port: int) -> int:
    """Judge the frame in hand and deliver it.  *returns* OK, a drop reason, or HELD."""
    port = state.ports[in_port]
    read_header(work, frame, port.header_len)
    if not parse_plain(work, frame):
        read_headers(work, frame)
    if frame.full and frame.bad_len:
        return TAP_TRUNCATED
    if port.mtu and frame.length > port.mtu + frame.l3_off and not frame.gso_type:
        return FRAME_TOO_LONG
    status = judge(port, work, frame)
    if status != OK:
        return status
    repaired = plant_seed(work, frame)
    if repaired:
        state.ledger[in_port, PSEUDO_HEADER_REPAIRED] += 1
    read_addresses(work, frame)
    status = check_source(state, frame, in_port)
    if status != OK:
        return status
    if state.kind == WIRE:
        out = 1 - in_port
        if not state.ports[out].up:
            return NO_OTHER_PORT
    elif frame.dst & GROUP:
        return flood(state, work, frame, in_port)
    else:
        out = lookup(state, frame.dst)
        if out == in_port:
            return SAME_PORT
        if out < 0 or not state.ports[out].up:
            return flood(state, work, frame, in_port)
    status = offer(state, work, frame, in_port, out)
    if status == OK:
        return OK
    status = undelivered(state, out, status)
    if status == HELD:
        state.ledger[in_port, PSEUDO_HEADER_REPAIRED] -= repaired  # it will come again
    return status


@kernel(INT, STATE, WORK, INT)
def from_guest(state: State, work: Work, in_port: int) -> int:
    """A burst from a guest's transmit ring.  *returns* the frames taken."""
    port = state.ports[in_port]
    queue = port.queues[1]
    frame = work.frame[0]
    if not queue.ready or not queue.started or queue.broken:
        return 0
    count = available(queue)
    if count <= 0:
        if count < 0:
            break_ring(state, work, in_port, 1)
        return 0
    disarm(port, queue)
    queue.held = 0
    count = min(count, BURST_MAX)
    stage(port, queue, work, count)
    frame.in_place = 0
    frame.full = 0
    n_bytes = 0
    done = 0
    for i in range(count):
        head = work.slot_head[i]
        if head >= queue.entries:
            break_ring(state, work, in_port, 1)
            break
        if not queue.enabled:
            status = RING_DISABLED  # started but disabled: taken and discarded (spec VU-27)
        else:
            status = take_chain(port, queue, work, frame, i)
            if status == OK:
                length = frame.length  # `judge` may trim it
                n_bytes += length
                status = forward(state, work, frame, in_port)
                if status == HELD:
                    n_bytes -= length
                    queue.held = 1
                    break
        if status != OK:
            state.drops[in_port, status] += 1
        done += 1
    flush(work)
    for i in range(done):
        push_used(queue, work.slot_head[i], 0)
    queue.avail_idx = (queue.avail_idx + done) & 0xFFFF
    state.ledger[in_port, TX_FRAMES] += done
    state.ledger[in_port, TX_BYTES] += n_bytes
    notify(state, work, in_port, 1)
    finish(state, work)
    return done


@kernel(INT, STATE, WORK, INT, INT)
def posted(state: State, work: Work, in_port: int, out: int) -> int:
    """Choose the guest's buffers for the largest frame of the tap, before reading.

    *returns* 1: read into them; 0: read privately (buffers too small, ring not usable);
    -1: no buffers, leave the frame in the tap until the guest posts some.
    """
    port = state.ports[out]
    need = port.header_len + state.ports[in_port].max_frame_len + 1
    status = reserve(port, port.queues[0], work, need)
    if status == OK:
        # More pieces than one `readv` takes are filled from a private copy.
        return 1 if work.n_dst < IOV_MAX else 0
    if status == RX_RING_FULL:
        port.queues[0].starved = 1
        return -1
    if status == RX_CHAIN_INVALID:
        touch(state, work, out, 0)
    elif status == RX_RING_BROKEN and not port.queues[0].broken:
        break_ring(state, work, out, 0)
    return 0


@kernel(INT, STATE, WORK, INT)
def from_tap(state: State, work: Work, in_port: int) -> int:
    """A burst from a tap.  *returns* the frames taken; clears `readable` when it is empty."""
    port = state.ports[in_port]
    frame = work.frame[0]
    done = 0
    out = 1 - in_port
    direct = state.kind == WIRE and state.ports[out].up and state.ports[out].kind == GUEST
    while done < BURST_MAX:
        in_place = 0
        if direct:
            in_place = posted(state, work, in_port, out)
            if in_place < 0:
                break
        if in_place:
            header_len = state.ports[out].header_len
            length = read_tap_in_place(port, work, frame, header_len)
        else:
            length = read_tap(port, work, frame)
        if length < 0:
            error = errno()
            if error == EINTR:
                continue
            port.readable = 0
            if error != EAGAIN:
                state.drops[in_port, TAP_ERROR] += 1
            break
        done += 1
        if length == 0:
            state.drops[in_port, FRAME_TOO_SHORT] += 1
            continue
        state.ledger[in_port, TX_FRAMES] += 1
        state.ledger[in_port, TX_BYTES] += length
        status = forward(state, work, frame, in_port)
        flush(work)  # the next frame is read into the same memory
        if status == HELD:
            state.drops[out, RX_RING_FULL] += 1  # it was read privately and cannot go back
        elif status != OK:
            state.drops[in_port, status] += 1
    finish(state, work)
    return done
