"""The driver's side of a packed ring, by VIRTIO 1.2 section 2.8: slow and plain.

It offers what `ring.DriverRing` offers, so that a guest can have either.  Ids are not slots, and
only the last descriptor of a chain carries the right one (PK-09).
"""

import struct
from collections.abc import Sequence
from typing import Final

from tests.reference.memory import Memory
from tests.reference.ring import INDIRECT, NEXT, WRITE, Buffer, DriverRing, Used

AVAIL: Final = 1 << 7
USED: Final = 1 << 15
DESC: Final = struct.Struct("<QIHH")  # address, length, id, flags
ENABLE, DISABLE, AT_DESCRIPTOR = 0, 1, 2
JUNK_ID: Final = 0xBEEF
FIRST_ID: Final = 1000


class Place:
    """A slot and its wrap counter, which is 1 at first and turns at the end (PK-02)."""

    def __init__(self, size: int, steps: int = 0) -> None:
        self.size = size
        self.slot = 0
        self.wrap = 1
        for _ in range(steps):
            self.advance()

    def advance(self, count: int = 1) -> None:
        """Go on by `count` slots."""
        for _ in range(count):
            self.slot += 1
            if self.slot == self.size:
                self.slot = 0
                self.wrap ^= 1

    def after(self, count: int) -> "Place":
        """The place `count` slots on."""
        place = Place(self.size)
        place.slot, place.wrap = self.slot, self.wrap
        place.advance(count)
        return place

    @property
    def word(self) -> int:
        """Slot and wrap counter in 16 bits, as event structures and bases have them."""
        return self.wrap << 15 | self.slot


class PackedRing(DriverRing):
    """Descriptors and the two event structures at three guest addresses."""

    def __init__(
        self, memory: Memory, size: int, places: tuple[int, int, int], start: int = 0
    ) -> None:
        """`start` slots were used by a driver and a device before, one at a time."""
        self.memory = memory
        self.size = size
        self.desc_gpa, self.avail_gpa, self.used_gpa = places
        self.next = Place(size, start)
        self.reading = Place(size, start)
        self.free_slots = size
        self.seen_idx = 0
        self.history: list[Used] = []
        self.order: list[int] = []  # the id of every chain, as they were put
        self._ids = list(range(FIRST_ID, FIRST_ID + size))
        self._spans: dict[int, int] = {}
        self._held: list[tuple[int, int]] = []  # (slot, flags) not shown yet
        self.used_slots: list[int] = []
        laps = [
            self.next.wrap if slot < self.next.slot else self.next.wrap ^ 1 for slot in range(size)
        ]
        used = [start >= size or slot < start for slot in range(size)]
        flags = [(AVAIL | USED) * (u and lap) for u, lap in zip(used, laps, strict=True)]
        memory.write(self.desc_gpa, b"".join(DESC.pack(0, 0, JUNK_ID, word) for word in flags))
        self.want(ENABLE)
        memory.write(self.used_gpa, bytes(4))

    # --- memory ------------------------------------------------------------------------------

    @property
    def base(self) -> int:
        return self.next.word << 16 | self.next.word

    def write_descriptor(self, slot: int, gpa: int, length: int, identity: int, flags: int) -> None:
        """Write one descriptor."""
        data = DESC.pack(gpa % (1 << 64), length, identity, flags)
        self.memory.write(self.desc_gpa + 16 * slot, data)

    def descriptor(self, slot: int) -> tuple[int, int, int, int]:
        """Address, length, id and flags of one descriptor."""
        return DESC.unpack(self.memory.read(self.desc_gpa + 16 * slot, 16))

    def want(self, mode: int, word: int = 0) -> None:
        """Set the driver's event structure."""
        self.memory.write(self.avail_gpa, struct.pack("<HH", word, mode))

    @property
    def device_event(self) -> tuple[int, int]:
        """Mode, slot and wrap counter of the device's event structure."""
        word, mode = struct.unpack("<HH", self.memory.read(self.used_gpa, 4))
        return mode, word

    def suppress(self, flags: int) -> None:
        self.want(DISABLE if flags & 1 else ENABLE)

    def device_writes(self, shown: int) -> list[tuple[int, int]]:
        """Of each descriptor that was used the second half, and the device's event structure."""
        self._look()
        slots = self.used_slots[shown:]
        return [(self.used_gpa, 4), *((self.desc_gpa + 16 * slot + 8, 8) for slot in slots)]

    # --- an obedient driver ------------------------------------------------------------------

    @property
    def room(self) -> int:
        return self.free_slots

    @staticmethod
    def waiting(place: Place) -> int:
        """The flags of a descriptor that is available at `place` (PK-03)."""
        return AVAIL if place.wrap else USED

    def add(
        self,
        buffers: Sequence[Buffer],
        write: bool,
        *,
        table_gpa: int | None = None,
        direct: int = 0,
        publish: bool = True,
    ) -> int:
        """A chain over `buffers`; with `table_gpa` all of them are indirect (PK-14)."""
        flag = WRITE if write else 0
        rows = [(b.gpa, b.length, flag) for b in buffers]
        if table_gpa is not None:
            # Nothing but WRITE means anything in there (PK-13).
            junk = NEXT | AVAIL | USED | 0x7F70 & ~WRITE
            table = [DESC.pack(gpa, length, JUNK_ID, flags | junk) for gpa, length, flags in rows]
            self.memory.write(table_gpa, b"".join(table))
            rows = [(table_gpa, 16 * len(rows), INDIRECT | len(rows) % 2 * WRITE)]
        return self.put(rows, publish)

    def put(self, rows: Sequence[tuple[int, int, int]], publish: bool = True) -> int:
        """A chain of these (address, length, flags); *returns* its id.

        The first descriptor's flags are written last (PK-21), or at `publish`.
        """
        assert len(rows) <= self.free_slots, "the ring has no room for this chain"
        identity = self._ids.pop(0)
        self.order.append(identity)
        self._spans[identity] = len(rows)
        self.free_slots -= len(rows)
        for i, (gpa, length, flags) in enumerate(rows):
            last = i == len(rows) - 1
            flags |= self.waiting(self.next) | (0 if last else NEXT)
            if i == 0:
                self._held.append((self.next.slot, flags))
                flags = self.descriptor(self.next.slot)[3]
            self.write_descriptor(self.next.slot, gpa, length, identity if last else JUNK_ID, flags)
            self.next.advance()
        if publish:
            self.publish()
        return identity

    def publish(self, idx: int | None = None) -> None:
        """Show the device every chain that was put."""
        for slot, flags in self._held:
            gpa, length, identity, _ = self.descriptor(slot)
            self.write_descriptor(slot, gpa, length, identity, flags)
        self._held = []

    def _look(self) -> None:
        """Read what was used since the last look, in ring order."""
        while True:
            _, length, identity, flags = self.descriptor(self.reading.slot)
            wanted = AVAIL | USED if self.reading.wrap else 0
            if flags & (AVAIL | USED) != wanted or identity not in self._spans:
                return
            assert bool(flags & WRITE) == bool(length), "PK-12"
            assert flags & ~(AVAIL | USED | WRITE) == 0
            self.history.append(Used(identity, length))
            assert self.order[len(self.history) - 1] == identity, "RF-04: out of order"
            self.used_slots.append(self.reading.slot)
            span = self._spans.pop(identity)
            self.reading.advance(span)
            self.free_slots += span
            self._ids.append(identity)

    @property
    def used_idx(self) -> int:
        """How many chains the device has given back so far."""
        self._look()
        return len(self.history)

    def take_used(self) -> list[Used]:
        self._look()
        found = self.history[self.seen_idx :]
        self.seen_idx = len(self.history)
        return found

    def entries(self, low: int, high: int) -> list[Used]:
        return self.history[low:high]
