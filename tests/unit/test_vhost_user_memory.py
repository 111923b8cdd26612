"""Mapping a front-end's memory: what is refused, what is mapped, and that nothing stays."""

import ctypes
import fcntl
import mmap
import os
import socket

import pytest

from tests.recorder import descriptors, mappings
from vionet.vhost_user.guest_memory import GuestMemory, GuestRegion
from vionet.vhost_user.memory import REGIONS_MAX, MemoryMap
from vionet.vhost_user.request import Refusal, RegionSpec

PAGE = mmap.PAGESIZE


def spec_of(region: GuestRegion, **changes: int) -> RegionSpec:
    """The region as a message describes it."""
    return RegionSpec(region.gpa, region.size, region.uva, region.mmap_offset)._replace(**changes)


def map_all(memory: GuestMemory) -> MemoryMap:
    """All the regions, mapped."""
    mapped = MemoryMap()
    mapped.replace([spec_of(r) for r in memory.regions], [r.fd for r in memory.regions])
    return mapped


@pytest.mark.parametrize("offset", [0, PAGE, 16 * PAGE, 100])
def test_both_ends_see_the_same_bytes(offset: int) -> None:
    """spec VU-47: the region begins at the offset in its file, aligned to a page or not."""
    with GuestMemory((4 * PAGE, 8 * PAGE), mmap_offset=offset) as memory:
        mapped = map_all(memory)
        for ours, theirs in zip(mapped.regions, memory.regions, strict=True):
            memory.write(theirs.gpa + 3, b"guest")
            assert b"guest" == ctypes.string_at(ours.hva + 3, 5)
            assert (theirs.gpa, theirs.uva, theirs.size) == (ours.gpa, ours.uva, ours.size)
        mapped.close()


def test_ring_addresses_are_user_addresses_inside_one_region() -> None:
    """spec VU-48, VU-41: translated by user address, with the whole length in one region."""
    with GuestMemory((4 * PAGE, 4 * PAGE), gap=0) as memory:
        mapped = map_all(memory)
        first, second = mapped.regions
        assert first.hva + 5 == mapped.hva_of_uva(first.uva + 5, 4 * PAGE - 5)
        assert mapped.hva_of_uva(first.uva + 5, 4 * PAGE - 4) is None  # straddles two regions
        assert second.hva == mapped.hva_of_uva(second.uva, 1)
        assert mapped.hva_of_uva(first.gpa, 1) is None
        assert mapped.hva_of_uva(second.uva + second.size, 1) is None
        mapped.close()


def test_nothing_stays_behind() -> None:
    """After `close` no mapping and no descriptor is left, and after `release` no retired one."""
    with GuestMemory((PAGE,) * 3) as memory:
        files, areas = descriptors(), mappings()
        mapped = map_all(memory)
        assert (files, areas + 3) == (descriptors(), mappings())
        mapped.replace([spec_of(memory.regions[0])], [memory.regions[0].fd])
        assert areas + 4 == mappings()  # the former ones serve until the data path has moved
        mapped.release()
        assert areas + 1 == mappings()
        mapped.close()
        assert (files, areas) == (descriptors(), mappings())


REFUSED = {
    "empty": ({"size": 0}, "0 bytes"),
    "longer than its file": ({"size": 5 * PAGE}, "memory file of"),
    "offset past its file": ({"mmap_offset": PAGE}, "memory file of"),
    "guest address wraps": ({"gpa": (1 << 64) - PAGE}, "wraps around"),
    "user address wraps": ({"uva": (1 << 64) - 1}, "wraps around"),
    "offset wraps": ({"mmap_offset": (1 << 64) - PAGE}, "wraps around"),
    "size wraps": ({"size": (1 << 64) - 1}, "wraps around"),
    "guest address overlaps": ({"gpa": 0x4000_0000 + PAGE}, "overlap at guest address"),
    "user address overlaps": ({"uva": 0x7E00_0000_0000 + PAGE}, "overlap at user address"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_wrong_region_is_refused_and_changes_nothing(why: str) -> None:
    """Each wrong region is refused, also as one of two; the map stays as it was."""
    changes, message = REFUSED[why]
    with GuestMemory((4 * PAGE, 4 * PAGE)) as memory:
        mapped = MemoryMap()
        good, other = (spec_of(region) for region in memory.regions)
        fds = [region.fd for region in memory.regions]
        mapped.replace([good], fds[:1])
        before = mapped.regions, mappings()
        bad = other._replace(**changes)
        with pytest.raises(Refusal, match=message):
            mapped.replace([good, bad], fds)
        with pytest.raises(Refusal, match=message):
            mapped.add(bad, fds[1])
        assert before == (mapped.regions, mappings())
        mapped.close()


def test_only_files_are_mapped() -> None:
    """A pipe, a socket or a device is not memory; a file that is not writable neither."""
    spec = RegionSpec(0, PAGE, 0, 0)
    ours, theirs = socket.socketpair()
    zero = os.open("/dev/zero", os.O_RDWR)
    memfd = os.memfd_create("guest")
    os.ftruncate(memfd, PAGE)
    read_only = os.open(f"/proc/self/fd/{memfd}", os.O_RDONLY)
    try:
        for fd in (ours.fileno(), zero):
            with pytest.raises(Refusal, match="another kind"):
                MemoryMap().add(spec, fd)
        with pytest.raises(Refusal, match="Permission denied"):
            MemoryMap().add(spec, read_only)
    finally:
        ours.close()
        theirs.close()
        for fd in (zero, memfd, read_only):
            os.close(fd)


def test_regions_come_and_go_one_by_one() -> None:
    """spec VU-51: removed by guest address, user address and size, whatever the offset."""
    with GuestMemory((PAGE,) * REGIONS_MAX) as memory:
        mapped = MemoryMap()
        for region in memory.regions:
            mapped.add(spec_of(region), region.fd)
        with pytest.raises(Refusal, match="at most 32"):
            mapped.add(RegionSpec(0, PAGE, 0, 0), memory.regions[0].fd)
        with pytest.raises(Refusal, match="no region"):
            mapped.remove(spec_of(memory.regions[0], uva=0))
        for region in memory.regions:
            mapped.remove(spec_of(region, mmap_offset=77))
        assert () == mapped.regions
        mapped.close()


@pytest.mark.parametrize("seal", [0, fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_WRITE, 0x10])
def test_seals_are_looked_at(seal: int) -> None:
    """spec VU-54: a file that cannot shrink is welcome, one that cannot be written is refused."""
    fd = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, PAGE)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seal)
        mapped = MemoryMap()
        if seal in (0, fcntl.F_SEAL_SHRINK):
            mapped.replace([RegionSpec(0, PAGE, PAGE, 0)], [fd])
            assert 1 == len(mapped.regions)
        else:
            with pytest.raises(Refusal, match="sealed against writing"):
                mapped.replace([RegionSpec(0, PAGE, PAGE, 0)], [fd])
            assert () == mapped.regions
        mapped.close()
    finally:
        os.close(fd)


def test_allocation_is_aligned_and_bounded() -> None:
    """A driver's memory is given out in aligned pieces until the region is full."""
    with GuestMemory((PAGE,)) as memory:
        first, second = memory.allocate(10), memory.allocate(10, align=256)
        assert (memory.regions[0].gpa, memory.regions[0].gpa + 256) == (first, second)
        assert memory.regions[0].uva + 256 == memory.uva(second)
        with pytest.raises(MemoryError):
            memory.allocate(PAGE)
        with pytest.raises(IndexError):
            memory.read(memory.regions[0].gpa, PAGE + 1)
