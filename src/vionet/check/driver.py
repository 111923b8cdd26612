"""A virtio-net driver with its front-end, in this process: the guest of the tester.

How it works: `Port.open` connects to a back-end and negotiates; `start` shares the rings and
enables them, in the order of a VMM, each step being a method that a check may call by itself.
`send` gives a frame to the transmit queue in any layout; `collect` waits for a frame at the
receive queue; `fill` posts receive buffers of any shape.

Invariants: every wait ends (`patience`); everything posted for receiving is filled with `POISON`
before, so that bytes which the device never wrote are known.

Trust: lengths, indices and header fields that the device writes are bounded before use; a device
that breaks them raises `Broken` with what was seen.
"""

import os
import select
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from vionet.check.ring import Piece, Ring, Used, split_at
from vionet.spec import vhost_user as vu
from vionet.spec import virtio
from vionet.spec import virtio_net as net
from vionet.vhost_user.frontend import Frontend
from vionet.vhost_user.guest_memory import GuestMemory

POISON: Final = 0xA5
PATIENCE: Final = 2.0  # seconds that a device has for what takes it microseconds
QUIET: Final = 0.05  # seconds after which what was to be ignored was ignored
PROTOCOL: Final = (
    1 << vu.VHOST_USER_PROTOCOL_F_MQ
    | 1 << vu.VHOST_USER_PROTOCOL_F_REPLY_ACK
    | 1 << vu.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS
)
BIT30: Final = 1 << virtio.VHOST_USER_F_PROTOCOL_FEATURES
RX: Final = net.RECEIVEQ1
TX: Final = net.TRANSMITQ1


class Broken(Exception):
    """The device did something that a rule forbids; the text says what was seen."""


class NotOffered(Exception):
    """The back-end does not offer what a check needs; the text names it."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One frame as the device delivered it."""

    header: net.NetHeader
    frame: bytes
    buffers: tuple[tuple[int, int], ...]  # (bytes posted, bytes used) of each buffer
    beyond: bytes = field(repr=False)  # what lies behind the frame in its last buffer


@dataclass(slots=True)
class Eventfds:
    """Kick and call of one ring."""

    kick: int = field(default_factory=lambda: os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
    call: int = field(default_factory=lambda: os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))

    def calls(self) -> int:
        """Notifications since the last time (their number may be lower than the device's)."""
        try:
            return os.eventfd_read(self.call)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """Close both."""
        os.close(self.kick)
        os.close(self.call)


class Port:
    """One front-end with one driver and one pair of queues."""

    def __init__(
        self,
        frontend: Frontend,
        memory: GuestMemory | None = None,
        *,
        size: int = 256,
        base: int = 0,
        used: int | None = None,
    ) -> None:
        """Own `frontend` and `memory`; rings of `size` begin at the indices `base` and `used`."""
        self.frontend = frontend
        self.memory = memory or GuestMemory((32 << 20,))
        self.rings = [Ring(self.memory, size, base=base, used=used) for _ in (RX, TX)]
        self.events = [Eventfds() for _ in (RX, TX)]
        self.features = 0
        self.may_kick = False  # the receive queue's kick descriptor is with the device
        self.where = 0  # which of the back-end's sockets
        self.posted: dict[int, list[Piece]] = {}  # rx head -> its buffers
        self.loans: dict[int, Piece] = {}  # tx head -> its memory
        self._pool: dict[int, list[int]] = {}  # size class -> free pieces

    @classmethod
    def open(
        cls,
        path: str | Path,
        want: int = 0,
        *,
        protocol: int = PROTOCOL,
        timeout: float = 5.0,
        **shape: Any,
    ) -> "Port":
        """Connect and negotiate exactly `want`; raises `NotOffered` if that is not on offer."""
        frontend = Frontend.connect(path, timeout)
        try:
            port = cls(frontend, **shape)
        except BaseException:
            frontend.close()
            raise
        try:
            offered = frontend.features()
            if offered & BIT30 and protocol:
                frontend.set_protocol_features(frontend.protocol_features() & protocol)
                offered = frontend.features()
            if missing := want & ~offered:
                raise NotOffered(" ".join(virtio.names(missing)))
            frontend.set_owner()
            port.set_features(want | (offered & BIT30 if protocol else 0))
        except BaseException:
            port.close()
            raise
        return port

    @property
    def rx(self) -> Ring:
        """The receive queue."""
        return self.rings[RX]

    @property
    def tx(self) -> Ring:
        """The transmit queue."""
        return self.rings[TX]

    @property
    def hdr_len(self) -> int:
        """Bytes of the packet header (spec HD-04, HD-05)."""
        return net.header_len(self.features)

    def close(self) -> None:
        """Hang up and give everything back."""
        self.frontend.close()
        for events in self.events:
            events.close()
        self.rings.clear()
        self.memory.close()

    # --- bringing the device up ---------------------------------------------------------------
    def set_features(self, word: int) -> None:
        """SET_FEATURES."""
        self.frontend.set_features(word)
        self.features = word

    def start(self, rx_buffers: int = 64, shape: Sequence[int] = (2048,)) -> "Port":
        """Share memory, set both rings up, post receive buffers, enable."""
        self.frontend.set_mem_table(self.memory)
        self.fill(rx_buffers, shape)
        for index in (RX, TX):
            self.set_up(index)
        self.enable()
        return self

    def set_up(self, index: int, *, kick: bool = True) -> None:
        """Size, base, addresses and eventfds of one ring; `kick` also starts it."""
        ring, events, frontend = self.rings[index], self.events[index], self.frontend
        frontend.set_vring_num(index, ring.size)
        frontend.set_vring_base(index, ring.base)
        uva = self.memory.uva
        frontend.set_vring_addr(index, uva(ring.desc_gpa), uva(ring.avail_gpa), uva(ring.used_gpa))
        frontend.set_vring_call(index, events.call)
        if kick:
            frontend.set_vring_kick(index, events.kick)
            self.may_kick |= index == RX
            self.kick(index)

    def enable(self, enabled: bool = True, rings: Sequence[int] = (RX, TX)) -> None:
        """SET_VRING_ENABLE, where this exists."""
        if self.features & BIT30:
            for index in rings:
                self.frontend.set_vring_enable(index, enabled)

    def kick(self, index: int) -> None:
        """Tell the device that a ring has news."""
        os.eventfd_write(self.events[index].kick, 1)

    def stop(self, index: int) -> int:
        """GET_VRING_BASE: the next available index."""
        return self.frontend.vring_base(index)

    # --- receiving ----------------------------------------------------------------------------
    def fill(
        self, count: int, shape: Sequence[int] = (2048,), *, direct: int | None = None
    ) -> None:
        """Post receive buffers, each a chain of writable pieces of the lengths `shape`.

        `count` of them, or as many as the ring has room for.
        """
        slots = len(shape) if direct is None else direct + 1
        for _ in range(min(count, self.rx.room // slots)):
            gpa = self.memory.allocate(sum(shape) or 1, 64)
            self.memory.view(gpa, sum(shape))[:] = bytes([POISON]) * sum(shape)
            pieces = split_at(gpa, shape, is_writable=True)
            head = self.rx.chain(pieces, direct=direct)
            self.posted[head] = pieces
            self.rx.expose(head)
        self.rx.publish()
        if self.may_kick:
            self.kick(RX)

    def collect(self, token: bytes, patience: float = PATIENCE) -> Delivery:
        """The next frame that contains `token`; others are thrown away."""
        return self.collect_any((token,), patience)

    def collect_any(self, tokens: Sequence[bytes], patience: float = PATIENCE) -> Delivery:
        """The next frame that contains one of `tokens`; others are thrown away."""
        deadline = time.monotonic() + patience
        while True:
            delivery = self.next_frame(deadline)
            if delivery is None:
                raise Broken(f"nothing arrived within {patience:g} s")
            if any(token in delivery.frame for token in tokens):
                return delivery

    def next_frame(self, deadline: float) -> Delivery | None:
        """The next frame whatever it is; None when there is none until `deadline`."""
        if not self.wait(lambda: self.rx.fresh > 0, RX, deadline):
            return None
        data, first, posted = self._buffer()
        if first < self.hdr_len:
            raise Broken(f"a used length of {first}, less than the header of {self.hdr_len}")
        header = net.NetHeader.unpack(data[: self.hdr_len])
        count = 1
        if self.features >> net.VIRTIO_NET_F_MRG_RXBUF & 1:
            count = header.num_buffers
            if not 1 <= count <= self.rx.size:
                raise Broken(f"num_buffers is {count} on a ring of {self.rx.size}")
        buffers, frame, used = [(len(data), first)], data[self.hdr_len : first], first
        for _ in range(count - 1):
            if not self.wait(lambda: self.rx.fresh > 0, RX, deadline):
                raise Broken(f"num_buffers is {count}, but only {len(buffers)} buffers were used")
            data, used, posted = self._buffer()
            frame += data[:used]
            buffers.append((posted, used))
        return Delivery(header, frame, tuple(buffers), data[used:])

    def drain(self) -> int:
        """Throw away all that has arrived; how many frames."""
        count = 0
        while self.next_frame(0) is not None:
            count += 1
        return count

    def _buffer(self) -> tuple[bytes, int, int]:
        used = self.rx.take_one()
        if used.head not in self.posted:
            raise Broken(f"receive buffer {used.head} was used, which is not posted")
        data = b"".join(self.memory.read(gpa, n) for gpa, n, _ in self.posted.pop(used.head))
        if used.length > len(data):
            raise Broken(f"a used length of {used.length} for a buffer of {len(data)}")
        return data, used.length, len(data)

    # --- sending ------------------------------------------------------------------------------
    def place(self, data: bytes) -> int:
        """Put `data` into guest memory; where."""
        size = max(64, 1 << (len(data) - 1).bit_length())
        free = self._pool.setdefault(size, [])
        gpa = free.pop() if free else self.memory.allocate(size)
        self.memory.write(gpa, data)
        return gpa

    def queue(
        self,
        frame: bytes,
        header: net.NetHeader | bytes = net.NetHeader(),  # noqa: B008
        shape: Sequence[int] = (),
        *,
        direct: int | None = None,
    ) -> int:
        """Expose a frame on the transmit queue without publishing it; its head.

        `shape` are the lengths of its descriptors; without it header and frame have one each, and
        what is missing of the sum comes last.
        """
        raw = header if isinstance(header, bytes) else header.pack(self.hdr_len)
        data = raw + frame
        lengths = list(shape) or [len(raw)]
        if rest := len(data) - sum(lengths):
            lengths.append(rest)
        gpa = self.place(data)
        head = self.tx.chain(split_at(gpa, lengths), direct=direct)
        self.loans[head] = Piece(gpa, len(data))
        self.tx.expose(head)
        return head

    def publish(self) -> None:
        """Show what was queued to the device, and kick."""
        self.tx.publish()
        self.kick(TX)

    def send(
        self,
        frame: bytes,
        header: net.NetHeader | bytes = net.NetHeader(),  # noqa: B008
        shape: Sequence[int] = (),
        *,
        direct: int | None = None,
    ) -> int:
        """`queue`, publish and kick; the head."""
        head = self.queue(frame, header, shape, direct=direct)
        self.publish()
        return head

    def reap(self) -> list[Used]:
        """Take back what the device has transmitted."""
        taken = self.tx.take()
        for used in taken:
            if (piece := self.loans.pop(used.head, None)) is not None:
                self._pool[max(64, 1 << (piece.length - 1).bit_length())].append(piece.gpa)
        return taken

    def sent(self, patience: float = PATIENCE) -> list[Used]:
        """Wait until every published transmit chain has come back; what did."""
        deadline = time.monotonic() + patience
        if not self.wait(lambda: self.tx.fresh >= self.tx.outstanding, TX, deadline):
            raise Broken(
                f"{self.tx.fresh} of {self.tx.outstanding} transmit chains came back"
                f" within {patience:g} s"
            )
        return self.reap()

    # --- waiting ------------------------------------------------------------------------------
    def wait(self, condition: Callable[[], bool], index: int, deadline: float) -> bool:
        """Until `condition()` or `deadline`; looks at the ring whether or not it is notified."""
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if (
                self.events[index].call
                in select.select([self.events[index].call], [], [], min(left, 0.001))[0]
                and not condition()
            ):
                time.sleep(min(left, 0.0005))  # notified of something else, and not reset
        return True
