"""SIGBUS in guarded memory is survived; anywhere else it is not."""

import ctypes
import mmap
import os
import select
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from vionet.jit import LANE, Lane, fault
from vionet.jit.kernel import INT, kernel
from vionet.jit.raw import load_u8

pytestmark = pytest.mark.skipif(
    LANE is Lane.INTERPRETED, reason="the handler is compiled; interpreted, faults are Python's"
)
PAGE = mmap.PAGESIZE


@kernel(INT, INT, INT)
def _sum_pages(address: int, pages: int) -> int:
    total = 0
    for i in range(pages):
        total += load_u8(address + i * 4096)
    return total


def _file(pages: int) -> tuple[int, mmap.mmap, int]:
    """A memory file full of ones, mapped; its descriptor, the mapping, and its address."""
    fd = os.memfd_create("fault")
    os.ftruncate(fd, pages * PAGE)
    mapping = mmap.mmap(fd, pages * PAGE)
    mapping[:] = b"\1" * (pages * PAGE)
    return fd, mapping, ctypes.addressof(ctypes.c_char.from_buffer(mapping))


def test_a_hole_reads_as_zeros_and_is_told() -> None:
    """A kernel that reads past the end of a truncated file gets zeros; entry and eventfd say so."""
    told = fault.install()
    fd, mapping, address = _file(16)
    slot = fault.guard(address, 16 * PAGE, PAGE)
    try:
        assert (16, False) == (_sum_pages(address, 16), fault.faulted(slot))
        os.ftruncate(fd, 4 * PAGE)
        assert (4, True) == (_sum_pages(address, 16), fault.faulted(slot))
        assert [told] == select.select([told], [], [], 0)[0]
        fault.acknowledge()
        assert [] == select.select([told], [], [], 0)[0]
        assert 4 == _sum_pages(address, 16)  # the hole is filled: no further fault
        assert [] == select.select([told], [], [], 0)[0]
    finally:
        fault.release(slot)
        mapping.close()
        os.close(fd)


def test_a_fault_in_another_thread_is_survived() -> None:
    """The handler works on whatever thread made the access."""
    fault.install()
    fd, mapping, address = _file(8)
    slot = fault.guard(address, 8 * PAGE, PAGE)
    found: list[int] = []
    try:
        os.ftruncate(fd, 0)
        thread = threading.Thread(target=lambda: found.append(_sum_pages(address, 8)))
        thread.start()
        thread.join(60)
        assert ([0], True) == (found, fault.faulted(slot))
    finally:
        fault.acknowledge()
        fault.release(slot)
        mapping.close()
        os.close(fd)


def test_entries_are_given_back() -> None:
    """More areas than the table has entries can be guarded one after the other."""
    for _ in range(fault.SLOTS + 1):
        fault.release(fault.guard(PAGE, PAGE, PAGE))


def test_a_full_table_is_an_error() -> None:
    """Guarding more areas at once than there are entries raises MemoryError."""
    slots = []
    try:
        with pytest.raises(MemoryError, match="areas of guest memory"):
            for _ in range(fault.SLOTS + 1):
                slots.append(fault.guard(PAGE, PAGE, PAGE))  # noqa: PERF401 - it raises
    finally:
        for slot in slots:
            fault.release(slot)


@pytest.mark.parametrize("cause", ["access", "kill"])
def test_any_other_bus_error_still_kills(cause: str) -> None:
    """A fault outside guarded memory, or a signal that somebody sent, ends the process."""
    program = f"""
    import ctypes, mmap, os, signal
    from vionet.jit import fault
    fault.install()
    if {cause!r} == "kill":
        os.kill(os.getpid(), signal.SIGBUS)
    else:
        fd = os.memfd_create("foreign")
        os.ftruncate(fd, 4096)
        mapping = mmap.mmap(fd, 4096)
        os.ftruncate(fd, 0)
        mapping[0]
    print("alive")
    """
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, timeout=60
    )
    assert (-signal.SIGBUS, b"") == (child.returncode, child.stdout)
