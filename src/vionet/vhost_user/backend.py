"""A vhost-user back-end on an asyncio loop: one socket path, one front-end at a time.

How it works: `Backend.start` listens on the path, or connects to it again and again.  Each
connection becomes a `Connection`, read when the loop says that it is readable; calls of the
`Device` happen on the loop's thread.  When a session ends, for whatever reason, the port is ready
for the next one.

Most messages hold the worker, for everybody; so a front-end has a budget of them, and is read more
slowly beyond it.

A second front-end is turned away while one is connected; but one that has hung up, though not all
it said has been read, does not keep its successor out.

Invariants: after `close` no descriptor, mapping, timer or socket path of this back-end is left.
The number of log lines is bounded however often front-ends come and go.
"""

import asyncio
import socket
from pathlib import Path
from typing import Final

from vionet.jit import fault
from vionet.spec import vhost_user as vu
from vionet.spec import virtio
from vionet.spec import virtio_net as net
from vionet.vhost_user.budget import Budget
from vionet.vhost_user.connection import Connection
from vionet.vhost_user.device import Device
from vionet.vhost_user.journal import Journal
from vionet.vhost_user.peer import Arrivals, Cause, credentials, described, hung_up
from vionet.vhost_user.session import Session
from vionet.vhost_user.sharing import obstacle

AGAIN_S: Final = 0.01  # until what is beyond a budget is looked at
MESSAGES_BURST: Final = 2000  # a guest of eight pairs boots with some hundreds
MESSAGES_PER_SECOND: Final = 200.0
REFUSALS_BURST: Final = 10  # log lines
REFUSALS_PER_SECOND: Final = 0.1

_watching: dict[asyncio.AbstractEventLoop, set["Backend"]] = {}


class Backend:
    """The vhost-user end of one port."""

    def __init__(
        self,
        device: Device,
        path: Path | str,
        *,
        connect: bool = False,
        mode: int | None = None,
        group: str | None = None,
        name: str = "",
        fabric: str = "",
    ) -> None:
        """Serve `device` at `path`; `connect` to a front-end that listens there instead.

        The log calls it the port `name` of `fabric`.
        """
        self.device = device
        self.path = Path(path)
        self.connection: Connection | None = None
        name = name or self.path.name
        self._journal = Journal(name, fabric)
        self._refusals = Journal(name, fabric, burst=REFUSALS_BURST, per_second=REFUSALS_PER_SECOND)
        self._sockets = Arrivals(
            self.path, "front-end", self._journal, connect=connect, mode=mode, group=group
        )
        self._ended = asyncio.Event()  # of a session with a front-end that listens
        self._told: tuple[int, int | None] | None = None  # features as last logged
        self._looked = False  # for an obstacle, in this session
        self._loop: asyncio.AbstractEventLoop | None = None
        self._again: asyncio.TimerHandle | None = None
        self._messages = Budget(MESSAGES_BURST, MESSAGES_PER_SECOND)

    @property
    def session(self) -> Session | None:
        """The session of the connected front-end, if there is one."""
        return self.connection.session if self.connection else None

    def start(self) -> None:
        """Listen, or begin to connect; raises `SocketError` if the path cannot be had."""
        loop = asyncio.get_running_loop()
        self._sockets.start(self._accept, self._serve)
        self._loop = loop  # set: started
        _watch(loop, self)

    async def close(self, cause: Cause = Cause.ENDING) -> None:
        """End the session and give up the path."""
        if self._loop is None:
            return
        await self._sockets.close()
        self.drop("port closed", cause)
        if self._again is not None:
            self._again.cancel()
        _unwatch(self._loop, self)
        self._loop = None

    def drop(self, reason: str, cause: Cause) -> None:
        """End the session of the connected front-end, if there is one."""
        if self.connection is not None:
            self.connection.end(reason, cause)

    def look(self) -> None:
        """Have the device's control queue served, if there is something in it.

        To be called when the worker has written its notice.
        """
        if self._loop is None or self._again is not None or not self.device.control_kicked:
            return
        if self.device.serve_control():
            self._again = self._loop.call_later(AGAIN_S, self._look_again)

    def _look_again(self) -> None:
        self._again = None
        self.look()

    # --- connections --------------------------------------------------------------------------
    def _accept(self, arrival: socket.socket) -> None:
        if self.connection is not None and hung_up(self.connection.socket):
            self.drop("front-end closed the connection", Cause.LEFT)
        if self.connection is not None:
            who = described(arrival)
            arrival.close()
            reason = "another front-end is connected"
            self._journal.write("warning", "turned away", reason=reason, **who)
            return
        self._open(arrival)

    def _serve(self, arrival: socket.socket) -> asyncio.Event:
        self._ended = asyncio.Event()
        self._open(arrival)
        return self._ended

    def _open(self, arrival: socket.socket) -> None:
        assert self._loop is not None
        self._told, self._looked = None, False
        try:
            self.connection = Connection(arrival, self.device, self._on_end)
        except BaseException:
            arrival.close()
            raise
        self._loop.add_reader(arrival, self._read)
        self._journal.write("info", "session opened", **described(arrival))

    def _read(self) -> None:
        """Deal with one message, if the budget allows it."""
        if self.connection is None:
            return
        if not self._messages.take():
            self._pause(self.connection)
            return
        self.connection.read()
        if self.connection is not None:
            self._tell(self.connection)
            self.look()

    def _pause(self, connection: Connection) -> None:
        """Read on in a moment, unless the session has ended by then."""

        def go_on() -> None:
            if self.connection is connection:
                loop.add_reader(connection.socket, self._read)

        assert self._loop is not None
        loop = self._loop
        loop.remove_reader(connection.socket)
        loop.call_later(AGAIN_S, go_on)

    def _on_end(self, reason: str, cause: Cause) -> None:
        assert self.connection is not None and self._loop is not None
        self._loop.remove_reader(self.connection.socket)
        self.connection = None
        self._journal.write(cause.level, "session closed", cause=cause, reason=reason)
        self._ended.set()

    # --- what people are told -----------------------------------------------------------------
    def _tell(self, connection: Connection) -> None:
        """Say what was refused; once what was negotiated, when the first ring has its kick; and
        what will fail."""
        session = connection.session
        if session.refused is not None:
            request, reason = session.refused
            session.refused = None
            self._refusals.write("warning", "request refused", request=request, reason=reason)
        agreed = session.features, session.protocol_features
        if agreed == self._told or not any(
            ring.kicked and ring.addressed for ring in session.rings
        ):
            return
        self._told = agreed
        self._journal.write(
            "info",
            "negotiated",
            features=virtio.names(session.features),
            refused=virtio.names(session.offered_features() & ~session.features),
            protocol_features=vu.protocol_names(session.protocol_features or 0),
            queues=session.queue_pairs,
            header_len=net.header_len(session.features),
            regions=len(session.memory.regions),
        )
        if self._looked:
            return
        self._looked = True
        if mend := obstacle(session, credentials(connection.socket)[0]):
            self._journal.write(
                "warning", "guest memory is not shared, no frame can pass", mend=mend
            )

    def check_fault(self) -> None:
        """End the session if its memory has faulted."""
        if self.connection is not None and self.connection.memory.faulted:
            self.connection.end("its memory file was cut short", Cause.BROKE_RULE)


# --- faults -----------------------------------------------------------------------------------
def _watch(loop: asyncio.AbstractEventLoop, backend: Backend) -> None:
    if loop not in _watching:
        _watching[loop] = set()
        loop.add_reader(fault.install(), _on_fault)
    _watching[loop].add(backend)


def _unwatch(loop: asyncio.AbstractEventLoop, backend: Backend) -> None:
    _watching[loop].discard(backend)
    if not _watching[loop]:
        del _watching[loop]
        loop.remove_reader(fault.install())


def _on_fault() -> None:
    """One loop reads the eventfd; the fault may concern a back-end of any."""
    fault.acknowledge()
    for loop, backends in list(_watching.items()):
        for backend in list(backends):
            loop.call_soon_threadsafe(backend.check_fault)
