"""The memory of one load port: rings and buffers, laid out and written before anything runs.

How it works: one region, of huge pages where there are free ones (DPDK gains by them, and so do
guests in earnest), else of ordinary ones.  Each chain has one buffer, cut into as many pieces as
it has descriptors; these stand in the ring, or in an indirect table.  Buffers lie an odd number
of cache lines apart: at a power of two all their first lines would fall into a few sets of the
cache.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from vionet.bench.layout import Ring
from vionet.jit.record import address_of
from vionet.spec import virtio
from vionet.vhost_user.guest_memory import GuestMemory

LINE: Final = 64
PAGE: Final = 4096
HUGE: Final = 2 << 20
DESC: Final = np.dtype([("addr", "<u8"), ("len", "<u4"), ("flags", "<u2"), ("next", "<u2")])
HUGE_PAGES: Final = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")


def buffer_stride(length: int) -> int:
    """The least odd number of cache lines that holds `length` bytes, in bytes."""
    lines = -(-length // LINE)
    return LINE * (lines | 1)


def guest_memory(size: int, huge: bool | None = None) -> GuestMemory:
    """One region of at least `size` bytes; `huge` None: of huge pages if enough are free."""
    pages = -(-size // HUGE)
    if huge is None:
        huge = _free_huge_pages() >= pages
    return GuestMemory((pages * HUGE,), flags=os.MFD_HUGETLB if huge else 0)


def _free_huge_pages() -> int:
    try:
        return int(HUGE_PAGES.read_text())
    except OSError:
        return 0


@dataclass(frozen=True)
class Shape:
    """How a ring and its chains are made."""

    size: int  # descriptors
    buffer_len: int  # bytes of one chain
    pieces: int = 1  # descriptors of one chain
    flags: int = 0  # of each descriptor
    packed: bool = False
    indirect: bool = False

    @property
    def parts(self) -> int:
        """Descriptors of the ring that one chain takes."""
        return 1 if self.indirect else self.pieces

    @property
    def count(self) -> int:
        """Chains: of a packed ring a power of two, so that an index tells slot and lap."""
        count = self.size // self.parts
        return 1 << count.bit_length() - 1 if self.packed else count

    @property
    def entries(self) -> int:
        """Descriptors that the device is told of."""
        return self.count * self.parts if self.packed else self.size

    @property
    def stride(self) -> int:
        """From descriptor to descriptor, in their buffers."""
        room = self.buffer_len + (LINE if self.pieces > 1 else 0)
        return buffer_stride(-(-room // self.parts))

    @property
    def memory_len(self) -> int:
        """Bytes that it all takes, generously."""
        return self.entries * (self.stride + 64 + 16 * self.pieces) + 2 * PAGE


class GuestRing:
    """One ring of a load port: its addresses in the three spaces, and its `Ring` record."""

    def __init__(self, memory: GuestMemory, ring: Ring, shape: Shape) -> None:
        """Allocate a ring, its buffers and its tables; `write_descriptors` is still to come."""
        self.memory, self.ring, self.shape, self.size = memory, ring, shape, shape.entries
        self.desc_gpa = memory.allocate(virtio.vring_desc_len(self.size), LINE)
        self.avail_gpa = memory.allocate(virtio.vring_avail_len(self.size), LINE)
        self.used_gpa = memory.allocate(virtio.vring_used_len(self.size), LINE)
        self.buf_gpa = memory.allocate(self.size * shape.stride, LINE)
        if shape.indirect:
            self.tables_gpa = memory.allocate(16 * shape.count * shape.pieces, LINE)
        ring.desc_hva, ring.avail_hva = memory.hva(self.desc_gpa), memory.hva(self.avail_gpa)
        ring.used_hva, ring.buf_hva = memory.hva(self.used_gpa), memory.hva(self.buf_gpa)
        ring.entries, ring.stride, ring.parts = self.size, shape.stride, shape.parts
        ring.count, ring.shift = shape.count, shape.count.bit_length() - 1
        self.words = np.zeros(self.size, np.int64)
        ring.words_hva = address_of(self.words)
        self.lengths: tuple[int, ...] = ()
        self.offsets: list[int] = []

    def chain(self, number: int) -> list[tuple[int, int]]:
        """Guest address and length of each piece of a chain."""
        start = self.buf_gpa + number * self.shape.parts * self.ring.stride
        return [(start + o, n) for o, n in zip(self.offsets, self.lengths, strict=True)]

    def write(self, number: int, data: bytes) -> None:
        """Fill the pieces of a chain."""
        for gpa, length in self.chain(number):
            self.memory.write(gpa, data[:length])
            data = data[length:]

    def place(self, off: int) -> int:
        """Where byte `off` of a chain's content lies in its buffer."""
        for start, length in zip(self.offsets, self.lengths, strict=True):
            if off < length:
                return start + off
            off -= length
        raise ValueError(f"a chain of {sum(self.lengths)} bytes ends before that")

    def write_descriptors(self, lengths: tuple[int, ...]) -> None:
        """Cut every chain into pieces of these lengths; those of a page begin on a line."""
        shape, parts = self.shape, self.shape.pieces
        self.lengths, self.offsets, offset = lengths, [], 0
        for length in lengths:
            offset = -(-offset // LINE) * LINE if length == PAGE else offset
            self.offsets.append(offset)
            offset += length
        chains = np.arange(shape.count)
        buffers = self.buf_gpa + chains * shape.parts * self.ring.stride
        table = np.zeros(shape.count * parts, DESC)
        for part, (offset, length) in enumerate(zip(self.offsets, lengths, strict=True)):
            rows, last = table[part::parts], part == parts - 1
            rows["addr"], rows["len"] = buffers + offset, length
            rows["flags"] = shape.flags | (0 if last else virtio.VRING_DESC_F_NEXT)
            rows["next"] = 0 if last else (0 if shape.indirect else chains * parts) + part + 1
        if shape.indirect:
            if shape.packed:  # id and flags in the place of flags and next; neither is needed
                table["flags"] = table["next"] = 0
            self._table(self.tables_gpa, table.size)[:] = table
            table = np.zeros(shape.count, DESC)
            table["addr"] = self.tables_gpa + chains * parts * 16
            table["len"], table["flags"] = 16 * parts, virtio.VRING_DESC_F_INDIRECT
        ring = self._table(self.desc_gpa, table.size)
        if not shape.packed:
            ring[:] = table
            return
        ring["addr"] = table["addr"]  # the rest is the driver's and the device's in turns
        ids = np.repeat(chains, shape.parts)
        halves = table["len"].astype(np.int64) | ids << 32 | table["flags"].astype(np.int64) << 48
        self.words[: halves.size] = halves

    def _table(self, gpa: int, length: int) -> np.ndarray[tuple[int], np.dtype[np.void]]:
        return np.frombuffer(self.memory.view(gpa, 16 * length), DESC)

    def start(self) -> None:
        """Begin anew: all chains are the driver's, notifications are declined.

        The used ring of a split ring names every chain once, as `driver` needs it.
        """
        ring, size = self.ring, self.size
        ring.avail_idx = ring.used_idx = ring.kicked_idx = 0
        if self.shape.packed:
            word = virtio.VRING_PACKED_EVENT_FLAG_DISABLE << 16
            self.memory.write(self.avail_gpa, word.to_bytes(4, "little"))
            return
        avail = np.frombuffer(self.memory.view(self.avail_gpa, virtio.vring_avail_len(size)), "<u2")
        used = np.frombuffer(self.memory.view(self.used_gpa, 4 + 8 * size), "<u4")
        avail[:], used[:] = 0, 0
        avail[0] = virtio.VRING_AVAIL_F_NO_INTERRUPT
        order = np.arange(ring.count)
        used[1 + 2 * ((order - ring.count) % size)] = order * ring.parts
        avail[2 + order] = order * ring.parts


def publish_receive_buffers(rx: GuestRing) -> None:
    """Make every receive buffer available."""
    rx.ring.avail_idx = rx.ring.count
    if rx.shape.packed:
        words = np.frombuffer(rx.memory.view(rx.desc_gpa, 16 * rx.size), "<i8")
        words[1::2] = rx.words | 1 << 48 + virtio.VRING_PACKED_DESC_F_AVAIL
        return
    view = np.frombuffer(rx.memory.view(rx.avail_gpa + 2, 2), "<u2")
    view[0] = rx.ring.count
