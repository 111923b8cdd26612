"""An initramfs for QEMU guests, built from what the host has: busybox, ethtool, a small Python.

How it works: the modules come from the kernel that `make packages` unpacked.  The archive is a
plain `newc` cpio, written here.  The Python in it is the host's interpreter with only the modules
that `endpoint.py` imports, compiled ahead, because a guest without KVM is slow.
"""

import importlib.util
import marshal
import os
import re
import sys
import sysconfig
from dataclasses import dataclass, field
from functools import cache
from modulefinder import ModuleFinder
from pathlib import Path

from tests.interop.peers.process import call
from tests.interop.peers.shell import ENDPOINT
from tests.tools import GUEST_KERNEL, need, need_guest_kernel

INIT = Path(__file__).with_name("init.sh")
# In the order in which they depend on each other; a kernel may have some built in.
MODULES = (
    "kernel/net/core/failover",
    "kernel/drivers/net/net_failover",
    "kernel/drivers/virtio/virtio_ring",
    "kernel/drivers/virtio/virtio",
    "kernel/drivers/virtio/virtio_pci_modern_dev",
    "kernel/drivers/virtio/virtio_pci_legacy_dev",
    "kernel/drivers/virtio/virtio_pci",
    "kernel/drivers/net/virtio_net",
)
PYTHON = "/python/bin/python3"


@dataclass
class Archive:
    """A cpio archive in the `newc` format that the kernel unpacks."""

    parts: list[bytes] = field(default_factory=list)
    names: set[str] = field(default_factory=set)

    def _add(self, name: str, mode: int, data: bytes, device: tuple[int, int] = (0, 0)) -> None:
        if name in self.names:
            return
        self.names.add(name)
        raw = name.encode() + b"\0"
        numbers = (len(self.names), mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(raw), 0)
        header = b"070701" + "".join(f"{number:08X}" for number in numbers).encode()
        for part in (header + raw, data):
            self.parts.append(part + b"\0" * (-len(part) % 4))

    def folder(self, name: str) -> None:
        """Add a folder and those above it."""
        steps = name.split("/")
        for depth in range(1, len(steps) + 1):
            self._add("/".join(steps[:depth]), 0o040755, b"")

    def file(self, name: str, data: bytes | Path) -> None:
        """Add an executable file with `data`, or with the contents of a file of the host."""
        name = name.lstrip("/")
        if "/" in name:
            self.folder(name.rpartition("/")[0])
        self._add(name, 0o100755, data.read_bytes() if isinstance(data, Path) else data)

    def program(self, name: str, source: Path) -> None:
        """Add a program or shared object of the host and the libraries that it needs."""
        self.file(name, source)
        for library in re.findall(r"(/\S+\.so\S*)", call("ldd", str(source), check=False)):
            self.file(library, Path(library))

    def console(self) -> None:
        """Add /dev/console, which the kernel opens before the init runs."""
        self.folder("dev")
        self._add("dev/console", 0o020600, b"", (5, 1))

    def finish(self) -> bytes:
        """The archive."""
        self._add("TRAILER!!!", 0, b"")
        return b"".join(self.parts)


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


@cache
def image() -> Path:
    """The initramfs, built once in a test run."""
    archive, (_kernel, modules) = Archive(), need_guest_kernel()
    for name in ("proc", "sys", "tmp", "run", "bin", "sbin", "usr/bin", "usr/sbin"):
        archive.folder(name)
    archive.console()
    archive.file("/init", INIT)
    archive.program("/bin/busybox", need("busybox"))
    archive.program("/sbin/ethtool", need("ethtool"))
    archive.program("/bin/iperf3", need("iperf3"))
    for module in MODULES:
        if (modules / f"{module}.ko").exists():
            archive.file(f"/modules/{Path(module).name}.ko", modules / f"{module}.ko")
    add_python(archive)
    path = GUEST_KERNEL / f"initramfs.{os.getpid()}"
    path.write_bytes(archive.finish())
    return path.rename(GUEST_KERNEL / "initramfs")
