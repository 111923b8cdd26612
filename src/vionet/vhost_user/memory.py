"""The front-end's memory, mapped here.

How it works: a region arrives as a file descriptor with four numbers.  The file is checked (kind,
size, seals) and mapped by the C library's mmap, whose lifetime is ours alone: Python's own
mapping object keeps a descriptor and cannot be closed while somebody looks at it.  A `MemoryMap`
is one session's set of regions.  `replace`, `add` and `remove` change it at once or not at all;
what they take away stays mapped in `_retired` until `release`, so that the data path can be moved
first.

Invariants: the guest-physical ranges of a map do not overlap, nor do the front-end's user ranges;
none wraps.  Every mapping is guarded against SIGBUS (`jit.fault`) for as long as it exists.

Trust: the numbers are the front-end's, and the file stays in its hands: unless it is sealed it may
shrink at any moment, and huge pages may run out even so; the guard covers both.  What is in memory
is never believed here.
"""

import ctypes
import fcntl
import itertools
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vionet.jit import fault
from vionet.vhost_user.request import Refusal, RegionSpec

REGIONS_MAX: Final = 32  # of one front-end; GET_MAX_MEM_SLOTS
ADDRESS_MAX: Final = 1 << 63  # compiled code computes with signed 64-bit addresses
_HUGETLBFS_MAGIC: Final = 0x958458F6
_F_SEAL_FUTURE_WRITE: Final = 0x10  # Linux 5.1; not in the fcntl module
_READ_ONLY_SEALS: Final = fcntl.F_SEAL_WRITE | _F_SEAL_FUTURE_WRITE
_MAP_FAILED: Final = ctypes.c_void_p(-1).value

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.fstatfs.argtypes = [ctypes.c_int, ctypes.c_void_p]


@dataclass(frozen=True, slots=True)
class MappedRegion:
    """A region of guest memory at `hva` in this process."""

    gpa: int
    size: int
    uva: int
    hva: int
    base: int  # of the mapping, a multiple of the page size
    length: int
    slot: int  # in the table of guarded areas


class MemoryMap:
    """The regions of one session."""

    def __init__(self) -> None:
        self.regions: tuple[MappedRegion, ...] = ()
        self._retired: list[MappedRegion] = []

    def replace(self, specs: Sequence[RegionSpec], fds: Sequence[int]) -> None:
        """Exchange all regions (spec VU-46).  The descriptors stay the caller's."""
        check_layout(specs)
        regions = _map_all(specs, fds)
        self._retired += self.regions
        self.regions = regions

    def add(self, spec: RegionSpec, fd: int) -> None:
        """Add one region (spec VU-51)."""
        check_layout([*self._specs(), spec])
        self.regions += _map_all([spec], [fd])

    def remove(self, spec: RegionSpec) -> None:
        """Remove the region with this guest address, user address and size (spec VU-51)."""
        for region in self.regions:
            if (region.gpa, region.size, region.uva) == spec[:3]:
                self.regions = tuple(r for r in self.regions if r is not region)
                self._retired.append(region)
                return
        raise Refusal(f"no region of {spec.size:#x} bytes at {spec.gpa:#x} to remove")

    def release(self) -> None:
        """Unmap what was taken away; nobody may be using it any more."""
        while self._retired:
            _unmap(self._retired.pop())

    def close(self) -> None:
        """Unmap everything."""
        self._retired += self.regions
        self.regions = ()
        self.release()

    def hva_of_uva(self, uva: int, length: int) -> int | None:
        """Where `length` bytes at a front-end address are mapped, if one region holds them all."""
        for region in self.regions:
            if region.uva <= uva and uva + length <= region.uva + region.size:
                return region.hva + uva - region.uva
        return None

    @property
    def faulted(self) -> bool:
        """A page of a region was missing when somebody touched it."""
        return any(fault.faulted(region.slot) for region in self.regions)

    def _specs(self) -> list[RegionSpec]:
        return [RegionSpec(region.gpa, region.size, region.uva, 0) for region in self.regions]


def check_layout(specs: Sequence[RegionSpec]) -> None:
    """Raise `Refusal` if the regions are too many, empty, wrap around or overlap."""
    if len(specs) > REGIONS_MAX:
        raise Refusal(f"{len(specs)} memory regions, at most {REGIONS_MAX}")
    for spec in specs:
        if not spec.size:
            raise Refusal(f"memory region of 0 bytes at {spec.gpa:#x}")
        for start in (spec.gpa, spec.uva, spec.mmap_offset):
            if start + spec.size > ADDRESS_MAX:
                raise Refusal(f"memory region of {spec.size:#x} bytes at {start:#x} wraps around")
    for name, ranges in (
        ("guest", sorted((spec.gpa, spec.size) for spec in specs)),
        ("user", sorted((spec.uva, spec.size) for spec in specs)),
    ):
        for (start, size), (following, _) in itertools.pairwise(ranges):
            if start + size > following:
                raise Refusal(f"memory regions overlap at {name} address {following:#x}")


def _map_all(specs: Sequence[RegionSpec], fds: Sequence[int]) -> tuple[MappedRegion, ...]:
    regions: list[MappedRegion] = []
    try:
        for spec, fd in zip(specs, fds, strict=True):
            regions.append(_map(spec, fd))
    except BaseException:
        for region in regions:
            _unmap(region)
        raise
    return tuple(regions)


def _map(spec: RegionSpec, fd: int) -> MappedRegion:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise Refusal("memory region without a file: its descriptor is of another kind")
    if status.st_size < spec.mmap_offset + spec.size:
        raise Refusal(
            f"memory file of {status.st_size:#x} bytes, the region ends at "
            f"{spec.mmap_offset + spec.size:#x}"
        )
    if _seals(fd) & _READ_ONLY_SEALS:
        raise Refusal("memory file sealed against writing; receive buffers have to be written")
    page_size = _page_size(fd)
    offset = spec.mmap_offset & ~(page_size - 1)
    length = -(-(spec.mmap_offset + spec.size) // page_size) * page_size - offset
    prot, flags = 3, 0x4001  # PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE
    base = _libc.mmap(None, length, prot, flags, fd, offset)
    if base is None or base == _MAP_FAILED:
        error = ctypes.get_errno()
        raise Refusal(f"memory region cannot be mapped: {os.strerror(error)}")
    try:
        slot = fault.guard(base, length, page_size)
    except MemoryError as error:
        _libc.munmap(base, length)
        raise Refusal(str(error)) from error
    hva = base + spec.mmap_offset - offset
    return MappedRegion(spec.gpa, spec.size, spec.uva, hva, base, length, slot)


def _unmap(region: MappedRegion) -> None:
    fault.release(region.slot)
    _libc.munmap(region.base, region.length)


def _seals(fd: int) -> int:
    """The seals of a memory file; none where files of its kind have none."""
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        return 0


def _page_size(fd: int) -> int:
    """The size of the pages that a mapping of the file has."""
    words = (ctypes.c_int64 * 32)()  # struct statfs: f_type, f_bsize, …
    if _libc.fstatfs(fd, words) == 0 and words[0] == _HUGETLBFS_MAGIC:
        return int(words[1])
    return os.sysconf("SC_PAGE_SIZE")
