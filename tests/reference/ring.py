"""The driver's side of a split ring, by VIRTIO 1.2 section 2.7; nothing is bounded or checked,
so that a test can also write what no driver should.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from tests.reference.memory import Memory

NEXT: Final = 1
WRITE: Final = 2
INDIRECT: Final = 4
DESC: Final = struct.Struct("<QIHH")


class Buffer(NamedTuple):
    """One descriptor's worth of guest memory."""

    gpa: int
    length: int


@dataclass(frozen=True, slots=True)
class Used:
    """One entry of the used ring."""

    head: int
    length: int


class DriverRing:
    """Descriptor table, available ring and used ring at three guest addresses."""

    def __init__(
        self, memory: Memory, size: int, places: tuple[int, int, int], start: int = 0
    ) -> None:
        """`start` is where both indices begin: 65535 makes them wrap at once."""
        self.memory = memory
        self.size = size
        self.desc_gpa, self.avail_gpa, self.used_gpa = places
        self.next_idx = start
        self.seen_idx = start
        self._free = list(range(size))
        self._chains: dict[int, list[int]] = {}
        memory.write(self.desc_gpa, bytes(16 * size))
        memory.write(self.avail_gpa, bytes(6 + 2 * size))
        memory.write(self.used_gpa, bytes(6 + 8 * size))
        self.publish()
        self._store(self.used_gpa + 2, start)

    # --- memory ------------------------------------------------------------------------------

    @property
    def base(self) -> int:
        """Where a front-end would say that the ring begins."""
        return self.next_idx

    def device_writes(self, shown: int) -> list[tuple[int, int]]:
        """(address, length) of what the device may write of the ring since `used_idx` was shown."""
        return [(self.used_gpa, 6 + 8 * self.size)]

    def _store(self, gpa: int, value: int) -> None:
        self.memory.write(gpa, (value & 0xFFFF).to_bytes(2, "little"))

    def _load(self, gpa: int) -> int:
        return int.from_bytes(self.memory.read(gpa, 2), "little")

    @property
    def used_idx(self) -> int:
        """The device's index."""
        return self._load(self.used_gpa + 2)

    @property
    def used_flags(self) -> int:
        """The device's flags."""
        return self._load(self.used_gpa)

    @property
    def avail_event(self) -> int:
        """Where the device wants to be told of (EVENT_IDX)."""
        return self._load(self.used_gpa + 4 + 8 * self.size)

    def suppress(self, flags: int) -> None:
        """Set the driver's flags: 1 asks for no interrupts."""
        self._store(self.avail_gpa, flags)

    def want_event(self, idx: int) -> None:
        """Set `used_event` (EVENT_IDX)."""
        self._store(self.avail_gpa + 4 + 2 * self.size, idx)

    def set_descriptor(self, slot: int, gpa: int, length: int, flags: int, following: int) -> None:
        """Write one descriptor."""
        self.memory.write(
            self.desc_gpa + 16 * slot, DESC.pack(gpa % (1 << 64), length, flags, following)
        )

    def set_entry(self, idx: int, head: int) -> None:
        """Write one entry of the available ring."""
        self._store(self.avail_gpa + 4 + 2 * (idx % self.size), head)

    def publish(self, idx: int | None = None) -> None:
        """Show the device the available index."""
        self._store(self.avail_gpa + 2, self.next_idx if idx is None else idx)

    # --- an obedient driver ------------------------------------------------------------------

    @property
    def room(self) -> int:
        """Free descriptors."""
        return len(self._free)

    def take_slots(self, count: int) -> list[int]:
        """Reserve descriptors."""
        taken, self._free = self._free[:count], self._free[count:]
        assert len(taken) == count, "the ring has no room for this chain"
        return taken

    def offer(self, head: int, slots: list[int], publish: bool = True) -> int:
        """Make the chain at `head` available; *returns* `head`."""
        self._chains[head] = slots
        self.set_entry(self.next_idx, head)
        self.next_idx = (self.next_idx + 1) & 0xFFFF
        if publish:
            self.publish()
        return head

    def add(
        self,
        buffers: Sequence[Buffer],
        write: bool,
        *,
        table_gpa: int | None = None,
        direct: int = 0,
        publish: bool = True,
    ) -> int:
        """A chain over `buffers`; with `table_gpa` all but the first `direct` are indirect."""
        flag = WRITE if write else 0
        count = len(buffers) if table_gpa is None else direct + 1
        slots = self.take_slots(count)
        for i, slot in enumerate(slots):
            last = i == count - 1
            following = 0 if last else slots[i + 1]
            if last and table_gpa is not None:
                rest = buffers[direct:]
                table = [
                    DESC.pack(
                        b.gpa, b.length, flag | (NEXT if j < len(rest) - 1 else 0), (j + 1) & 0xFFFF
                    )
                    for j, b in enumerate(rest)
                ]
                self.memory.write(table_gpa, b"".join(table))
                self.set_descriptor(slot, table_gpa, 16 * len(rest), INDIRECT, 0)
            else:
                flags = flag | (0 if last else NEXT)
                self.set_descriptor(slot, buffers[i].gpa, buffers[i].length, flags, following)
        return self.offer(slots[0], slots, publish)

    def take_used(self) -> list[Used]:
        """The entries that the device has shown since the last call; their slots are free again."""
        shown = self.used_idx  # once: a worker may go on meanwhile
        found = self.entries(self.seen_idx, shown)
        self.seen_idx = shown
        for entry in found:
            self._free += self._chains.pop(entry.head, [])
        return found

    def entries(self, low: int, high: int) -> list[Used]:
        """The used entries from index `low` up to `high`."""
        found = []
        while low != high:
            entry = self.memory.read(self.used_gpa + 4 + 8 * (low % self.size), 8)
            found.append(Used(*struct.unpack("<II", entry)))
            low = (low + 1) & 0xFFFF
        return found
