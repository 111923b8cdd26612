"""Several workers: their ports, frames from one's port to another's, learning under contention,
and the control plane's pauses, with real threads."""

import os
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest

from tests.reference.guest import DATA_GPA
from tests.reference.network import Network
from tests.reference.plug import FULL, NO_OPTIONS, Options
from tests.reference.stream import Parser
from tests.unit.test_engine_worker import DEADLINE_S, Wired
from vionet.engine.layout import WORKERS_MAX
from vionet.engine.share import SHARED, let_go, try_port
from vionet.engine.status import FabricKind
from vionet.fabric import Fabric
from vionet.fabric.fabric import prepared_work
from vionet.jit.lane import LANE, Lane

MACS = (0x020000000001, 0x020000000002, 0x020000000003, 0x020000000004)
EVERYBODY = 0xFFFFFFFFFFFF
TURNS = 4 if LANE is Lane.INTERPRETED else 60  # of what has to meet by chance
RX_GPA = DATA_GPA + (1 << 17)  # the second half of a guest's memory is for what it receives


def numbered(source: int, destination: int, number: int) -> bytes:
    """A frame that says all through which one it is; every other one goes the straight path."""
    addresses = destination.to_bytes(6, "big") + source.to_bytes(6, "big")
    data = (source << 32 | number).to_bytes(10, "big") * 20
    if number % 2:
        return addresses + b"\x88\xb5" + bytes(28) + data
    ip = struct.pack(">2sBBHHHBBHII", b"\x08\x00", 0x45, 0, 228, 0, 0, 64, 17, 0, 1, 2)
    return addresses + ip + struct.pack(">HHHH", 1000, 2000, 208, 0) + data


def read_number(frame: bytes) -> tuple[int, int]:
    """The source and the number of a frame, which is as it was sent."""
    source, number = int.from_bytes(frame[6:12], "big"), int.from_bytes(frame[48:52], "big")
    assert numbered(source, int.from_bytes(frame[:6], "big"), number) == frame
    return source, number


class Busy(Wired):
    """A guest that sends and receives for as long as is asked; its buffers are used again."""

    mac = 0
    sent = 0

    def refill(self) -> None:
        """Have all receive buffers posted."""
        if not self.posted:
            self.next_gpa = RX_GPA
            for _ in range(60):
                self.post(400)

    def offer(self, frames: Sequence[bytes]) -> None:
        """Make frames available when those before have been taken."""
        deadline = time.monotonic() + DEADLINE_S
        while self.tx.used_idx != self.tx.next_idx:
            assert time.monotonic() < deadline, (self.ledger, self.drops)
        self.tx.take_used()
        self.next_gpa = DATA_GPA
        for frame in frames:
            self.send(frame, publish=False)
        self.tx.publish()

    def offer_to(self, destination: int, count: int) -> None:
        """Make `count` numbered frames available."""
        self.offer([numbered(self.mac, destination, self.sent + i) for i in range(count)])
        self.sent += count


@contextmanager
def switch(count: int, workers: int = 2) -> Iterator[tuple[Fabric, list[Busy]]]:
    """A switch whose workers run, with guests that have all said who they are."""
    fabric = Fabric(FabricKind.SWITCH, workers=workers)
    guests = [Busy(fabric, FULL, polled=True) for _ in range(count)]
    assert [i % workers for i in range(count)] == [int(g.record.worker) for g in guests]
    fabric.start()
    try:
        for guest, mac in zip(guests, MACS, strict=False):
            guest.mac = mac
            guest.offer([numbered(mac, mac, 0)])  # to itself, which nobody gets
            guest.sent = 1
        settled(guests)
        yield fabric, guests
    finally:
        for guest in guests:
            guest.unplug()
        fabric.close()


def settled(guests: Sequence[Busy]) -> None:
    """Wait until everything that was sent has been taken."""
    for guest in guests:
        guest.offer([])


class Witness:
    """What a guest has received: whole frames, those of each sender in order."""

    def __init__(self, guest: Busy) -> None:
        self.guest = guest
        self.last = dict.fromkeys(MACS, 0)
        self.count = 0

    def look(self) -> None:
        """Take in what has come."""
        for received in self.guest.received():
            source, number = read_number(received.frame)
            assert self.last[source] < number, "a flow's frames keep their order"
            self.last[source] = number
            self.count += 1
        self.guest.refill()


@pytest.mark.parametrize("flooded", [False, True])
def test_frames_cross_between_workers(flooded: bool) -> None:
    """Four guests on two workers send to the next one, or to all: every frame arrives whole and in
    its flow's order, or is counted as dropped."""
    with switch(4) as (_, guests):
        witnesses = [Witness(guest) for guest in guests]
        for turn in range(TURNS):
            for i, guest in enumerate(guests):
                to = EVERYBODY if flooded else MACS[(i + 1 + turn % 3) % 4]
                guest.offer_to(to, 16)
            for witness in witnesses:
                witness.look()
        settled(guests)
        for witness in witnesses:
            witness.look()
        sent = sum(guest.sent - 1 for guest in guests) * (3 if flooded else 1)
        dropped = sum(guest.drops.get("rx_ring_full", 0) for guest in guests)
        assert 4 * TURNS * 16 * (3 if flooded else 1) == sent
        assert sent == sum(witness.count for witness in witnesses) + dropped
        assert {"same_port", "rx_ring_full"} >= {key for guest in guests for key in guest.drops}
        assert sent == sum(guest.ledger["rx_frames"] for guest in guests) + dropped


def test_ports_come_and_go_meanwhile() -> None:
    """Rings of one guest stop and start, memory maps change and addresses are forgotten while two
    workers deliver to each other's ports: the others' frames keep coming."""
    with switch(3) as (_, guests):
        one, other, restless = guests
        witness = Witness(other)
        witness.look()
        for turn in range(TURNS):
            one.offer_to(other.mac, 16)
            restless.offer_to(EVERYBODY, 4)
            base = restless.port.stop_ring(turn % 2)
            witness.look()
            ring = (restless.rx, restless.tx)[turn % 2]
            restless.port.set_ring(turn % 2, restless.described(ring, base))
        settled([one])
        witness.look()
        got = witness.count + other.drops.get("rx_ring_full", 0)
        assert one.sent - 1 <= got
        assert 0 < witness.count


def test_first_kick_is_heard_by_the_sender_s_worker() -> None:
    """A receive ring's first kick came before the frame: the frame is not dropped, whichever
    worker the ring belongs to."""
    fabric = Fabric(FabricKind.SWITCH, workers=2)
    source = Wired(fabric, FULL, polled=True)
    fabric.start()
    sinks: list[Wired] = []
    try:
        for turn in range(6):
            sink = Wired(fabric, FULL)
            sinks.append(sink)
            sink.post(400)
            assert (0, 1) == (sink.record.queues[0].started, fabric._state.unstarted)
            sink.kick(0)
            source.send(numbered(MACS[0], EVERYBODY, turn))
            sink.wait()
            assert [numbered(MACS[0], EVERYBODY, turn)] == [one.frame for one in sink.received()]
            assert {} == sink.drops
        assert {0, 1} == {int(sink.record.worker) for sink in sinks}
    finally:
        for guest in (source, *sinks):
            guest.unplug()
        fabric.close()


def test_learning_under_contention() -> None:
    """Addresses that move between ports of two workers, and new ones without end, leave the table
    as its counts say; a frame for a known address goes nowhere else."""
    with switch(4) as (fabric, guests):
        for guest in guests:
            guest.refill()
        for turn in range(TURNS):
            for i, guest in enumerate(guests[:2]):
                moving = [numbered(0x020000001000 + n, guests[2].mac, 0) for n in range(8)]
                fresh = 0x020001000000 + (i << 16) + 8 * turn
                guest.offer(moving + [numbered(fresh + n, guests[2].mac, 0) for n in range(8)])
            guests[2].received()
            guests[2].refill()
        settled(guests)
        assert [] == guests[3].received(), "known addresses are not flooded"
        with fabric._workers.hold():
            table = np.asarray(fabric._state.fdb)
            ports = table[table["key"] != 0]["port"].tolist()
            counts = [int(guest.record.fdb_count) for guest in guests]
        assert counts == [ports.count(i) for i in range(4)]
        assert 4 + 8 + 2 * TURNS * 8 == sum(counts)


def test_hostile_ring_hurts_only_itself() -> None:
    """A guest breaks its receive ring while two workers deliver to it: it is broken once, and both
    workers go on."""
    with switch(4) as (_, guests):
        one, other, sink, hostile = guests
        witness = Witness(sink)
        witness.look()
        for _ in range(10):
            hostile.post(400)
        for turn in range(TURNS):
            if turn == TURNS // 2:
                hostile.memory.write(hostile.rx.avail_gpa + 2, b"\xff\x7f")
            one.offer_to(EVERYBODY, 8)
            other.offer_to(EVERYBODY, 8)
            witness.look()
        settled(guests)
        witness.look()
        assert 1 == hostile.drops["ring_broken"]
        assert hostile.drops["rx_ring_broken"] >= 8 * TURNS - 16
        assert 2 * TURNS * 8 == witness.count + sink.drops.get("rx_ring_full", 0)


def test_stream_takes_whole_frames_from_two_workers() -> None:
    """A stream that reads slowly gets frames of two workers, none inside another."""
    with switch(2) as (fabric, guests):
        port = fabric.add_stream(NO_OPTIONS)
        peer, ours = socket.socketpair()
        peer.settimeout(DEADLINE_S)
        with peer:
            port.attach(ours)
            frames: list[bytes] = []
            parser = Parser()

            def read() -> None:
                while data := peer.recv(1000):
                    frames.extend(parser.feed(data))

            reader = threading.Thread(target=read)
            reader.start()
            for _ in range(TURNS):
                for guest in guests:
                    guest.refill()
                    guest.received()
                    guest.offer_to(EVERYBODY, 16)
            settled(guests)
            taken = port.ledger()["rx_frames"]
            deadline = time.monotonic() + DEADLINE_S
            while len(frames) < taken:
                assert time.monotonic() < deadline
                time.sleep(0.001)
            port.close()
            reader.join(DEADLINE_S)
        assert taken == len(frames)
        assert 2 * TURNS * 16 == taken + port.drops()["stream_full"]
        last = dict.fromkeys(MACS, 0)
        for frame in frames:
            source, number = read_number(frame)
            assert last[source] < number
            last[source] = number


def test_one_holder_of_a_lock() -> None:
    """A port's lock has one holder; letting go of it lets another have it."""
    with Network() as network:
        other = prepared_work(network.state, 1)
        state, work = network.state, network.work
        assert 1 == try_port(state, work, 3) == try_port(state, work, 4)
        assert (1, 1, 2) == (work.holds[3], work.holds[4], work.n_held)
        assert 0 == try_port(state, other, 3)
        assert 0 == other.n_held
        let_go(state, work)
        assert (0, 0, 0) == (work.holds[3], work.holds[4], work.n_held)
        assert 1 == try_port(state, other, 3)


def test_one_worker_shares_nothing() -> None:
    """With one worker no port needs a lock; with two those do whose records are written."""
    for workers in (1, 2):
        with switch(2, workers) as (_, guests):
            assert {SHARED if workers > 1 else 0} == {int(g.record.special) for g in guests}
            assert 0 == guests[0].record.worker


def test_ports_spread_and_threads_pinned() -> None:
    """Each new port goes to the worker with the fewest, each thread to its core."""
    core = min(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    fabric = Fabric(FabricKind.SWITCH, workers=2, cores=(core,))
    try:
        for _ in range(5):
            fabric.add_guest(Options())
        assert [0, 1, 0, 1, 0] == [int(fabric._state.ports[i].worker) for i in range(5)]
        fabric.start()
        tids = [worker._thread.native_id for worker in fabric._workers._all]
        deadline = time.monotonic() + DEADLINE_S
        while os.sched_getaffinity(tids[0] or 0) != {core}:
            assert time.monotonic() < deadline
        assert before == os.sched_getaffinity(tids[1] or 0) == os.sched_getaffinity(0)
        assert len(tids) < WORKERS_MAX
    finally:
        fabric.close()
