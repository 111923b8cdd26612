"""A guest with several queue pairs: what `tests.reference.guest` has, once for each pair.

`on(pair)` turns all that the guest does (`post`, `send`, `received`) to one pair for a while.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from tests.reference.guest import Guest, Received
from tests.reference.plug import FULL, NO_OPTIONS, Ground, Options
from tests.reference.ring import Buffer, DriverRing

SIZE = 64


class MultiGuest(Guest):
    """A driver with `pairs` receive and transmit rings, all of them enabled."""

    def __init__(
        self,
        ground: Ground,
        index: int,
        pairs: int,
        features: int = FULL,
        options: Options = NO_OPTIONS,
        **more: Any,
    ) -> None:
        options = replace(options, queues=pairs)
        super().__init__(ground, index, features, size=SIZE, options=options, **more)
        self.rings: list[tuple[DriverRing, DriverRing]] = [(self.rx, self.tx)]
        self._posted: list[dict[int, list[Buffer]]] = [self.posted]
        for pair in range(1, pairs):
            rx, tx = self._more(), self._more()
            self.rings.append((rx, tx))
            self._posted.append({})
            for number, ring in enumerate((rx, tx)):
                self.port.set_ring(2 * pair + number, self.described(ring, ring.base))
        self.shown = [rx.used_idx for rx, _ in self.rings]

    def _more(self) -> DriverRing:
        self.next_gpa += -self.next_gpa % 16
        desc = self.alloc(16 * SIZE)
        avail = self.alloc(6 + 2 * SIZE + 2)
        return DriverRing(self.memory, SIZE, (desc, avail, self.alloc(6 + 8 * SIZE)), 0)

    @contextmanager
    def on(self, pair: int) -> Iterator[None]:
        """The guest looks after this pair."""
        before = self.rx, self.tx, self.posted
        (self.rx, self.tx), self.posted = self.rings[pair], self._posted[pair]
        try:
            yield
        finally:
            self.rx, self.tx, self.posted = before

    def post_all(self, size: int, count: int) -> None:
        """Buffers on every receive ring."""
        for pair in range(len(self.rings)):
            with self.on(pair):
                for _ in range(count):
                    self.post(size)

    def received_on(self) -> list[list[Received]]:
        """What came on each pair since the last call."""
        found = []
        for pair in range(len(self.rings)):
            with self.on(pair):
                found.append(self.received())
        return found

    def switch_ring(self, pair: int, number: int, enabled: bool) -> None:
        """SET_VRING_ENABLE of a pair's receive (0) or transmit (1) ring."""
        ring = self.rings[pair][number]
        base = int(self.record.queues[2 * pair + number].avail_idx)
        self.port.set_ring(2 * pair + number, replace(self.described(ring, base), enabled=enabled))

    def check_memory(self, shown: int, in_place: bool = False) -> None:
        """Used rings and posted buffers of any pair may have changed, nothing else."""
        allowed = [area for rings in self.rings for ring in rings for area in ring.device_writes(0)]
        for posted in self._posted:
            allowed += [(b.gpa, b.length) for buffers in posted.values() for b in buffers]
        assert [] == self.memory.changed(allowed)
