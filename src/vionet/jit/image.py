"""The engine's machine code in one file, linked without the compiler: how a daemon starts warm.

How it works: Numba takes 0.3 s to be imported and 4 ms to rebuild a kernel from its cache; LLVM
links the same object code in 0.3 ms.  Where everything is compiled, in a process of its own that
leaves its memory behind (`cli.progress`), `write` collects the code of all kernels beside Numba's
cache.  In a process that calls `use` before any kernel is declared, all
are linked at once, and the decorator (`jit.kernel`) makes each callable by ctypes, without the GIL
as ever.

Invariants: the file lies in a folder named by all sources (`jit.lane`) and begins with whatever
else machine code depends on; an image that differs in anything is not used.  It is written aside
and renamed, and ends with a digest: one that was damaged, as by a power cut, is made anew.
Kernels raise nothing in this lane: the helpers of Numba that their code names, to raise and to be
called by it, are `abort` here.
"""

import ctypes
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from vionet.jit.lane import CACHE_DIR, LANE, Lane

CALLBACK: Final = "callback"  # the handler of `jit.fault`; what it needs is there later
ALIAS: Final = "vionet."  # and module and name: how callers find a kernel, in every process
DIGEST_LEN: Final = 32
_used: "list[Image]" = []


class Image:
    """The file, opened, and what has been linked from it."""

    def __init__(self, path: Path) -> None:
        """Raises OSError or ValueError where there is none for this machine."""
        import llvmlite.binding as llvm

        data = path.read_bytes()
        if _digest(data[:-DIGEST_LEN]) != data[-DIGEST_LEN:]:
            raise ValueError("damaged")
        head, _, self._code = data[:-DIGEST_LEN].partition(b"\n")
        header = json.loads(head)
        if header["machine"] != _machine():
            raise ValueError("made for another machine")
        self._objects: dict[str, tuple[str, int, int]] = header["objects"]
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        # As Numba's own: static relocation on x86, its default elsewhere.
        target = llvm.Target.from_triple(llvm.get_process_triple())
        reloc = "static" if target.name.startswith("x86") else "default"
        machine = target.create_target_machine(reloc=reloc, codemodel="jitdefault", jit=True)
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
        abort = ctypes.cast(ctypes.CDLL(None).abort, ctypes.c_void_p).value
        for name in header["helpers"]:
            llvm.add_symbol(name, abort)
        self._addresses = {name: self.link(name) for name in self._objects if name != CALLBACK}

    def link(self, name: str) -> int:
        """The address of one kernel, or of the callback; all that it calls is linked already."""
        import llvmlite.binding as llvm

        symbol, start, length = self._objects[name]
        code = llvm.ObjectFileRef.from_data(self._code[start : start + length])
        self._engine.add_object_file(code)
        address = int(self._engine.get_function_address(symbol))
        llvm.add_symbol(ALIAS + name, address)
        return address

    def function(self, name: str, arguments: int) -> Callable[..., int]:
        """The kernel as something that the control plane can call."""
        from vionet.jit.call import ANY, caller

        return caller(name, self._addresses[name], [ANY] * arguments)


def use() -> bool:
    """Take kernels from the image, unless some are declared already in this process.

    *returns* true where there is none and one should be written.
    """
    if LANE is not Lane.COMPILED or CACHE_DIR is None or "vionet.jit.kernel" in sys.modules:
        return False
    with suppress(OSError, ValueError, KeyError):
        _used.append(Image(CACHE_DIR / "image"))
    return not _used


def taken() -> Image:
    """The image that kernels are taken from; only where one is used."""
    return _used[0]


def compiles() -> bool:
    """Whether kernels are Numba's in this process: neither interpreted nor from the image."""
    return LANE is not Lane.INTERPRETED and not _used


def write() -> None:
    """Make the image of all kernels that this process has declared, from Numba's cache.

    Where that cannot be, nothing is written, and the process needs Numba itself.
    """
    from numba import _helperlib
    from numba.core.runtime import _nrt_python

    from vionet.jit import fault
    from vionet.jit.kernel import KERNELS

    assert CACHE_DIR is not None
    callback = fault.handler()
    found = [(_full_name(k), *_symbol_and_code(k)) for k in KERNELS]
    found.append((CALLBACK, callback._wrapper_name, _code(callback, callback._sig)))
    objects, code = {}, b""
    for name, symbol, piece in found:
        # A process that compiled at the same time may have put its own into the cache.
        if piece is None or symbol.encode() not in piece:
            return
        objects[name] = symbol, len(code), len(piece)
        code += piece
    tables: tuple[Any, Any] = _helperlib, _nrt_python
    helpers = [
        f"{prefix}_{name}"
        for prefix, table in zip(("numba", "NRT"), tables, strict=True)
        for name in table.c_helpers
    ]
    header = {"machine": _machine(), "helpers": helpers, "objects": objects}
    data = json.dumps(header).encode() + b"\n" + code
    with suppress(OSError), tempfile.TemporaryDirectory(dir=CACHE_DIR) as aside:
        path = Path(aside, "image")
        path.write_bytes(data + _digest(data))
        path.replace(CACHE_DIR / "image")


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _full_name(kernel: Any) -> str:
    return f"{kernel.py_func.__module__}.{kernel.py_func.__qualname__}"


def _symbol_and_code(kernel: Any) -> tuple[str, bytes | None]:
    (compiled,) = kernel.overloads.values()
    return compiled.fndesc.llvm_func_name, _code(kernel, compiled.signature)


def _code(function: Any, signature: Any) -> bytes | None:
    """The object code of a kernel or callback, from Numba's cache of it."""
    cache = function._cache
    library = getattr(function, "_library", None) or next(iter(function.overloads.values())).library
    with suppress(AttributeError, OSError, TypeError):
        kept = cache._cache_file.load(cache._index_key(signature, library.codegen))
        (_, kind, (code, _)), *_ = kept
        return bytes(code) if kind == "object" else None
    return None


def _machine() -> list[str]:
    """What machine code depends on besides its sources."""
    import llvmlite
    import llvmlite.binding as llvm

    features = ",".join(sorted(llvm.get_host_cpu_features().flatten().split(",")))
    settings = [f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith("NUMBA_")]
    kept = [setting for setting in settings if not setting.startswith("NUMBA_CACHE_DIR")]
    names = llvm.get_process_triple(), llvm.get_host_cpu_name(), features
    return [llvmlite.__version__, *names, *kept]
