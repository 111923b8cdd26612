"""The serial line shared by several readers; a Unix socket plays QEMU's side of it."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from vionet.vm import console as module
from vionet.vm.console import BACKLOG_MAX, READERS_MAX, UNREAD_MAX, Console
from vionet.vm.model import VmError

WAIT_S = 60


class Line:
    """The guest's side: what QEMU does with its console socket."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._server: asyncio.Server | None = None
        self._came: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
        self._came = asyncio.Queue()

    async def begin(self) -> None:
        """Listen, as a QEMU that starts."""
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._arrived, self._path)

    def _arrived(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._came.put_nowait((reader, writer))

    async def connected(self) -> None:
        """Wait for vionet."""
        async with asyncio.timeout(WAIT_S):
            self.reader, self.writer = await self._came.get()

    async def say(self, text: bytes) -> None:
        """What the guest prints; returns when it was taken."""
        self.writer.write(text)
        async with asyncio.timeout(WAIT_S):
            await self.writer.drain()

    async def typed(self, count: int) -> bytes:
        """What the guest reads."""
        async with asyncio.timeout(WAIT_S):
            return await self.reader.readexactly(count)

    async def end(self) -> None:
        """As a QEMU that ends."""
        self.writer.close()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()


@dataclass
class Person:
    """A reader that is attached: its own end of the socket, and the task that serves it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    task: asyncio.Task[None]
    far: asyncio.StreamWriter = field(repr=False)

    async def until(self, text: bytes) -> bytes:
        """Read until `text` has come."""
        async with asyncio.timeout(WAIT_S):
            return await self.reader.readuntil(text)

    async def leave(self) -> None:
        """Detach."""
        self.writer.close()
        async with asyncio.timeout(WAIT_S):
            await self.task
        self.far.close()


async def attach(console: Console) -> Person:
    """One more reader."""
    near, far = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=near)
    its_reader, its_writer = await asyncio.open_connection(sock=far)
    task = asyncio.create_task(console.attach(its_reader, its_writer))
    return Person(reader, writer, task, its_writer)


@pytest.fixture
async def line(run_dir: Path) -> AsyncIterator[Line]:
    """A guest that can talk."""
    made = Line(run_dir / "console")
    await made.begin()
    yield made
    await made.end()


@pytest.fixture
async def console(run_dir: Path, line: Line) -> AsyncIterator[Console]:
    """Connected to `line`."""
    made = Console(run_dir / "console", run_dir / "log")
    made.look()
    await line.connected()
    yield made
    async with asyncio.timeout(WAIT_S):
        await made.close()


async def test_all_read_and_all_type(console: Console, line: Line) -> None:
    """Every reader gets what was said before it came and what comes; each may type."""
    await line.say(b"booting\nlogin: ")
    one = await attach(console)
    await one.until(b"login: ")
    other = await attach(console)
    assert b"booting\nlogin: " == await other.until(b"login: ")
    one.writer.write(b"root\n")
    assert b"root\n" == await line.typed(5)
    other.writer.write(b"\x03")
    assert b"\x03" == await line.typed(1)
    await line.say(b"welcome\n")
    assert b"welcome\n" == await one.until(b"\n")
    assert b"welcome\n" == await other.until(b"\n")
    await one.leave()
    await line.say(b"still here\n")
    assert b"still here\n" == await other.until(b"\n")
    await other.leave()


async def test_backlog_is_bounded(console: Console, line: Line) -> None:
    """A reader that comes late gets the end of what was said, and no more than the backlog."""
    first = await attach(console)
    for _ in range(4):
        await line.say(b"x" * (BACKLOG_MAX - 1) + b"\n")
        await first.until(b"\n")
    await line.say(b"end\n")
    await first.until(b"end\n")
    late = await attach(console)
    assert b"x" * (BACKLOG_MAX - 5) + b"\n" == await late.until(b"\n")
    assert b"end\n" == await late.until(b"\n")
    await first.leave()
    await late.leave()


async def test_slow_reader_loses_its_place(console: Console, line: Line) -> None:
    """A reader that does not read is dropped; guest and other readers go on meanwhile."""
    slow, quick = await attach(console), await attach(console)
    slow.reader._transport.pause_reading()  # type: ignore[attr-defined]
    total = 0
    while not slow.task.done():
        await line.say(b"y" * 65535 + b"\n")
        await quick.until(b"\n")
        total += 65536
        assert total < 64 * UNREAD_MAX, "nobody was dropped"
    await slow.task
    await line.say(b"on\n")
    assert b"on\n" == await quick.until(b"\n")
    await quick.leave()
    slow.writer.close()
    slow.far.close()


async def test_guest_that_does_not_read(
    console: Console, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Input that the guest does not take is thrown away; its reader reads on and can leave."""
    monkeypatch.setattr(module, "TYPE_S", 0.05)
    line.reader._transport.pause_reading()  # type: ignore[attr-defined]
    person = await attach(console)
    sent = 0
    async with asyncio.timeout(WAIT_S):
        for _ in range(64):
            person.writer.write(b"z" * 65536)
            await person.writer.drain()
            sent += 65536
    await line.say(b"heard\n")
    assert b"heard\n" == await person.until(b"\n")
    await person.leave()
    line.reader._transport.resume_reading()  # type: ignore[attr-defined]
    taken = 0
    with contextlib.suppress(TimeoutError):
        while True:
            async with asyncio.timeout(0.2):
                taken += len(await line.reader.read(65536))
    assert 0 < taken < sent


async def test_readers_are_few(console: Console, line: Line) -> None:
    """There is room for so many readers, and a place that was left is free again."""
    people = [await attach(console) for _ in range(READERS_MAX)]
    await line.say(b"$ ")
    for person in people:
        await person.until(b"$ ")
    refused = await attach(console)
    with pytest.raises(VmError, match="16 readers already"):
        await refused.task
    refused.writer.close()
    refused.far.close()
    await people.pop().leave()
    last = await attach(console)
    await last.until(b"$ ")
    for person in (*people, last):
        await person.leave()


async def test_line_comes_back_with_the_machine(console: Console, line: Line) -> None:
    """QEMU ends and another one starts: readers stay, and what is typed in between is lost."""
    person = await attach(console)
    await line.say(b"bye\n")
    await person.until(b"bye\n")
    await line.end()
    await line.begin()
    console.look()
    await line.connected()
    await line.say(b"hello\n")
    assert b"hello\n" == await person.until(b"\n")
    person.writer.write(b"again")
    assert b"again" == await line.typed(5)
    await person.leave()


async def test_nobody_is_there(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a QEMU it gives up after a while; a reader has what the log holds, and can leave."""
    monkeypatch.setattr(module, "CONNECT_S", 0.05)
    (run_dir / "log").write_bytes(b"z" * BACKLOG_MAX + b"last words\n")
    console = Console(run_dir / "console", run_dir / "log")
    console.look()
    person = await attach(console)
    assert (await person.until(b"\n")).endswith(b"zlast words\n")
    person.writer.write(b"anybody?")
    await person.leave()
    async with asyncio.timeout(WAIT_S):
        while console._serving is not None:
            await asyncio.sleep(0.01)
    await console.close()


async def test_log_is_cut(
    run_dir: Path, line: Line, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that has grown too long loses its older part; who appends to it goes on."""
    monkeypatch.setattr(module, "LOG_MAX", 3000)
    monkeypatch.setattr(module, "LOG_KEPT", 1000)
    person = await attach(console)
    with (run_dir / "log").open("ab", buffering=0) as log:  # QEMU writes it itself
        for number in range(5):
            log.write(b"%d" % number * 1000)
            await line.say(b"%d" % number * 1000 + b"\n")
            await person.until(b"\n")
        log.write(b"end")
    kept = (run_dir / "log").read_bytes()
    assert kept.endswith(b"4" * 1000 + b"end")
    assert len(kept) <= 3000
    await person.leave()
