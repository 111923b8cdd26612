"""The other end of a Unix socket: where it comes from, and whether it is still there.

For front-ends (`backend`) and for the peers of streams (`ports.stream`).  `Arrivals` listens on a
path, or connects to it again and again where the other end listens.
"""

import asyncio
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from vionet.vhost_user.journal import Journal
from vionet.vhost_user.listener import Listener

BACKOFF_MIN: Final = 0.1  # seconds between attempts to connect; doubled up to the maximum
BACKOFF_MAX: Final = 2.0


class Arrivals:
    """Sockets that are connected to a path's other end, on the running loop."""

    def __init__(
        self,
        path: Path,
        whom: str,
        journal: Journal,
        *,
        connect: bool = False,
        mode: int | None = None,
        group: str | None = None,
    ) -> None:
        """`whom` says in the log who comes; `mode` and `group` are those of a `Listener`."""
        self._path, self._whom, self._journal = path, whom, journal
        self._connect, self._mode, self._group = connect, mode, group
        self._listener: Listener | None = None
        self._connecting: asyncio.Task[None] | None = None

    def start(
        self,
        accept: Callable[[socket.socket], None],
        serve: Callable[[socket.socket], asyncio.Event],
    ) -> None:
        """Give each that comes to `accept`, or each that is found to `serve`, one at a time, as in
        `keep_connecting`; raises `SocketError` if the path cannot be had."""
        loop = asyncio.get_running_loop()
        if self._connect:
            connecting = keep_connecting(self._path, self._whom, self._journal, serve)
            self._connecting = loop.create_task(connecting)
        else:
            self._listener = Listener(self._path, self._mode, self._group)
            loop.add_reader(self._listener.socket, self._take, self._listener.socket, accept)

    async def close(self) -> None:
        """Give up the path."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
            self._connecting = None
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener.socket)
            self._listener.close()
            self._listener = None

    def _take(self, listening: socket.socket, accept: Callable[[socket.socket], None]) -> None:
        try:
            arrival, _ = listening.accept()
        except BlockingIOError:
            return
        except OSError as error:
            self._journal.write("warning", f"cannot accept a {self._whom}", reason=error.strerror)
            return
        accept(arrival)


async def keep_connecting(
    path: Path, whom: str, journal: Journal, serve: Callable[[socket.socket], asyncio.Event]
) -> None:
    """Connect, wait for the end of the session, connect again.

    `serve` takes each connected socket and returns what is set when its session is over; `whom`
    says in the log who is waited for.
    """
    loop = asyncio.get_running_loop()
    backoff, first = BACKOFF_MIN, True
    while True:
        arrival = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            await loop.sock_connect(arrival, str(path))
        except OSError as error:
            arrival.close()
            if first:
                journal.write("info", f"waiting for a {whom}", path=str(path), reason=str(error))
            first = False
        except BaseException:
            arrival.close()
            raise
        else:
            opened = time.monotonic()
            await serve(arrival).wait()
            first = True
            if time.monotonic() - opened > BACKOFF_MAX:
                backoff = BACKOFF_MIN
        await asyncio.sleep(backoff)
        backoff = min(2 * backoff, BACKOFF_MAX)


def hung_up(connection: socket.socket) -> bool:
    """Whether the other end is gone, whatever it has left to be read."""
    poll = select.poll()
    poll.register(connection, 0)
    return bool(poll.poll(0))
