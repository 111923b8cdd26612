"""The memory of one load port: rings and buffers, laid out and written before anything runs.

How it works: one region, of huge pages where there are free ones (DPDK gains by them, and so do
guests in earnest), else of ordinary ones.  Each ring has one buffer per descriptor; a chain is
one descriptor, or two (header and frame apart) and then uses every other buffer.  Buffers lie an
odd number of cache lines apart: at a power of two all their first lines would fall into a few
sets of the cache.
"""

import os
from pathlib import Path
from typing import Final

import numpy as np

from vionet.bench.layout import RX, TX, End, Ring
from vionet.spec import virtio
from vionet.vhost_user.guest_memory import GuestMemory

LINE: Final = 64
HUGE: Final = 2 << 20
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


def memory_len(size: int, buffer_len: int) -> int:
    """Bytes that two rings of `size` entries and their buffers take, generously."""
    return 2 * size * (buffer_stride(buffer_len) + 64) + 4 * 4096


class GuestRing:
    """One ring of a load port: its addresses in the three spaces, and its `Ring` record."""

    def __init__(self, memory: GuestMemory, ring: Ring, size: int, buffer_len: int) -> None:
        """Allocate a ring of `size` entries with buffers of `buffer_len` bytes."""
        self.memory, self.ring, self.size = memory, ring, size
        self.desc_gpa = memory.allocate(virtio.vring_desc_len(size), LINE)
        self.avail_gpa = memory.allocate(virtio.vring_avail_len(size), LINE)
        self.used_gpa = memory.allocate(virtio.vring_used_len(size), LINE)
        stride = buffer_stride(buffer_len)
        self.buf_gpa = memory.allocate(size * stride, LINE)
        ring.desc_hva, ring.avail_hva = memory.hva(self.desc_gpa), memory.hva(self.avail_gpa)
        ring.used_hva, ring.buf_hva = memory.hva(self.used_gpa), memory.hva(self.buf_gpa)
        ring.entries, ring.stride = size, stride

    def buffer(self, head: int, length: int) -> memoryview:
        """The first bytes of a chain's buffer."""
        return self.memory.view(self.buf_gpa + head * self.ring.stride, length)

    def write_chains(self, lengths: tuple[int, ...], flags: int) -> None:
        """Write every descriptor: chains of one or two, of these lengths, one after another."""
        parts = len(lengths)
        layout = np.dtype([("addr", "<u8"), ("len", "<u4"), ("flags", "<u2"), ("next", "<u2")])
        table = np.frombuffer(
            self.memory.view(self.desc_gpa, virtio.vring_desc_len(self.size)), layout
        )
        heads = np.arange(self.size // parts) * parts
        offset = 0
        for part, length in enumerate(lengths):
            rows = table[part::parts]
            rows["addr"] = self.buf_gpa + heads * self.ring.stride + offset
            rows["len"] = length
            last = part == parts - 1
            rows["flags"] = flags | (0 if last else virtio.VRING_DESC_F_NEXT)
            rows["next"] = 0 if last else heads + part + 1
            offset += length

    def start(self, chain_parts: int) -> None:
        """Begin anew: all chains are the driver's, notifications are declined.

        The used ring names every chain once, as `driver` needs it.
        """
        ring, size = self.ring, self.size
        ring.count = size // chain_parts
        ring.avail_idx = ring.used_idx = ring.kicked_idx = 0
        avail = np.frombuffer(self.memory.view(self.avail_gpa, virtio.vring_avail_len(size)), "<u2")
        used = np.frombuffer(self.memory.view(self.used_gpa, 4 + 8 * size), "<u4")
        avail[:], used[:] = 0, 0
        avail[0] = virtio.VRING_AVAIL_F_NO_INTERRUPT
        order = np.arange(ring.count)
        used[1 + 2 * ((order - ring.count) % size)] = order * chain_parts
        avail[2 + order] = order * chain_parts


def make_rings(
    memory: GuestMemory, end: End, size: int, buffer_len: int, tx_parts: int
) -> tuple[GuestRing, GuestRing]:
    """The receive ring, all its buffers available, and the transmit ring, empty."""
    rx = GuestRing(memory, end.rings[RX], size, buffer_len)
    rx.write_chains((rx.ring.stride,), virtio.VRING_DESC_F_WRITE)
    rx.start(1)
    tx = GuestRing(memory, end.rings[TX], size, buffer_len)
    tx.start(tx_parts)
    return rx, tx


def publish_receive_buffers(rx: GuestRing) -> None:
    """Make every receive buffer available."""
    rx.ring.avail_idx = rx.ring.count
    view = np.frombuffer(rx.memory.view(rx.avail_gpa + 2, 2), "<u2")
    view[0] = rx.ring.count
