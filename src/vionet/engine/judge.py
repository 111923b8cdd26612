"""The judgement at ingress: is the virtio-net header allowed, and what does it say?

How it works: `judge` compares the header copy with the frame's length, the negotiated features
and the parsed headers.  It refuses with a drop reason or leaves `frame.state`; from here on
nobody asks what virtio said.

Rules: NEEDS_CSUM only if negotiated (spec TD-02), never on a fragment (SG-15, W48) or on SCTP
(SG-14, W58), with start after the L3 header (W43) and start + offset + 2 within the frame
(LX-04); GSO only if negotiated (TD-03 to TD-10); unknown flags and DATA_VALID are not a reason to
drop (TX-01, TD-14), and without NEEDS_CSUM start and offset are not looked at (TX-02).  What a
larger frame says of its segments is judged in `gso`.

Trust: for a guest nothing is believed.  A kernel's DATA_VALID (tap) is.
"""

from vionet.engine.gso import judge_gso
from vionet.engine.layout import FRAME, PORT, WORK, Frame, Port, Work
from vionet.engine.status import (
    CSUM_NOT_NEGOTIATED,
    CSUM_ON_FRAGMENT,
    CSUM_ON_SCTP,
    CSUM_OUT_OF_FRAME,
    CSUM_START_IN_HEADER,
    IP_LENGTH_INVALID,
    OK,
    Csum,
    PortKind,
)
from vionet.jit.kernel import INT, kernel
from vionet.jit.raw import load_u16
from vionet.spec.packet import IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP, TCP_CSUM_OFF, UDP_CSUM_OFF
from vionet.spec.virtio_net import (
    VIRTIO_NET_HDR_F_DATA_VALID,
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
)

VALID = int(Csum.VALID)
PARTIAL = int(Csum.PARTIAL)
INNER_PARTIAL = int(Csum.INNER_PARTIAL)
UNKNOWN = int(Csum.UNKNOWN)
NONE = int(Csum.NONE)
GUEST = int(PortKind.GUEST)


@kernel(INT, WORK, FRAME, INT, inline=True)
def read_header(work: Work, frame: Frame, header_len: int) -> int:
    """Take the fields of the virtio-net header, which lies in front of the head copy (HD-01)."""
    base = work.head_hva - header_len
    word = load_u16(base)
    frame.hdr_flags = word & 0xFF
    frame.gso_type = word >> 8
    frame.csum_start = load_u16(base + 6)
    frame.csum_offset = load_u16(base + 8)
    return 0


@kernel(INT, PORT, WORK, FRAME, inline=True)
def judge(port: Port, work: Work, frame: Frame) -> int:
    """Set `frame.state`, or *return* the reason why the frame is refused.

    *requires* `read_header` and `parse` done.
    """
    if frame.gso_type:
        status = judge_gso(port, work, frame)
        if status != OK:
            return status
    if not frame.hdr_flags & VIRTIO_NET_HDR_F_NEEDS_CSUM:
        frame.state = frame.outer
        if (
            port.kind != GUEST
            and frame.hdr_flags & VIRTIO_NET_HDR_F_DATA_VALID
            and frame.outer == UNKNOWN
        ):
            frame.state = VALID
        elif frame.length != frame.l4_off + frame.l4_len and frame.length > frame.head_len:
            # Trailing bytes outside the head copy: not ours to trim, it passes as it is.
            frame.state = NONE
        return OK
    if not port.offers_partial:
        return CSUM_NOT_NEGOTIATED
    start = frame.csum_start
    if start + frame.csum_offset + 2 > frame.length:
        return CSUM_OUT_OF_FRAME
    if frame.fragment:
        return CSUM_ON_FRAGMENT
    if frame.l4 == IPPROTO_SCTP:
        return CSUM_ON_SCTP
    if frame.bad_len:
        return IP_LENGTH_INVALID
    if start < frame.reached:
        return CSUM_START_IN_HEADER
    frame.state = INNER_PARTIAL
    if start == frame.l4_off and (
        (frame.l4 == IPPROTO_TCP and frame.csum_offset == TCP_CSUM_OFF)
        or (frame.l4 == IPPROTO_UDP and frame.csum_offset == UDP_CSUM_OFF)
    ):
        frame.state = PARTIAL
        # Padding and trailers would be summed (spec SG-04): the datagram is all there is.
        frame.length = frame.l4_off + frame.l4_len
        frame.head_len = min(frame.head_len, frame.length)
    return OK
