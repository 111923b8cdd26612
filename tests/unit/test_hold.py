"""Holding the workers: what the control plane may do to traffic, and for how long."""

import sys
import time
from contextlib import closing

import pytest

from vionet.fabric import Fabric
from vionet.jit import LANE, Lane

PATIENCE_S = 100.0


@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_moves_inside_a_hold(workers: int) -> None:
    """No worker makes a round until the outermost hold is over; then each does."""
    with closing(Fabric(workers=workers)) as fabric:
        fabric._state.spin_ns = 1 << 62  # they never sleep
        fabric.start()
        with fabric._workers.hold():
            with fabric._workers.hold():
                before = [int(work.rounds) for work in fabric._works]
            time.sleep(0.01)
            assert before == [int(work.rounds) for work in fabric._works]
        deadline = time.monotonic() + PATIENCE_S
        while any(int(w.rounds) <= n for w, n in zip(fabric._works, before, strict=True)):
            assert time.monotonic() < deadline
            time.sleep(0.001)


@pytest.mark.skipif(LANE is Lane.INTERPRETED, reason="interpreted, a worker needs the GIL itself")
def test_worker_goes_on_after_a_hold_without_the_gil() -> None:
    """Forwarding does not wait for Python: here it would, for longer than the test lasts."""
    before = sys.getswitchinterval()
    with closing(Fabric()) as fabric:
        fabric._state.spin_ns = 1 << 62
        fabric.start()
        try:
            sys.setswitchinterval(1000)
            with fabric._workers.hold():
                rounds = int(fabric._works[0].rounds)
            deadline = time.monotonic() + PATIENCE_S
            while int(fabric._works[0].rounds) == rounds:  # the GIL is never given up here
                assert time.monotonic() < deadline
        finally:
            sys.setswitchinterval(before)
