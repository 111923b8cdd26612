"""The C library calls that kernels make, by way of the symbols already in the process.

Each returns what the C function returns; after a -1 `errno` tells why.  All pointers are int64
addresses.  Numba calls them without the GIL, and code that calls them stays cacheable; the
interpreted lane reaches the same functions through ctypes.
"""

import ctypes
from collections.abc import Callable
from typing import Any

from vionet.jit.image import compiles
from vionet.jit.raw import load_u32

if not compiles():
    INT: Any = None

    def _function(name: str, arguments: int, result: Any = ctypes.c_int64) -> Callable[..., int]:
        call = ctypes.CDLL(None, use_errno=True)[name]
        call.restype = result
        call.argtypes = [ctypes.c_int64] * arguments
        return lambda *args: int(call(*map(int, args)))

    def _int_function(name: str, arguments: int) -> Callable[..., int]:
        return _function(name, arguments, ctypes.c_int32)

    def errno() -> int:
        """The error number of this thread's last failed call."""
        return ctypes.get_errno()

else:
    from numba import types

    from vionet.jit.kernel import INT, kernel

    def _function(name: str, arguments: int, result: Any = types.int64) -> Callable[..., int]:
        signature = result(*[types.int64] * arguments)
        return types.ExternalFunction(name, signature)  # type: ignore[no-any-return]

    def _int_function(name: str, arguments: int) -> Callable[..., int]:
        return _function(name, arguments, types.int32)

    _errno_location = _function("__errno_location", 0)

    @kernel(INT)
    def errno() -> int:
        """The error number of this thread's last failed call."""
        return load_u32(_errno_location())


read = _function("read", 3)
write = _function("write", 3)
readv = _function("readv", 3)
writev = _function("writev", 3)
epoll_ctl = _int_function("epoll_ctl", 4)
epoll_wait = _int_function("epoll_wait", 4)
sched_yield = _int_function("sched_yield", 0)
clock_gettime = _int_function("clock_gettime", 2)
getsockopt = _int_function("getsockopt", 5)

__all__ = [
    "clock_gettime",
    "epoll_ctl",
    "epoll_wait",
    "errno",
    "getsockopt",
    "read",
    "readv",
    "sched_yield",
    "write",
    "writev",
]
