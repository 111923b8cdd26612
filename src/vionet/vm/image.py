"""What a machine has on the host's disks, made or looked at before it starts.

How it works: a disk that has a size and does not exist is made, under another name first, and gets
its own by a link, which never replaces anything.  A disk that exists is not touched, whatever its
size.  Nothing here is asked of QEMU, which is told every format.

**Formats.**  A guest writes every byte of a raw disk, the first ones too.  Were the format guessed
by them, a guest could make its raw disk look like qcow2, name a file of the host as the one behind
it, and read that after its next start.  So the bytes alone decide nothing: a disk whose file says
nothing is qcow2 if its bytes *and* its name say so, raw if neither does; otherwise the file has to
say `format`.

Trust: images are the user's, but may come from strangers: an image of qcow2 that reads another
file is said in a note, and its data must not be elsewhere (an external data file is refused).
"""

import asyncio
import contextlib
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from vionet.vm import seed
from vionet.vm.model import Disk, Vm, VmError, VmPlaces

CREATE_MAX_S: Final = 60.0
# The header of qcow2: magic, version, place and length of the name of the file behind it, ..., and
# at 72 the features without which it cannot be read.
QCOW2_MAGIC: Final = b"QFI\xfb"
QCOW2_SUFFIXES: Final = (".qcow2", ".qcow")
QCOW2_HEADER_LEN: Final = 80
INCOMPATIBLE_OFF: Final = 72
EXTERNAL_DATA: Final = 1 << 2
NAME_LEN_MAX: Final = 1023


@dataclass(frozen=True, slots=True)
class Prepared:
    """A machine that can be started, and what is worth a line in the log."""

    vm: Vm
    notes: tuple[str, ...]


async def prepare(vm: Vm, places: VmPlaces) -> Prepared:
    """Make what is missing, look at the rest; `VmError` where that is not possible."""
    notes: list[str] = []
    disks = []
    for number, disk in enumerate(vm.disks):
        what = f"{vm.name}: disk {number}"
        disk = replace(disk, format=disk.format or _format_of_new(disk)) if _missing(disk) else disk
        if disk.size_len is not None and _missing(disk):
            await _make(disk, what)
            notes.append(f"{what}: made {disk.path}, {disk.format}, {disk.size_len >> 20} MiB")
        disks.append(_examine(disk, what, notes))
    wanted = {"kernel": vm.kernel, "initrd": vm.initrd, "firmware": vm.firmware, "cdrom": vm.cdrom}
    for name, path in wanted.items():
        if path is not None and not _kind(path, f"{vm.name}: {name}", os.R_OK).regular:
            raise VmError(f"{vm.name}: {name} {path}: not a file; give one")
    if vm.seed is not None:
        await asyncio.to_thread(seed.write, vm, places.seed)
    return Prepared(replace(vm, disks=tuple(disks)), tuple(notes))


@dataclass(frozen=True, slots=True)
class _Kind:
    regular: bool
    block: bool


def _kind(path: Path, what: str, access: int, hint: str = "") -> _Kind:
    """What kind of file `path` is; an error if it is not there, or not permitted."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise VmError(f"{what} {path}: {error.strerror}{hint}") from None
    if not os.access(path, access):
        wanted = "read and written" if access & os.W_OK else "read"
        raise VmError(f"{what} {path}: may not be {wanted} by this user; see its permissions")
    return _Kind(stat.S_ISREG(mode), stat.S_ISBLK(mode))


def _missing(disk: Disk) -> bool:
    return not os.path.lexists(disk.path)


def _format_of_new(disk: Disk) -> str:
    return "qcow2" if disk.path.suffix in QCOW2_SUFFIXES else "raw"


def _examine(disk: Disk, what: str, notes: list[str]) -> Disk:
    """The disk with its format, and whether it is a device."""
    access = os.R_OK if disk.read_only else os.R_OK | os.W_OK
    kind = _kind(disk.path, what, access, "; give size to have it made")
    if not (kind.regular or kind.block):
        raise VmError(f"{what} {disk.path}: neither a file nor a block device; give one")
    with disk.path.open("rb") as file:
        header = file.read(QCOW2_HEADER_LEN)
        is_qcow2 = header.startswith(QCOW2_MAGIC)
        named = disk.path.suffix in QCOW2_SUFFIXES
        if disk.format is None and is_qcow2 != named:
            one, other = ("bytes", "name") if is_qcow2 else ("name", "bytes")
            why = f"its {one} say{'s' * named} qcow2, its {other} not"
            raise VmError(f'{what} {disk.path}: {why}; write format = "qcow2" or "raw"')
        if disk.format == "qcow2" and not is_qcow2:
            raise VmError(f'{what} {disk.path}: not a qcow2 image; write format = "raw"')
        chosen = disk.format or ("qcow2" if is_qcow2 else "raw")
        if chosen == "qcow2":
            if int.from_bytes(header[INCOMPATIBLE_OFF:], "big") & EXTERNAL_DATA and header[7] >= 3:
                raise VmError(f"{what} {disk.path}: its data is in another file; convert it")
            if offset := int.from_bytes(header[8:16], "big"):
                file.seek(offset)
                behind = file.read(min(int.from_bytes(header[16:20], "big"), NAME_LEN_MAX))
                notes.append(f"{what}: {disk.path} reads {behind.decode(errors='replace')!r}")
    return replace(disk, format=chosen, block_device=kind.block)


async def _make(disk: Disk, what: str) -> None:
    """A new disk, which nobody else may read."""
    assert disk.size_len is not None
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{disk.path.name}.", dir=disk.path.parent)
        try:
            if disk.format == "raw":
                os.ftruncate(descriptor, disk.size_len)
            else:
                await _qemu_img("create", "-q", "-f", "qcow2", name, str(disk.size_len))
            with contextlib.suppress(FileExistsError):  # somebody else's, made meanwhile
                os.link(name, disk.path)
        finally:
            os.close(descriptor)
            Path(name).unlink()
    except OSError as error:
        raise VmError(f"{what} {disk.path}: not made: {error.strerror}") from None
    except VmError as error:
        raise VmError(f"{what} {disk.path}: not made: {error}") from None


async def _qemu_img(*arguments: str) -> None:
    if (program := shutil.which("qemu-img")) is None:
        raise VmError("qemu-img is not installed (Debian: qemu-utils)")
    pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    child = await asyncio.create_subprocess_exec(
        program, *arguments, stdin=null, stdout=null, stderr=pipe
    )
    try:
        _, complaint = await asyncio.wait_for(child.communicate(), CREATE_MAX_S)
    except TimeoutError:
        child.kill()
        await child.wait()
        raise VmError(f"qemu-img did not end within {CREATE_MAX_S:g} s") from None
    if child.returncode:
        text = complaint.decode(errors="replace").strip().splitlines()
        raise VmError(text[0] if text else f"qemu-img ended with {child.returncode}")
