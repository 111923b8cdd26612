"""What a QEMU guest boots into: busybox, iperf3 and the kernel's network modules, in one archive.

How it works: the archive is a plain `newc` cpio, written here, so neither root nor a cpio program
is needed; the programs are those of the host, with the shared objects that `ldd` names.
"""

import lzma
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from vionet.bench.guest.machine import INIT, Kernel
from vionet.bench.guest.process import call

FOLDERS: Final = ("proc", "sys", "tmp", "run", "bin", "sbin", "usr/bin", "usr/sbin")


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


def begin(kernel: Kernel, programs: Sequence[Path]) -> Archive:
    """An archive with init.sh, the modules of `kernel` and `programs`; more can be added."""
    archive = Archive()
    for name in FOLDERS:
        archive.folder(name)
    archive.console()
    archive.file("/init", INIT)
    for program in programs:
        archive.program(f"/bin/{program.name}", program)
    for module in kernel.present:
        data = module.read_bytes()
        name = module.name.partition(".")[0]
        archive.file(
            f"/modules/{name}.ko", lzma.decompress(data) if module.suffix == ".xz" else data
        )
    return archive
