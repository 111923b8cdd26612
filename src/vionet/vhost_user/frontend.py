"""A vhost-user front-end: the VMM's end, for drivers that run inside this process.

How it works: `Frontend` owns one blocking Unix socket.  `tell` sends a request that has no reply
of its own; where REPLY_ACK was negotiated it asks for the acknowledgement and raises `Refused`
if it is not zero.  `ask` sends a request and returns the payload of its reply.  Below these,
`send`, `send_bytes` and `receive` say anything at all, right or wrong, because a tester has to.

Invariants: every wait ends after `timeout` seconds at most; a descriptor that is passed stays the
caller's; one that is received is the caller's.

Trust: the back-end's replies are checked for version, reply flag, request and length; anything
else raises `ProtocolError`.
"""

import os
import select
import socket
import struct
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Self

from vionet.spec import vhost_user as vu
from vionet.spec import virtio
from vionet.spec.vhost_user import Request
from vionet.vhost_user.guest_memory import GuestMemory, GuestRegion
from vionet.vhost_user.message import Decoder, Message, ProtocolError

TIMEOUT: Final = 5.0  # seconds


class Refused(Exception):
    """The back-end acknowledged a request with something other than zero."""


class Closed(Exception):
    """The back-end closed the connection."""


class Frontend:
    """One connection to a back-end."""

    def __init__(self, connection: socket.socket, timeout: float = TIMEOUT) -> None:
        """Take over `connection`, a connected stream socket."""
        connection.settimeout(timeout)
        self.socket = connection
        self.timeout = timeout
        self.acknowledged = 0  # protocol features that this end has set
        self._decoder = Decoder()

    @classmethod
    def connect(cls, path: str | Path, timeout: float = TIMEOUT) -> Self:
        """Connect to a back-end that listens, waiting for it to appear at most `timeout`."""
        deadline = time.monotonic() + timeout
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.settimeout(timeout)
                connection.connect(str(path))
                return cls(connection, timeout)
            except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):  # or queue full
                connection.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)  # a path that is not there yet gives nothing to wait on
            except BaseException:
                connection.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        for fd in self._decoder.take_fds():
            os.close(fd)
        self.socket.close()

    # --- anything at all ----------------------------------------------------------------------
    def send_bytes(self, data: bytes, fds: Iterable[int] = ()) -> None:
        """Send raw bytes with descriptors attached to the first of them."""
        fds = list(fds)
        try:
            sent = socket.send_fds(self.socket, [data], fds) if fds else self.socket.send(data)
            if sent < len(data):
                self.socket.sendall(data[sent:])
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Closed(str(error)) from error

    def send(
        self,
        request: int,
        payload: bytes = b"",
        fds: Iterable[int] = (),
        *,
        flags: int = vu.VERSION,
    ) -> None:
        """Send one message, whatever it is."""
        self.send_bytes(Message(request, payload, (), flags).pack(), fds)

    def receive(self, timeout: float | None = None) -> Message:
        """The next message of the back-end; raises TimeoutError or `Closed`."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            self.socket.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                data, fds, flags, _ = socket.recv_fds(
                    self.socket, self._decoder.wanted, vu.FDS_MAX, socket.MSG_CMSG_CLOEXEC
                )
            except ConnectionResetError as error:
                raise Closed(str(error)) from error
            finally:
                self.socket.settimeout(self.timeout)
            message = self._decoder.feed(data, fds)
            if flags & socket.MSG_CTRUNC:
                for fd in message.fds if message else ():
                    os.close(fd)
                raise ProtocolError("more file descriptors than a message may carry")
            if not data:
                raise Closed("end of file")
            if message is not None:
                return message

    def silent(self, seconds: float) -> bool:
        """Nothing arrives, not even the end of the connection, for so long."""
        return not select.select([self.socket], [], [], seconds)[0]

    def closed(self, timeout: float | None = None) -> bool:
        """The back-end closes the connection in time; what it sends before is thrown away."""
        try:
            while True:
                for fd in self.receive(timeout).fds:
                    os.close(fd)
        except Closed:
            return True
        except TimeoutError:
            return False

    # --- requests in general ------------------------------------------------------------------
    def negotiated(self, protocol_feature: int) -> bool:
        """This end has set the protocol feature (a bit number)."""
        return bool(self.acknowledged >> protocol_feature & 1)

    def reply(self, request: int) -> bytes:
        """The payload of the reply to `request`, its header checked (spec VU-03)."""
        message = self.receive()
        for fd in message.fds:
            os.close(fd)
        if message.request != request or message.flags != vu.VERSION | vu.FLAG_REPLY:
            raise ProtocolError(
                f"reply to {Message(request).name} is {message.name} flags {message.flags:#x}"
            )
        return message.payload

    def ask(self, request: int, payload: bytes = b"", fds: Iterable[int] = ()) -> bytes:
        """Send a request that has a reply of its own; return the reply's payload."""
        self.send(request, payload, fds)
        return self.reply(request)

    def ask_u64(self, request: int) -> int:
        """The number that answers `request`."""
        return _unpack(vu.U64, request, self.ask(request))[0]

    def acknowledgement(self, request: int, payload: bytes = b"", fds: Iterable[int] = ()) -> int:
        """Send with need_reply, whatever was negotiated; return the acknowledgement."""
        self.send(request, payload, fds, flags=vu.VERSION | vu.FLAG_NEED_REPLY)
        return _unpack(vu.U64, request, self.reply(request))[0]

    def tell(self, request: int, payload: bytes = b"", fds: Iterable[int] = ()) -> None:
        """Send a request that has no reply; with REPLY_ACK, raise `Refused` if it failed."""
        if not self.negotiated(vu.VHOST_USER_PROTOCOL_F_REPLY_ACK):
            self.send(request, payload, fds)
        elif code := self.acknowledgement(request, payload, fds):
            raise Refused(f"{Message(request).name} was acknowledged with {code}")

    def tell_u64(self, request: int, value: int, fds: Iterable[int] = ()) -> None:
        """`tell` with a 64-bit payload."""
        self.tell(request, vu.U64.pack(value), fds)

    def synchronise(self) -> None:
        """Return once the back-end has dealt with all that was sent before."""
        self.features()

    # --- features -----------------------------------------------------------------------------
    def features(self) -> int:
        """GET_FEATURES."""
        return self.ask_u64(Request.GET_FEATURES)

    def set_features(self, word: int) -> None:
        """SET_FEATURES."""
        self.tell_u64(Request.SET_FEATURES, word)

    def protocol_features(self) -> int:
        """GET_PROTOCOL_FEATURES."""
        return self.ask_u64(Request.GET_PROTOCOL_FEATURES)

    def set_protocol_features(self, word: int) -> None:
        """SET_PROTOCOL_FEATURES; from now on REPLY_ACK is used if `word` has it."""
        self.send(Request.SET_PROTOCOL_FEATURES, vu.U64.pack(word))
        self.acknowledged = word

    def set_owner(self) -> None:
        """SET_OWNER."""
        self.tell(Request.SET_OWNER)

    def negotiate(self, features: int, protocol_features: int) -> tuple[int, int]:
        """Begin a session as a VMM does; return the feature words that both ends have.

        SET_FEATURES is sent last, with bit 30 if both ends have it.
        """
        offered = self.features()
        bit30 = offered & 1 << virtio.VHOST_USER_F_PROTOCOL_FEATURES
        protocol_features &= self.protocol_features() if bit30 else 0
        if bit30:
            self.set_protocol_features(protocol_features)
            offered = self.features()
        self.set_owner()
        features &= offered
        self.set_features(features)
        return features, protocol_features

    # --- memory -------------------------------------------------------------------------------
    def set_mem_table(self, memory: GuestMemory | Iterable[GuestRegion]) -> None:
        """SET_MEM_TABLE with all the regions."""
        regions = list(memory.regions if isinstance(memory, GuestMemory) else memory)
        payload = vu.MEM_TABLE_HEAD.pack(len(regions), 0)
        self.tell(
            Request.SET_MEM_TABLE,
            payload + b"".join(map(pack_region, regions)),
            [region.fd for region in regions],
        )

    def max_mem_slots(self) -> int:
        """GET_MAX_MEM_SLOTS."""
        return self.ask_u64(Request.GET_MAX_MEM_SLOTS)

    def add_mem_reg(self, region: GuestRegion) -> None:
        """ADD_MEM_REG."""
        self.tell(Request.ADD_MEM_REG, vu.U64.pack(0) + pack_region(region), [region.fd])

    def rem_mem_reg(self, region: GuestRegion) -> None:
        """REM_MEM_REG."""
        self.tell(Request.REM_MEM_REG, vu.U64.pack(0) + pack_region(region))

    # --- rings --------------------------------------------------------------------------------
    def queue_num(self) -> int:
        """GET_QUEUE_NUM: for network devices, pairs."""
        return self.ask_u64(Request.GET_QUEUE_NUM)

    def set_vring_num(self, index: int, size: int) -> None:
        """SET_VRING_NUM."""
        self.tell(Request.SET_VRING_NUM, vu.VRING_STATE.pack(index, size))

    def set_vring_addr(
        self, index: int, desc_uva: int, avail_uva: int, used_uva: int, *, flags: int = 0
    ) -> None:
        """SET_VRING_ADDR; note the order of the arguments, which is that of the ring."""
        payload = vu.VRING_ADDR.pack(index, flags, desc_uva, used_uva, avail_uva, 0)
        self.tell(Request.SET_VRING_ADDR, payload)

    def set_vring_base(self, index: int, base: int) -> None:
        """SET_VRING_BASE."""
        self.tell(Request.SET_VRING_BASE, vu.VRING_STATE.pack(index, base))

    def vring_base(self, index: int) -> int:
        """GET_VRING_BASE: stops the ring and returns its next available index."""
        answer = self.ask(Request.GET_VRING_BASE, vu.VRING_STATE.pack(index, 0))
        echoed, base = _unpack(vu.VRING_STATE, Request.GET_VRING_BASE, answer)
        if echoed != index:
            raise ProtocolError(f"GET_VRING_BASE of ring {index} answered for ring {echoed}")
        return base

    def set_vring_kick(self, index: int, fd: int | None) -> None:
        """SET_VRING_KICK; None: the back-end has to poll."""
        self._set_vring_fd(Request.SET_VRING_KICK, index, fd)

    def set_vring_call(self, index: int, fd: int | None) -> None:
        """SET_VRING_CALL; None: this end polls."""
        self._set_vring_fd(Request.SET_VRING_CALL, index, fd)

    def set_vring_err(self, index: int, fd: int | None) -> None:
        """SET_VRING_ERR."""
        self._set_vring_fd(Request.SET_VRING_ERR, index, fd)

    def _set_vring_fd(self, request: Request, index: int, fd: int | None) -> None:
        if fd is None:
            self.tell_u64(request, index | vu.VRING_NOFD)
        else:
            self.tell_u64(request, index, [fd])

    def set_vring_enable(self, index: int, enabled: bool = True) -> None:
        """SET_VRING_ENABLE."""
        self.tell(Request.SET_VRING_ENABLE, vu.VRING_STATE.pack(index, enabled))

    # --- the rest -----------------------------------------------------------------------------
    def set_mtu(self, mtu: int) -> None:
        """NET_SET_MTU."""
        self.tell_u64(Request.NET_SET_MTU, mtu)

    def config(self, offset: int, size: int) -> bytes:
        """GET_CONFIG; no bytes mean that the back-end refused."""
        request = vu.CONFIG_HEAD.pack(offset, size, 0) + bytes(size)
        return self.ask(Request.GET_CONFIG, request)[vu.CONFIG_HEAD.size :]

    def set_config(self, offset: int, data: bytes) -> None:
        """SET_CONFIG."""
        payload = vu.CONFIG_HEAD.pack(offset, len(data), vu.CONFIG_FLAG_WRITE) + data
        self.tell(Request.SET_CONFIG, payload)

    def reset_device(self) -> None:
        """RESET_DEVICE."""
        self.tell(Request.RESET_DEVICE)

    def status(self) -> int:
        """GET_STATUS: the device status byte."""
        return self.ask_u64(Request.GET_STATUS)

    def set_status(self, status: int) -> None:
        """SET_STATUS."""
        self.tell_u64(Request.SET_STATUS, status)


def pack_region(region: GuestRegion) -> bytes:
    """A region as SET_MEM_TABLE, ADD_MEM_REG and REM_MEM_REG carry it."""
    return vu.MEM_REGION.pack(region.gpa, region.size, region.uva, region.mmap_offset)


def _unpack(layout: struct.Struct, request: int, payload: bytes) -> tuple[int, ...]:
    if len(payload) != layout.size:
        raise ProtocolError(
            f"reply to {Message(request).name} has {len(payload)} bytes, expected {layout.size}"
        )
    return layout.unpack(payload)
