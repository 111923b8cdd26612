"""A split virtqueue from the driver's side, obedient or not (VIRTIO 1.2 section 2.7).

How it works: `chain` writes descriptors and returns a head, `expose` puts a head into the
available ring without showing it, `publish` moves the index that the device reads, `take` reads
what the device has used.  Everything below these (`write_desc`, `avail_idx` …) may be used to
write nonsense.

Invariants: the driver never writes the used ring; the slots of a chain are free again when `take`
has seen its head come back.  Ordering: stores of aligned words, in program order (x86).
"""

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from vionet.spec import virtio
from vionet.vhost_user.guest_memory import GuestMemory

DESC: Final = struct.Struct("<QIHH")
USED: Final = struct.Struct("<II")


class NotOffered(Exception):
    """The back-end does not offer what a check needs; the text names it."""


class Piece(NamedTuple):
    """One buffer of a chain."""

    gpa: int
    length: int
    is_writable: bool = False

    @property
    def flags(self) -> int:
        """Descriptor flags without NEXT."""
        return virtio.VRING_DESC_F_WRITE if self.is_writable else 0


class Used(NamedTuple):
    """One element of the used ring."""

    head: int
    length: int


def split_at(gpa: int, lengths: Sequence[int], is_writable: bool = False) -> list[Piece]:
    """Adjacent pieces of the given lengths, from `gpa` on."""
    pieces = []
    for length in lengths:
        pieces.append(Piece(gpa, length, is_writable))
        gpa += length
    return pieces


class Ring:
    """One virtqueue in guest memory."""

    def __init__(
        self, memory: GuestMemory, size: int = 256, *, base: int = 0, used: int | None = None
    ) -> None:
        """Lay out a ring of `size` with the smallest alignments (spec SP-01).

        `base` is the first available index, `used` the first used index (as `base` if not given).
        """
        self.memory, self.size = memory, size
        self.desc_gpa = memory.allocate(virtio.vring_desc_len(size), virtio.VRING_DESC_ALIGN)
        self.avail_gpa = memory.allocate(virtio.vring_avail_len(size), virtio.VRING_AVAIL_ALIGN)
        self.used_len = virtio.vring_used_len(size)
        self.used_gpa = memory.allocate(self.used_len, virtio.VRING_USED_ALIGN)
        self._avail = memory.view(self.avail_gpa, virtio.vring_avail_len(size)).cast("H")
        self._used = memory.view(self.used_gpa, virtio.vring_used_len(size))
        self._free = list(range(size - 1, -1, -1))
        self._chains: dict[int, list[int]] = {}  # head -> its slots
        self._tables: dict[int, tuple[int, int]] = {}  # head -> indirect table, entries
        self.in_order = False
        self._order: list[int] = []  # heads as they were exposed
        self._pending: list[Used] = []  # the rest of a batch
        self.base = base
        self.next_idx = base & 0xFFFF  # of the driver: where the next head goes
        self.last_used_idx = (base if used is None else used) & 0xFFFF
        self.avail_idx = self.next_idx
        struct.pack_into("<H", self._used, 2, self.last_used_idx)

    # --- words shared with the device ---------------------------------------------------------
    @property
    def avail_idx(self) -> int:
        """The index that the device reads."""
        return self._avail[1]

    @avail_idx.setter
    def avail_idx(self, value: int) -> None:
        self._avail[1] = value & 0xFFFF

    @property
    def avail_flags(self) -> int:
        """Bit 0: no interrupts, please."""
        return self._avail[0]

    @avail_flags.setter
    def avail_flags(self, value: int) -> None:
        self._avail[0] = value

    @property
    def used_event(self) -> int:
        """With EVENT_IDX: notify when this used index has been written."""
        return self._avail[2 + self.size]

    @used_event.setter
    def used_event(self, value: int) -> None:
        self._avail[2 + self.size] = value & 0xFFFF

    @property
    def used_flags(self) -> int:
        """Bit 0: no kicks, please."""
        return int.from_bytes(self._used[:2], "little")

    @property
    def used_idx(self) -> int:
        """How far the device is."""
        return int.from_bytes(self._used[2:4], "little")

    @property
    def avail_event(self) -> int:
        """With EVENT_IDX: the available index whose publication the device wants to hear of."""
        return int.from_bytes(self._used[4 + 8 * self.size : 6 + 8 * self.size], "little")

    @property
    def fresh(self) -> int:
        """Used entries that `take` has not seen."""
        return ((self.used_idx - self.last_used_idx) & 0xFFFF) + len(self._pending)

    @property
    def outstanding(self) -> int:
        """Published heads that have not come back as far as `take` has seen."""
        return (self.avail_idx - self.last_used_idx) & 0xFFFF

    @property
    def room(self) -> int:
        """Free descriptors."""
        return len(self._free)

    # --- making buffers available -------------------------------------------------------------
    def write_desc(
        self, slot: int, gpa: int, length: int, flags: int = 0, following: int = 0
    ) -> None:
        """Write one entry of the descriptor table."""
        self.memory.write(self.desc_gpa + 16 * slot, DESC.pack(gpa, length, flags, following))

    def reserve(self, count: int) -> list[int]:
        """Take `count` free slots; they come back with their head (`slots[0]`)."""
        slots = [self._free.pop() for _ in range(count)]
        self._chains[slots[0]] = slots
        return slots

    def slots(self, head: int) -> list[int]:
        """The descriptors of a chain that the device has."""
        return self._chains[head]

    def chain(self, pieces: Sequence[Piece], *, direct: int | None = None) -> int:
        """Write a chain of `pieces` and return its head.

        With `direct` given, the first `direct` pieces have descriptors of the ring and the others
        lie in an indirect table that the last descriptor points to.
        """
        if direct is None:
            slots = self.reserve(len(pieces))
            self._write_chain(slots, pieces, last=0)
            return slots[0]
        table_pieces = pieces[direct:]
        slots = self.reserve(direct + 1)
        table = self._table(slots[0], len(table_pieces))
        for entry, piece in enumerate(table_pieces):
            more = virtio.VRING_DESC_F_NEXT if entry + 1 < len(table_pieces) else 0
            desc = DESC.pack(piece.gpa, piece.length, piece.flags | more, entry + 1 if more else 0)
            self.memory.write(table + 16 * entry, desc)
        self._write_chain(slots[:direct], pieces[:direct], last=virtio.VRING_DESC_F_NEXT)
        if direct:
            self._link(slots[direct - 1], slots[direct])
        self.write_desc(slots[direct], table, 16 * len(table_pieces), virtio.VRING_DESC_F_INDIRECT)
        return slots[0]

    def _write_chain(self, slots: Sequence[int], pieces: Sequence[Piece], last: int) -> None:
        for place, (slot, piece) in enumerate(zip(slots, pieces, strict=True)):
            is_last = place + 1 == len(slots)
            flags = piece.flags | (last if is_last else virtio.VRING_DESC_F_NEXT)
            self.write_desc(
                slot, piece.gpa, piece.length, flags, 0 if is_last else slots[place + 1]
            )

    def _link(self, slot: int, following: int) -> None:
        self.memory.write(self.desc_gpa + 16 * slot + 14, struct.pack("<H", following))

    def _table(self, head: int, entries: int) -> int:
        table, room = self._tables.get(head, (0, 0))
        if room < entries:
            table = self.memory.allocate(16 * entries, 16)
            self._tables[head] = (table, entries)
        return table

    def expose(self, head: int) -> None:
        """Put `head` into the available ring; the device does not see it before `publish`."""
        self._avail[2 + self.next_idx % self.size] = head
        self._order.append(head)
        self.next_idx = (self.next_idx + 1) & 0xFFFF

    def publish(self) -> bool:
        """Show everything exposed; whether an obedient driver has to kick (spec SP-29)."""
        before, self.avail_idx = self.avail_idx, self.next_idx
        return (self.next_idx - self.avail_event - 1) & 0xFFFF < (self.next_idx - before) & 0xFFFF

    # --- taking them back ---------------------------------------------------------------------
    def used_at(self, idx: int) -> Used:
        """The used element for a free-running index."""
        return Used(*USED.unpack_from(self._used, 4 + 8 * (idx % self.size)))

    def take_one(self) -> Used:
        """The next used element; its descriptors are free again.  Requires `fresh`."""
        if not self._pending:
            used = self.used_at(self.last_used_idx)
            ids = [used.head]
            if self.in_order and used.head in self._order:  # one element for a batch (spec SP-24)
                ids = self._order[: self._order.index(used.head) + 1]
            self.last_used_idx = (self.last_used_idx + len(ids)) & 0xFFFF
            self._pending = [Used(i, used.length if i == used.head else 0) for i in ids]
        used = self._pending.pop(0)
        if used.head in self._order:
            self._order.remove(used.head)
        self._free.extend(self._chains.pop(used.head, ()))
        return used

    def take(self) -> list[Used]:
        """All used elements that came since the last time."""
        return [self.take_one() for _ in range(self.fresh)]
