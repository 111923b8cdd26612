"""Delivery of the frame in hand to one port, as the plan says.

Kept apart by receiver: `deliver_guest` for receive rings, `deliver_tap` for taps,
`deliver_stream` for streams, `segment` for frames that the receiver does not take whole.  The
head copy is the same after each delivery as before, so that a flooded frame is prepared for every
receiver anew (spec SG-19, W14).
"""

from vionet.engine.deliver_guest import to_guest
from vionet.engine.deliver_stream import to_stream
from vionet.engine.deliver_tap import to_tap
from vionet.engine.layout import FRAME, STATE, WORK, Frame, State, Work
from vionet.engine.plan import accepts_of, plan
from vionet.engine.segment import deliver_large
from vionet.engine.status import (
    HEADER_BYTES,
    MTU_EXCEEDED,
    OK,
    RX_BYTES,
    RX_FRAMES,
    PortKind,
)
from vionet.engine.talk import mark
from vionet.jit.kernel import INT, kernel
from vionet.spec.packet import ETH_HLEN

GUEST = int(PortKind.GUEST)
STREAM = int(PortKind.STREAM)


@kernel(INT, STATE, WORK, FRAME, INT, inline=True)
def deliver(state: State, work: Work, frame: Frame, out: int) -> int:
    """Deliver the frame in hand to port `out`.  *returns* OK or a drop reason."""
    port = state.ports[out]
    accepts = accepts_of(port, frame)
    if frame.gso_type:
        mark(work, out)
        return deliver_large(state, work, frame, out, accepts)
    l2_len = frame.l3_off if frame.l3_off else ETH_HLEN
    if port.mtu and frame.length > port.mtu + l2_len:
        return MTU_EXCEEDED
    action = plan(frame.state, accepts)
    if port.kind == GUEST:
        status = to_guest(state, work, frame, out, action)
    elif port.kind == STREAM:
        status = to_stream(state, work, frame, out, action)
    else:
        status = to_tap(state, work, frame, out, action)
    mark(work, out)
    if status == OK:
        work.ledger[out, RX_FRAMES] += 1
        work.ledger[out, RX_BYTES] += frame.length
        work.ledger[out, HEADER_BYTES] += frame.head_len
    return status
