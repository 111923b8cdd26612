"""The hint to people whose guest memory is not shared: given when due, and only then."""

import ctypes
import mmap
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.recorder import PROTOCOL_FEATURES, Recorder, serving
from vionet.spec import virtio
from vionet.vhost_user.frontend import Frontend
from vionet.vhost_user.guest_memory import GuestMemory

FEATURES = virtio.mask((virtio.VIRTIO_F_VERSION_1, virtio.VHOST_USER_F_PROTOCOL_FEATURES))


def warnings_of(run_dir: Path, memory: GuestMemory | None) -> list[str]:
    """The remedies logged while a front-end sets up one ring."""
    kick = os.eventfd(0)
    with (
        capture_logs() as logs,
        serving(run_dir / "s", Recorder()) as (_, _),
        Frontend.connect(run_dir / "s") as frontend,
    ):
        frontend.negotiate(FEATURES, PROTOCOL_FEATURES)
        uva = 0x1000
        if memory:
            frontend.set_mem_table(memory)
            uva = memory.regions[0].uva
        frontend.set_vring_num(0, 64)
        frontend.set_vring_addr(0, uva, uva + 4096, uva + 8192)
        frontend.set_vring_kick(0, kick)
        frontend.synchronise()
    os.close(kick)
    assert 1 == sum(line["event"] == "negotiated" for line in logs)
    told = [line for line in logs if line["log_level"] == "warning"]
    assert {"guest memory is not shared, no frame can pass"} >= {line["event"] for line in told}
    return [line["mend"] for line in told]


def test_no_memory_at_all_is_told_with_the_remedy(run_dir: Path) -> None:
    """QEMU without a shared backend sets up its rings without having sent memory."""
    (line,) = warnings_of(run_dir, None)
    assert "memory-backend-memfd,id=mem,size=SIZE,share=on -machine memory-backend=mem" in line


def test_private_memory_is_told_with_the_remedy(run_dir: Path) -> None:
    """share=off: the front-end maps the file it sent privately, which /proc shows."""
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 32 << 20)
    for flags, expected in ((mmap.MAP_PRIVATE, True), (mmap.MAP_SHARED, False)):
        mapping = mmap.mmap(fd, 32 << 20, flags)
        uva = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
        with GuestMemory((32 << 20,), uva_base=uva) as memory:
            lines = warnings_of(run_dir, memory)
        assert expected == any("size=32M,share=on" in line for line in lines)
        mapping.close()
    os.close(fd)


def test_made_up_addresses_give_no_hint(run_dir: Path) -> None:
    """A tester's user addresses are mapped nowhere: nothing is claimed about them."""
    with GuestMemory((1 << 20,)) as memory:
        assert [] == warnings_of(run_dir, memory)


def test_looked_for_once(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a front-end negotiates anew: its list of mappings may be very long."""
    looks: list[int] = []
    monkeypatch.setattr("vionet.vhost_user.backend.obstacle", lambda _, pid: looks.append(pid))
    kick = os.eventfd(0)
    with (
        serving(run_dir / "s", Recorder()) as (_, _),
        Frontend.connect(run_dir / "s") as frontend,
    ):
        frontend.negotiate(FEATURES, PROTOCOL_FEATURES)
        frontend.set_vring_addr(0, 0x1000, 0x2000, 0x3000)
        frontend.set_vring_kick(0, kick)
        for word in (0, FEATURES) * 3:
            frontend.set_features(word)
        frontend.synchronise()
    os.close(kick)
    assert [os.getpid()] == looks
