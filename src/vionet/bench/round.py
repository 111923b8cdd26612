"""Rounds of load: frames offered for a time, then what became of them.

How it works: a round drives both ports with the kernels of `driver` in the calling thread, then
waits until everything arrived or nothing more will, and only then compares what was sent with
what came.  `Rounds` has memory, rings and frames; who serves the rings is for those who inherit:
a back-end (`generator`) or the yardstick (`relay`).
"""

from dataclasses import asdict, dataclass
from typing import Any, Final

from vionet.bench import driver
from vionet.bench.frame import Csum, build_frame
from vionet.bench.layout import End, Load
from vionet.bench.memory import GuestRing, guest_memory, make_rings, memory_len
from vionet.jit.record import address_of, allocate
from vionet.spec import virtio
from vionet.spec import virtio_net as net
from vionet.vhost_user.guest_memory import GuestMemory

SECOND_NS: Final = driver.SECOND_NS
INTERVAL_NS: Final = 1000
DRAIN_NS: Final = 1_000_000  # after a round, until everything arrived, but at most
DRAINS_MAX: Final = 50  # times
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


@dataclass(frozen=True)
class Setting:
    """How the two ports of a load are made."""

    features: int = FEATURES  # acknowledged where they are offered
    ring_size: int = 1024
    tx_parts: int = 1  # descriptors of a transmit chain: 1, or 2 with the header apart
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
    rate: float  # received per second


@dataclass(frozen=True)
class Round:
    """One round: both directions, and how the generator itself fared."""

    seconds: float
    directions: tuple[Direction, Direction]  # from A, from B
    busy: float  # share of the time that the generator was at work
    busy_ns: float  # of its time per frame sent and received
    gap_ns: int  # the longest that it did not have the core
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

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"rate": self.rate, "missing": self.missing}


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

    def prepare(self, i: int, features: int) -> None:
        """Make memory and rings of port `i` under the negotiated `features`."""
        end, setting = self.load.ends[i], self.setting
        end.header_len = net.header_len(features)
        end.mergeable = features >> net.VIRTIO_NET_F_MRG_RXBUF & 1
        end.event_idx = features >> virtio.VIRTIO_F_EVENT_IDX & 1
        buffer_len = setting.frame_max + end.header_len
        memory = guest_memory(memory_len(setting.ring_size, buffer_len), setting.huge)
        self.memories.append(memory)
        self.rings.append(make_rings(memory, end, setting.ring_size, buffer_len, setting.tx_parts))

    def release(self) -> None:
        """Give the memory back."""
        for memory in self.memories:
            memory.close()
        self.memories, self.rings = [], []

    def write_frames(self, length: int, csum: Csum = Csum.NONE) -> None:
        """From now on send frames of `length` bytes; nothing may be under way."""
        self.frame_len = length
        for i, (_, tx) in enumerate(self.rings):
            end = self.load.ends[i]
            header, frame = build_frame(i, length, csum)
            packed = header.pack(end.header_len)
            parts = (len(packed), length) if self.setting.tx_parts == 2 else (len(packed) + length,)
            tx.write_chains(parts, 0)
            for head in range(0, tx.size, self.setting.tx_parts):
                tx.buffer(head, len(packed) + length)[:] = packed + frame
            self.load.ends[1 - i].frame_len = length

    def run(self, seconds: float, rates: tuple[int, int], warm_up: float = 0.02) -> Round:
        """Offer `rates` frames a second (from A, from B) for `seconds`; count when all is quiet.

        The warm-up at the same rates is not counted.
        """
        load = self.load
        for _ in range(2):
            for end, rate in zip(load.ends, rates, strict=True):
                end.rate = rate
                _forget(end)
            load.busy_ns = load.gap_ns = 0
            driver.run(load, int((warm_up or seconds) * SECOND_NS))
            timed = [int(end.received) for end in load.ends]
            elapsed, busy, gap = int(load.elapsed_ns), int(load.busy_ns), int(load.gap_ns)
            self._drain()
            warm_up = 0
        return Round(
            seconds=elapsed / SECOND_NS,
            directions=(self._direction(0, timed, elapsed), self._direction(1, timed, elapsed)),
            busy=busy / elapsed,
            busy_ns=busy / max(sum(timed), 1),
            gap_ns=gap,
            kicks=sum(int(end.kicks) for end in load.ends),
        )

    def _drain(self) -> None:
        for end in self.load.ends:
            end.rate = 0
        a, b = self.load.ends
        for _ in range(DRAINS_MAX):
            driver.run(self.load, DRAIN_NS)
            if a.sent == b.received and b.sent == a.received:
                return

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
            rate=timed[1 - i] * SECOND_NS / elapsed_ns,
        )


def _forget(end: End) -> None:
    """Reset the counters; sequence numbers begin at 0 again."""
    end.offered = end.refused = end.sent = end.received = end.octets = end.partial = 0
    end.expected_seq = end.lost = end.wrong = end.kicks = 0
