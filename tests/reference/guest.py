"""A guest in this process: the driver, its memory, and the real `GuestPort` behind it.

How it works: `send` and `post` lay out chains any way a test likes, `received` collects what was
delivered and checks what every delivery must obey (RX-01 to RX-04, SP-21).  `intact` names each
byte that changed and was not the device's to change.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from tests.reference import plug
from tests.reference.memory import Memory
from tests.reference.packed import PackedRing
from tests.reference.plug import FULL, MRG_RXBUF, NO_OPTIONS, PLAIN, Ground, Options, Piece, slot
from tests.reference.ring import Buffer, DriverRing, Used
from vionet.engine.layout import Port
from vionet.engine.status import Policy
from vionet.ports.guest import GuestPort
from vionet.spec import virtio_net
from vionet.spec.virtio_net import NetHeader
from vionet.vhost_user.ring import Ring

PAGE = 4096
DATA_GPA = 1 << 21


@dataclass(frozen=True, slots=True)
class Received:
    """One frame as its driver found it."""

    header: NetHeader
    frame: bytes
    heads: tuple[int, ...]
    lengths: tuple[int, ...]


class Guest:
    """A driver, its memory, and its port."""

    def __init__(
        self,
        ground: Ground,
        index: int,
        features: int = FULL,
        *,
        policy: Policy = Policy.UNIFORM,
        size: int = 64,
        start: int = 0,
        data_len: int = 1 << 18,
        options: Options = NO_OPTIONS,
        port: GuestPort | None = None,
    ) -> None:
        """Plugged in at `index`; `start` is where all ring indices begin.

        Without a `port` of a running fabric it is one that no worker serves.
        """
        self.state = ground.state
        self.index = index
        self.features = features
        rings_len = -(-27 * size // PAGE) * PAGE + PAGE
        # The data region and the one behind it touch: buffers may cross from one to the other.
        half = data_len // 2
        self.memory = Memory([(0, 2 * rings_len), (DATA_GPA, half), (DATA_GPA + half, half)])
        self.end_gpa = DATA_GPA + 2 * half
        self.next_gpa = DATA_GPA
        kind = PackedRing if features & plug.RING_PACKED else DriverRing
        self.rx = kind(self.memory, size, _places(0, size), start)
        self.tx = kind(self.memory, size, _places(rings_len, size), start)
        self.call_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.err_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.posted: dict[int, list[Buffer]] = {}
        self.hostile = False
        self.port = port or GuestPort(slot(ground, index), replace(options, policy=policy))
        self.port.opened()
        self.port.set_features(features)
        hva = self.memory.hva
        self.port.set_memory([Piece(r.gpa, r.size, hva + r.off) for r in self.memory.ranges])  # type: ignore[misc]
        for number, ring in enumerate((self.rx, self.tx)):
            self.port.set_ring(number, self.described(ring, ring.base))

    def described(self, ring: DriverRing, base: int) -> Ring:
        """What a front-end would have told of the ring."""
        return Ring(
            size=ring.size,
            packed=bool(self.features & plug.RING_PACKED),
            desc_uva=ring.desc_gpa,
            desc_hva=self.memory.hva_of(ring.desc_gpa),
            avail_hva=self.memory.hva_of(ring.avail_gpa),
            used_hva=self.memory.hva_of(ring.used_gpa),
            base=base,
            call_fd=self.call_fd,
            err_fd=self.err_fd,
            polled=True,
            enabled=True,
        )

    def enable(self, number: int, enabled: bool) -> None:
        """SET_VRING_ENABLE."""
        ring = (self.rx, self.tx)[number]
        base = int(self.record.queues[number].avail_idx)
        self.port.set_ring(number, replace(self.described(ring, base), enabled=enabled))

    @property
    def record(self) -> Port:
        """The port's record."""
        return self.state.ports[self.index]

    @property
    def header_len(self) -> int:
        """Of the virtio-net header."""
        return virtio_net.header_len(self.features)

    @property
    def ledger(self) -> dict[str, int]:
        """Counters that are not 0."""
        return {key: n for key, n in self.port.ledger().items() if n}

    @property
    def drops(self) -> dict[str, int]:
        """Drop reasons that were counted."""
        return {key: n for key, n in self.port.drops().items() if n}

    # --- the driver --------------------------------------------------------------------------

    def alloc(self, length: int, gap: int = 0) -> int:
        """Guest memory that nobody uses yet."""
        gpa = self.next_gpa + gap
        self.next_gpa = gpa + length
        assert self.next_gpa <= self.end_gpa, "the guest's memory is used up"
        return gpa

    def scatter(self, sizes: Sequence[int], gap: int = 0) -> list[Buffer]:
        """Buffers of these sizes, `gap` bytes before each."""
        return [Buffer(self.alloc(size, gap), size) for size in sizes]

    def post(
        self,
        *sizes: int,
        gap: int = 0,
        indirect: bool = False,
        direct: int = 0,
        publish: bool = True,
    ) -> int:
        """Make one receive chain available."""
        buffers = self.scatter(sizes, gap)
        table = self._table(len(sizes)) if indirect else None
        head = self.rx.add(buffers, True, table_gpa=table, direct=direct, publish=publish)
        self.posted[head] = buffers
        return head

    def send(
        self,
        frame: bytes,
        header: NetHeader = PLAIN,
        *,
        cuts: Sequence[int] = (),
        gap: int = 0,
        indirect: bool = False,
        direct: int = 0,
        publish: bool = True,
    ) -> int:
        """Make one frame available, its bytes cut apart at `cuts` (header included)."""
        return self.send_raw(
            header.pack(self.header_len) + frame, cuts=cuts, gap=gap, indirect=indirect,
            direct=direct, publish=publish,
        )  # fmt: skip

    def send_raw(
        self,
        data: bytes,
        *,
        cuts: Sequence[int] = (),
        gap: int = 0,
        indirect: bool = False,
        direct: int = 0,
        publish: bool = True,
    ) -> int:
        """Make any bytes available on the transmit ring."""
        edges = [0, *sorted(cuts), len(data)]
        sizes = [high - low for low, high in pairwise(edges)]
        buffers = self.scatter(sizes, gap)
        for buffer, low in zip(buffers, edges, strict=False):
            self.memory.write(buffer.gpa, data[low : low + buffer.length])
        table = self._table(len(sizes)) if indirect else None
        return self.tx.add(buffers, False, table_gpa=table, direct=direct, publish=publish)

    def _table(self, count: int) -> int:
        self.next_gpa += -self.next_gpa % 16
        return self.alloc(16 * count)

    def received(self) -> list[Received]:
        """Every frame delivered since the last call."""
        found = []
        used = self.rx.take_used()
        while used:
            entries = [used.pop(0)]
            if entries[0].length == 0:
                self.posted.pop(entries[0].head)
                continue  # a chain that was given back
            found.append(self._gather(entries, used))
        return found

    def _gather(self, entries: list[Used], used: list[Used]) -> Received:
        """One frame from its first used entry and, if merged, those that follow."""
        data = self._used_bytes(entries[0])
        while len(data) < self.header_len:  # buffers smaller than a header
            entries.append(used.pop(0))
            data += self._used_bytes(entries[-1])
        header = NetHeader.unpack(data[: self.header_len])
        count = 1
        if self.features & MRG_RXBUF:
            count = header.num_buffers
        elif self.header_len == virtio_net.VIRTIO_NET_HDR_LEN:
            assert 1 == header.num_buffers, "RX-01"
        assert len(entries) <= count <= len(entries) + len(used), "RX-02, RX-04"
        while len(entries) < count:
            entries.append(used.pop(0))
            data += self._used_bytes(entries[-1])
        for earlier in entries[:-1]:
            assert sum(b.length for b in self.posted[earlier.head]) == earlier.length, "RX-03"
        for entry in entries:
            self.posted.pop(entry.head)
        return Received(
            header,
            data[self.header_len :],
            tuple(entry.head for entry in entries),
            tuple(entry.length for entry in entries),
        )

    def _used_bytes(self, entry: Used) -> bytes:
        buffers = _prefix(self.posted[entry.head], entry.length)
        assert entry.length == sum(b.length for b in buffers), "SP-21: more than was posted"
        return b"".join(self.memory.read(b.gpa, b.length) for b in buffers)

    def calls(self) -> int:
        """How often the device interrupted since the last call."""
        return _count(self.call_fd)

    def errors(self) -> int:
        """How often the device said that a ring is broken (VU-44)."""
        return _count(self.err_fd)

    def check_memory(self, shown: int, in_place: bool = False) -> None:
        """Since `freeze` only what may change did: used rings, and the bytes that were used.

        `shown` is the receive ring's used index at that time.  Where a wire reads in place
        (`in_place`) a frame that is then dropped may have been read into any posted buffer.  A
        hostile driver's descriptors may allow any write inside its own memory; the guards
        around it hold even then.
        """
        if self.hostile:
            allowed = [(r.gpa, r.size) for r in self.memory.ranges]
        else:
            allowed = self.rx.device_writes(shown) + self.tx.device_writes(self.tx.seen_idx)
            for entry in self.rx.entries(shown, self.rx.used_idx):
                allowed += _prefix(self.posted[entry.head], entry.length)
            if in_place:
                allowed += [buffer for buffers in self.posted.values() for buffer in buffers]
        assert [] == self.memory.changed(allowed)

    def close(self) -> None:
        """Close the eventfds."""
        os.close(self.call_fd)
        os.close(self.err_fd)


def _places(base: int, size: int) -> tuple[int, int, int]:
    """Descriptor table, available ring and used ring, each only as aligned as it must be.

    Of a packed ring: the descriptors, and the driver's and the device's event structures.
    """
    avail = base + 16 * size
    used = avail + 6 + 2 * size
    return base, avail, used + -used % 4


def _prefix(buffers: Sequence[Buffer], length: int) -> list[Buffer]:
    """The first `length` bytes of a chain."""
    found = []
    for buffer in buffers:
        piece = min(length, buffer.length)
        if piece:
            found.append(Buffer(buffer.gpa, piece))
        length -= piece
    return found


def _count(fd: int) -> int:
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0
