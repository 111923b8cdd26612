"""The control queue's ring: commands however they are cut up, answers, and what is no command."""

import os
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest

from tests.reader import Reader
from tests.reference.guest import Guest
from tests.reference.network import Network
from tests.reference.packed import PackedRing
from tests.reference.plug import EVENT_IDX, FULL, RING_PACKED, Options
from tests.reference.ring import DESC, INDIRECT, NEXT, WRITE, DriverRing
from vionet.engine.control import COMMAND_MAX, call_drivers
from vionet.ports.announcement import ROUNDS_S
from vionet.ports.control_server import COMMANDS_BURST, COMMANDS_PER_SECOND
from vionet.vhost_user.ring import Ring

PAGE = 4096
CONTROL = sum(1 << bit for bit in (*range(17, 24), 2))  # CTRL_VQ to CTRL_MAC_ADDR, offloads
OK, ERR, UNTOUCHED = b"\0", b"\1", b"\xee"
PROMISCUOUS, NOT_PROMISCUOUS, UNKNOWN = b"\0\0\1", b"\0\0\0", b"\xc8\0"
MAC = 0x525400123456


class Driver:
    """A guest's control queue and the part of its driver that uses it."""

    def __init__(self, network: Network, features: int, *, queues: int, size: int) -> None:
        self.network = network
        options = Options(mac=MAC, queues=queues)
        self.guest = network.guest(features, options=options)
        self.memory = self.guest.memory
        kind = PackedRing if features & RING_PACKED else DriverRing
        base = self.guest.alloc(4 * PAGE)
        base += -base % PAGE
        self.ring = kind(self.memory, size, (base, base + PAGE, base + 2 * PAGE))
        self.index = 2 * queues if features >> 22 & 1 else 2
        self.call_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.port = self.guest.port
        self.described = replace(
            self.guest.described(self.ring, self.ring.base), call_fd=self.call_fd
        )
        self.port.set_ring(self.index, self.described)

    def serve(self) -> int:
        """Have it served; *returns* how often the driver was interrupted."""
        assert self.port.serve_control()  # polled: it wants to be called again
        call_drivers(self.network.state, self.network.work)
        try:
            return os.eventfd_read(self.call_fd)
        except BlockingIOError:
            return 0

    def ask(self, command: bytes, cuts: tuple[int, ...] = ()) -> bytes:
        """One command in a chain of its own, cut up at `cuts`; *returns* the acknowledgement."""
        ack = self.add(command, cuts)
        assert 1 == self.serve()
        (used,) = self.ring.take_used()
        assert 1 == used.length, "CV-03"
        return self.memory.read(ack, 1)

    def add(self, command: bytes, cuts: tuple[int, ...] = (), ack_len: int = 1) -> int:
        """Make a command available; *returns* where its acknowledgement goes."""
        edges = [0, *cuts, len(command)]
        pieces = [command[a:b] for a, b in pairwise(edges)]
        parts = []
        for piece in pieces:
            gpa = self.guest.alloc(len(piece), gap=3)
            self.memory.write(gpa, piece)
            parts.append((gpa, len(piece), 0))
        ack = self.guest.alloc(max(ack_len, 1), gap=3)
        self.memory.write(ack, UNTOUCHED * max(ack_len, 1))
        if ack_len:
            parts.append((ack, ack_len, WRITE))
        self.chain(parts)
        return ack

    def chain(self, parts: list[tuple[int, int, int]]) -> None:
        """Make one chain of (address, length, flags) available."""
        if isinstance(self.ring, PackedRing):
            self.ring.put(parts)
            return
        self.ring.want_event(self.ring.used_idx)
        slots = self.ring.take_slots(len(parts))
        for i, (gpa, length, flags) in enumerate(parts):
            last = i == len(parts) - 1
            following = 0 if last else slots[i + 1]
            flags |= 0 if last else NEXT
            self.ring.set_descriptor(slots[i], gpa, length, flags, following)
        self.ring.offer(slots[0], slots)

    def close(self) -> None:
        """Close what is ours."""
        os.close(self.call_fd)


@pytest.fixture
def network() -> Iterator[Network]:
    """A fabric without a worker."""
    with Network() as network:
        yield network


@pytest.fixture
def driver(network: Network) -> Iterator[Driver]:
    """One with a split control queue at index 2, and no event index."""
    driver = Driver(network, (FULL | CONTROL) & ~(1 << 22), queues=1, size=64)
    yield driver
    driver.close()


def test_a_command_takes_effect_before_it_is_answered(driver: Driver) -> None:
    """spec CV-01 to CV-04, CV-12: the mode is in the record when the driver is told."""
    assert 2 == driver.guest.record.control_ring
    assert OK == driver.ask(NOT_PROMISCUOUS)
    assert 7 == driver.guest.record.filter
    assert OK == driver.ask(PROMISCUOUS)
    assert 0 == driver.guest.record.filter
    assert ERR == driver.ask(UNKNOWN)
    assert ERR == driver.ask(b"\0")


@pytest.mark.parametrize("cuts", [(1,), (2,), (1, 2), (3,), tuple(range(1, 8))])
def test_a_command_may_be_cut_up_anywhere(driver: Driver, cuts: tuple[int, ...]) -> None:
    """spec CV-01: one byte a descriptor, class and command apart, whatever."""
    assert OK == driver.ask(b"\1\1" + (MAC + 1).to_bytes(6, "big"), cuts)
    assert MAC + 1 == driver.guest.record.mac


def test_an_indirect_command(driver: Driver) -> None:
    """Readable and writable buffers in one table."""
    gpa = driver.guest.alloc(64)
    gpa += -gpa % 16
    driver.memory.write(gpa + 40, PROMISCUOUS + UNTOUCHED)
    table = DESC.pack(gpa + 40, 3, NEXT, 1) + DESC.pack(gpa + 43, 1, WRITE, 0)
    driver.memory.write(gpa, table)
    driver.chain([(gpa, len(table), INDIRECT)])
    assert 1 == driver.serve()
    assert OK == driver.memory.read(gpa + 43, 1)


def test_several_commands_at_once(driver: Driver) -> None:
    """All are answered, in order, by one call of the driver."""
    acks = [driver.add(command) for command in (PROMISCUOUS, UNKNOWN, NOT_PROMISCUOUS)]
    assert 1 == driver.serve()
    assert [OK, ERR, OK] == [driver.memory.read(ack, 1) for ack in acks]
    assert [1, 1, 1] == [used.length for used in driver.ring.take_used()]


def test_what_is_no_command_is_given_back(driver: Driver) -> None:
    """No place for an answer, a readable buffer behind it, addresses that nobody has."""
    gpa = driver.guest.alloc(16)
    driver.add(PROMISCUOUS, ack_len=0)
    driver.chain([(gpa, 1, WRITE), (gpa, 3, 0)])
    driver.chain([(1 << 60, 3, 0), (gpa, 1, WRITE)])
    driver.chain([(gpa, 3, 0), (1 << 60, 1, WRITE)])
    driver.chain([(gpa, 16, INDIRECT)])  # a table of zeros: nothing to read, nothing to write
    driver.chain([(gpa, 15, INDIRECT)])
    driver.serve()
    assert [0] * 6 == [used.length for used in driver.ring.take_used()]
    assert OK == driver.ask(PROMISCUOUS)
    assert [] == driver.port.broken_rings


def test_a_chain_that_never_ends_is_given_back(driver: Driver) -> None:
    """spec SP-08: a loop is left after so many hops."""
    (slot,) = slots = driver.ring.take_slots(1)
    driver.ring.set_descriptor(slot, driver.guest.alloc(8), 8, NEXT, slot)
    driver.ring.offer(slot, slots)
    driver.serve()
    assert [0] == [used.length for used in driver.ring.take_used()]


def test_a_very_long_command(driver: Driver) -> None:
    """More than is copied: refused, but for a table, which then filters nothing (CV-15)."""
    addresses = 1000
    command = b"\1\0" + struct.pack("<I", addresses) + bytes(6 * addresses) + bytes(4)
    assert len(command) > COMMAND_MAX
    assert OK == driver.ask(NOT_PROMISCUOUS)
    assert OK == driver.ask(command)
    assert 4 == driver.guest.record.filter
    assert ERR == driver.ask(b"\1\1" + command)


def test_the_answer_is_one_byte(driver: Driver) -> None:
    """A longer buffer is not written beyond it."""
    ack = driver.add(PROMISCUOUS, ack_len=8)
    driver.serve()
    assert OK + UNTOUCHED * 7 == driver.memory.read(ack, 8)


def test_an_index_that_jumps_breaks_the_queue(driver: Driver) -> None:
    """spec SP-14: it is counted and named, and nothing is done any more."""
    driver.ring.publish(driver.ring.next_idx + 100)
    assert not driver.port.serve_control()
    assert ["controlq"] == driver.port.broken_rings
    assert not driver.port.serve_control()
    assert {"ring_broken": 1} == driver.guest.drops


def test_a_driver_gets_only_so_many_commands_at_a_time(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is beyond its budget waits, and is answered when time has passed.  A look that finds
    nothing more costs as much as a command."""
    clock = SimpleNamespace(now=time.monotonic() + 1)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr("vionet.vhost_user.budget.time", clock)
    gpa = driver.guest.alloc(16)
    asked = served = 0
    looks = COMMANDS_BURST // 17
    for _ in range(looks + 2):
        for _ in range(16):
            driver.chain([(gpa, 2, 0), (gpa + 8, 1, WRITE)])
        asked += 16
        assert driver.port.serve_control()
        served += len(driver.ring.take_used())
    assert COMMANDS_BURST - looks == served < asked
    assert driver.port.control_kicked
    clock.now += 10.5 / COMMANDS_PER_SECOND
    driver.port.serve_control()
    assert 10 == len(driver.ring.take_used())


def test_kicks_for_nothing_have_a_budget(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look holds the worker: a driver that kicks without a command, or a queue that is
    disabled, is looked at so often and no more."""
    now = time.monotonic() + 1
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("vionet.vhost_user.budget.time", clock)
    driver.port.set_ring(driver.index, replace(driver.described, enabled=False))
    looks = [driver.port.serve_control() for _ in range(COMMANDS_BURST + 2)]
    assert [False] * COMMANDS_BURST + [True] * 2 == looks


@pytest.mark.parametrize("size", [8, 6])
def test_a_packed_control_queue(network: Network, size: int) -> None:
    """More commands than the ring has slots, of any length, at index 2N (spec CF-02, PK-09)."""
    driver = Driver(network, FULL | CONTROL | RING_PACKED, queues=2, size=size)
    assert 4 == driver.guest.record.control_ring
    for i in range(20):
        cuts = ((), (1,), (1, 2))[i % 3]
        mac = MAC + i
        assert OK == driver.ask(b"\1\1" + mac.to_bytes(6, "big"), cuts)
        assert mac == driver.guest.record.mac
    driver.close()


def test_pairs_are_one_until_the_driver_asks(network: Network) -> None:
    """spec CV-26, CV-27, CV-29; and a reset makes it one again."""
    driver = Driver(network, FULL | CONTROL | EVENT_IDX, queues=4, size=8)
    record = driver.guest.record
    assert (8, 1, 0) == (record.control_ring, record.n_pairs, record.steers)
    assert OK == driver.ask(b"\4\0\3\0")
    assert 3 == record.n_pairs
    assert ERR == driver.ask(b"\4\0\5\0")
    assert 3 == record.n_pairs
    driver.port.stop_ring(driver.index)
    driver.port.set_features(driver.guest.features)
    assert 1 == record.n_pairs
    driver.close()


def test_a_kick_that_came_before_the_queue_was_enabled(driver: Driver) -> None:
    """The command is found when the queue becomes live."""
    driver.port.set_ring(driver.index, replace(driver.described, enabled=False))
    ack = driver.add(PROMISCUOUS)
    assert not driver.port.serve_control()
    assert UNTOUCHED == driver.memory.read(ack, 1)
    driver.port.set_ring(driver.index, driver.described)
    assert driver.port.control_kicked
    driver.serve()
    assert OK == driver.memory.read(ack, 1)


def test_w31_run_time_offloads(driver: Driver) -> None:
    """spec CV-30, CV-33, W31: without GUEST_CSUM neither partial nor large; back with it."""
    record = driver.guest.record
    guest_tso4 = 1 << 7
    driver.port.set_features(driver.guest.features | guest_tso4)
    assert (1, 1) == (record.accepts, record.takes_gso)
    assert OK == driver.ask(b"\5\0" + struct.pack("<Q", guest_tso4))
    assert (0, 0) == (record.accepts, record.takes_gso)
    assert OK == driver.ask(b"\5\0" + struct.pack("<Q", 2))
    assert (1, 0) == (record.accepts, record.takes_gso)
    assert OK == driver.ask(b"\5\0" + struct.pack("<Q", 2 | guest_tso4))
    assert (1, 1) == (record.accepts, record.takes_gso)


def test_nothing_is_served_without_the_feature(network: Network) -> None:
    """Ring 2 of a guest whose front-end keeps the control queue is a receive ring."""
    guest: Guest = network.guest(FULL, options=Options(queues=2))
    assert (0, 2) == (guest.record.control_ring, guest.record.n_pairs)
    guest.port.set_ring(2, Ring())
    assert not guest.port.serve_control()


def test_announcement_is_asked_for_until_it_must_have_been_heard(driver: Driver) -> None:
    """spec CV-21: at once and after each acknowledgement, so many times and only after one; the
    link, or the end of the session, calls it off."""
    port = driver.port
    reader = Reader(port)
    port.opened(reader)
    up, asked, acknowledge = Options(mac=MAC), 1 | 2, b"\3\0"
    for _ in range(2):
        reader.changes.clear()
        port.change(replace(up, link_up=False))
        port.change(up)
        assert [0, asked] == reader.changes
        assert OK == driver.ask(PROMISCUOUS)
        assert [] == reader.timers, "not acknowledged"
        for delay_s in ROUNDS_S:
            assert OK == driver.ask(acknowledge)
            assert OK == driver.ask(acknowledge)
            ((found_s, call),) = reader.timers
            assert delay_s == found_s
            assert 1 == reader.config[6], "LINK_UP alone"
            reader.timers.clear()
            call()
            assert asked == reader.config[6]
        assert OK == driver.ask(acknowledge)
        assert [] == reader.timers, "the last round"
        assert [0] + [asked] * (1 + len(ROUNDS_S)) == reader.changes
    for end in (lambda: port.change(replace(up, link_up=False)), lambda: port.closed("done")):
        port.change(replace(up, link_up=False))
        port.change(up)
        assert OK == driver.ask(acknowledge)
        assert 1 == len(reader.timers)
        end()
        assert [] == reader.timers
