"""Delivery to a tap or an interface: one `writev`, the payload straight from the sender's memory.

One whose kernel takes partial sums gets them; one that takes nothing is a stream, and its frames
are finished before they leave.
"""

from errno import EAGAIN, EMSGSIZE, ENOBUFS

from vionet.engine.deliver_stream import fill, gather
from vionet.engine.layout import FRAME, IOV_MAX, PORT, STATE, WORK, Frame, Port, State, Work
from vionet.engine.seal import HDR_LEN, gso_fields, write_header
from vionet.engine.status import (
    CHAIN_TOO_LONG,
    CSUM_ELIDED,
    CSUM_FILLED,
    INTERFACE_ERROR,
    INTERFACE_FULL,
    MTU_EXCEEDED,
    OK,
    PAYLOAD_BYTES_COPIED,
    PAYLOAD_BYTES_SUMMED,
    TAP_ERROR,
    TAP_FULL,
    Action,
    PortKind,
)
from vionet.jit.kernel import INT, kernel
from vionet.jit.libc import errno, writev
from vionet.jit.raw import store_i64, store_u32
from vionet.spec.virtio_net import VIRTIO_NET_HDR_F_DATA_VALID, VIRTIO_NET_HDR_F_NEEDS_CSUM

PASS_VALID = int(Action.PASS_VALID)
PASS_PARTIAL = int(Action.PASS_PARTIAL)
FILL = int(Action.FILL)
TAP = int(PortKind.TAP)


@kernel(INT, PORT, WORK, INT)
def write_out(port: Port, work: Work, n: int) -> int:
    """One `writev` of `n` vectors.  *returns* OK or a drop reason (spec TP-18, AP-03)."""
    if writev(port.fd, work.iov_hva, n) >= 0:
        return OK
    error = errno()
    if port.kind == TAP:
        return TAP_FULL if error == EAGAIN else TAP_ERROR
    if error == EMSGSIZE:
        return MTU_EXCEEDED
    return INTERFACE_FULL if error == EAGAIN or error == ENOBUFS else INTERFACE_ERROR


@kernel(INT, STATE, WORK, FRAME, INT)
def to_stream(state: State, work: Work, frame: Frame, out: int) -> int:
    """Finish a partial sum in a private buffer and write that."""
    base = work.stream_hva + HDR_LEN
    gather(work, frame, base)
    fill(frame, base)
    store_i64(work.stream_hva, 0)
    store_u32(work.stream_hva + 8, 0)
    rest = frame.length - frame.head_len
    work.ledger[out, CSUM_FILLED] += 1
    work.ledger[out, PAYLOAD_BYTES_COPIED] += rest
    work.ledger[out, PAYLOAD_BYTES_SUMMED] += rest
    header_len = state.ports[out].egress_header_len
    work.iov[0] = base - header_len
    work.iov[1] = header_len + frame.length
    return write_out(state.ports[out], work, 1)


@kernel(INT, STATE, WORK, FRAME, INT, INT)
def to_tap(state: State, work: Work, frame: Frame, out: int, action: int) -> int:
    """Write to a tap: header and head from private memory, the rest from the sender's.

    A tap whose kernel takes partial gets it (the seed ours, the sum never computed); one that
    does not is a stream: its frames are finished from a private copy, because a sum over memory
    that a guest can change is not the sum of what is sent.
    """
    port = state.ports[out]
    head = work.head_hva
    flags = 0
    start = 0
    offset = 0
    if action == PASS_PARTIAL:
        flags = VIRTIO_NET_HDR_F_NEEDS_CSUM | gso_fields(frame)
        start = frame.csum_start
        offset = frame.csum_offset
    elif action == PASS_VALID:
        flags = VIRTIO_NET_HDR_F_DATA_VALID
    elif action == FILL:
        return to_stream(state, work, frame, out)
    header_len = port.egress_header_len
    if header_len:
        write_header(head - header_len, header_len, flags, start, offset, 1)
    n = 1
    work.iov[0] = head - header_len
    work.iov[1] = header_len + frame.head_len
    rest = frame.length - frame.head_len
    s = frame.first_seg
    while rest > 0:
        if n == IOV_MAX:
            return CHAIN_TOO_LONG
        piece = min(work.seg_len[s], rest)
        work.iov[2 * n] = work.seg_hva[s]
        work.iov[2 * n + 1] = piece
        rest -= piece
        n += 1
        s += 1
    status = write_out(port, work, n)
    if status == OK and action == PASS_PARTIAL:
        work.ledger[out, CSUM_ELIDED] += 1
    return status
