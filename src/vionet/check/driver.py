"""A virtio-net driver with its front-end, in this process: the guest of the tester.

How it works: a port has one or more pairs of queues, split or packed.  `Port.open` connects to a
back-end and negotiates; `start` shares the rings and enables them, in the order of a VMM, each
step being a method that a check may call by itself.  `send` gives a frame to a transmit queue in
any layout; `collect` waits for a frame at the receive queue; `fill` posts receive buffers of any
shape.

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

from vionet.check.packed import PackedRing
from vionet.check.ring import NotOffered as NotOffered
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
    """One front-end with one driver and its pairs of queues.

    What is posted and lent is known by its head, and by the number of its pair in the bits above.
    """

    def __init__(
        self,
        frontend: Frontend,
        memory: GuestMemory | None = None,
        *,
        size: int = 256,
        base: int = 0,
        used: int | None = None,
        pairs: int = 1,
        packed: bool = False,
        control: bool = False,
    ) -> None:
        """Own `frontend` and `memory`; rings of `size` begin at the indices `base` and `used`.

        With `control` the ring after those of the pairs is the control queue (spec CF-02).
        """
        self.frontend = frontend
        self.memory = memory or GuestMemory((64 << 20,))
        self._shape = {"size": size, "base": base, "used": used}
        self._kind: type[Ring] | type[PackedRing] = PackedRing if packed else Ring
        self.pairs = pairs
        self.rings = [self.ring() for _ in range(2 * pairs + control)]
        self.events = [Eventfds() for _ in self.rings]
        self.features = 0
        self.may_kick: set[int] = set()  # rings whose kick descriptor is with the device
        self.where = 0  # which of the back-end's sockets
        self.patience = PATIENCE  # with its control queue
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
            port = cls(frontend, packed=bool(want >> virtio.VIRTIO_F_RING_PACKED & 1), **shape)
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

    def ring(self, **shape: Any) -> Any:
        """A new ring of this port's kind and shape, but for `shape`."""
        return self._kind(self.memory, **{**self._shape, **shape})

    # Rings are `Any`: a check that pokes at one knows which of the two kinds it asked for.
    @property
    def rx(self) -> Any:
        """The first receive queue."""
        return self.rings[RX]

    @property
    def tx(self) -> Any:
        """The first transmit queue."""
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
        for ring in self.rings:
            ring.in_order = bool(word >> virtio.VIRTIO_F_IN_ORDER & 1)

    def start(self, rx_buffers: int = 64, shape: Sequence[int] = (2048,)) -> "Port":
        """Share memory, set all rings up, post receive buffers, enable."""
        self.frontend.set_mem_table(self.memory)
        for pair in range(self.pairs):
            self.fill(rx_buffers, shape, pair=pair)
        for index in range(len(self.rings)):
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
            self.may_kick.add(index)
            self.kick(index)

    def enable(self, enabled: bool = True, rings: Sequence[int] | None = None) -> None:
        """SET_VRING_ENABLE, of all rings if none are named, where this exists."""
        if self.features & BIT30:
            for index in range(len(self.rings)) if rings is None else rings:
                self.frontend.set_vring_enable(index, enabled)

    def kick(self, index: int) -> None:
        """Tell the device that a ring has news."""
        os.eventfd_write(self.events[index].kick, 1)

    def stop(self, index: int) -> int:
        """GET_VRING_BASE: the next available index."""
        return self.frontend.vring_base(index)

    # --- receiving ----------------------------------------------------------------------------
    def fill(
        self,
        count: int,
        shape: Sequence[int] = (2048,),
        *,
        direct: int | None = None,
        pair: int = 0,
    ) -> None:
        """Post receive buffers, each a chain of writable pieces of the lengths `shape`.

        `count` of them, or as many as the ring has room for.
        """
        ring, slots = self.rings[2 * pair], len(shape) if direct is None else direct + 1
        for _ in range(min(count, ring.room // slots)):
            gpa = self._take(sum(shape))
            self.memory.view(gpa, sum(shape))[:] = bytes([POISON]) * sum(shape)
            pieces = split_at(gpa, shape, is_writable=True)
            head = ring.chain(pieces, direct=direct)
            self.posted[pair << 16 | head] = pieces
            ring.expose(head)
        ring.publish()
        if 2 * pair in self.may_kick:
            self.kick(2 * pair)

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

    def next_frame(self, deadline: float, pair: int = 0) -> Delivery | None:
        """The next frame whatever it is; None when there is none until `deadline`."""
        index, ring = 2 * pair, self.rings[2 * pair]
        if not self.wait(lambda: ring.fresh > 0, index, deadline):
            return None
        data, first, posted = self._buffer(pair)
        if first < self.hdr_len:
            raise Broken(f"a used length of {first}, less than the header of {self.hdr_len}")
        header = net.NetHeader.unpack(data[: self.hdr_len])
        count = 1
        if self.features >> net.VIRTIO_NET_F_MRG_RXBUF & 1:
            count = header.num_buffers
            if not 1 <= count <= ring.size:
                raise Broken(f"num_buffers is {count} on a ring of {ring.size}")
        buffers, frame, used = [(len(data), first)], data[self.hdr_len : first], first
        for _ in range(count - 1):
            if not self.wait(lambda: ring.fresh > 0, index, deadline):
                raise Broken(f"num_buffers is {count}, but only {len(buffers)} buffers were used")
            data, used, posted = self._buffer(pair)
            frame += data[:used]
            buffers.append((posted, used))
        return Delivery(header, frame, tuple(buffers), data[used:])

    def drain(self, pair: int = 0) -> int:
        """Throw away all that has arrived; how many frames."""
        count = 0
        while self.next_frame(0, pair) is not None:
            count += 1
        return count

    def _buffer(self, pair: int) -> tuple[bytes, int, int]:
        used = self.rings[2 * pair].take_one()
        if pair << 16 | used.head not in self.posted:
            raise Broken(f"receive buffer {used.head} was used, which is not posted")
        pieces = self.posted.pop(pair << 16 | used.head)
        data = b"".join(self.memory.read(gpa, n) for gpa, n, _ in pieces)
        self._give(pieces[0].gpa, len(data))
        if used.length > len(data):
            raise Broken(f"a used length of {used.length} for a buffer of {len(data)}")
        return data, used.length, len(data)

    # --- sending ------------------------------------------------------------------------------
    def _take(self, length: int) -> int:
        """Memory for `length` bytes that nobody uses."""
        size = max(64, 1 << (length - 1).bit_length())
        free = self._pool.setdefault(size, [])
        return free.pop() if free else self.memory.allocate(size)

    def _give(self, gpa: int, length: int) -> None:
        """Take back what `_take` gave for `length` bytes."""
        self._pool.setdefault(max(64, 1 << (length - 1).bit_length()), []).append(gpa)

    def place(self, data: bytes) -> int:
        """Put `data` into guest memory; where."""
        gpa = self._take(len(data))
        self.memory.write(gpa, data)
        return gpa

    def queue(
        self,
        frame: bytes,
        header: net.NetHeader | bytes = net.NetHeader(),  # noqa: B008
        shape: Sequence[int] = (),
        *,
        direct: int | None = None,
        pair: int = 0,
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
        ring = self.rings[2 * pair + 1]
        head: int = ring.chain(split_at(gpa, lengths), direct=direct)
        self.loans[pair << 16 | head] = Piece(gpa, len(data))
        ring.expose(head)
        return head

    def publish(self, pair: int = 0) -> None:
        """Show what was queued to the device, and kick."""
        self.rings[2 * pair + 1].publish()
        self.kick(2 * pair + 1)

    def send(
        self,
        frame: bytes,
        header: net.NetHeader | bytes = net.NetHeader(),  # noqa: B008
        shape: Sequence[int] = (),
        *,
        direct: int | None = None,
        pair: int = 0,
    ) -> int:
        """`queue`, publish and kick; the head."""
        head = self.queue(frame, header, shape, direct=direct, pair=pair)
        self.publish(pair)
        return head

    def reap(self, pair: int = 0) -> list[Used]:
        """Take back what the device has transmitted."""
        taken: list[Used] = self.rings[2 * pair + 1].take()
        for used in taken:
            if (piece := self.loans.pop(pair << 16 | used.head, None)) is not None:
                self._give(piece.gpa, piece.length)
        return taken

    def sent(self, patience: float = PATIENCE, pair: int = 0) -> list[Used]:
        """Wait until every published transmit chain has come back; what did."""
        index, ring = 2 * pair + 1, self.rings[2 * pair + 1]
        deadline = time.monotonic() + patience
        if not self.wait(lambda: ring.fresh >= ring.outstanding, index, deadline):
            raise Broken(
                f"{ring.fresh} of {ring.outstanding} transmit chains came back"
                f" within {patience:g} s"
            )
        return self.reap(pair)

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
