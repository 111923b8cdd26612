"""The ring between a capture and its reader: full, wrapped, spoilt by the reader, waited for."""

import contextlib
import os
import random
import select

import pytest

from tests.reference.capture import LOST, PAGE, TAIL, WAITS, Capturing, RingReader
from tests.reference.frame import Layers
from tests.reference.network import Network
from vionet.engine.capture import SEEN_LEN, expect
from vionet.engine.status import FabricKind, Policy

RING = 1 << 16
FRAME = Layers().udp(bytes(1000)).data
RECORD = -(-(SEEN_LEN + len(FRAME)) // 8) * 8
FITS = RING // RECORD


class Road:
    """A wire whose frames arrive, one after the other, all captured."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.source, self.sink = network.guest(), network.guest(policy=Policy.COMPLETE)
        self.arrived = 0

    def send(self, count: int = 1, length: int = 1000) -> None:
        """So many frames, each of which arrives."""
        frame = Layers().udp(bytes(length)).data
        for _ in range(count):
            self.source.next_gpa = self.sink.next_gpa = 1 << 21
            self.sink.post(2000)
            self.source.send(frame)
            assert 1 == self.network.run(self.source)
            assert [frame] == [one.frame for one in self.sink.received()]
            self.source.tx.take_used()
            self.arrived += 1
        assert self.arrived == self.sink.ledger["rx_frames"]
        assert {} == self.sink.drops == self.source.drops


def test_a_full_ring_loses_records_only() -> None:
    """Without a reader the ring fills; what follows is counted as lost, and every frame arrives.
    Once there is room again records go on, whole and in order."""
    with Network(FabricKind.WIRE) as network:
        road = Road(network)
        with Capturing(network.state, ring_len=RING) as capture:
            road.send(FITS + 7)
            assert 7 == capture.ring.lost == capture.word(LOST)
            found = capture.taken()
            assert [FRAME] * FITS == [one.data for one in found]
            assert sorted(one.time_ns for one in found) == [one.time_ns for one in found]
            road.send(3)
            assert 3 == len(capture.taken())
            assert (FITS + 3, 7) == (capture.ring.records, capture.ring.lost)


def test_records_never_wrap() -> None:
    """Whatever the lengths, each record lies in one piece, and none is skipped or seen twice."""
    rng = random.Random(4)
    with Network(FabricKind.WIRE) as network:
        road = Road(network)
        with Capturing(network.state, ring_len=RING) as capture:
            for _ in range(20):
                lengths = [rng.randrange(1400) for _ in range(rng.randrange(1, 20))]
                for length in lengths:
                    road.send(1, length)
                assert [42 + length for length in lengths] == [
                    one.length for one in capture.taken()
                ]
            assert 2 * RING < capture.tail
            assert 0 == capture.ring.lost


@pytest.mark.parametrize(
    "nonsense", [1, 8, 1 << 40, (1 << 63) - 1, -RING, -RING - 8, -(1 << 40), -(1 << 63)], ids=hex
)
def test_nonsense_of_the_reader(nonsense: int) -> None:
    """A tail that cannot be is a full ring: nothing is written, nothing stops; with one that can be
    records go on."""
    with Network(FabricKind.WIRE) as network:
        road = Road(network)
        with Capturing(network.state, ring_len=RING) as capture:
            capture.put(TAIL, nonsense)
            road.send(2)
            assert (2, 2) == (capture.ring.lost, capture.word(LOST))
            assert bytes(RING) == capture.memory[PAGE:]
            capture.put(TAIL, 0)
            road.send(2)
            assert [FRAME] * 2 == [one.data for one in capture.taken()]
            assert 2 == capture.ring.lost


def test_the_page_is_written_only() -> None:
    """What the reader writes where only the engine writes is written over, not read."""
    with Network(FabricKind.WIRE) as network:
        road = Road(network)
        with Capturing(network.state, ring_len=RING) as capture:
            road.send(2)
            capture.memory[:64] = b"\xff" * 64
            capture.memory[PAGE : PAGE + RING] = b"\xff" * RING
            road.send(1)
            assert 3 * RECORD == capture.word(0)
            capture.tail = 2 * RECORD
            assert [FRAME] == [one.data for one in capture.taken()]
            assert 0 == capture.ring.lost


def test_a_frame_larger_than_the_ring() -> None:
    """It is lost, and smaller ones are not."""
    frames = [Layers().udp(bytes(length)).data for length in (65_450, 100)]
    with Network(FabricKind.WIRE) as network:
        source, sink = (network.guest(data_len=1 << 19) for _ in range(2))
        with Capturing(network.state, ring_len=RING) as capture:
            for _ in range(36):
                sink.post(2000)
            for frame in frames:
                source.send(frame)
                network.run(source)
            assert frames[1:] == [one.data for one in capture.taken()]
            assert 1 == capture.ring.lost
        assert 2 == sink.ledger["rx_frames"]


def test_a_reader_that_sleeps_is_woken_once() -> None:
    """Nobody is written to who does not wait; who waits is written to once; who has not read all
    need not wait."""
    with Network(FabricKind.WIRE) as network:
        road = Road(network)
        with Capturing(network.state, ring_len=RING) as capture:
            page = int(network.state.captures[0].ring_hva)
            road.send(2)
            assert 0 == capture.woken()
            assert 1 == expect(page, capture.tail)
            assert 2 == len(capture.taken())
            assert 0 == expect(page, capture.tail)
            road.send(3)
            assert [(capture.notify_fd, select.POLLIN)] == polled(capture)
            assert 0 == capture.word(WAITS)
            assert 1 == capture.woken()
            road.send(2)
            assert 0 == capture.woken()


def test_a_reader_that_never_reads_its_pipe() -> None:
    """However often it asks to be written to, the engine never waits for it."""
    with Network(FabricKind.WIRE) as network:
        road = Road(network)
        with Capturing(network.state, ring_len=RING) as capture:
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(network.state.captures[0].notify_fd, bytes(4096))
            os.set_blocking(capture.notify_fd, True)  # the other end's is our own
            for _ in range(2):
                capture.put(WAITS, 1)
                road.send(1)
                assert 0 == capture.word(WAITS)


def polled(reader: RingReader) -> list[tuple[int, int]]:
    """Whether there is something in the pipe."""
    poll = select.poll()
    poll.register(reader.notify_fd, select.POLLIN)
    return poll.poll(0)
