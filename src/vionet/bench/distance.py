"""How far apart two cores are: the time that one cache line takes from one to the other and back.

A virtual machine's cores may be moved by its host while it runs, and every figure of two cores
that share rings moves with them (a factor of two was seen).  So it is measured with each run.
"""

import time
from typing import Final

import numpy as np

from vionet.bench.place import beside, place
from vionet.jit import raw
from vionet.jit.kernel import INT, kernel
from vionet.jit.record import Ints, address_of

TRIES: Final = 50
ROUNDS: Final = 1000  # of one try


@kernel(INT, INT, INT, INT)
def ping(ours_hva: int, theirs_hva: int, rounds: int) -> int:
    """Write 1, 2, … to `ours_hva`, each after the last came back at `theirs_hva`."""
    for i in range(1, rounds + 1):
        raw.store_release_u16(ours_hva, i)
        while raw.load_acquire_u16(theirs_hva) != i:
            pass
    return rounds


@kernel(INT, INT, INT, INT)
def pong(ours_hva: int, theirs_hva: int, rounds: int) -> int:
    """Send back to `ours_hva` what comes at `theirs_hva`."""
    for i in range(1, rounds + 1):
        while raw.load_acquire_u16(theirs_hva) != i:
            pass
        raw.store_release_u16(ours_hva, i)
    return rounds


def round_trip_ns(core: int, other: int) -> float:
    """Nanoseconds from `core` to `other` and back, undisturbed: the least of some tries.

    The calling thread stays on `core`.
    """
    lines: Ints = np.zeros(64, np.int64)
    first, second = address_of(lines), address_of(lines) + 256

    def answer() -> None:
        for _ in range(TRIES):
            pong(second, first, ROUNDS)

    place(core)
    thread = beside(other, answer)
    least = float("inf")
    for _ in range(TRIES):
        start = time.perf_counter_ns()
        ping(first, second, ROUNDS)
        least = min(least, (time.perf_counter_ns() - start) / ROUNDS)
    thread.join()
    return least
