"""memcpy over the same scatter lists: the least that moving frames from guest to guest costs.

How it works: `Copying` writes down, for every chain of a load's transmit rings, which bytes of
which pieces go to which receive buffers, just as a back-end would find them in the rings; one
compiled loop then copies them, on a core of one's choice, and does nothing else.  Memory, pieces
and order are those that the back-end has; so is the number of bytes.
"""

import time
from pathlib import Path
from typing import Final

import numpy as np

from vionet.bench.layout import RX, TX
from vionet.bench.place import beside
from vionet.bench.round import Rounds
from vionet.jit import raw
from vionet.jit.kernel import INT, kernel
from vionet.jit.record import address_of

CACHES: Final = Path("/sys/devices/system/cpu/cpu0/cache")
UNITS: Final = {"K": 1 << 10, "M": 1 << 20}


@kernel(INT, INT, INT)
def copy_pieces(table_hva: int, count: int) -> int:
    """Copy `count` pieces: of each source, destination, length."""
    total = 0
    for i in range(count):
        row_hva = table_hva + 24 * i
        length = raw.load_i64(row_hva + 16)
        raw.copy(raw.load_i64(row_hva + 8), raw.load_i64(row_hva), length)
        total += length
    return total


class Copying:
    """What one lap of a load's transmit rings moves, as a table of pieces."""

    def __init__(self, load: Rounds, both: bool) -> None:
        """`both`: the frames of both ports, in turns of one ring each; else those of A."""
        rows = [row for end in range(2 if both else 1) for row in _pieces(load, end)]
        self.table = np.array(rows, np.int64)
        self.lap_len = int(self.table[:, 2].sum())

    @property
    def working_set(self) -> int:
        """Bytes read and written in a lap."""
        return 2 * self.lap_len

    def rate(self, seconds: float, core: int) -> float:
        """Bytes a second on `core`, after one lap that does not count."""
        found: list[float] = []
        beside(core, lambda: found.append(self._run(seconds))).join()
        return found[0]

    def _run(self, seconds: float) -> float:
        copy_pieces(address_of(self.table), len(self.table))
        start = now = time.perf_counter()
        total = 0
        while not total or now - start < seconds:
            total += copy_pieces(address_of(self.table), len(self.table))
            now = time.perf_counter()
        return total / (now - start)


def _pieces(load: Rounds, end: int) -> list[tuple[int, int, int]]:
    """Source, destination and length of everything that port `end` sends in one lap."""
    tx, rx = load.rings[end][TX], load.rings[1 - end][RX]
    (region,) = tx.memory.regions
    first_hva, stride, count = int(rx.ring.buf_hva), int(rx.ring.stride), int(rx.ring.count)
    rows, buffer, to, room = [], -1, 0, 0
    for chain in range(tx.shape.count):
        room = 0  # a frame begins in a buffer of its own
        for gpa, length in tx.chain(chain):
            source, left = gpa - region.gpa + region.hva, length
            while left:
                if not room:
                    buffer = (buffer + 1) % count
                    to, room = first_hva + buffer * stride, rx.lengths[0]
                n = min(left, room)
                rows.append((source, to, n))
                source, to, room, left = source + n, to + n, room - n, left - n
    return rows


def last_level_cache() -> int:
    """Bytes of the largest cache; 0 where the kernel does not say."""
    sizes = [path.read_text().strip() for path in CACHES.glob("index*/size")]
    return max((int(size[:-1]) * UNITS[size[-1]] for size in sizes), default=0)
