"""Who says how much to whom: what a receiver's ledger grew by in a burst, by the burst's sender.

How it works: deliveries `mark` their receivers.  What a marked one's ledger has more
than all that was told of it before (`Work.talked`) came from the port whose burst this is.  So a
frame costs next to nothing here, and the sums are the ledger's.
"""

from typing import Final

import numpy as np

from vionet.engine.layout import (
    TALK_BYTES,
    TALK_COMPUTED,
    TALK_ELIDED,
    TALK_FRAMES,
    WORK,
    Work,
)
from vionet.engine.status import CSUM_ELIDED, CSUM_FILLED, CSUM_VERIFIED, RX_BYTES, RX_FRAMES
from vionet.jit.kernel import INT, kernel

ONE: Final[int] = np.int64(1)  # type: ignore[assignment]  # of 64 bits, interpreted too
MASK = (1 << 63) - 1  # a shift that brings no sign along


@kernel(INT, WORK, INT, inline=True)
def mark(work: Work, out: int) -> int:
    """This burst has something for port `out`."""
    work.given |= ONE << out
    return 0


@kernel(INT, WORK, INT, INT, INT, INT, inline=True)
def tell_count(work: Work, in_port: int, out: int, count: int, total: int) -> int:
    """One count of a receiver is `total` now."""
    work.talks[in_port, out, count] += total - work.talked[out, count]
    work.talked[out, count] = total
    return 0


@kernel(INT, WORK, INT)
def tell_talks(work: Work, in_port: int) -> int:
    """The end of a burst from `in_port`, when all of it is written."""
    given = work.given
    work.given = 0
    out = 0
    while given:
        if given & 1:
            ledger = work.ledger
            computed = ledger[out, CSUM_FILLED] + ledger[out, CSUM_VERIFIED]
            tell_count(work, in_port, out, TALK_FRAMES, ledger[out, RX_FRAMES])
            tell_count(work, in_port, out, TALK_BYTES, ledger[out, RX_BYTES])
            tell_count(work, in_port, out, TALK_ELIDED, ledger[out, CSUM_ELIDED])
            tell_count(work, in_port, out, TALK_COMPUTED, computed)
        given = given >> 1 & MASK
        out += 1
    return 0
