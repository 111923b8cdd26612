"""The keeper: what it does for its client, without it, and what is left when it ends."""

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.process import Children
from vionet.vm import keeper as program
from vionet.vm.keeping import Keeper, KeeperError

WAIT_S = 60
# A vionet that is killed: it starts a child, has a pipe kept, and says both pids.
PREDECESSOR = """
import asyncio, os, sys
from pathlib import Path
from vionet.vm.keeping import Keeper

async def main(folder):
    keeper = await Keeper.reach(folder, linger_s=float(sys.argv[2]))
    pid = await keeper.spawn("sleeper", ["sleep", "1000"], folder / "sleeper.log")
    reading, writing = os.pipe()
    await keeper.put("pipe", reading)
    os.write(writing, b"kept")
    print(pid, keeper.pid, flush=True)
    await asyncio.sleep(1000)

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.fixture
async def keeper(run_dir: Path) -> AsyncIterator[Keeper]:
    """A keeper in a folder of its own, ended with the test."""
    reached = await Keeper.reach(run_dir)
    yield reached
    await reached.end()
    assert not (run_dir / "keeper.sock").exists()


def until_gone(pid: int) -> None:
    """Wait for the end of a process that may be anybody's child."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            assert select.select([pidfd], [], [], WAIT_S)[0], f"{pid} runs on"
        finally:
            os.close(pidfd)


async def status_of(keeper: Keeper, name: str) -> int:
    """How a child ended, within bounds."""
    async with asyncio.timeout(WAIT_S):
        return await keeper.ended(name)


async def test_child_says_its_output_and_status(keeper: Keeper, run_dir: Path) -> None:
    """Both outputs are appended to the log, and the exit status is told."""
    log = run_dir / "said"
    log.write_text("before\n")
    argv = ["sh", "-c", "echo $WORD; pwd; echo error >&2; exit 7"]
    await keeper.spawn("one", argv, log, cwd=run_dir, env={"WORD": "spoken"})
    assert 7 == await status_of(keeper, "one")
    assert f"before\nspoken\n{run_dir}\nerror\n" == log.read_text()
    assert {} == keeper.children


async def test_child_is_bare(keeper: Keeper, run_dir: Path) -> None:
    """A child has a session of its own, the usual signals, and no descriptor of the keeper's."""
    await keeper.put("tap", 0)
    text = "import os,signal;print(os.getpid() == os.getsid(0), len(os.listdir('/proc/self/fd')))"
    text += ";print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))"
    text += ";print([n.name for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)"
    text += " if signal.getsignal(n) != signal.SIG_DFL])"
    await keeper.spawn("bare", [sys.executable, "-IS", "-c", text], run_dir / "bare.log")
    assert 0 == await status_of(keeper, "bare")
    # Standard input, output and error, and the folder that it lists.
    assert "True 4\nset()\n[]\n" == (run_dir / "bare.log").read_text()


async def test_names_are_taken_once(keeper: Keeper, run_dir: Path) -> None:
    """A name of a running child is refused; when it has ended, it is free."""
    await keeper.spawn("one", ["sleep", "1000"], run_dir / "log")
    with pytest.raises(KeeperError, match="one: runs already"):
        await keeper.spawn("one", ["true"], run_dir / "log")
    await keeper.signal("one", signal.SIGKILL)
    assert -signal.SIGKILL == await status_of(keeper, "one")
    await keeper.spawn("one", ["true"], run_dir / "log")
    assert 0 == await status_of(keeper, "one")


async def test_program_that_does_not_exist(keeper: Keeper, run_dir: Path) -> None:
    """What cannot be started is said in a line, and nothing is left of it."""
    for argv, log, words in (
        (["/nowhere/qemu"], run_dir / "log", "/nowhere/qemu: No such file or directory"),
        (["true"], run_dir / "no/log", "no/log: No such file or directory"),
        (["a\0b"], run_dir / "log", "embedded null byte"),
        (["true", "x" * program.LINE_MAX], run_dir / "log", "more than 131072 bytes"),
        ([], run_dir / "log", "argv is a list of texts"),
    ):
        with pytest.raises(KeeperError, match=words):
            await keeper.spawn("absent", argv, log)
    with pytest.raises(KeeperError, match="no such child"):
        await keeper.ended("absent")
    assert {} == keeper.children


async def test_descendants_go_with_the_child(keeper: Keeper, run_dir: Path) -> None:
    """What a child leaves in its process group is killed when it ends."""
    log = run_dir / "log"
    await keeper.spawn("parent", ["sh", "-c", "sleep 1000 & echo $!"], log)
    assert 0 == await status_of(keeper, "parent")
    until_gone(int(log.read_text()))


async def test_second_vionet_is_refused(
    keeper: Keeper, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one vionet is served, another is told so, and the first notices nothing."""
    monkeypatch.setattr("vionet.vm.keeping.BUSY_S", 0.1)
    with pytest.raises(KeeperError, match=rf"another vionet \(process {os.getpid()}\) is served"):
        await Keeper.reach(run_dir)
    await keeper.spawn("one", ["true"], run_dir / "log")
    assert 0 == await status_of(keeper, "one")


async def test_two_who_come_at_once(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two who start a keeper at once, one is served and the other refused by the same keeper."""
    monkeypatch.setattr("vionet.vm.keeping.BUSY_S", 0.1)
    one, other = await asyncio.gather(
        Keeper.reach(run_dir), Keeper.reach(run_dir), return_exceptions=True
    )
    served, refused = (one, other) if isinstance(one, Keeper) else (other, one)
    assert isinstance(served, Keeper)
    assert isinstance(refused, KeeperError)
    await served.end()


async def test_successor_finds_all(run_dir: Path, start: Children) -> None:
    """vionet is killed: the next one finds child and descriptor, and learns who ended meanwhile."""
    child = start(sys.executable, "-c", PREDECESSOR, str(run_dir), "60")
    pid, keeper_was = map(int, child.wait_for(r"^\d+ \d+$").group().split())
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    keeper = await Keeper.reach(run_dir)
    try:
        assert keeper_was == keeper.pid
        assert [("sleeper", pid)] == [(name, one.pid) for name, one in keeper.children.items()]
        assert ("sleep", "1000") == keeper.children["sleeper"].argv
        assert abs(time.time() - keeper.children["sleeper"].started) < 60
        taken = await keeper.take()
        assert ["pipe"] == list(taken)
        assert b"kept" == os.read(taken["pipe"], 100)
        os.close(taken["pipe"])
        await keeper.drop("pipe")
        assert {} == await keeper.take()
        # Now a planned restart, in which the child ends while nobody is there.
        keeper.leave()
        os.kill(pid, signal.SIGTERM)
        until_gone(pid)
        keeper = await Keeper.reach(run_dir)
        assert {} == keeper.children
        assert {"sleeper": -signal.SIGTERM} == keeper.gone
    finally:
        await keeper.end()


async def test_nobody_comes(run_dir: Path, start: Children) -> None:
    """vionet is killed and nobody follows: children and keeper end, and the socket is gone."""
    child = start(sys.executable, "-c", PREDECESSOR, str(run_dir), "0.2")
    pid, keeper = map(int, child.wait_for(r"^\d+ \d+$").group().split())
    os.kill(child.pid, signal.SIGKILL)
    until_gone(pid)
    until_gone(keeper)
    assert ["sleeper.log"] == [path.name for path in run_dir.iterdir()]


async def test_keeper_is_killed(run_dir: Path) -> None:
    """Children die with a keeper that is killed; its client notices, and another one is started."""
    keeper = await Keeper.reach(run_dir)
    heard = asyncio.Event()
    keeper.on_lost = heard.set
    pid = await keeper.spawn("one", ["sleep", "1000"], run_dir / "log")
    os.kill(keeper.pid, signal.SIGKILL)
    assert -signal.SIGKILL == await status_of(keeper, "one")
    async with asyncio.timeout(WAIT_S):
        await heard.wait()
    until_gone(pid)
    with pytest.raises(KeeperError, match="the keeper is gone"):
        await keeper.spawn("one", ["true"], run_dir / "log")
    again = await Keeper.reach(run_dir)
    assert {} == again.children
    await again.end()
    assert ["log"] == [path.name for path in run_dir.iterdir()]


async def test_end_is_an_end(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that ignores SIGTERM is killed after a while, by `end` and by SIGTERM alike."""
    log = run_dir / "log"
    argv = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1000; done"]
    keeper = await Keeper.reach(run_dir)
    pid = await keeper.spawn("deaf", argv, log)
    easy = await keeper.spawn("easy", ["sleep", "1000"], log)
    async with asyncio.timeout(WAIT_S):
        while "ready" not in log.read_text():
            await asyncio.sleep(0.01)
    deaf_fd, started = os.pidfd_open(pid), time.monotonic()
    os.kill(keeper.pid, signal.SIGTERM)
    assert -signal.SIGTERM == await status_of(keeper, "easy")
    until_gone(easy)
    await asyncio.to_thread(select.select, [deaf_fd], [], [], WAIT_S)
    assert time.monotonic() - started >= program.GRACE_S - 0.5, "it was let be for so long"
    os.close(deaf_fd)
    await keeper.end()
    until_gone(pid)
    assert ["log"] == [path.name for path in run_dir.iterdir()]


async def test_nonsense_is_answered(run_dir: Path) -> None:
    """Whatever a client sends, it gets a line back or is dropped, and the keeper lives."""
    keeper = await Keeper.reach(run_dir)
    await keeper.spawn("one", ["sleep", "1000"], run_dir / "log")
    keeper.leave()
    reading, writing = os.pipe()
    lines = [b"", b"{", b"[]", b"[" * 10000, b'{"request":"no"}', b'{"request":[]}', b"\xff"]
    objects: tuple[dict[str, object], ...] = (
        {"request": "spawn"},
        {"request": "spawn", "name": "x" * 200, "argv": ["true"], "log": "/dev/null"},
        {"request": "spawn", "name": "x", "argv": "true", "log": "/dev/null"},
        {"request": "spawn", "name": "x", "argv": ["true", 1], "log": "/dev/null"},
        {"request": "spawn", "name": "x", "argv": ["true"], "log": 1e30},
        {"request": "spawn", "name": "x", "argv": ["true"], "log": "/dev/null", "env": []},
        {"request": "spawn", "name": "x", "argv": ["true"], "log": "/dev/null", "env": {"=": "="}},
        {"request": "signal", "name": "one", "number": 1e400},
        {"request": "signal", "name": "one", "number": 10**30},
        {"request": "signal", "name": "one", "number": -1},
        {"request": "stay", "linger_s": float("nan")},
        {"request": "stay", "linger_s": -1},
        {"request": "put", "name": ""},
        {"request": "take", "name": "x"},
    )
    lines += [json.dumps(fields).encode() for fields in objects]
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(WAIT_S)
        client.connect(str(run_dir / "keeper.sock"))
        stream = client.makefile("rb")
        assert b'"keeper"' in stream.readline()
        for line in lines:
            socket.send_fds(client, [line + b"\n"], [reading])
            assert "error" in json.loads(stream.readline()), line
        os.close(reading)
        # The keeper has kept none of the copies: a pipe without readers says so.
        with pytest.raises(BrokenPipeError):
            os.write(writing, b"x")
        os.close(writing)
        with contextlib.suppress(OSError):
            client.sendall(b"x" * (program.LINE_MAX + 1))
        with contextlib.suppress(OSError):
            assert b"at most" in stream.readline()
            assert b"" == stream.readline()
        stream.close()
    again = await Keeper.reach(run_dir)
    assert ["one"] == list(again.children)
    await again.end()


@pytest.mark.slow
async def test_client_that_does_not_read(run_dir: Path) -> None:
    """A client that asks and asks and reads nothing is dropped, and its successor served."""
    keeper = await Keeper.reach(run_dir)
    for number in range(4):
        argv = ["sh", "-c", "read -r _", "x" * 100_000]
        await keeper.spawn(f"child{number}", argv, run_dir / "log")
    keeper.leave()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(program.SEND_S + WAIT_S)
        client.connect(str(run_dir / "keeper.sock"))
        with pytest.raises(ConnectionError):
            while True:
                client.sendall(b'{"request":"list"}\n')
    again = await Keeper.reach(run_dir)
    assert 4 == len(again.children)
    await again.end()


def test_keeper_needs_little() -> None:
    """It imports nothing but the standard library, and not asyncio."""
    text = "import runpy,sys;runpy.run_path(sys.argv[1]);print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", text, program.__file__],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=True,
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"vionet", "click", "numpy", "numba", "structlog", "asyncio"}
