"""What systemd hears, on a real datagram socket, and the descriptors that it gives back."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vionet.daemon.notify import Notify, inherited

WAIT_S = 60


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """A service manager's ear at a path or an abstract name, and its name in the environment."""
    path = str(run_dir / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.settimeout(WAIT_S)
        ear.bind(path if request.param == "path" else f"\0{path}")
        monkeypatch.setenv("NOTIFY_SOCKET", path if request.param == "path" else f"@{path}")
        yield ear


def heard(ear: socket.socket) -> dict[str, str]:
    """The next message."""
    return dict(line.split("=", 1) for line in ear.recv(4096).decode().split("\n"))


def test_states_are_told(manager: socket.socket) -> None:
    """Each state is one message in systemd's words, and no child inherits the socket's name."""
    notify = Notify.from_environment()
    assert notify.listening
    assert "NOTIFY_SOCKET" not in os.environ
    before = time.monotonic_ns() // 1000
    notify.ready()
    notify.reloading()
    notify.status("3 machines run,\n1 is paused")
    notify.stopping()
    assert {"READY": "1"} == heard(manager)
    reloading = heard(manager)
    assert "1" == reloading["RELOADING"]
    assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    assert {"STATUS": "3 machines run, 1 is paused"} == heard(manager)
    assert {"STOPPING": "1"} == heard(manager)


def test_descriptor_is_stored(manager: socket.socket) -> None:
    """What is stored arrives as another descriptor of the same file, with its name."""
    notify = Notify.from_environment()
    memory = os.memfd_create("G-kept")
    os.write(memory, b"tap")
    notify.store("tap-web.0", memory)
    os.close(memory)  # at once: it travels on its own
    data, fds, _, _ = socket.recv_fds(manager, 4096, 4)
    assert b"FDSTORE=1\nFDNAME=tap-web.0\nFDPOLL=0" == data
    (kept,) = fds
    assert b"tap" == os.pread(kept, 10, 0)
    os.close(kept)
    notify.discard("tap-web.0")
    assert {"FDSTOREREMOVE": "1", "FDNAME": "tap-web.0"} == heard(manager)


async def test_watchdog_is_fed_while_alive(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is fed again and again from the loop, not any more when the workers are dead, and again
    when they are not."""
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    notify = Notify.from_environment()
    assert "WATCHDOG_USEC" not in os.environ
    alive, asked = True, 0

    def workers() -> bool:
        nonlocal asked
        asked += 1
        return alive

    notify.watchdog(workers)
    try:
        for _ in range(3):
            assert {"WATCHDOG": "1"} == await asyncio.to_thread(heard, manager)
        alive = False
        deadline, before = time.monotonic() + WAIT_S, asked
        while asked < before + 3:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)
        manager.setblocking(False)
        fed = 0
        while True:
            try:
                heard(manager)
                fed += 1
            except BlockingIOError:
                break
        assert before - 3 == fed
    finally:
        notify.close()


@pytest.mark.parametrize(
    ("usec", "pid"), [("", ""), ("soon", ""), ("20000", "1"), ("20000", "none")]
)
def test_watchdog_of_somebody_else(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch, usec: str, pid: str
) -> None:
    """Without a time, or where another process is watched, nothing is fed; no loop is needed."""
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", pid)
    Notify.from_environment().watchdog(lambda: True)
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(100)


def test_nobody_listens(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without systemd, and with one that is gone or full, everything can be called all the same."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    absent = Notify.from_environment()
    assert not absent.listening
    for notify in (absent, Notify(str(run_dir / "none"))):
        notify.ready()
        notify.store("a", 0)
    monkeypatch.setattr("vionet.daemon.notify._SEND_S", 0.01)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(run_dir / "full"))
        full = Notify(str(run_dir / "full"))
        for _ in range(600):  # more than any backlog: each costs the time that it may cost
            full.ready()
            if deaf_is_full(run_dir / "full"):
                break
        else:
            pytest.fail("the socket never filled up")
        full.stopping()


def deaf_is_full(path: Path) -> bool:
    """Whether no more messages fit."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        probe.setblocking(False)
        try:
            probe.sendto(b"x", str(path))
        except BlockingIOError:
            return True
    return False


_CHILD = """
import json, os, sys
os.environ["LISTEN_PID"] = sys.argv[1].replace("mine", str(os.getpid()))
from vionet.daemon.notify import inherited
found = inherited()
print(json.dumps({
    "content": {name: os.pread(fd, 10, 0).decode() for name, fd in found.items()},
    "inheritable": [os.get_inheritable(fd) for fd in found.values()],
    "environment": [key for key in os.environ if key.startswith("LISTEN_")],
    "again": inherited(),
}))
"""


def started_with(pid: str, names: str, count: int = 3) -> dict[str, object]:
    """What a process makes of three descriptors that it was started with."""
    files = [os.memfd_create(f"G-{number}") for number in range(3)]
    for number, fd in enumerate(files):
        os.write(fd, f"file {number}".encode())

    def place() -> None:
        kept = [os.dup2(fd, 50 + number) for number, fd in enumerate(files)]
        for number, fd in enumerate(kept):
            os.dup2(fd, 3 + number)

    try:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, pid],
            env={**os.environ, "LISTEN_FDS": str(count), "LISTEN_FDNAMES": names},
            preexec_fn=place,
            close_fds=False,
            capture_output=True,
            timeout=90,
            check=True,
        )
    finally:
        for fd in files:
            os.close(fd)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_descriptors_come_back() -> None:
    """They have the names they were stored with, no child inherits them, and they come once."""
    found = started_with("mine", "tap-web.0:tap-db.0:keeper")
    content = {"tap-web.0": "file 0", "tap-db.0": "file 1", "keeper": "file 2"}
    assert content == found["content"]
    assert [False] * 3 == found["inheritable"]
    assert [] == found["environment"]
    assert {} == found["again"]


def test_same_name_twice_and_none() -> None:
    """Of two with one name the newer is used; one without a name does not take another's."""
    assert {"a": "file 1", "unknown-2": "file 2"} == started_with("mine", "a:a")["content"]


@pytest.mark.parametrize(("pid", "count"), [("1", 3), ("", 3), ("mine", 1 << 30), ("mine", 0)])
def test_descriptors_of_somebody_else(pid: str, count: int) -> None:
    """What was meant for another process, or makes no sense, is not touched."""
    found = started_with(pid, "a:b:c", count)
    assert ({}, []) == (found["content"], found["environment"])


def test_nothing_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Started by hand there is nothing."""
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        monkeypatch.delenv(name, raising=False)
    assert {} == inherited()
