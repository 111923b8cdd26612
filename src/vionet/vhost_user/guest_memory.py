"""Memory as a front-end has it: memory files mapped here, with addresses as a guest sees them.

How it works: each region is a memfd of its own, mapped into this process.  Guest-physical
addresses (gpa), the front-end's user addresses (uva) and the addresses of the mapping here (hva)
are three different ranges on purpose, so that a back-end which confuses them is found out.
`allocate` hands out pieces from the bottom of a region.

For drivers that run inside this process: the tester, the load generator, tests.
"""

import ctypes
import mmap
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Self

GPA_BASE: Final = 0x4000_0000
UVA_BASE: Final = 0x7E00_0000_0000
GAP: Final = 0x1000_0000  # between two regions, in both ranges


@dataclass(slots=True)
class GuestRegion:
    """One memory file, or the part of it from `mmap_offset` on, as the guest sees it."""

    fd: int
    gpa: int
    uva: int
    size: int
    mmap_offset: int
    view: memoryview
    hva: int
    used: int = 0  # bytes given out by `allocate`

    def holds(self, gpa: int, length: int = 1) -> bool:
        """All `length` bytes at `gpa` lie in this region."""
        return self.gpa <= gpa and gpa + length <= self.gpa + self.size


class GuestMemory:
    """The memory of one guest, in one or more regions of whole pages."""

    def __init__(
        self,
        sizes: Sequence[int] = (16 << 20,),
        *,
        gpa_base: int = GPA_BASE,
        uva_base: int = UVA_BASE,
        gap: int = GAP,
        mmap_offset: int = 0,
        flags: int = 0,
    ) -> None:
        """Make regions of `sizes` bytes, each `gap` bytes after the last (0: adjacent).

        `flags` are more of memfd_create, as MFD_HUGETLB.
        """
        self.regions: list[GuestRegion] = []
        gpa, uva = gpa_base, uva_base
        try:
            for size in sizes:
                self.regions.append(_region(gpa, uva, size, mmap_offset, flags))
                gpa, uva = gpa + size + gap, uva + size + gap
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; a mapping stays only as long as somebody holds a view of it."""
        for region in self.regions:
            os.close(region.fd)
            with suppress(BufferError):
                region.view.release()
        self.regions.clear()

    def region(self, gpa: int, length: int = 1) -> GuestRegion:
        """The region that holds all `length` bytes at `gpa`; IndexError if none does."""
        for region in self.regions:
            if region.holds(gpa, length):
                return region
        raise IndexError(f"no region holds {length} bytes at {gpa:#x}")

    def view(self, gpa: int, length: int) -> memoryview:
        """The bytes at `gpa`, writable and shared with the back-end."""
        region = self.region(gpa, length)
        return region.view[gpa - region.gpa : gpa - region.gpa + length]

    def read(self, gpa: int, length: int) -> bytes:
        """A copy of the bytes at `gpa`."""
        return bytes(self.view(gpa, length))

    def write(self, gpa: int, data: bytes) -> None:
        """Store `data` at `gpa`."""
        self.view(gpa, len(data))[:] = data

    def uva(self, gpa: int) -> int:
        """The front-end's user address of `gpa`, as ring addresses are given."""
        region = self.region(gpa)
        return region.uva + gpa - region.gpa

    def hva(self, gpa: int) -> int:
        """Where `gpa` lies in this process."""
        region = self.region(gpa)
        return region.hva + gpa - region.gpa

    def allocate(self, length: int, align: int = 64, region: int = 0) -> int:
        """The gpa of `length` bytes nobody else was given; MemoryError when the region is full."""
        place = self.regions[region]
        start = -(-(place.gpa + place.used) // align) * align
        if start + length > place.gpa + place.size:
            raise MemoryError(f"region {region} of {place.size} bytes is full")
        place.used = start + length - place.gpa
        return start


def _region(gpa: int, uva: int, size: int, mmap_offset: int, flags: int) -> GuestRegion:
    fd = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | flags)
    try:
        os.ftruncate(fd, mmap_offset + size)
        mapping = mmap.mmap(fd, mmap_offset + size)
    except BaseException:
        os.close(fd)
        raise
    hva = ctypes.addressof(ctypes.c_char.from_buffer(mapping)) + mmap_offset
    view = memoryview(mapping)[mmap_offset:]
    return GuestRegion(fd, gpa, uva, size, mmap_offset, view, hva)
