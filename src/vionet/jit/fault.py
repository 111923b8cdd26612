"""Surviving SIGBUS: a guest's memory file that shrinks must not end this process.

How it works: a front-end may truncate the file that it gave us (spec VU-54); the next access to a
page that is gone raises SIGBUS in whatever thread made it.  `install` sets a compiled handler.  It
looks the address up in a fixed table of guarded areas, maps a page of zeros over the hole, marks
the entry, and writes an eventfd so that the control plane learns of it at once; the interrupted
access is then repeated and reads zeros.  The control plane ends that front-end's session.

Invariants: the handler allocates nothing, takes no lock and restores errno.  The table never
moves; compiled code finds it by the symbol `vionet_fault_table`, so that the handler can be kept
in the cache.  An entry is valid from the store of its address, which is its last when guarded and
its first when released.

A SIGBUS anywhere else brings back the action that was there before, and the process dies as
usual.  In the interpreted lane nothing is installed: a fault there is Python's own.

Threads: the handler runs on any; all else on the control plane's.
"""

import ctypes
import os
import signal
import sys
from contextlib import suppress
from typing import Any, Final

import numpy as np

from vionet.jit import image
from vionet.jit.lane import LANE, Lane

SLOTS: Final = 2048  # areas guarded at once: 64 ports of 32 regions
_WORDS: Final = 4  # words of one entry: hva (0: free), end, page size, faulted
# The words before the entries: eventfd, the 1 that is written to it, the former sigaction.
_FD, _ONE, _FORMER, _HEAD = 0, 1, 2, 32
_SI_CODE, _SI_ADDR = 8, 16  # offsets in siginfo_t on 64-bit Linux

_table: Final = np.zeros(_HEAD + SLOTS * _WORDS, np.int64)
_entries: Final = _table[_HEAD:].reshape(SLOTS, _WORDS)
_free: Final = list(range(SLOTS - 1, -1, -1))
_eventfd: Final = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)  # for the process's whole life
_kept: list[Any] = []  # the handler, once there is one, kept alive for ever
_installed: list[bool] = []


class _SigAction(ctypes.Structure):
    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_uint64 * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


if LANE is not Lane.INTERPRETED:
    import llvmlite.binding

    llvmlite.binding.add_symbol("vionet_fault_table", _table.ctypes.data)

if not image.compiles():

    def _handler_address() -> int:
        return image.taken().link(image.CALLBACK)

else:
    import numba
    from llvmlite import ir
    from numba import types
    from numba.extending import intrinsic

    from vionet.jit.libc import write
    from vionet.jit.raw import load_i64, load_u32, store_i64, store_u32

    _errno_location = types.ExternalFunction("__errno_location", types.int64())
    _mmap = types.ExternalFunction("mmap", types.int64(*[types.int64] * 6))
    _sigaction = types.ExternalFunction("sigaction", types.int32(*[types.int64] * 3))
    _raise = types.ExternalFunction("raise", types.int32(types.int64))

    @intrinsic  # type: ignore[untyped-decorator]
    def _table_address(typingctx: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            name = "vionet_fault_table"
            word = ir.IntType(64)
            variable = builder.module.globals.get(name)
            if variable is None:
                variable = ir.GlobalVariable(builder.module, word, name)
            return builder.ptrtoint(variable, word)

        return types.int64(), generate

    _PROT: Final = 3  # PROT_READ | PROT_WRITE
    _MAP: Final = 0x32  # MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS
    _SIGBUS: Final = int(signal.SIGBUS)

    def _survive(signo: int, info: int, context: int) -> None:
        table = _table_address()
        errno_hva = _errno_location()
        errno = load_u32(errno_hva)
        address = load_i64(info + _SI_ADDR)
        code = np.int64(np.int32(load_u32(info + _SI_CODE)))
        for slot in range(SLOTS):
            entry = table + (_HEAD + slot * _WORDS) * 8
            hva = load_i64(entry)
            if code > 0 and hva != 0 and hva <= address and address < load_i64(entry + 8):
                page_len = load_i64(entry + 16)
                page_hva = address & ~(page_len - 1)
                if _mmap(page_hva, page_len, _PROT, _MAP, -1, 0) == page_hva:
                    store_i64(entry + 24, 1)
                    write(load_i64(table + _FD * 8), table + _ONE * 8, 8)
                    store_u32(errno_hva, errno)
                    return
        _sigaction(_SIGBUS, table + _FORMER * 8, 0)
        if code <= 0:  # sent by a process: nothing will raise it again
            _raise(_SIGBUS)
        store_u32(errno_hva, errno)

    def handler() -> Any:
        """The compiled handler."""
        signature = types.void(types.int32, types.int64, types.int64)
        options = {"nopython": True, "error_model": "numpy", "_nrt": False}
        return numba.cfunc(signature, cache=True, **options)(_survive)

    def _handler_address() -> int:
        _kept.append(handler())
        return int(_kept[0].address)


def install() -> int:
    """Set the handler, once; return the eventfd that becomes readable when it has worked."""
    if not _installed and LANE is not Lane.INTERPRETED:
        _table[_FD], _table[_ONE] = _eventfd, 1
        libc = ctypes.CDLL(None, use_errno=True)
        action = _SigAction(handler=_handler_address(), flags=4)  # SA_SIGINFO
        former = ctypes.c_void_p(_table.ctypes.data + _FORMER * 8)
        assert ctypes.sizeof(_SigAction) <= (_HEAD - _FORMER) * 8
        if libc.sigaction(int(signal.SIGBUS), ctypes.byref(action), former):
            raise OSError(ctypes.get_errno(), "sigaction")
        _installed.append(True)
    return _eventfd


def acknowledge() -> None:
    """Make the eventfd unreadable again; call it before looking at the entries."""
    with suppress(BlockingIOError):
        os.eventfd_read(_eventfd)


def guard(hva: int, size: int, page_size: int) -> int:
    """Guard `size` bytes at `hva`, mapped in pages of `page_size`; return the entry's number."""
    assert hva % page_size == 0 and page_size & (page_size - 1) == 0
    if not _free:
        raise MemoryError(f"more than {SLOTS} areas of guest memory")
    slot = _free.pop()
    _entries[slot, 1:] = hva + size, page_size, 0
    _entries[slot, 0] = hva
    return slot


def release(slot: int) -> None:
    """Forget the entry; call it before the area is unmapped."""
    _entries[slot] = 0
    _free.append(slot)


def faulted(slot: int) -> bool:
    """A page of the area was missing since it was guarded."""
    return bool(_entries[slot, 3])


assert sys.maxsize > 1 << 32, "siginfo_t is laid out for 64-bit"
