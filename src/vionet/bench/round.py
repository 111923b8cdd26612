"""Rounds of load: frames offered for a time, then what became of them.

How it works: a round drives both ports with the kernels of `driver` in the calling thread, then
waits until everything arrived or nothing more will, and only then compares what was sent with
what came.  `Rounds` has memory, rings and frames; who serves the rings is for those who inherit:
a back-end (`generator`) or the yardstick (`relay`).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from vionet.bench import driver
from vionet.bench.arrival import LARGE
from vionet.bench.clock import SECOND_NS
from vionet.bench.frame import (
    GSO_LEN,
    L4_OFF,
    PLAIN_MAX,
    TCP_LEN,
    Csum,
    Sample,
    build_sample,
    mac_of,
)
from vionet.bench.layout import RX, SAMPLE, SATURATE, End, Load
from vionet.bench.memory import PAGE, GuestRing, Shape, guest_memory, publish_receive_buffers
from vionet.jit.record import Bytes, address_of, allocate
from vionet.spec import virtio
from vionet.spec import virtio_net as net
from vionet.vhost_user.guest_memory import GuestMemory

INTERVAL_NS: Final = 1000
DRAIN_NS: Final = 1_000_000  # after a round, until everything arrived, but at most
DRAINS_MAX: Final = 200  # times without any: a back-end may have lost its core for as long
TRIES: Final = 20
FEATURES: Final = virtio.mask(
    (
        net.VIRTIO_NET_F_CSUM,
        net.VIRTIO_NET_F_GUEST_CSUM,
        net.VIRTIO_NET_F_MRG_RXBUF,
        virtio.VIRTIO_F_INDIRECT_DESC,
        virtio.VIRTIO_F_VERSION_1,
        virtio.VHOST_USER_F_PROTOCOL_FEATURES,
    )
)
LARGE_PARTS: Final = 1 + -(-(GSO_LEN - L4_OFF - TCP_LEN) // PAGE)  # headers, then pages


@dataclass(frozen=True)
class Setting:
    """How the two ports of a load are made."""

    features: int = FEATURES  # acknowledged where they are offered
    ring_size: int = 1024
    rx_size: int = 0  # entries of the receive ring, 0: as many
    rx_len: int = 0  # bytes of a receive buffer, 0: a whole frame
    tx_parts: int = 1  # descriptors of a transmit chain: 1, 2 (header apart), or LARGE_PARTS
    tx_indirect: bool = False  # they stand in a table of their own
    frame_max: int = 1518
    interval_ns: int = INTERVAL_NS
    huge: bool | None = None  # None: huge pages if they are there


@dataclass(frozen=True)
class Direction:
    """What one round did with the frames from one port to the other."""

    offered: int
    sent: int
    received: int  # in the timed part
    lost: int  # sent and never received
    refused: int  # due, but the transmit ring was full
    wrong: int
    partial: int
    compared: int  # frames of which every byte was looked at
    rate: float  # received per second


@dataclass(frozen=True)
class Round:
    """One round: both directions, and how the generator itself fared."""

    directions: tuple[Direction, Direction]  # from A, from B
    busy: float  # share of the time that the generator was at work
    kicks: int

    @property
    def rate(self) -> float:
        """Frames a second received, both directions together."""
        return sum(d.rate for d in self.directions)

    @property
    def missing(self) -> float:
        """The share of the offered frames that never arrived."""
        offered = sum(d.offered for d in self.directions)
        return sum(d.lost + d.refused for d in self.directions) / max(offered, 1)

    @property
    def wrong(self) -> int:
        """Frames that were not those expected."""
        return sum(d.wrong for d in self.directions)

    @property
    def lost(self) -> int:
        """Frames that were sent and never received."""
        return sum(d.lost for d in self.directions)


class Rounds:
    """Two driver ports in memory, and what can be done with them once a device serves them."""

    def __init__(self, setting: Setting) -> None:
        """Nothing is there yet but the record; `prepare` makes each port."""
        self.setting = setting
        self.load = allocate(Load)
        self.load.clock_hva = address_of(self.load.clock)
        self.load.one_hva = address_of(self.load.one)
        self.load.one[0] = 1
        self.load.interval_ns = setting.interval_ns
        self.memories: list[GuestMemory] = []
        self.rings: list[tuple[GuestRing, GuestRing]] = []
        self.frame_len = 0
        self._expected: dict[int, tuple[Bytes, Bytes]] = {}  # kept alive for the kernels

    def prepare(self, i: int, features: int) -> None:
        """Make memory and rings of port `i` under the negotiated `features`."""
        memory, rings = make_port(self.load.ends[i], features, self.setting)
        self.memories.append(memory)
        self.rings.append(rings)

    def release(self) -> None:
        """Give the memory back."""
        for memory in self.memories:
            memory.close()
        self.memories, self.rings = [], []

    def write_frames(
        self, length: int, csum: Csum = Csum.NONE, addresses: int = 1, first: int = 0
    ) -> None:
        """From now on send frames of `length` bytes; nothing may be under way.

        Each port has so many addresses, from number `first` on, and its chains go through them.
        """
        self.frame_len = length
        for i, (_, tx) in enumerate(self.rings):
            source, sink = self.load.ends[i], self.load.ends[1 - i]
            sample = build_sample(i, length, csum)
            header = sample.header.pack(source.header_len)
            tx.write_descriptors(cut(len(header), length, self.setting.tx_parts))
            for chain in range(tx.ring.count):
                to, of = (mac_of(end, first + chain % addresses) for end in (1 - i, i))
                tx.write(chain, header + to + of + sample.frame[12:])
            tx.ring.seq_off = tx.place(len(header) + sample.seq_off)
            self._expect(sink, self.rings[1 - i][RX], sample)

    def _expect(self, sink: End, rx: GuestRing, sample: Sample) -> None:
        """Tell a port what it will receive."""
        length = len(sample.frame)
        rx.ring.seq_off = sink.header_len + sample.seq_off
        buffers = -(-(sink.header_len + length) // rx.lengths[0])
        sink.frame_len, sink.window = length, rx.ring.count // buffers
        sink.large = int.from_bytes(sample.header.pack()[:8], "little") & LARGE
        pattern = np.frombuffer(sample.frame.ljust(length + 8), np.uint8).copy()
        same = np.full_like(pattern, 0xFF)
        for first, count in ((0, 12), (sample.csum_off, 2), (sample.seq_off, 8)):
            same[first : first + count] = 0
        sink.pattern_hva, sink.same_hva = address_of(pattern), address_of(same)
        self._expected[address_of(sink)] = pattern, same

    def run(self, seconds: float, rates: tuple[int, int], warm_up: float = 0.02) -> Round:
        """Offer `rates` frames a second (from A, from B) for `seconds`; count when all is quiet.

        The warm-up at the same rates is not counted.
        """
        load = self.load
        for _ in range(2):
            for end, rate in zip(load.ends, rates, strict=True):
                end.rate, end.sample = rate, SAMPLE - 1
                _forget(end)
            load.busy_ns = 0
            self._drive(int((warm_up or seconds) * SECOND_NS))
            timed = [int(end.received) for end in load.ends]
            elapsed, busy = int(load.elapsed_ns), int(load.busy_ns)
            self._drain()
            warm_up = 0
        return Round(
            directions=(self._direction(0, timed, elapsed), self._direction(1, timed, elapsed)),
            busy=busy / elapsed,
            kicks=sum(int(end.kicks) for end in load.ends),
        )

    def saturate(self, seconds: float, both: bool) -> Round:
        """A closed loop; again where a busy machine let the back-end do nothing at all."""
        for _ in range(TRIES):
            done = self.run(seconds, (SATURATE, SATURATE if both else 0))
            if done.rate:
                break
        return done

    def introduce(self, seconds: float = 0.01) -> None:
        """Send both ways for a moment: a switch knows every address, memory has been touched."""
        self.run(seconds, (SATURATE, SATURATE), warm_up=0)

    def _drive(self, duration_ns: int) -> None:
        """Look after both ports for so long; the device does its part meanwhile."""
        driver.run(self.load, duration_ns)

    def _drain(self) -> None:
        for end in self.load.ends:
            end.rate = end.sample = 0
        a, b = self.load.ends
        quiet = 0
        while quiet < DRAINS_MAX and (a.sent != b.received or b.sent != a.received):
            before = a.received + b.received
            self._drive(DRAIN_NS)
            quiet = quiet + 1 if before == a.received + b.received else 0

    def _direction(self, i: int, timed: list[int], elapsed_ns: int) -> Direction:
        source, sink = self.load.ends[i], self.load.ends[1 - i]
        return Direction(
            offered=int(source.offered),
            sent=int(source.sent),
            received=timed[1 - i],
            lost=int(source.sent - sink.received),
            refused=int(source.refused),
            wrong=int(sink.wrong),
            partial=int(sink.partial),
            compared=int(sink.compared),
            rate=timed[1 - i] * SECOND_NS / elapsed_ns,
        )


def _forget(end: End) -> None:
    """Reset the counters; sequence numbers begin at 0 again."""
    end.offered = end.refused = end.sent = end.received = end.octets = end.partial = 0
    end.expected_seq = end.lost = end.wrong = end.kicks = end.compared = 0


def make_port(
    end: End, features: int, setting: Setting
) -> tuple[GuestMemory, tuple[GuestRing, GuestRing]]:
    """Memory and rings of a port: receive buffers available, the transmit ring empty."""
    end.header_len = net.header_len(features)
    end.mergeable = features >> net.VIRTIO_NET_F_MRG_RXBUF & 1
    end.event_idx = features >> virtio.VIRTIO_F_EVENT_IDX & 1
    end.packed = features >> virtio.VIRTIO_F_RING_PACKED & 1
    packed, frame_len = bool(end.packed), setting.frame_max + end.header_len
    rx_len, rx_size = setting.rx_len or frame_len, setting.rx_size or setting.ring_size
    shapes = (
        Shape(rx_size, rx_len, flags=virtio.VRING_DESC_F_WRITE, packed=packed),
        Shape(
            setting.ring_size,
            frame_len,
            setting.tx_parts,
            packed=packed,
            indirect=setting.tx_indirect,
        ),
    )
    memory = guest_memory(sum(shape.memory_len for shape in shapes), setting.huge)
    rx, tx = (GuestRing(memory, end.rings[k], shape) for k, shape in enumerate(shapes))
    rx.write_descriptors((rx_len,))
    rx.start()
    tx.start()
    publish_receive_buffers(rx)
    return memory, (rx, tx)


def cut(header_len: int, length: int, parts: int) -> tuple[int, ...]:
    """The pieces of a transmit chain, as a Linux driver makes them."""
    if parts == 1:
        return (header_len + length,)
    if parts == 2:
        return header_len, length
    headers = L4_OFF + TCP_LEN
    pages, rest = divmod(length - headers, PAGE)
    pieces = (header_len + headers, *[PAGE] * pages, *([rest] if rest else []))
    if len(pieces) != parts or length <= PLAIN_MAX:
        raise ValueError(f"frame of {length} bytes in {parts} pieces")
    return pieces
