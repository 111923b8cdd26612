"""Delivery of the frame in hand to one port, as the plan says.

Kept apart by receiver: `deliver_guest` for receive rings, `deliver_tap` for taps,
`deliver_stream` for streams, `segment` for frames that the receiver does not take whole.  The
head copy is the same after each delivery as before, so that a flooded frame is prepared for every
receiver anew (spec SG-19, W14).

What the receiver's ledger grows by is also counted by who sent it (`Work.talks`), and what was
planned is left in the work record for captures.
"""

from vionet.engine.deliver_guest import to_guest
from vionet.engine.deliver_stream import to_stream
from vionet.engine.deliver_tap import to_tap
from vionet.engine.layout import (
    FRAME,
    STATE,
    TALK_BYTES,
    TALK_COMPUTED,
    TALK_ELIDED,
    TALK_FRAMES,
    WORK,
    Frame,
    State,
    Work,
)
from vionet.engine.plan import accepts_of, plan
from vionet.engine.segment import deliver_large
from vionet.engine.status import (
    CSUM_BAD,
    CSUM_ELIDED,
    CSUM_FILLED,
    CSUM_VERIFIED,
    HEADER_BYTES,
    MTU_EXCEEDED,
    OK,
    RX_BYTES,
    RX_FRAMES,
    PortKind,
)
from vionet.jit.kernel import INT, kernel
from vionet.spec.packet import ETH_HLEN

GUEST = int(PortKind.GUEST)
STREAM = int(PortKind.STREAM)


@kernel(INT, STATE, WORK, FRAME, INT, inline=True)
def deliver_usual(state: State, work: Work, frame: Frame, out: int) -> int:
    """`deliver` of an ordinary frame."""
    port = state.ports[out]
    l2_len = frame.l3_off if frame.l3_off else ETH_HLEN
    if port.mtu and frame.length > port.mtu + l2_len:
        return MTU_EXCEEDED
    action = plan(frame.state, accepts_of(port, frame))
    work.acted = action
    if port.kind == GUEST:
        status = to_guest(state, work, frame, out, action)
    elif port.kind == STREAM:
        status = to_stream(state, work, frame, out, action)
    else:
        status = to_tap(state, work, frame, out, action)
    if status == OK:
        work.ledger[out, RX_FRAMES] += 1
        work.ledger[out, RX_BYTES] += frame.length
        work.ledger[out, HEADER_BYTES] += frame.head_len
    return status


@kernel(INT, STATE, WORK, FRAME, INT, INT, inline=True)
def deliver(state: State, work: Work, frame: Frame, in_port: int, out: int) -> int:
    """Deliver the frame in hand to port `out`.  *returns* OK or a drop reason."""
    frames = work.ledger[out, RX_FRAMES]
    octets = work.ledger[out, RX_BYTES]
    elided = work.ledger[out, CSUM_ELIDED]
    computed = work.ledger[out, CSUM_FILLED] + work.ledger[out, CSUM_VERIFIED]
    bad = work.ledger[out, CSUM_BAD]
    work.acted = -1
    work.made = 0
    if frame.gso_type:
        status = deliver_large(state, work, frame, out, accepts_of(state.ports[out], frame))
    else:
        status = deliver_usual(state, work, frame, out)
    work.bad = work.ledger[out, CSUM_BAD] - bad
    work.talks[in_port, out, TALK_FRAMES] += work.ledger[out, RX_FRAMES] - frames
    work.talks[in_port, out, TALK_BYTES] += work.ledger[out, RX_BYTES] - octets
    work.talks[in_port, out, TALK_ELIDED] += work.ledger[out, CSUM_ELIDED] - elided
    work.talks[in_port, out, TALK_COMPUTED] += (
        work.ledger[out, CSUM_FILLED] + work.ledger[out, CSUM_VERIFIED] - computed
    )
    return status
