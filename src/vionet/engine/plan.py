"""The decision table: what happens to a frame's checksum, for one receiver.

One pure function of two small codes: the state of the checksum and what the egress accepts.  The
table below is the whole of it; `docs/how-it-works.md` prints it from here, and each cell has a
test.  Everything about *who* the receiver is (negotiated features, policy) is folded into the
port's `accepts` when it is configured, so that the table is one look-up per delivery.

Two rules stand beside the table: DHCP to a guest is always delivered complete, because its
clients read raw frames (spec SG-17, W1 to W4; `accepts_of`); and a frame with an IPv6 routing
header under way has no verifiable state (`parse` says NONE).
"""

from typing import Final

import numpy as np

from vionet.engine.layout import FRAME, PORT, Frame, Port
from vionet.engine.status import Accepts, Action, Csum, PortKind
from vionet.jit.kernel import INT, kernel

COMPLETE = int(Accepts.COMPLETE)
GUEST = int(PortKind.GUEST)

_ROWS: Final[dict[Csum, dict[Accepts, Action]]] = {
    Csum.NONE: {
        Accepts.COMPLETE: Action.PASS,
        Accepts.UNIFORM: Action.PASS,
        Accepts.NATURAL: Action.PASS,
        Accepts.KERNEL: Action.PASS,
        Accepts.STREAM: Action.PASS,
    },
    Csum.UNKNOWN: {
        Accepts.COMPLETE: Action.PASS,
        Accepts.UNIFORM: Action.VERIFY,
        Accepts.NATURAL: Action.PASS,
        Accepts.KERNEL: Action.PASS,
        Accepts.STREAM: Action.PASS,
    },
    Csum.VALID: {
        Accepts.COMPLETE: Action.PASS,
        Accepts.UNIFORM: Action.UNFILL,
        Accepts.NATURAL: Action.PASS_VALID,
        Accepts.KERNEL: Action.PASS_VALID,
        Accepts.STREAM: Action.PASS,
    },
    Csum.PARTIAL: {
        Accepts.COMPLETE: Action.FILL,
        Accepts.UNIFORM: Action.PASS_PARTIAL,
        Accepts.NATURAL: Action.PASS_PARTIAL,
        Accepts.KERNEL: Action.PASS_PARTIAL,
        Accepts.STREAM: Action.FILL,
    },
    Csum.INNER_PARTIAL: {
        Accepts.COMPLETE: Action.FILL,
        Accepts.UNIFORM: Action.FILL_THEN_VERIFY,
        Accepts.NATURAL: Action.FILL,
        Accepts.KERNEL: Action.PASS_PARTIAL,
        Accepts.STREAM: Action.FILL,
    },
}

TABLE: Final = np.array(
    [[_ROWS[state][accepts] for accepts in Accepts] for state in Csum], dtype=np.int64
)


@kernel(INT, INT, INT, inline=True)
def plan(state: int, accepts: int) -> int:
    """The `Action` for a frame in `state` (Csum) to an egress that takes `accepts` (Accepts)."""
    return np.int64(TABLE[state, accepts])  # type: ignore[return-value]


@kernel(INT, PORT, FRAME, inline=True)
def accepts_of(port: Port, frame: Frame) -> int:
    """What a port takes (Accepts) of the frame in hand."""
    return COMPLETE if frame.dhcp and port.kind == GUEST else port.accepts
