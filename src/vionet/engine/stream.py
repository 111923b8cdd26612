"""Taking frames from a stream: the length in four bytes, highest first, then the frame.

How it works: whatever the socket has is read into the port's receive buffer, which holds two of
the largest frames.  Complete frames are taken from there: the head is copied, as of any frame, the
rest is delivered from where it lies.  A buffer that is nearly at its end has the begun frame moved
to its front, which is rare and never overlaps.  A frame that a wire's receiver has no room for
stays in the buffer, and the socket then holds back the peer.

Invariants: a frame's deliveries are written before the next is taken, so that the buffer may move.
A burst is bounded in frames and in system calls.

Trust: the peer is not believed.  A length that no frame has is its fault: after it nothing can be
told apart, so the session ends.  Its frames are complete by definition: no header comes with them.
"""

from errno import EAGAIN, ECONNRESET, EINTR
from typing import Final

from vionet.engine.deliver_stream import LEFT, PREFIX_LEN, end_session
from vionet.engine.forward import HELD, forward_read
from vionet.engine.layout import (
    BURST_MAX,
    FRAME,
    FRAME_MAX,
    HEAD_LEN,
    STATE,
    WORK,
    Frame,
    State,
    Work,
)
from vionet.engine.parse import swap16
from vionet.engine.status import STREAM_ERROR, STREAM_FRAME_INVALID, TX_BYTES, TX_FRAMES
from vionet.engine.talk import tell_talks
from vionet.engine.tell import finish
from vionet.jit.kernel import INT, kernel
from vionet.jit.libc import errno, read
from vionet.jit.raw import copy, load_u16, store_i64, store_u32
from vionet.spec.packet import ETH_HLEN

RECORD_MAX: Final = PREFIX_LEN + FRAME_MAX
IN_LEN: Final = 2 * 69632  # bytes of the receive buffer; more than two records
READS_MAX: Final = 8  # system calls of one burst
HDR_LEN = 12


@kernel(INT, STATE, WORK, INT)
def refill(state: State, work: Work, index: int) -> int:
    """Read on.  *requires* that less than a frame is there.  *returns* 1 if there is more."""
    port = state.ports[index]
    have = port.in_len - port.in_off
    if port.in_off > IN_LEN - RECORD_MAX:
        copy(port.in_hva, port.in_hva + port.in_off, have)
        port.in_len = have
        port.in_off = 0
    elif have == 0:
        port.in_len = 0
        port.in_off = 0
    length = read(port.fd, port.in_hva + port.in_len, IN_LEN - port.in_len)
    if length > 0:
        port.in_len += length
        return 1
    if length == 0:
        end_session(state, work, index, LEFT)
        return 0
    error = errno()
    if error == EINTR:
        return 1
    if error == EAGAIN:
        port.readable = 0
    elif error == ECONNRESET:
        end_session(state, work, index, LEFT)
    else:
        work.drops[index, STREAM_ERROR] += 1
        end_session(state, work, index, STREAM_ERROR)
    return 0


@kernel(INT, WORK, FRAME, INT, INT)
def take_record(work: Work, frame: Frame, hva: int, length: int) -> int:
    """Make the `length` bytes at `hva` the frame in hand, with a header that says nothing."""
    head_len = min(length, HEAD_LEN)
    work.head_hva = work.heads_hva
    store_i64(work.head_hva - HDR_LEN, 0)
    store_u32(work.head_hva - 4, 0)
    copy(work.head_hva, hva, head_len)
    frame.in_place = 0
    frame.full = 0
    frame.length = length
    frame.head_len = head_len
    frame.first_seg = 0
    work.seg_hva[0] = hva + head_len
    work.seg_len[0] = length - head_len
    return 0


@kernel(INT, STATE, WORK, INT)
def from_stream(state: State, work: Work, in_port: int) -> int:
    """A burst from a stream; clears `readable` when it is empty.

    *returns* the frames taken, at least 1 where more may be waiting in the socket.
    """
    port = state.ports[in_port]
    frame = work.frame[0]
    if not port.up:  # the last event of a session that is over
        port.readable = 0
        return 0
    done = 0
    reads = 0
    while done < BURST_MAX:
        hva = port.in_hva + port.in_off
        have = port.in_len - port.in_off
        length = FRAME_MAX
        if have >= PREFIX_LEN:
            length = swap16(load_u16(hva)) << 16 | swap16(load_u16(hva + 2))
            if length < ETH_HLEN or length > FRAME_MAX:
                work.drops[in_port, STREAM_FRAME_INVALID] += 1
                end_session(state, work, in_port, STREAM_FRAME_INVALID)
                break
        if have < PREFIX_LEN + length:
            if reads == READS_MAX:
                done = max(done, 1)
                break
            reads += 1
            if not refill(state, work, in_port):
                break
            continue
        take_record(work, frame, hva + PREFIX_LEN, length)
        status = forward_read(state, work, frame, in_port)
        if status == HELD:
            break
        done += 1
        port.in_off += PREFIX_LEN + length
        work.ledger[in_port, TX_FRAMES] += 1
        work.ledger[in_port, TX_BYTES] += length
        if status > 0:
            work.drops[in_port, status] += 1
    tell_talks(work, in_port)
    finish(state, work)
    return done
