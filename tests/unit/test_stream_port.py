"""Stream ports on real sockets with a real worker: peers that come, go, and come again."""

import asyncio
import contextlib
import os
import select
import socket
import stat
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.recorder import descriptors
from tests.reference.frame import BROADCAST, MACS, Layers
from tests.reference.plug import Options
from tests.reference.stream import Parser, packed
from vionet.fabric import Fabric
from vionet.ports.stream import StreamSocket
from vionet.ports.stream_port import StreamPort
from vionet.vhost_user.budget import Budget
from vionet.vhost_user.journal import LINES_BURST, LINES_PER_SECOND
from vionet.vhost_user.listener import SocketError

TIMEOUT = 60.0
HELLO = Layers(dst=BROADCAST).ethernet(b"hello".ljust(46), 0x1234)


class Peer:
    """What is at the other end: QEMU, passt, or somebody who means no good."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.socket.settimeout(TIMEOUT)
        self.parser = Parser()

    @classmethod
    def connect(cls, path: Path) -> "Peer":
        """Connect to a port that listens."""
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connected.connect(str(path))
        return cls(connected)

    def send(self, *frames: bytes) -> None:
        """Send frames."""
        self.socket.sendall(packed(*frames))

    async def receive(self) -> list[bytes] | None:
        """The next frames; None at the end."""
        while data := await asyncio.to_thread(self.socket.recv, 1 << 17):
            if found := self.parser.feed(data):
                return found
        return None

    def close(self) -> None:
        """Hang up."""
        self.socket.close()


class Ground:
    """A switch of streams in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fabric = Fabric()
        self.ports: list[StreamPort] = []
        self.sockets: list[StreamSocket] = []

    def add(self, name: str, *, connect: bool = False, mode: int | None = None) -> Path:
        """A port with its socket, which has been started; *returns* the path."""
        port = self.fabric.add_stream(replace(Options(), name=name))
        made = StreamSocket(port, self.folder / name, connect=connect, mode=mode)
        made.start()
        self.ports.append(port)
        self.sockets.append(made)
        return self.folder / name

    def look(self) -> None:
        """The worker has something to say."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fabric.notice_fd)
        for one in self.sockets:
            one.look()


async def until(condition: Callable[[], object]) -> None:
    """Wait for what another thread does."""
    async with asyncio.timeout(TIMEOUT):
        while not condition():
            await asyncio.sleep(0.002)


@pytest.fixture
async def ground(run_dir: Path) -> AsyncIterator[Ground]:
    """A running switch, whose notices are read."""
    made = Ground(run_dir)
    loop = asyncio.get_running_loop()
    made.fabric.start()
    loop.add_reader(made.fabric.notice_fd, made.look)
    yield made
    for one in made.sockets:
        await one.close()
    loop.remove_reader(made.fabric.notice_fd)
    made.fabric.close()


async def test_two_peers(ground: Ground) -> None:
    """Frames pass both ways between two peers that connected."""
    paths = ground.add("a"), ground.add("b")
    assert ["waiting", "waiting"] == [port.state for port in ground.ports]
    one, other = Peer.connect(paths[0]), Peer.connect(paths[1])
    await until(lambda: ["attached"] * 2 == [port.state for port in ground.ports])
    for sender, receiver in ((one, other), (other, one)):
        for _ in range(100):
            sender.send(HELLO)
            assert [HELLO] == await receiver.receive()
    one.close()
    other.close()
    await until(lambda: ["waiting"] * 2 == [port.state for port in ground.ports])


async def test_second_peer_is_turned_away(ground: Ground) -> None:
    """It reads the end at once, and the first one notices nothing."""
    paths = ground.add("a"), ground.add("b")
    one, other = Peer.connect(paths[0]), Peer.connect(paths[1])
    await until(lambda: ["attached"] * 2 == [port.state for port in ground.ports])
    second = Peer.connect(paths[0])
    assert await second.receive() is None
    other.send(HELLO)
    assert [HELLO] == await one.receive()
    for peer in (one, other, second):
        peer.close()


async def test_successor_of_a_peer_that_died(ground: Ground) -> None:
    """Whoever connects right after the last one died is taken, every time."""
    path, watch = ground.add("a"), ground.add("b")
    other = Peer.connect(watch)
    for number in range(8):
        frame = Layers(src=MACS[number % 2], dst=BROADCAST).ethernet(bytes([number] * 46), 0x1234)
        peer = Peer.connect(path)
        peer.send(frame)
        assert [frame] == await other.receive()
        peer.close()
    other.close()
    await until(lambda: ground.ports[0].state == "waiting")
    assert 8 == ground.ports[0].ledger()["tx_frames"]


async def test_what_was_learnt_is_forgotten(ground: Ground) -> None:
    """A peer's address leads nowhere once it has gone: frames for it are flooded again."""
    paths = [ground.add(name) for name in "abc"]
    peers = [Peer.connect(path) for path in paths]
    await until(lambda: ["attached"] * 3 == [port.state for port in ground.ports])
    peers[0].send(Layers(src=MACS[1], dst=BROADCAST).ethernet(bytes(46), 0x1234))
    for peer in peers[1:]:
        await peer.receive()
    to_first = Layers(src=MACS[2], dst=MACS[1]).ethernet(bytes(46), 0x1234)
    peers[1].send(to_first)
    assert [to_first] == await peers[0].receive()
    peers[0].close()
    await until(lambda: ground.ports[0].state == "waiting")
    peers[1].send(to_first)
    assert [to_first] == await peers[2].receive()
    for peer in peers[1:]:
        peer.close()


async def test_liar_loses_its_session_only(ground: Ground) -> None:
    """An impossible length: the socket is closed, the reason logged, and the port waits."""
    path = ground.add("a")
    with capture_logs() as logs:
        peer = Peer.connect(path)
        peer.socket.sendall(b"\xff" * 100)
        assert await peer.receive() is None
        peer.close()
    assert "stream_frame_invalid" in [line.get("reason") for line in logs]
    assert 1 == ground.ports[0].drops()["stream_frame_invalid"]
    await until(lambda: ground.ports[0].state == "waiting")
    Peer.connect(path).close()


async def test_slow_peer_is_caught_up_with(ground: Ground) -> None:
    """The worker goes on by itself when the peer reads again; what had no room is counted."""
    paths = ground.add("a"), ground.add("b")
    one, other = Peer.connect(paths[0]), Peer.connect(paths[1])
    await until(lambda: ["attached"] * 2 == [port.state for port in ground.ports])
    large = Layers(dst=BROADCAST).ethernet(bytes(60_000), 0x1234)
    sent = 0
    while not ground.ports[1].drops()["stream_full"]:
        await asyncio.to_thread(one.send, large)
        sent += 1
    one.close()
    await until(lambda: ground.ports[0].state == "waiting")
    arrived = 0
    while arrived < sent - ground.ports[1].drops()["stream_full"]:
        frames = await other.receive()
        assert frames is not None and {large} == set(frames)
        arrived += len(frames)
    assert 0 < arrived == ground.ports[1].ledger()["rx_frames"]
    other.close()


async def test_client_connects_and_reconnects(ground: Ground, run_dir: Path) -> None:
    """With `client` vionet waits for the peer's socket, and again after the peer has gone."""
    path, watch = ground.add("a", connect=True), ground.add("b")
    other = Peer.connect(watch)
    for _ in range(2):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(path))
            listener.listen()
            listener.settimeout(TIMEOUT)
            connected, _ = await asyncio.to_thread(listener.accept)
        path.unlink()
        peer = Peer(connected)
        peer.send(HELLO)
        assert [HELLO] == await other.receive()
        peer.close()
    other.close()


async def test_socket_file(ground: Ground) -> None:
    """The mode is as asked, a path in use an error, a stale one replaced, ours removed."""
    path = ground.add("a", mode=0o640)
    assert 0o640 == stat.S_IMODE(path.stat().st_mode)
    with pytest.raises(SocketError, match="another process serves"):
        StreamSocket(ground.ports[0], path).start()
    await ground.sockets[0].close()
    assert not path.exists()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
        stale.bind(str(path))
    ground.sockets[0].start()
    Peer.connect(path).close()


async def test_peers_that_come_and_go_all_day(ground: Ground) -> None:
    """Neither descriptors nor log lines pile up."""
    path = ground.add("a")
    Peer.connect(path).close()
    await until(lambda: ground.ports[0].state == "waiting")
    before, began = descriptors(), time.monotonic()
    with capture_logs() as logs:
        for _ in range(20):
            peer = Peer.connect(path)
            await until(lambda: ground.ports[0].state == "attached")
            peer.close()
            await until(lambda: ground.ports[0].state == "waiting")
    assert before == descriptors()
    allowed = LINES_BURST + LINES_PER_SECOND * (time.monotonic() - began) + 1
    assert LINES_BURST / 2 < len(logs) <= allowed


async def test_peers_have_a_budget(ground: Ground) -> None:
    """Each that comes and goes holds the worker: beyond so many they are turned away."""
    path = ground.add("a")
    ground.sockets[0]._arrivals = Budget(3, 0)
    with capture_logs() as logs:
        for _ in range(3):
            peer = Peer.connect(path)
            await until(lambda: ground.ports[0].state == "attached")
            peer.close()
            await until(lambda: ground.ports[0].state == "waiting")
        Peer.connect(path).close()
        await until(lambda: "too many come and go" == logs[-1].get("reason"))
    assert "waiting" == ground.ports[0].state


async def test_half_closed_peer(ground: Ground) -> None:
    """A peer that will send nothing more has ended its session."""
    path = ground.add("a")
    peer = Peer.connect(path)
    await until(lambda: ground.ports[0].state == "attached")
    peer.socket.shutdown(socket.SHUT_WR)
    assert await peer.receive() is None
    peer.close()


async def test_closing_closes_the_peer(run_dir: Path) -> None:
    """When the port goes, its peer reads the end, and nothing is left."""
    before = descriptors()
    ground = Ground(run_dir)
    path = ground.add("a")
    ground.fabric.start()
    peer = Peer.connect(path)
    await until(lambda: ground.ports[0].state == "attached")
    await ground.sockets[0].close()
    assert await peer.receive() is None
    assert [] == select.select([], [], [peer.socket], 0)[2]
    peer.close()
    ground.fabric.close()
    assert before == descriptors()
    assert not path.exists()
