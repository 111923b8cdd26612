"""Calling a kernel from Python, by its address: no wrapper has to be compiled for that.

How it works: a kernel's machine code takes where to put its result and what it raised, and then a
word for each argument: an int64, or the address of a record.  ctypes calls it, without the GIL.
Kernels raise nothing in the compiled lane.

Trust: whoever calls is ours.  Where the compiler's types are known, an argument of another kind is
a TypeError.
"""

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vionet.jit.record import address_of

ANY = object()  # of an argument that is not compared


def caller(name: str, address: int, arguments: Sequence[Any]) -> Callable[..., int]:
    """A function that calls the kernel at `address`.

    Each of `arguments` is `ANY`, None for an int64, or names and size of a record.
    """
    words = [ctypes.c_int64] * len(arguments)
    code = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *words)(address)

    def call(*args: Any) -> int:
        result, raised = ctypes.c_int64(), ctypes.c_void_p()
        numbers = [_word(arg, kind, name) for arg, kind in zip(args, arguments, strict=True)]
        status = code(ctypes.byref(result), ctypes.byref(raised), *numbers)
        assert status == 0, f"{name} raised"
        return result.value

    return call


def _word(arg: Any, kind: Any, name: str) -> int:
    if isinstance(arg, int | np.integer | np.bool_):
        found, word = None, int(arg)
    else:
        dtype = getattr(arg, "dtype", None)
        if dtype is None or dtype.names is None:
            raise TypeError(f"{name}: {type(arg).__name__} is neither an int nor a record")
        found, word = (dtype.names, dtype.itemsize), address_of(arg)
    if kind is not ANY and kind != found:
        raise TypeError(f"{name}: an argument is not what was declared")
    return word
