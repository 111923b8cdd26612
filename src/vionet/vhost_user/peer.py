"""The other end of a Unix socket: where it comes from, who it is, whether it is still there, and
what its session ends for.

For front-ends (`backend`) and for the peers of streams (`ports.stream`).  `Arrivals` listens on a
path, or connects to it again and again where the other end listens.
"""

import asyncio
import select
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from vionet.vhost_user.journal import Journal
from vionet.vhost_user.listener import Listener

BACKOFF_MIN: Final = 0.1  # seconds between attempts to connect; doubled up to the maximum
BACKOFF_MAX: Final = 2.0
COMM_MAX: Final = 64  # bytes of a process's name that are read; Linux has 16
_PEERCRED: Final = struct.Struct("=iII")  # struct ucred: pid, uid, gid


class Cause(StrEnum):
    """What a session ends for, in one word; the reason beside it has the details."""

    LEFT = "left"  # the other end closed it
    RESET = "reset"  # the connection failed
    BROKE_RULE = "broke_rule"
    STUCK = "stuck"  # it kept a worker waiting
    LINK_DOWN = "link_down"  # and can be told no other way
    REMOVED = "removed"  # its port, by a person
    ENDING = "ending"  # its fabric, mostly with vionet
    FAILED = "failed"  # an error of our own

    @property
    def level(self) -> str:
        """Of the line in the log."""
        return "warning" if self in (self.BROKE_RULE, self.STUCK, self.FAILED) else "info"


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
            self._journal.write("warning", "cannot accept", whom=self._whom, reason=error.strerror)
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
                reason = error.strerror or str(error)
                journal.write("info", "not there yet", whom=whom, path=str(path), reason=reason)
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


def credentials(connection: socket.socket) -> tuple[int, int]:
    """Process id and user id of who made the connection, or listened; 0 is a process that is not
    visible from here."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size)
    pid, uid, _ = _PEERCRED.unpack(data)
    return pid, uid


def described(connection: socket.socket) -> dict[str, Any]:
    """The other end for the log, as the kernel knows it; `comm` is what it calls itself."""
    pid, uid = credentials(connection)
    who: dict[str, Any] = {"uid": uid}
    if pid > 0:
        who["pid"] = pid
        with suppress(OSError), Path(f"/proc/{pid}/comm").open("rb") as file:
            who["comm"] = file.read(COMM_MAX).decode(errors="replace").removesuffix("\n")
    return who


def hung_up(connection: socket.socket) -> bool:
    """Whether the other end is gone, whatever it has left to be read."""
    poll = select.poll()
    poll.register(connection, 0)
    return bool(poll.poll(0))
