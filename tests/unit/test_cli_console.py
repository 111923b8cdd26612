"""`vionet vm console` and `log -f` in a real terminal."""

import asyncio
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.unit.still_site import serving
from vionet.cli.console import PENDING_MAX, Escape

WAIT_S = 60


@contextmanager
def started(
    *arguments: str, terminal: bool, output: bool = True
) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """A vionet in a terminal of its own, or between pipes; its end of the terminal."""
    near, far = pty.openpty()
    both = {"stdin": far, "stdout": far if output else subprocess.PIPE, "stderr": far}
    if not terminal:
        both = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    child = subprocess.Popen(
        [sys.executable, "-m", "vionet", *arguments],
        start_new_session=True,
        **both,  # type: ignore[call-overload]
    )
    try:
        yield child, near
    finally:
        child.kill()
        child.wait(WAIT_S)
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()
        os.close(near)
        os.close(far)


def seen(fd: int, wanted: bytes) -> bytes:
    """What comes until `wanted` has."""
    got, deadline = b"", time.monotonic() + WAIT_S
    while wanted not in got:
        assert select.select([fd], [], [], max(0, deadline - time.monotonic()))[0], got
        got += os.read(fd, 4096)
    return got


@pytest.mark.parametrize("leaves", [b"\x1d", b"\r~.", b"exit\r~."])
async def test_console_in_a_terminal(run_dir: Path, leaves: bytes) -> None:
    """Keys go to the guest as they are, ^C too; the key that leaves is told, and the terminal is
    afterwards as before."""
    (run_dir / "vionet").mkdir()
    async with serving(run_dir / "vionet") as (site, _):
        await site.machines["web"].machine.start()

        def person() -> None:
            with started("vm", "console", "web", terminal=True) as (child, fd):
                before = termios.tcgetattr(fd)
                assert b"leave with Ctrl-] or ~." in seen(fd, b"login: ")
                assert before != termios.tcgetattr(fd)
                os.write(fd, b"root\x03~x\r")
                assert b"ROOT\x03~X\r" in seen(fd, b"X\r")
                os.write(fd, leaves)
                assert b"left the console" in seen(fd, b"of web\r\n")
                assert 0 == child.wait(WAIT_S)
                assert before == termios.tcgetattr(fd)

        await asyncio.to_thread(person)


@pytest.mark.parametrize("ends", ["guest", "signal"])
async def test_end_gives_the_terminal_back(run_dir: Path, ends: str) -> None:
    """The other side's end, and a signal, leave no raw terminal behind."""
    (run_dir / "vionet").mkdir()
    async with serving(run_dir / "vionet") as (site, _):
        await site.machines["web"].machine.start()

        def person() -> None:
            with started("vm", "console", "web", terminal=True) as (child, fd):
                before = termios.tcgetattr(fd)
                seen(fd, b"login: ")
                if ends == "guest":
                    os.write(fd, b"q")
                    seen(fd, b"end of the console")
                else:
                    child.send_signal(signal.SIGTERM)
                assert (0 if ends == "guest" else 143) == child.wait(WAIT_S)
                assert before == termios.tcgetattr(fd)

        await asyncio.to_thread(person)


async def test_console_between_pipes(run_dir: Path) -> None:
    """Bytes both ways as they are, also those that would leave; the end of the input is not the end
    of the output."""
    (run_dir / "vionet").mkdir()
    async with serving(run_dir / "vionet") as (site, _):
        machine = site.machines["web"].machine
        await machine.start()

        def person() -> None:
            with started("vm", "console", "web", terminal=False) as (child, _):
                assert child.stdin is not None
                assert child.stdout is not None
                assert child.stderr is not None
                child.stdin.write(b"\x1d\n~.a")
                child.stdin.close()
                assert b"login: \x1d\n~.A" == seen(child.stdout.fileno(), b"A")
                assert child.poll() is None
                assert 1 == machine.console.attached

        await asyncio.to_thread(person)


async def test_start_with_console(run_dir: Path) -> None:
    """`start -c` is attached at once."""
    (run_dir / "vionet").mkdir()
    async with serving(run_dir / "vionet") as (site, _):

        def person() -> None:
            with started("vm", "start", "web", "-c", terminal=True) as (child, fd):
                seen(fd, b"login: ")
                os.write(fd, b"\x1d")
                seen(fd, b"left the console")
                assert 0 == child.wait(WAIT_S)

        await asyncio.to_thread(person)
        assert ["start"] == site.machines["web"].machine.done


async def test_log_followed_in_a_terminal(run_dir: Path) -> None:
    """What is said later comes too, without what would control the terminal; ^C ends it."""
    (run_dir / "vionet").mkdir()
    async with serving(run_dir / "vionet") as (site, _):
        log = site.machines["web"].log
        log.write_bytes(b"one\x1b]0;title\x07\n")

        def person() -> None:
            with started("vm", "log", "-f", "web", terminal=True) as (child, fd):
                assert b"one]0;title\r\n" == seen(fd, b"title\r\n")
                with log.open("ab") as file:
                    file.write(b"two\n")
                assert b"two\r\n" == seen(fd, b"two\r\n")
                child.send_signal(signal.SIGINT)
                assert 130 == child.wait(WAIT_S)

        await asyncio.to_thread(person)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ([b"ls\r"], (b"ls\r", False)),
        ([b"~."], (b"", True)),
        ([b"~", b"."], (b"", True)),
        ([b"a~."], (b"a~.", False)),
        ([b"a\r~."], (b"a\r", True)),
        ([b"a\n", b"~", b"."], (b"a\n", True)),
        ([b"~~."], (b"~.", False)),
        ([b"~~\r~."], (b"~\r", True)),
        ([b"~a~."], (b"~a~.", False)),
        ([b"~\r~."], (b"~\r", True)),
        ([b"vi\x1dx"], (b"vi", True)),
        ([b"~\x1d"], (b"", True)),
        ([bytes(range(32, 126))], (bytes(range(32, 126)), False)),
    ],
)
def test_what_leaves(keys: list[bytes], expected: tuple[bytes, bool]) -> None:
    """Ctrl-] anywhere and ~. at the beginning of a line leave, in one piece or several; everything
    else is the guest's, and ~~ is one ~."""
    escape, sent, left = Escape(), b"", False
    for piece in keys:
        more, left = escape.typed(piece)
        sent += more
    assert expected == (sent, left)


async def test_guest_that_does_not_read(run_dir: Path) -> None:
    """A person can type any amount at a guest that takes nothing, and still leave."""
    (run_dir / "vionet").mkdir()
    async with serving(run_dir / "vionet") as (site, _):
        machine = site.machines["web"].machine
        await machine.start()
        over = asyncio.Event()

        async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"login: ")
            await over.wait()

        machine.console.attach = deaf

        def person() -> None:
            with started("vm", "console", "web", terminal=True) as (child, fd):
                seen(fd, b"login: ")
                for _ in range(8 * PENDING_MAX // 1024):
                    os.write(fd, b"x" * 1024)  # the terminal itself holds 4096
                os.write(fd, b"\x1d")
                seen(fd, b"left the console")
                assert 0 == child.wait(WAIT_S)

        await asyncio.to_thread(person)
        over.set()
