"""The initramfs of QEMU guests in tests: that of `vionet bench`, with ethtool and a small Python.

How it works: the kernel is the one that `make packages` unpacked.  The Python is the host's
interpreter with only the modules that `endpoint.py` imports, compiled ahead, because a guest
without KVM is slow.
"""

import importlib.util
import marshal
import os
import sys
import sysconfig
from functools import cache
from modulefinder import ModuleFinder
from pathlib import Path

from tests.interop.peers.shell import ENDPOINT
from tests.tools import GUEST_KERNEL, need, need_guest_kernel
from vionet.bench.guest.initramfs import Archive, begin
from vionet.bench.guest.machine import Kernel

PYTHON = "/python/bin/python3"


def compiled(path: Path) -> bytes:
    """The bytes of an importable .pyc without source."""
    code = importlib.util.source_hash(path.read_bytes())
    body = marshal.dumps(compile(path.read_bytes(), str(path), "exec"))
    return importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + code + body


def add_python(archive: Archive) -> None:
    """Add the interpreter and the modules that the traffic endpoint needs."""
    executable = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    archive.program(PYTHON, executable)
    skipped = ["_hashlib", "ssl", "urllib", "unittest", "doctest", "pydoc", "bz2", "lzma", "ctypes"]
    finder = ModuleFinder(excludes=[*skipped, "email", "http", "logging", "inspect", "shutil"])
    finder.run_script(str(ENDPOINT))
    for name in ("encodings.idna", "encodings.utf_8", "encodings.latin_1", "encodings.ascii"):
        finder.import_hook(name)
    library = Path(sysconfig.get_path("stdlib"))
    home = "/python/lib/" + library.name
    archive.folder(f"{home}/lib-dynload".lstrip("/"))
    for module in finder.modules.values():
        path = Path(getattr(module, "__file__", None) or "/")
        if path == ENDPOINT or not path.is_relative_to(library):
            continue
        inside = path.relative_to(library)
        if path.suffix == ".so":
            archive.program(f"{home}/{inside}", path)
        else:
            archive.file(f"{home}/{inside.with_suffix('.pyc')}", compiled(path))
    archive.file("/endpoint.pyc", compiled(ENDPOINT))


def kernel() -> Kernel:
    """What `make packages` unpacked."""
    return Kernel(*need_guest_kernel())


@cache
def image() -> Path:
    """The initramfs, built once in a test run."""
    archive = begin(kernel(), [need("busybox")])
    archive.program("/sbin/ethtool", need("ethtool"))
    add_python(archive)
    path = GUEST_KERNEL / f"initramfs.{os.getpid()}"
    path.write_bytes(archive.finish())
    return path.rename(GUEST_KERNEL / "initramfs")
