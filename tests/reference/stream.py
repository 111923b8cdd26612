"""A stream for the engine: `peer` is the other end of a pair of sockets, as QEMU or passt hold it.

`StreamNetwork` is a `Network` into which streams can be plugged.
"""

import contextlib
import select
import socket
from typing import Any

from tests.reference.network import Network
from tests.reference.plug import NO_OPTIONS, Ground, Options, slot
from vionet.engine.deliver_stream import stream_writable
from vionet.engine.layout import Port
from vionet.engine.status import FabricKind
from vionet.engine.stream import from_stream
from vionet.ports.stream_port import StreamPort


def packed(*frames: bytes) -> bytes:
    """Frames as they lie on a stream."""
    return b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames)


class Parser:
    """Frames out of bytes that arrive in any pieces."""

    def __init__(self) -> None:
        self.pending = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that `data` completes."""
        self.pending += data
        found = []
        while len(self.pending) >= 4:
            end = 4 + int.from_bytes(self.pending[:4], "big")
            if len(self.pending) < end:
                break
            found.append(self.pending[4:end])
            self.pending = self.pending[end:]
        return found


class SocketStream:
    """The peer's side, and the port."""

    def __init__(self, ground: Ground, index: int, options: Options) -> None:
        self.state = ground.state
        self.index = index
        self.parser = Parser()
        self.port = StreamPort(slot(ground, index), options)
        self.peer = self.connect()

    def connect(self) -> socket.socket:
        """Attach a new peer."""
        self.peer, ours = socket.socketpair()
        self.peer.setblocking(False)
        self.parser = Parser()
        self.port.attach(ours)
        return self.peer

    @property
    def record(self) -> Port:
        """The port's record."""
        return self.state.ports[self.index]

    @property
    def ledger(self) -> dict[str, int]:
        """Counters that are not 0."""
        return {key: n for key, n in self.port.ledger().items() if n}

    @property
    def drops(self) -> dict[str, int]:
        """Drop reasons that were counted."""
        return {key: n for key, n in self.port.drops().items() if n}

    def set_send_buffer(self, size: int) -> None:
        """How much the kernel holds for a peer that does not read."""
        with socket.fromfd(int(self.record.fd), socket.AF_UNIX, socket.SOCK_STREAM) as ours:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)

    def give(self, data: bytes) -> int:
        """The peer writes bytes; *returns* how many its socket took."""
        self.record.readable = 1
        try:
            return self.peer.send(data)
        except BlockingIOError:
            return 0

    def taken(self, most: int = 1 << 22) -> list[bytes]:
        """The frames that the peer has read by now, `most` bytes of them at once."""
        found: list[bytes] = []
        with contextlib.suppress(BlockingIOError):
            while most > 0 and (data := self.peer.recv(min(most, 1 << 17))):
                most -= len(data)
                found += self.parser.feed(data)
        return found

    def close(self) -> None:
        """Close both ends."""
        self.port.close()
        self.peer.close()


class StreamNetwork(Network):
    """A network with streams; the worker's epoll is a real one."""

    def __init__(self, kind: FabricKind = FabricKind.SWITCH) -> None:
        super().__init__(kind)
        self.streams: list[SocketStream] = []
        self.epoll = select.epoll()
        self.state.epoll_fds[0] = self.epoll.fileno()

    def __exit__(self, *about: Any) -> None:
        for stream in self.streams:
            stream.close()
        self.epoll.close()
        super().__exit__(*about)

    def stream(self, options: Options = NO_OPTIONS) -> SocketStream:
        """Plug in one stream."""
        stream = SocketStream(self, self._next_index(), options)
        self.streams.append(stream)
        return stream

    def _next_index(self) -> int:
        self.state.n_ports = len(self.guests) + len(self.taps) + len(self.streams) + 1
        return int(self.state.n_ports) - 1

    def run_stream(self, stream: SocketStream) -> int:
        """One burst from a stream.  *returns* the frames taken."""
        return self.watched(lambda: from_stream(self.state, self.work, stream.index))

    def go_on(self, stream: SocketStream) -> None:
        """What the worker does when epoll says that the stream takes more."""
        stream_writable(self.state, self.work, stream.index)
