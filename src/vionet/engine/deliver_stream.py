"""Delivery to a stream: the length in four bytes, highest first, then the finished frame.

How it works: a frame that needs nothing leaves by one `writev`, the payload straight from the
sender's memory.  One whose sum has to be finished, and the segments of a large one, are gathered in
the port's private send buffer first, because a sum over memory that a guest can change is not the
sum of what is sent; segments then leave together.  What the socket does not take stays in that
buffer and goes on when epoll says so (`stream_writable`); meanwhile the port is full: a switch
drops and counts, a wire leaves frames where they are (W70).

Invariants: `writable` is 1 only while nothing is left to send, so that no frame is begun inside
another.  Between frames nothing is on the way that could be lost with the sender.  EPOLLOUT is
asked for only while the port is full.  SIGPIPE is ignored, as Python sets it at its start.

Trust: the peer can close at any moment and read as slowly as it likes; it is owed nothing more.
"""

from errno import EAGAIN, ECONNRESET, EINTR, EPIPE
from typing import Final

from vionet.engine.checksum import sum_piece
from vionet.engine.event import EVENT_DATA_OFF, EVENT_TAP
from vionet.engine.layout import FRAME, IOV_MAX, STATE, WORK, Frame, State, Work
from vionet.engine.parse import swap16
from vionet.engine.seal import finished
from vionet.engine.status import (
    CSUM_FILLED,
    OK,
    PAYLOAD_BYTES_COPIED,
    PAYLOAD_BYTES_SUMMED,
    STREAM_ERROR,
    STREAM_FULL,
    Action,
)
from vionet.jit.kernel import INT, kernel
from vionet.jit.libc import epoll_ctl, errno, write, writev
from vionet.jit.raw import copy, store_i64, store_u16, store_u32
from vionet.spec.packet import UDP_CSUM_OFF

PREFIX_LEN: Final = 4
OUT_LEN: Final = 262144  # bytes of the send buffer: a frame of 64 KiB in the smallest segments
FILL = int(Action.FILL)
LEFT: Final = -1  # Port.ended: the peer closed
EPOLL_CTL_MOD = 3
EPOLLIN_ET = 1 | 1 << 31
EPOLLOUT = 4


@kernel(INT, STATE, WORK, INT, INT)
def end_session(state: State, work: Work, index: int, why: int) -> int:
    """Stop using a stream and have the control plane close it; `why` as in `Port.ended`."""
    port = state.ports[index]
    port.up = 0
    port.readable = 0
    port.writable = 0
    port.ended = why
    write(state.notice_fd, work.one_hva, 8)
    return 0


@kernel(INT, STATE, WORK, INT, INT)
def set_writable(state: State, work: Work, index: int, writable: int) -> int:
    """Note whether the socket takes more; epoll tells when it does again."""
    port = state.ports[index]
    if port.writable != writable:
        port.writable = writable
        store_u32(work.scratch_hva, EPOLLIN_ET | (0 if writable else EPOLLOUT))
        store_i64(work.scratch_hva + EVENT_DATA_OFF, index << 8 | EVENT_TAP)
        epoll_ctl(state.epoll_fds[port.worker], EPOLL_CTL_MOD, port.fd, work.scratch_hva)
    return 0


@kernel(INT, STATE, WORK, INT)
def push(state: State, work: Work, out: int) -> int:
    """Send what is in the send buffer, or as much as the socket takes.

    *returns* OK, or STREAM_ERROR: the session is over.
    """
    port = state.ports[out]
    while port.out_len > 0:
        sent = write(port.fd, port.out_hva + port.out_off, port.out_len)
        if sent < 0:
            error = errno()
            if error == EINTR:
                continue
            if error == EPIPE or error == ECONNRESET:
                end_session(state, work, out, LEFT)
                return STREAM_ERROR
            set_writable(state, work, out, 0)
            return OK
        port.out_off += sent
        port.out_len -= sent
    port.out_off = 0
    set_writable(state, work, out, 1)
    return OK


@kernel(INT, STATE, WORK, INT)
def stream_writable(state: State, work: Work, index: int) -> int:
    """Epoll had something to say about a stream: go on with what it did not take."""
    port = state.ports[index]
    return push(state, work, index) if port.up and not port.writable else OK


@kernel(INT, INT, INT, inline=True)
def put_prefix(hva: int, length: int) -> int:
    """Write a frame's length."""
    store_u16(hva, swap16(length >> 16))
    store_u16(hva + 2, swap16(length & 0xFFFF))
    return 0


@kernel(INT, WORK, FRAME, INT)
def gather(work: Work, frame: Frame, hva: int) -> int:
    """Copy the frame in hand to one private place."""
    copy(hva, work.head_hva, frame.head_len)
    off = frame.head_len
    s = frame.first_seg
    while off < frame.length:
        piece = min(work.seg_len[s], frame.length - off)
        copy(hva + off, work.seg_hva[s], piece)
        off += piece
        s += 1
    return 0


@kernel(INT, FRAME, INT)
def fill(frame: Frame, hva: int) -> int:
    """Finish the partial sum of a gathered frame."""
    total = sum_piece(hva + frame.csum_start, frame.length - frame.csum_start, 0)
    store_u16(
        hva + frame.csum_start + frame.csum_offset,
        finished(total, frame.csum_offset == UDP_CSUM_OFF),
    )
    return 0


@kernel(INT, STATE, WORK, FRAME, INT, INT)
def put(state: State, work: Work, frame: Frame, out: int, action: int) -> int:
    """Append the frame in hand, finished, to the send buffer.  *returns* OK or a drop reason."""
    port = state.ports[out]
    if port.out_off + port.out_len + PREFIX_LEN + frame.length > OUT_LEN:
        status = push(state, work, out)
        if status != OK:
            return status
        if port.out_len:
            return STREAM_FULL
    hva = port.out_hva + port.out_off + port.out_len
    put_prefix(hva, frame.length)
    gather(work, frame, hva + PREFIX_LEN)
    rest = frame.length - frame.head_len
    work.ledger[out, PAYLOAD_BYTES_COPIED] += rest
    if action == FILL:
        fill(frame, hva + PREFIX_LEN)
        work.ledger[out, CSUM_FILLED] += 1
        work.ledger[out, PAYLOAD_BYTES_SUMMED] += rest
    port.out_len += PREFIX_LEN + frame.length
    return OK


@kernel(INT, STATE, WORK, INT, INT, INT)
def keep(state: State, work: Work, out: int, n: int, sent: int) -> int:
    """Copy what a `writev` of `n` vectors left behind `sent` bytes into the send buffer."""
    port = state.ports[out]
    for i in range(n):
        length = work.iov[2 * i + 1]
        if sent >= length:
            sent -= length
            continue
        copy(port.out_hva + port.out_len, work.iov[2 * i] + sent, length - sent)
        port.out_len += length - sent
        sent = 0
    set_writable(state, work, out, 0)
    return OK


@kernel(INT, STATE, WORK, FRAME, INT, INT)
def to_stream(state: State, work: Work, frame: Frame, out: int, action: int) -> int:
    """Send the frame in hand to a stream.  *returns* OK or a drop reason."""
    port = state.ports[out]
    if not port.writable:
        return STREAM_FULL
    rest = frame.length - frame.head_len
    s = frame.first_seg
    n = 1
    while rest > 0 and n < IOV_MAX:
        piece = min(work.seg_len[s], rest)
        work.iov[2 * n] = work.seg_hva[s]
        work.iov[2 * n + 1] = piece
        rest -= piece
        n += 1
        s += 1
    if action == FILL or rest:
        status = put(state, work, frame, out, action)
        return push(state, work, out) if status == OK else status
    put_prefix(work.head_hva - PREFIX_LEN, frame.length)
    work.iov[0] = work.head_hva - PREFIX_LEN
    work.iov[1] = PREFIX_LEN + frame.head_len
    while True:
        sent = writev(port.fd, work.iov_hva, n)
        if sent >= 0:
            if sent == PREFIX_LEN + frame.length:
                return OK
            work.ledger[out, PAYLOAD_BYTES_COPIED] += min(
                PREFIX_LEN + frame.length - sent, frame.length - frame.head_len
            )
            return keep(state, work, out, n, sent)
        error = errno()
        if error == EAGAIN:
            set_writable(state, work, out, 0)
            return STREAM_FULL
        if error == EPIPE or error == ECONNRESET:
            end_session(state, work, out, LEFT)
        if error != EINTR:
            return STREAM_ERROR  # a sender's memory that is gone ends nobody's session
