"""Disks that are made, and disks that are looked at; qemu-img says what they are."""

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tools import need
from vionet.vm import image
from vionet.vm.image import prepare
from vionet.vm.model import Disk, Seed, Vm, VmError, VmPlaces

SIZE = 10 << 20


@pytest.fixture
def places(tmp_path: Path) -> Iterator[VmPlaces]:
    """Files of a machine, in a folder in which nothing half made may be left."""
    names = ("monitor", "console", "agent", "log", "stderr", "seed")
    yield VmPlaces(**{name: tmp_path / name for name in names})
    assert [] == [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def qemu_img(*arguments: str | Path) -> str:
    """What qemu-img says."""
    argv = [str(need("qemu-img")), *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout


def about(path: Path, kind: str) -> dict[str, Any]:
    """What qemu-img says of an image of the format `kind`."""
    return json.loads(qemu_img("info", "--output=json", "-f", kind, path))


def machine(*disks: Disk) -> Vm:
    """A machine with nothing else."""
    return Vm(name="web", disks=disks)


@pytest.mark.parametrize(
    ("name", "given", "kind"),
    [
        ("a.qcow2", None, "qcow2"),
        ("a.img", None, "raw"),
        ("a.img", "qcow2", "qcow2"),
        ("a,b.qcow2", "raw", "raw"),
    ],
)
async def test_made(tmp_path: Path, places: VmPlaces, name: str, given: str, kind: str) -> None:
    """A disk that does not exist is made, of the format that its name or the file says, and takes
    no space yet; nobody else may read it."""
    path = tmp_path / name
    done = await prepare(machine(Disk(path=path, format=given, size_len=SIZE)), places)
    assert kind == done.vm.disks[0].format
    assert (f"web: disk 0: made {path}, {kind}, 10 MiB",) == done.notes
    said = about(path, kind)
    assert SIZE == said["virtual-size"]
    assert said["actual-size"] < SIZE // 10
    assert 0o600 == path.stat().st_mode & 0o777


async def test_what_exists_is_not_touched(tmp_path: Path, places: VmPlaces) -> None:
    """Neither another size nor another start changes a disk."""
    path = tmp_path / "a.img"
    path.write_bytes(b"mine")
    before = path.stat()
    done = await prepare(machine(Disk(path=path, size_len=SIZE)), places)
    assert ("raw", ()) == (done.vm.disks[0].format, done.notes)
    assert (b"mine", before.st_ino) == (path.read_bytes(), path.stat().st_ino)
    again = await prepare(done.vm, places)
    assert done == again


async def test_two_at_once(tmp_path: Path, places: VmPlaces) -> None:
    """Two machines that want the same new disk find one, whole."""
    path = tmp_path / "a.qcow2"
    vm = machine(Disk(path=path, size_len=SIZE, read_only=True))
    await asyncio.gather(prepare(vm, places), prepare(vm, places))
    assert SIZE == about(path, "qcow2")["virtual-size"]


@pytest.mark.parametrize(
    ("name", "given", "raw", "expected"),
    [
        ("a.qcow2", None, False, "qcow2"),
        ("a.img", None, True, "raw"),
        ("a.img", "raw", False, "raw"),
        ("a.img", "qcow2", False, "qcow2"),
        ("a.qcow2", "raw", True, "raw"),
        ("a.img", None, False, 'its bytes say qcow2, its name not; write format = "qcow2"'),
        ("a.qcow2", None, True, 'its name says qcow2, its bytes not; write format = "qcow2"'),
        ("a.img", "qcow2", True, 'not a qcow2 image; write format = "raw"'),
    ],
)
async def test_format(
    tmp_path: Path, places: VmPlaces, name: str, given: str, raw: bool, expected: str
) -> None:
    """Name and bytes together say the format, or the file does: a guest, which writes the bytes,
    turns a raw disk into nothing else."""
    path = tmp_path / name
    qemu_img("create", "-q", "-f", "raw" if raw else "qcow2", path, str(SIZE))
    vm = machine(Disk(path=path, format=given))
    if expected in ("raw", "qcow2"):
        assert expected == (await prepare(vm, places)).vm.disks[0].format
        return
    with pytest.raises(VmError) as refused:
        await prepare(vm, places)
    assert str(refused.value).startswith(f"web: disk 0 {path}: {expected}")


async def test_images_that_read_other_files(tmp_path: Path, places: VmPlaces) -> None:
    """One that lies on another is said; one whose data is in another is refused."""
    base, overlay, outside = (tmp_path / name for name in ("base.img", "a.qcow2", "b.qcow2"))
    base.write_bytes(bytes(SIZE))
    qemu_img("create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, overlay)
    done = await prepare(machine(Disk(path=overlay)), places)
    assert (f"web: disk 0: {overlay} reads {str(base)!r}",) == done.notes
    data = f"data_file={tmp_path / 'data'}"
    qemu_img("create", "-q", "-f", "qcow2", "-o", data, outside, str(SIZE))
    with pytest.raises(VmError, match=r"its data is in another file; convert it$"):
        await prepare(machine(Disk(path=outside)), places)


async def test_headers_are_not_believed(tmp_path: Path, places: VmPlaces) -> None:
    """A header that ends early, or names a name of gigabytes, costs nothing."""
    path = tmp_path / "a.qcow2"
    header = image.QCOW2_MAGIC + (3).to_bytes(4, "big") + (8).to_bytes(8, "big") + b"\xff" * 4
    for data in (image.QCOW2_MAGIC, header, header + bytes(100)):
        path.write_bytes(data)
        done = await prepare(machine(Disk(path=path)), places)
        assert all(len(note) < 2000 for note in done.notes)


async def test_refusals(tmp_path: Path, places: VmPlaces, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not there, is no disk, or cannot be made, is said in one line."""
    none, new = tmp_path / "none", Disk(path=tmp_path / "no" / "a.qcow2", size_len=SIZE)
    cases = {
        machine(Disk(path=none)): "disk 0 .*none: No such file or directory; give size to have",
        machine(Disk(path=tmp_path)): "disk 0 .*: neither a file nor a block device; give one$",
        machine(new): "disk 0 .*a.qcow2: not made: No such file or directory$",
        Vm(name="web", cdrom=none): "cdrom .*none: No such file or directory$",
        Vm(name="web", kernel=tmp_path): "kernel .*: not a file; give one$",
    }
    for vm, expected in cases.items():
        with pytest.raises(VmError, match=f"^web: {expected}"):
            await prepare(vm, places)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(VmError, match=r"not made: qemu-img is not installed \(Debian: qemu-utils"):
        await prepare(machine(Disk(path=tmp_path / "a.qcow2", size_len=SIZE)), places)
    program = tmp_path / "qemu-img"
    program.write_text("#!/bin/sh\necho disk full >&2\necho more >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(VmError, match=r"a.qcow2: not made: disk full$"):
        await prepare(machine(Disk(path=tmp_path / "a.qcow2", size_len=SIZE)), places)


@pytest.fixture
def nobody() -> Iterator[None]:
    """For a moment root is a user like others."""
    root = os.geteuid() == 0
    if root:
        os.setresuid(65534, 65534, 0)
    yield
    if root:
        os.setresuid(0, 0, 0)


def test_permissions(run_dir: Path, request: pytest.FixtureRequest) -> None:
    """A disk that this user may not write is refused before QEMU starts."""
    run_dir.chmod(0o755)
    path = run_dir / "a.img"
    path.touch(0o444)
    places = VmPlaces(**dict.fromkeys(VmPlaces.__slots__, path))
    request.getfixturevalue("nobody")
    with pytest.raises(VmError, match=r"^web: disk 0 .*: may not be read and written by this user"):
        asyncio.run(prepare(machine(Disk(path=path)), places))
    done = asyncio.run(prepare(machine(Disk(path=path, read_only=True)), places))
    assert "raw" == done.vm.disks[0].format


async def test_seed_is_made(places: VmPlaces) -> None:
    """The image of cloud-init is one of the things a machine has on disk."""
    await prepare(Vm(name="web", seed=Seed(host_name="web")), places)
    assert b"CD001" == places.seed.read_bytes()[16 * 2048 + 1 :][:5]
