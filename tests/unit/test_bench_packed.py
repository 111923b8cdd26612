"""The load's packed rings and large frames, served by a device of plain Python."""

import contextlib
import os
import struct
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from vionet.bench import driver
from vionet.bench.frame import GSO_LEN, GSO_SIZE, build_large, ones_sum
from vionet.bench.layout import RX, TX
from vionet.bench.memory import GuestRing
from vionet.bench.round import FEATURES, LARGE_PARTS, Rounds, Setting
from vionet.spec import virtio
from vionet.spec.virtio_net import VIRTIO_NET_HDR_LEN

SIZE = 16
DESC = struct.Struct("<QIHH")
NEXT, WRITE, INDIRECT, AVAIL, USED = 1, 2, 4, 1 << 7, 1 << 15
PACKED = FEATURES | 1 << virtio.VIRTIO_F_RING_PACKED
Pieces = list[tuple[int, int, int]]


class Side:
    """The device's end of one packed ring: takes chains, and gives them back in order."""

    def __init__(self, ring: GuestRing) -> None:
        self.ring, self.memory = ring, ring.memory
        self.next, self.used = 0, 0  # slots, free-running

    def descriptor(self, slot: int) -> tuple[int, int, int, int]:
        place = self.ring.desc_gpa + 16 * (slot % self.ring.size)
        return DESC.unpack(self.memory.read(place, 16))

    def take(self) -> list[tuple[int, int, Pieces]]:
        """(id, slots, pieces) of each chain that became available."""
        chains: list[tuple[int, int, Pieces]] = []
        while True:
            pieces: Pieces = []
            while True:
                slot = self.next + len(pieces)
                lap = 1 - slot // self.ring.size % 2
                address, length, identity, flags = self.descriptor(slot)
                if bool(flags & AVAIL) != bool(lap) or bool(flags & USED) == bool(lap):
                    assert not pieces, "the head of a chain became available before its end"
                    return chains
                pieces.append((address, length, flags & (WRITE | INDIRECT)))
                if not flags & NEXT:
                    break
            self.next += len(pieces)
            slots = len(pieces)
            if pieces[0][2] & INDIRECT:
                (table, length, _) = pieces[0]
                rows = [DESC.unpack(self.memory.read(table + i, 16)) for i in range(0, length, 16)]
                pieces = [(address, n, flags) for address, n, _, flags in rows]
                assert {0} == {flags for _, _, flags in pieces}
            chains.append((identity, slots, pieces))

    def give(self, identity: int, slots: int, length: int) -> None:
        """Use the next chain."""
        lap = 1 - self.used // self.ring.size % 2
        place = self.ring.desc_gpa + 16 * (self.used % self.ring.size) + 8
        self.memory.write(place, DESC.pack(0, length, identity, (AVAIL | USED) * lap)[8:])
        self.used += slots


class Device:
    """Takes frames of port A and delivers them to port B."""

    def __init__(self, rounds: Rounds) -> None:
        self.tx, self.rx = Side(rounds.rings[0][TX]), Side(rounds.rings[1][RX])
        self.buffers: list[tuple[int, int, Pieces]] = []

    def move(self) -> int:
        """Forward what there is."""
        chains = self.tx.take()
        for identity, slots, pieces in chains:
            self.deliver(b"".join(self.tx.memory.read(a, n) for a, n, _ in pieces))
            self.tx.give(identity, slots, 0)
        return len(chains)

    def deliver(self, data: bytes) -> None:
        """Hand B a frame, header included, over as many buffers as it takes."""
        self.buffers += self.rx.take()
        room = self.buffers[0][2][0][1]
        count = -(-len(data) // room)
        data = data[:10] + struct.pack("<H", count) + data[12:]
        for _ in range(count):
            identity, slots, ((address, room, flags),) = self.buffers.pop(0)
            assert WRITE == flags
            self.rx.memory.write(address, data[:room])
            self.rx.give(identity, slots, len(data[:room]))
            data = data[room:]


@contextlib.contextmanager
def load(setting: Setting, length: int = 64) -> Iterator[Rounds]:
    """Two ports in ordinary memory that send frames of `length`."""
    rounds = Rounds(setting)
    try:
        for end in range(2):
            rounds.prepare(end, setting.features)
            rounds.load.ends[end].sample = 0
        rounds.write_frames(length)
        yield rounds
    finally:
        rounds.release()


@pytest.mark.parametrize("parts", [1, 2])
def test_packed_frames_go_round(parts: int) -> None:
    """Over many laps every offered frame arrives once, and as it was sent."""
    setting = Setting(features=PACKED, ring_size=SIZE, tx_parts=parts, huge=False)
    with load(setting) as rounds:
        device = Device(rounds)
        a, b = rounds.load.ends
        assert 1 == a.packed
        for count in (1000, 3, 1000, 1000, 5, 1000):
            offered = driver.offer_ring(a, count)
            assert min(SIZE // parts, count) == offered
            assert 0 == driver.offer_ring(a, 1000) or count < SIZE // parts
            device.move()
            driver.take_ring(b)
        assert a.sent == b.received == b.compared
        assert a.sent > 3 * SIZE // parts
        assert 0 == b.lost == b.wrong == a.wrong


def test_packed_frames_change_while_it_runs() -> None:
    """Frames of another size are written in any lap without a word to the device."""
    with load(Setting(features=PACKED, ring_size=SIZE, huge=False)) as rounds:
        device = Device(rounds)
        a, b = rounds.load.ends
        for lap in range(4):
            rounds.write_frames(64 + lap)
            device.tx.take()
            assert 0 == driver.offer_ring(a, 0)
            for _ in range(5):
                driver.offer_ring(a, 3)
                device.move()
                driver.take_ring(b)
        assert 60 == a.sent == b.received
        assert 0 == b.lost == b.wrong == a.wrong


def test_another_packed_id_is_wrong() -> None:
    """A device that gives a chain back under another id is counted, not followed."""
    with load(Setting(features=PACKED, ring_size=SIZE, huge=False)) as rounds:
        device = Device(rounds)
        a, b = rounds.load.ends
        driver.offer_ring(a, 1)
        device.move()
        device.rx.used -= 1
        device.rx.give(3, 1, 76)
        assert 1 == driver.take_ring(b)
        assert 1 == b.wrong


@pytest.mark.parametrize(
    ("mode", "slot", "lap", "offered", "wanted"),
    [
        (0, 0, 0, 3, True),  # enabled
        (1, 0, 0, 3, False),  # disabled
        (2, 2, 1, 3, True),  # at a descriptor: offered just now
        (2, 3, 1, 3, False),  # the next one
        (2, 2, 0, 3, False),  # in another lap
    ],
)
def test_packed_kicks(mode: int, slot: int, lap: int, offered: int, wanted: bool) -> None:
    """The device's event structure decides (spec PK-17, PK-18)."""
    features = PACKED | 1 << virtio.VIRTIO_F_EVENT_IDX
    with load(Setting(features=features, ring_size=SIZE, huge=False)) as rounds:
        end, guest_ring = rounds.load.ends[0], rounds.rings[0][TX]
        ring = end.rings[TX]
        ring.kick_fd = os.eventfd(0, os.EFD_NONBLOCK)
        guest_ring.memory.write(guest_ring.used_gpa, struct.pack("<HH", lap << 15 | slot, mode))
        driver.offer_ring(end, offered)
        driver.kick(rounds.load, end, ring)
        assert wanted == end.kicks
        os.close(ring.kick_fd)


@pytest.mark.parametrize("indirect", [False, True])
def test_large_frames_go_round(indirect: bool) -> None:
    """TSO frames leave in a header and pages, and are put together from mergeable buffers."""
    setting = Setting(
        features=PACKED,
        ring_size=4 if indirect else 4 * LARGE_PARTS,
        rx_size=64,
        rx_len=4096,
        tx_parts=LARGE_PARTS,
        tx_indirect=indirect,
        frame_max=GSO_LEN,
        huge=False,
    )
    with load(setting, GSO_LEN) as rounds:
        device = Device(rounds)
        a, b = rounds.load.ends
        assert 64 // -(-(GSO_LEN + VIRTIO_NET_HDR_LEN) // 4096) == b.window
        for _ in range(4):
            assert 3 == driver.offer_ring(a, 3)
            assert 3 == device.move()
            driver.take_ring(b)
        assert (12, 12, 0, 0) == (b.received, b.compared, b.wrong, b.lost)
        assert 12 * GSO_LEN == b.octets


def test_large_frame_is_valid() -> None:
    """scapy agrees with a TSO frame's lengths and with its pseudo-header sum."""
    header, data = build_large(0, GSO_LEN)
    frame = Ether(data)
    assert (1, 1, 54, GSO_SIZE, 34, 16, 0) == header
    assert GSO_LEN == 14 + frame[IP].len == 54 + 45 * GSO_SIZE
    assert ones_sum(data[26:34] + struct.pack("!BBH", 0, 6, GSO_LEN - 34)) == frame[TCP].chksum
