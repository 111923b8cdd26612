"""`vionet bench guests` without a guest: kernels that are found, rows, and what is judged wrong."""

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from vionet.bench.guest import machine
from vionet.bench.guest.console import Console
from vionet.bench.guest.pair import Machines, Pair
from vionet.bench.guest.process import Program
from vionet.bench.guests import (
    NEGOTIATED,
    TESTS,
    chosen,
    figures,
    judge_end,
    judge_features,
    processor_seconds,
)
from vionet.bench.result import Result
from vionet.spec import virtio

VERSION = "6.1.0-56-cloud-amd64"


def image(path: Path) -> Path:
    """A file that says it is kernel VERSION, as the boot protocol has it."""
    data = bytearray(0x1000)
    data[0x202:0x206] = b"HdrS"
    data[0x20E:0x210] = (0x500).to_bytes(2, "little")
    data[0x700 : 0x700 + len(VERSION)] = VERSION.encode()
    data[0x700 + len(VERSION)] = ord(" ")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("place", ["lib/modules", "boot/lib/modules"])
def test_modules_are_found_by_the_version_in_the_kernel(tmp_path: Path, place: str) -> None:
    """Beside the image or above it, whatever the image is called."""
    kernel, modules = image(tmp_path / "boot" / "bzImage"), tmp_path / place / VERSION
    assert VERSION == machine.release(kernel)
    assert machine.find_kernel(kernel) is None
    modules.mkdir(parents=True)
    assert machine.Kernel(kernel, modules) == machine.find_kernel(kernel)


def test_modules_that_are_there_are_loaded(tmp_path: Path) -> None:
    """A kernel has some built in, and some distributions compress the others."""
    kernel = machine.Kernel(tmp_path / "vmlinuz", tmp_path)
    assert [] == kernel.present
    for name in ("drivers/net/virtio_net.ko.xz", "net/core/failover.ko"):
        (tmp_path / "kernel" / name).parent.mkdir(parents=True)
        (tmp_path / "kernel" / name).touch()
    assert ["failover.ko", "virtio_net.ko.xz"] == [path.name for path in kernel.present]


def test_what_is_no_kernel_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is silent: each family says what it lacks."""
    other = tmp_path / "other"
    other.write_bytes(b"no kernel at all")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("vionet.bench.guest.process.SYSTEM_FOLDERS", str(tmp_path))
    result = Result("guests")
    assert {} == chosen(Machines(tmp_path, other), False, result)
    assert {
        "UML guests": "linux.uml is not installed (Debian: user-mode-linux)",
        "QEMU guests": "qemu-system-x86_64 is not installed (Debian: qemu-system-x86)",
    } == result.left_out
    for name in ("qemu-system-x86_64", "busybox", "iperf3"):
        (tmp_path / name).touch(0o700)
    chosen(Machines(tmp_path, other), False, result)
    assert "--kernel FILE" in result.left_out["QEMU guests"]


class Seen(Console):
    """A guest that is not there, of which something is known."""

    def __init__(self, names: set[str], bad: int) -> None:
        self.name, self.names, self.bad = "a", names, bad

    def features(self) -> set[int]:
        return {virtio.BITS[name] for name in self.names}

    def bad_checksums(self) -> dict[str, int]:
        return {"TcpInCsumErrors": self.bad, "UdpInCsumErrors": 0}


class Told(Pair):
    """A pair whose vionet says what it is told to."""

    def ports(self) -> list[dict[str, Any]]:
        ledger = {"csum_bad": 0, "gso_passed": 0}
        return [{"features": list(NEGOTIATED["full"]), "ledger": ledger} for _ in range(2)]


def pair(names: set[str], bad: int = 0, subject: str = "vionet full") -> Pair:
    """A pair with the features `names` and `bad` checksums in its guests."""
    made = Told("UML", subject, (Seen(names, bad), Seen(names, bad)), control=Path("here"))
    made.values = {test: [2.0, 4.0] for test in TESTS}
    made.detail = {test: {} for test in TESTS}
    return made


def test_other_features_are_a_fault() -> None:
    """vionet and the guest's kernel both have to say what the preset is."""
    assert [] == list(judge_features(pair(NEGOTIATED["full"])))
    (one, _) = judge_features(pair(NEGOTIATED["csum"]))
    assert one.startswith("a: the guest says that VIRTIO_NET_F_CSUM VIRTIO_NET_F_GUEST_CSUM was")
    assert 4 == len(list(judge_features(pair(NEGOTIATED["csum"], subject="vionet off"))))


def test_bad_checksums_and_small_frames_are_faults() -> None:
    """What the guests' kernels counted, and offload=full without a large frame."""
    first, second, whole = judge_end(pair(set(), bad=3))
    assert first == second == "a: its kernel counted 3 TcpInCsumErrors"
    assert "UML vionet full: no large frame went through whole" == whole


def test_rows() -> None:
    """Each against the first rival; full against offload=off as well."""
    rival = pair(set(), subject="vde_switch")
    rival.values = {test: [1.0, 1.0] for test in TESTS}
    rows = list(figures([pair(set()), pair(set(), subject="vionet off"), rival]))
    found = [(row.subject, row.against, row.ratio) for row in rows if row.name == "UML TCP"]
    assert [
        ("vionet full", "vde_switch", 3.0),
        ("vionet off", "vde_switch", 3.0),
        ("vde_switch", "", None),
        ("vionet full", "vionet off", 1.0),
    ] == found
    alone = next(figures([pair(set())]))
    assert ("", None) == (alone.against, alone.ratio)


def test_processor_time_is_that_of_the_group(tmp_path: Path) -> None:
    """A child that works counts, for one who only waits for it."""
    script = "while :; do :; done & wait"
    child = Program(["sh", "-c", script], tmp_path / "log", stdin=subprocess.PIPE)
    deadline = time.monotonic() + 30
    try:
        while processor_seconds(child.pid) < 0.1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert 0.1 <= processor_seconds(child.pid)
    finally:
        child.kill()
