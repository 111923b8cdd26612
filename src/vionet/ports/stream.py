"""The Unix socket of a stream port, on an asyncio loop: one path, one peer at a time.

How it works: `start` listens on the path (QEMU's `-netdev stream`, which connects), or connects to
it again and again (passt, or QEMU with `server=on`).  A connected socket goes to the `StreamPort`,
whose worker alone reads and writes it; `look`, called when the worker has something to say, ends
the session if the worker found it over.

A second peer is turned away while one is connected, unless that one has hung up: a peer that has
just died does not keep its successor out.  Each that comes and goes holds the worker, for
everybody, so there is a budget of them.

Invariants: after `close` no descriptor, task or socket path is left.  The number of log lines is
bounded however often peers come and go.
"""

import asyncio
import socket
from pathlib import Path
from typing import Final

from vionet.ports.stream_port import StreamPort
from vionet.vhost_user.budget import Budget
from vionet.vhost_user.journal import Journal
from vionet.vhost_user.peer import Arrivals, Cause, described, hung_up

ARRIVALS_BURST: Final = 100
ARRIVALS_PER_SECOND: Final = 20.0
# What the worker found, other than that the peer closed it.
_CAUSES: Final = {"stream_error": Cause.RESET, "stream_frame_invalid": Cause.BROKE_RULE}


class StreamSocket:
    """Where a stream port's peers come from."""

    def __init__(
        self,
        port: StreamPort,
        path: Path | str,
        *,
        connect: bool = False,
        mode: int | None = None,
        group: str | None = None,
        fabric: str = "",
    ) -> None:
        """Serve `port` at `path`; `connect` to a peer that listens there instead."""
        self.path = Path(path)
        self._port = port
        self._peer: socket.socket | None = None
        self._ended = asyncio.Event()
        self._journal = Journal(port.name, fabric, "vionet.stream")
        self._sockets = Arrivals(
            self.path, "peer", self._journal, connect=connect, mode=mode, group=group
        )
        self._arrivals = Budget(ARRIVALS_BURST, ARRIVALS_PER_SECOND)

    def start(self) -> None:
        """Listen, or begin to connect; raises `SocketError` if the path cannot be had."""
        self._sockets.start(self._accept, self._open)

    async def close(self, cause: Cause = Cause.ENDING) -> None:
        """End the session and give up the path."""
        await self._sockets.close()
        self.drop("port closed", cause)

    def drop(self, reason: str, cause: Cause) -> None:
        """End the session of the connected peer, if there is one."""
        if self._peer is None:
            return
        self._port.detach()
        self._peer = None
        self._ended.set()
        self._journal.write(cause.level, "session closed", cause=cause, reason=reason)

    def look(self) -> None:
        """End the session if the worker found it over."""
        if self._peer is not None and (reason := self._port.ended):
            self.drop(reason, _CAUSES.get(reason, Cause.LEFT))

    def _accept(self, arrival: socket.socket) -> None:
        self.look()
        welcome = self._arrivals.take()
        if welcome and self._peer is not None and hung_up(self._peer):
            self.drop("the peer hung up", Cause.LEFT)
        if self._peer is not None or not welcome:
            who = described(arrival)
            arrival.close()
            reason = "another peer is connected" if welcome else "too many come and go"
            self._journal.write("warning", "turned away", reason=reason, **who)
            return
        self._open(arrival)

    def _open(self, arrival: socket.socket) -> asyncio.Event:
        """Begin a session; *returns* what is set when it is over."""
        try:
            self._port.attach(arrival)
        except BaseException:
            arrival.close()
            raise
        self._peer = arrival
        self._ended = asyncio.Event()
        self._journal.write("info", "session opened", **described(arrival))
        return self._ended
