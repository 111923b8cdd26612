"""What this host has for a machine, and that asking for it never hangs."""

import contextlib
import os
import platform
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tools import need
from vionet.vm import host, kvm
from vionet.vm.model import Vm, VmError

FOREIGN = "aarch64" if platform.machine() == "x86_64" else "x86_64"


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    """Nothing that another test found out is known."""
    for known in (kvm.refusal, host.version):
        known.cache_clear()
    yield
    for known in (kvm.refusal, host.version):
        known.cache_clear()


def program(place: Path, body: str) -> Path:
    """An executable shell script."""
    place.write_text(f"#!/bin/sh\n{body}\n")
    place.chmod(place.stat().st_mode | stat.S_IXUSR)
    return place


def test_other_architectures_have_none() -> None:
    """Nobody is asked."""
    said = kvm.refusal(Path("/nonexistent"), FOREIGN)
    assert f"this machine is {kvm.architecture()}, its guests are {FOREIGN}" == said


def test_probe_answers_in_time() -> None:
    """Whatever /dev/kvm does here, there is an answer, and the same one again at once."""
    qemu = need("qemu-system-x86_64")
    said = kvm.refusal(qemu, "x86_64")
    assert "\n" not in said
    before = kvm.refusal.cache_info().hits
    assert said == kvm.refusal(qemu, "x86_64")
    assert before + 1 == kvm.refusal.cache_info().hits


def test_probe_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A /dev/kvm that never answers costs its time and no more, and leaves no process."""
    monkeypatch.setattr(kvm, "TIME_MAX_S", 0.2)
    seconds = f"60.{os.getpid()}"  # which nobody else sleeps
    monkeypatch.setattr(
        sys, "executable", str(program(tmp_path / "hangs", f"exec sleep {seconds}"))
    )
    started = time.monotonic()
    assert "/dev/kvm did not answer within 0.2 s" == kvm.refusal(Path("qemu"), kvm.architecture())
    assert time.monotonic() - started < 30
    sleeping = f"sleep\0{seconds}\0".encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # of one that is gone
            assert sleeping != path.read_bytes()


def test_qemu_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """KVM that runs an instruction but not QEMU is refused with the first line of QEMU's."""
    monkeypatch.setattr(sys, "executable", str(program(tmp_path / "probe", "printf works")))
    qemu = program(tmp_path / "qemu", "echo 'qemu: failed to set MSR' >&2; echo more >&2; exit 1")
    assert "qemu: failed to set MSR" == kvm.refusal(qemu, kvm.architecture())
    kvm.refusal.cache_clear()
    dies = program(tmp_path / "dies", "kill -9 $$")
    assert "dies ended with -9" == kvm.refusal(dies, kvm.architecture())
    kvm.refusal.cache_clear()
    works = program(tmp_path / "works", """cat >/dev/null; echo '{"QMP": {}}'""")
    assert "" == kvm.refusal(works, kvm.architecture())


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("/nonexistent", "/nonexistent: open: No such file or directory"),
        ("/dev/null", "/dev/null: KVM_GET_API_VERSION: Inappropriate ioctl for device"),
    ],
)
def test_no_device(monkeypatch: pytest.MonkeyPatch, device: str, expected: str) -> None:
    """A host without KVM, or with something else in its place, is told by the step that failed."""
    monkeypatch.setattr(kvm, "DEVICE", device)
    assert expected == kvm.refusal(Path("qemu"), kvm.architecture())


@pytest.fixture
def fake_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a QEMU of version 9.2 that has no KVM; the only one in PATH."""
    body = """[ "$1" = --version ] && echo "QEMU emulator version 9.2.4 (v9)" && exit
echo no kvm >&2; exit 1"""
    program(tmp_path / f"qemu-system-{kvm.architecture()}", body)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(sys, "executable", str(program(tmp_path / "probe", "printf works")))
    return tmp_path


def test_auto_falls_back(fake_qemu: Path) -> None:
    """`auto` takes emulation where KVM does not work, and says why; `tcg` does not even ask."""
    found = host.find(Vm(name="web", arch=kvm.architecture(), kernel=Path("/k")))
    assert ("tcg", (9, 2)) == (found.accel, found.version)
    assert "emulated, so slow, as KVM does not work: no kvm" == found.note
    assert fake_qemu == found.program.parent
    asked = kvm.refusal.cache_info().misses
    found = host.find(Vm(name="web", arch=kvm.architecture(), kernel=Path("/k"), accel="tcg"))
    assert ("tcg", "") == (found.accel, found.note)
    assert asked == kvm.refusal.cache_info().misses


def test_kvm_that_is_demanded(fake_qemu: Path) -> None:
    """`kvm` where it does not work is an error of one line."""
    with pytest.raises(VmError, match=r"^web: KVM does not work: no kvm; mend that, or take"):
        host.find(Vm(name="web", arch=kvm.architecture(), accel="kvm"))


def test_programs_that_will_not_do(fake_qemu: Path) -> None:
    """No QEMU, an old one, one that is none."""
    arch = kvm.architecture()
    with pytest.raises(VmError, match=r"^web: qemu-system-vax is not installed \(Debian: "):
        host.find(Vm(name="web", arch="vax"))
    program(fake_qemu / f"qemu-system-{arch}", "echo QEMU emulator version 5.2.0")
    with pytest.raises(VmError, match=r" is 5\.2; install 6\.0 or later$"):
        host.find(Vm(name="web", arch=arch))
    host.version.cache_clear()
    program(fake_qemu / f"qemu-system-{arch}", "echo hello")
    with pytest.raises(VmError, match=r"does not say its version; is it QEMU\?$"):
        host.find(Vm(name="web", arch=arch))


def test_firmware_where_the_machine_has_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """ARM boots a disk with UEFI, which is another package; a kernel needs none."""
    program(tmp_path / "qemu-system-aarch64", "echo QEMU emulator version 8.2.0")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(host, "FIRMWARE", {"aarch64": (str(tmp_path / "QEMU_EFI.fd"),)})
    vm = Vm(name="arm", arch="aarch64", accel="tcg")
    with pytest.raises(VmError, match=r"^arm: no UEFI to boot with \(Debian: qemu-efi-aarch64\)"):
        host.find(vm)
    assert (
        host.find(Vm(name="arm", arch="aarch64", accel="tcg", kernel=Path("/k"))).firmware is None
    )
    (tmp_path / "QEMU_EFI.fd").touch()
    assert tmp_path / "QEMU_EFI.fd" == host.find(vm).firmware
