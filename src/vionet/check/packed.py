"""A packed virtqueue from the driver's side, obedient or not (VIRTIO 1.2 section 2.8).

How it works: the same calls as `check.ring.Ring`, so that most checks run on both.  A chain gets an
id; `expose` writes its descriptors into the next slots, but keeps the flags of its first one back
until `publish`; `take` follows the device through the ring.  `write_slot` writes nonsense.

Invariants: the size may be any number (spec PK-01); both wrap counters begin at 1 unless `base`
says otherwise (spec PK-22).  Ordering: stores of aligned words, in program order (x86).
"""

import struct
from collections import deque
from collections.abc import Sequence
from typing import Final, NoReturn

from vionet.check.ring import NotOffered, Piece, Ring, Used
from vionet.spec import virtio
from vionet.vhost_user.guest_memory import GuestMemory

SLOT: Final = struct.Struct("<QIHH")  # address, length, id, flags
AVAIL: Final = 1 << 7
USED: Final = 1 << 15
BASE: Final = 0x8000_8000  # both indices 0, both wrap counters 1 (spec PK-22)
ENABLE: Final = 0  # event flags (spec PK-17)
DISABLE: Final = 1
SPECIFIC: Final = 2


class PackedRing:
    """One packed virtqueue in guest memory."""

    def __init__(
        self, memory: GuestMemory, size: int = 256, *, base: int = 0, used: int | None = None
    ) -> None:
        """Lay out a ring of `size`; `base` as SET_VRING_BASE has it, 0 for the beginning."""
        self.memory, self.size = memory, size
        self.desc_gpa = memory.allocate(16 * size, 16)
        self.avail_gpa = memory.allocate(4, 4)  # the driver's event suppression
        self.used_gpa = memory.allocate(4, 4)  # the device's
        self.used_len = 4
        self.base = base or BASE
        self.next_slot, self.wrap = self.base & 0x7FFF, self.base >> 15 & 1
        self.used_slot, self.used_wrap = self.base >> 16 & 0x7FFF, self.base >> 31
        self.in_order = False
        self.last_flags = 0  # of the used descriptor that `take_one` saw last
        self.outstanding = 0
        self.room = size
        self._chains: dict[int, tuple[list[tuple[Piece, int]], list[int]]] = {}
        self._ids = deque(range(size))
        self._order: deque[int] = deque()  # ids as they were exposed
        self._held: list[tuple[int, int]] = []  # slot, flags of first descriptors kept back
        self._pending: deque[Used] = deque()
        self._written = self._shown = self.next_slot  # slots, free-running

    def __getattr__(self, name: str) -> NoReturn:
        """A check that pokes at the words of split rings has nothing to do here."""
        if name.startswith("__") or not (hasattr(Ring, name) or name.endswith("_idx")):
            raise AttributeError(name)
        raise NotOffered(f"{name} of a split ring")

    # --- words shared with the device ---------------------------------------------------------
    def event(self, gpa: int) -> tuple[int, int]:
        """Offset with wrap, and flags, of an event suppression structure."""
        return struct.unpack("<HH", self.memory.read(gpa, 4))

    def ask(self, flags: int, slot: int = 0, wrap: int = 0) -> None:
        """Write the driver's event suppression structure."""
        self.memory.write(self.avail_gpa, struct.pack("<HH", slot | wrap << 15, flags))

    @property
    def avail_flags(self) -> int:
        """Bit 0: no interrupts, please."""
        return self.event(self.avail_gpa)[1] & DISABLE

    @avail_flags.setter
    def avail_flags(self, value: int) -> None:
        self.ask(value & DISABLE)

    @property
    def used_flags(self) -> int:
        """Bit 0: no kicks, please."""
        return self.event(self.used_gpa)[1] & DISABLE

    def ahead(self, count: int) -> tuple[int, int]:
        """Slot and wrap counter `count` slots after the next one to become available."""
        slot = self.next_slot + count
        return slot % self.size, self.wrap ^ (slot // self.size & 1)

    # --- making buffers available -------------------------------------------------------------
    def write_slot(self, slot: int, gpa: int, length: int, ident: int, flags: int) -> None:
        """Write one descriptor of the ring."""
        self.memory.write(self.desc_gpa + 16 * slot, SLOT.pack(gpa, length, ident, flags))

    def slots(self, head: int) -> list[int]:
        """The slots of a chain that was exposed."""
        return self._chains[head][1]

    def chain(self, pieces: Sequence[Piece], *, direct: int | None = None) -> int:
        """Remember a chain of `pieces`; its id.  With `direct` they lie in an indirect table.

        A packed ring has no mixture (spec PK-14): `direct` pieces of it stay in the table too.
        """
        found = [(piece, piece.flags) for piece in pieces]
        if direct is not None:
            table = self.memory.allocate(16 * len(pieces), 16)
            for entry, piece in enumerate(pieces):
                desc = SLOT.pack(piece.gpa, piece.length, 0, piece.flags)
                self.memory.write(table + 16 * entry, desc)
            found = [(Piece(table, 16 * len(pieces)), virtio.VRING_DESC_F_INDIRECT)]
        ident = self._ids.popleft()
        self._chains[ident] = (found, [])
        self.room -= len(found)
        return ident

    def expose(self, head: int) -> None:
        """Put a chain into the ring; the device does not see it before `publish`."""
        pieces, slots = self._chains[head]
        for place, (piece, flags) in enumerate(pieces):
            flags |= virtio.VRING_DESC_F_NEXT if place + 1 < len(pieces) else 0
            shown = flags | (AVAIL if self.wrap else USED)
            if place == 0:
                self._held.append((self.next_slot, shown))
                shown = int.from_bytes(self.memory.read(self._flags(self.next_slot), 2), "little")
            self.write_slot(self.next_slot, piece.gpa, piece.length, head, shown)
            slots.append(self.next_slot)
            self.step(1)
        self._order.append(head)

    def step(self, count: int) -> None:
        """Move on to the slot `count` after the next one."""
        self.next_slot, self.wrap = self.ahead(count)
        self._written += count

    def publish(self) -> bool:
        """Show everything exposed; whether an obedient driver has to kick (spec PK-17)."""
        for slot, flags in reversed(self._held):
            self.memory.write(self._flags(slot), struct.pack("<H", flags))
        self.outstanding += len(self._held)
        self._held.clear()
        before, self._shown = self._shown, self._written
        where, flags = self.event(self.used_gpa)
        if flags != SPECIFIC:
            return flags != DISABLE
        event = where & 0x7FFF
        passed = self.next_slot - event - 1 + (self.size if where >> 15 != self.wrap else 0)
        return 0 <= passed < self._shown - before

    def _flags(self, slot: int) -> int:
        return self.desc_gpa + 16 * slot + 14

    # --- taking them back ---------------------------------------------------------------------
    def _seen(self, slot: int, wrap: int) -> Used | None:
        _, length, ident, flags = SLOT.unpack(self.memory.read(self.desc_gpa + 16 * slot, 16))
        if (flags & AVAIL > 0, flags & USED > 0) != (wrap == 1, wrap == 1):
            return None
        self.last_flags = flags
        return Used(ident, length)

    def _batch(self, ident: int, done: int) -> list[int]:
        """The ids that a used descriptor with `ident` gives back; `done` were seen before."""
        if self.in_order and ident in self._order:
            order = list(self._order)[done:]
            return order[: order.index(ident) + 1] if ident in order else [ident]
        return [ident]

    def _after(self, slot: int, wrap: int, ids: Sequence[int]) -> tuple[int, int]:
        step = sum(len(self._chains[i][1]) if i in self._chains else 1 for i in ids)
        return (slot + step) % self.size, wrap ^ ((slot + step) // self.size & 1)

    @property
    def fresh(self) -> int:
        """Chains that came back and that `take` has not seen."""
        slot, wrap, count = self.used_slot, self.used_wrap, 0
        while count < self.outstanding and (used := self._seen(slot, wrap)) is not None:
            ids = self._batch(used.head, count + len(self._pending))
            count += len(ids)
            slot, wrap = self._after(slot, wrap, ids)
        return count + len(self._pending)

    def take_one(self) -> Used:
        """The next chain that came back; its slots are free again.  Requires `fresh`."""
        if not self._pending:
            used = self._seen(self.used_slot, self.used_wrap)
            assert used is not None
            ids = self._batch(used.head, 0)
            self.used_slot, self.used_wrap = self._after(self.used_slot, self.used_wrap, ids)
            self._pending.extend(Used(i, used.length if i == used.head else 0) for i in ids)
            self.outstanding -= len(ids)
        used = self._pending.popleft()
        if used.head in self._chains:
            pieces, _ = self._chains.pop(used.head)
            self.room += len(pieces)
            self._order.remove(used.head)
            self._ids.append(used.head)
        return used

    def take(self) -> list[Used]:
        """All chains that came back since the last time."""
        return [self.take_one() for _ in range(self.fresh)]
