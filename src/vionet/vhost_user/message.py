"""The vhost-user wire format: bytes to messages and back (spec VU-01 to VU-03).

How it works: `Message` is one request or reply; `Decoder` takes bytes as they come off a stream
socket and gives back whole messages.  File descriptors travel beside the bytes (SCM_RIGHTS); who
reads the socket hands them to `Decoder.feed` with the bytes that they came with, and they belong
to the message of which those bytes are part.

Trust: the bytes are the peer's.  A header is believed only after its version and its size have
been bounded; a wrong one is a `ProtocolError`, and the stream is not usable afterwards.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from vionet.spec import vhost_user as vu


class ProtocolError(Exception):
    """The peer broke vhost-user; its session ends."""


@dataclass(frozen=True, slots=True)
class Message:
    """One vhost-user message.  `fds` are open file descriptors that its holder has to close."""

    request: int
    payload: bytes = b""
    fds: tuple[int, ...] = ()
    flags: int = vu.VERSION

    @property
    def name(self) -> str:
        """The request's name in the specification, or its number."""
        try:
            return vu.Request(self.request).name
        except ValueError:
            return f"request {self.request}"

    @property
    def need_reply(self) -> bool:
        """The sender asks for an acknowledgement (spec VU-05)."""
        return bool(self.flags & vu.FLAG_NEED_REPLY)

    @property
    def is_reply(self) -> bool:
        """The message answers an earlier one."""
        return bool(self.flags & vu.FLAG_REPLY)

    def pack(self) -> bytes:
        """Header and payload as they go over the socket."""
        return vu.HEADER.pack(self.request, self.flags, len(self.payload)) + self.payload


@dataclass(slots=True)
class Decoder:
    """Cuts a byte stream into messages; never holds more than one.

    The kernel may join bytes of several sends in one read and gives the descriptors of the last,
    so a read must never go past the end of a message: read at most `wanted` bytes at a time.
    """

    _data: bytearray = field(default_factory=bytearray)
    _fds: list[int] = field(default_factory=list)
    wanted: int = vu.HEADER.size

    def feed(self, data: bytes, fds: Iterable[int] = ()) -> Message | None:
        """Take what one read of at most `wanted` bytes gave; return the message once whole.

        Raises `ProtocolError` on a version other than 1, a payload over `PAYLOAD_MAX`, or more
        descriptors than one message may carry.  The descriptors held so far stay in `take_fds`.
        """
        self._data += data
        self._fds += fds
        if len(self._fds) > vu.FDS_MAX:
            raise ProtocolError(f"more than {vu.FDS_MAX} file descriptors in one message")
        if len(self._data) < vu.HEADER.size:
            self.wanted = vu.HEADER.size - len(self._data)
            return None
        request, flags, size = vu.HEADER.unpack_from(self._data)
        if flags & vu.VERSION_MASK != vu.VERSION:
            raise ProtocolError(f"message version {flags & vu.VERSION_MASK}, expected 1")
        if size > vu.PAYLOAD_MAX:
            raise ProtocolError(f"payload of {size} bytes, at most {vu.PAYLOAD_MAX}")
        self.wanted = vu.HEADER.size + size - len(self._data)
        if self.wanted:
            return None
        payload = bytes(self._data[vu.HEADER.size :])
        self._data.clear()
        self.wanted = vu.HEADER.size
        return Message(request, payload, self.take_fds(), flags)

    @property
    def midway(self) -> bool:
        """A message has begun and is not complete."""
        return bool(self._data)

    def take_fds(self) -> tuple[int, ...]:
        """Hand over the descriptors that no message has taken yet."""
        fds, self._fds = tuple(self._fds), []
        return fds
