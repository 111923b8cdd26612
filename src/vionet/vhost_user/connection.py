"""One front-end's connection: bytes and descriptors between a socket and a `Session`.

How it works: `read` is called when the socket is readable.  It reads bytes of one message, hands
it to the session once it is whole and sends what comes back.  When anything is wrong it
ends: the device lets go, memory is unmapped, every descriptor closed, and `ended` is called once
with the reason.

Invariants: after each message, every descriptor that came with it is either in use by the session
or closed; after the end all are closed.  Nothing here blocks.

Trust: a front-end that sends nonsense, half a message, or does not read its replies loses this
connection and nothing more.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress

from vionet.spec import vhost_user as vu
from vionet.vhost_user.descriptor import unfit
from vionet.vhost_user.device import Device
from vionet.vhost_user.memory import MemoryMap
from vionet.vhost_user.message import Decoder, Message, ProtocolError
from vionet.vhost_user.peer import Cause, credentials
from vionet.vhost_user.session import Session, TurnedAway


class Connection:
    """A connected front-end, from `opened` to `closed`."""

    def __init__(
        self, connection: socket.socket, device: Device, ended: Callable[[str, Cause], None]
    ) -> None:
        """Take over the socket; `ended` hears of the end."""
        connection.setblocking(False)
        self.socket = connection
        self.device = device
        self.memory = MemoryMap()
        self.session = Session(device.offer(), self.memory, device)
        self._pid, _ = credentials(connection)
        self.session.sent_away = self._pid == device.sent_away
        self.open = True
        self._ended = ended
        self._decoder = Decoder()
        device.opened(self)

    def read(self) -> bool:
        """Deal with at most one message; false when nothing more has arrived."""
        try:
            return self._read_some()
        except ProtocolError as error:
            self.end(str(error), Cause.BROKE_RULE)
        except TurnedAway as error:
            self.end(str(error))
        except OSError as error:
            self.end(f"connection lost: {error.strerror}", Cause.RESET)
        except BaseException:
            self.end("error of our own", Cause.FAILED)
            raise
        return False

    def _read_some(self) -> bool:
        try:
            data, fds, flags, _ = socket.recv_fds(
                self.socket, self._decoder.wanted, vu.FDS_MAX, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return False
        message = self._decoder.feed(data, fds)
        if flags & socket.MSG_CTRUNC:
            close_all(message.fds if message else ())
            raise ProtocolError(f"more than {vu.FDS_MAX} file descriptors, or none left to take")
        if not data:
            if self._decoder.midway:
                raise ProtocolError("end of file in the middle of a message")
            self.end("front-end closed the connection", Cause.LEFT)
            return False
        if message is not None:
            self._dispatch(message)
        return True

    def _dispatch(self, message: Message) -> None:
        before = self.session.fds
        try:
            if reason := unfit(message.request, message.fds):
                answer: Message | None = self.session.refuse(message, reason)
            else:
                answer = self.session.receive(message)
        finally:
            close_all(before.union(message.fds) - self.session.fds)
        if answer is not None:
            data = answer.pack()
            try:
                sent = self.socket.send(data, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                sent = 0
            if sent != len(data):
                raise ProtocolError("front-end does not read its replies")

    @property
    def reads_config(self) -> bool:
        """It takes the configuration space from here."""
        return self.session.negotiated(vu.VHOST_USER_PROTOCOL_F_CONFIG)

    def show_config(self, config: bytes, *, changed: bool) -> None:
        """What is read from now on; `changed` is said over the back-end's channel (spec VU-78).

        Not while all rings are stopped (spec VU-37).  Nothing is waited for: a front-end that
        does not listen finds the change when it reads.
        """
        self.session.config[: len(config)] = config
        fd = self.session.backend_fd
        running = any(ring.ready for ring in self.session.rings)
        if not changed or fd < 0 or not running or not self.reads_config:
            return
        message = Message(vu.BackendRequest.CONFIG_CHANGE_MSG, flags=vu.VERSION).pack()
        with suppress(OSError), socket.socket(fileno=os.dup(fd)) as channel:
            channel.send(message, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def call_later(self, delay_s: float, call: Callable[[], None]) -> Callable[[], None]:
        """Have the device called in a while; *returns* what calls that off."""
        return asyncio.get_running_loop().call_later(delay_s, call).cancel

    def end(self, reason: str, cause: Cause = Cause.LINK_DOWN) -> None:
        """Close everything, once; a device does so for want of a link only."""
        if not self.open:
            return
        self.open = False
        if self.device.link_down:
            self.device.sent_away = self._pid
        try:
            self.device.closed(reason)
        finally:
            self.memory.close()
            close_all(self.session.fds.union(self._decoder.take_fds()))
            self._ended(reason, cause)
            self.socket.close()


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors."""
    for fd in fds:
        with suppress(OSError):
            os.close(fd)
