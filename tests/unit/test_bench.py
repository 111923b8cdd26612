"""The load generator's driver, served by a device of plain Python, and its yardstick."""

import contextlib
import os
import random
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from vionet.bench import driver
from vionet.bench.frame import Csum, build_frame, mac_of, ones_sum
from vionet.bench.layout import FLOOD, RX, SATURATE, TX
from vionet.bench.memory import GuestRing
from vionet.bench.relay import Yardstick
from vionet.bench.round import Rounds, Setting
from vionet.jit import LANE, Lane
from vionet.spec import virtio
from vionet.spec.virtio_net import HDR_NUM_BUFFERS, VIRTIO_NET_HDR_LEN

SIZE = 16
U16 = struct.Struct("<H")
USED = struct.Struct("<II")
DESC = struct.Struct("<QIHH")


class Side:
    """The device's end of one ring."""

    def __init__(self, ring: GuestRing, first_idx: int = 0) -> None:
        self.ring, self.avail_idx, self.used_idx = ring, first_idx, first_idx
        self.outstanding: list[int] = []  # heads taken and not given back

    def take(self) -> list[int]:
        """The heads that became available; none of them may be the device's already."""
        memory, taken = self.ring.memory, []
        (idx,) = U16.unpack(memory.read(self.ring.avail_gpa + 2, 2))
        while self.avail_idx & 0xFFFF != idx:
            slot = self.avail_idx % self.ring.size
            (head,) = U16.unpack(memory.read(self.ring.avail_gpa + 4 + 2 * slot, 2))
            assert head not in self.outstanding
            self.outstanding.append(head)
            taken.append(head)
            self.avail_idx += 1
        return taken

    def chain(self, head: int) -> list[tuple[int, int, int]]:
        """(address, length, flags) of each descriptor."""
        parts = []
        while True:
            place = self.ring.desc_gpa + DESC.size * head
            address, length, flags, following = DESC.unpack(self.ring.memory.read(place, 16))
            parts.append((address, length, flags))
            if not flags & virtio.VRING_DESC_F_NEXT:
                return parts
            head = following

    def frame(self, head: int) -> bytes:
        """The bytes of a whole chain."""
        return b"".join(self.ring.memory.read(a, n) for a, n, _ in self.chain(head))

    def give(self, head: int, length: int) -> None:
        """Put a chain into the used ring and publish it."""
        memory, slot = self.ring.memory, self.used_idx % self.ring.size
        self.outstanding.remove(head)
        memory.write(self.ring.used_gpa + 4 + 8 * slot, USED.pack(head, length))
        self.used_idx += 1
        memory.write(self.ring.used_gpa + 2, U16.pack(self.used_idx & 0xFFFF))


class Device:
    """Takes frames of port A and delivers them to port B."""

    def __init__(self, rounds: Rounds, first_idx: int = 0) -> None:
        if first_idx:
            for pair in rounds.rings:
                for ring in pair:
                    start_late(ring, first_idx)
        self.tx = Side(rounds.rings[0][TX], first_idx)
        self.rx = Side(rounds.rings[1][RX], first_idx)
        self.buffers: list[int] = []

    def transmitted(self) -> list[bytes]:
        """The frames of A, header included; their chains are given back."""
        frames = []
        for head in self.tx.take():
            frames.append(self.tx.frame(head))
            self.tx.give(head, 0)
        return frames

    def deliver(self, data: bytes, length: int | None = None, num_buffers: int = 1) -> None:
        """Hand B a frame, header included."""
        self.buffers += self.rx.take()
        head = self.buffers.pop(0)
        ((address, room, flags),) = self.rx.chain(head)
        assert virtio.VRING_DESC_F_WRITE == flags
        assert room >= len(data)
        self.rx.ring.memory.write(address, data)
        self.rx.ring.memory.write(address + HDR_NUM_BUFFERS, U16.pack(num_buffers))
        self.rx.give(head, len(data) if length is None else length)


def start_late(ring: GuestRing, first_idx: int) -> None:
    """Have a ring begin at `first_idx`, a multiple of its size, on both sides."""
    assert first_idx % ring.size == 0
    posted = ring.ring.avail_idx
    ring.ring.avail_idx, ring.ring.used_idx = first_idx + posted, first_idx
    ring.memory.write(ring.avail_gpa + 2, U16.pack((first_idx + posted) & 0xFFFF))
    ring.memory.write(ring.used_gpa + 2, U16.pack(first_idx & 0xFFFF))


@contextlib.contextmanager
def load(setting: Setting | None = None, length: int = 64) -> Iterator[Rounds]:
    """Two ports in ordinary memory that send frames of `length`."""
    rounds = Rounds(setting or Setting(ring_size=SIZE, huge=False))
    try:
        for end in range(2):
            rounds.prepare(end, rounds.setting.features)
        rounds.write_frames(length)
        yield rounds
    finally:
        rounds.release()


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("length", [60, 64, 1500])
def test_frames_go_round(parts: int, length: int) -> None:
    """Every offered frame has its number, and is counted once where it arrives."""
    with load(Setting(ring_size=SIZE, tx_parts=parts, huge=False), length) as rounds:
        device = Device(rounds)
        a, b = rounds.load.ends
        for _ in range(5):
            assert SIZE // parts == driver.offer_ring(a, 1000)
            frames = device.transmitted()
            assert SIZE // parts == len(frames)
            for frame in frames:
                assert VIRTIO_NET_HDR_LEN + length == len(frame)
                device.deliver(frame)
            assert SIZE // parts == driver.take_ring(b)
        assert 5 * SIZE // parts == a.sent == b.received == b.expected_seq
        assert 0 == b.lost == b.wrong
        assert length * b.received == b.octets


def test_indices_wrap() -> None:
    """Nothing happens when the 16-bit indices wrap."""
    with load() as rounds:
        device = Device(rounds, first_idx=0x10000 - 2 * SIZE)
        a, b = rounds.load.ends
        for _ in range(20):
            assert 5 == driver.offer_ring(a, 5)
            for frame in device.transmitted():
                device.deliver(frame)
            assert 5 == driver.take_ring(b)
        assert 100 == b.received
        assert 0 == b.lost == b.wrong
        assert device.rx.used_idx > 0x10000


@given(st.lists(st.tuples(st.integers(1, SIZE), st.randoms(use_true_random=False)), max_size=12))
@settings(max_examples=40, deadline=None)
def test_chains_come_back_in_any_order(steps: list[tuple[int, random.Random]]) -> None:
    """A chain is made available again only after the device gave it back, whatever the order."""
    with load() as rounds:
        device = Device(rounds)
        a, b = rounds.load.ends
        for offered, order in steps:
            driver.offer_ring(a, offered)
            frames = [device.tx.frame(head) for head in device.tx.take()]
            order.shuffle(device.tx.outstanding)
            for head in device.tx.outstanding[: offered // 2 + 1]:
                device.tx.give(head, 0)
            device.buffers += device.rx.take()
            order.shuffle(device.buffers)
            for frame in frames:
                device.deliver(frame)
            driver.take_ring(b)
        assert a.sent == b.received
        assert 0 == b.lost == b.wrong


def test_faults_are_counted() -> None:
    """Lost, repeated, cut, damaged and unmarked frames are each seen."""
    with load() as rounds:
        device = Device(rounds)
        a, b = rounds.load.ends

        def counted() -> tuple[int, int, int]:
            driver.take_ring(b)
            return int(b.received), int(b.lost), int(b.wrong)

        driver.offer_ring(a, 8)
        frames = device.transmitted()
        device.deliver(frames[0])
        device.deliver(frames[2])
        assert (2, 1, 0) == counted()
        device.deliver(frames[2])
        assert (3, 1, 1) == counted()
        device.deliver(frames[3], length=len(frames[3]) - 1)
        assert (4, 1, 2) == counted()
        device.deliver(frames[4][:55] + b"\x55" + frames[4][56:])
        assert (5, 1, 3) == counted()
        device.deliver(frames[4], num_buffers=0)
        assert (6, 1, 4) == counted()
        device.deliver(frames[5][:1] + b"\x01" + frames[5][2:])
        assert (7, 1, 5) == counted()
        device.deliver(frames[6])
        assert (8, 2, 5) == counted()


@pytest.mark.parametrize("place", [12 + 12, 12 + 39, 12 + 50, 12 + 63])
def test_damage_is_seen(place: int) -> None:
    """In a frame that is compared as a whole no byte may be another, but for its checksum."""
    with load() as rounds:
        device = Device(rounds)
        a, b = rounds.load.ends
        a.sample = b.sample = 0
        driver.offer_ring(a, 3)
        frames = device.transmitted()
        device.deliver(frames[0][:52] + b"\x55\x55" + frames[0][54:])
        device.deliver(frames[1])
        driver.take_ring(b)
        assert (2, 2, 0) == (b.received, b.compared, b.wrong)
        frame = bytearray(frames[2])
        frame[place] ^= 1
        device.deliver(bytes(frame))
        driver.take_ring(b)
        assert (3, 3, 1) == (b.received, b.compared, b.wrong)


def test_merged_buffers_are_one_frame() -> None:
    """A frame over several receive buffers counts once, with its whole length."""
    setting = Setting(ring_size=SIZE, frame_max=1500, huge=False)
    with load(setting) as rounds:
        device = Device(rounds)
        a, b = rounds.load.ends
        driver.offer_ring(a, 1)
        (frame,) = device.transmitted()
        device.deliver(frame[:40], num_buffers=2)
        device.deliver(frame[40:], num_buffers=0x3130)
        assert 2 == driver.take_ring(b)
        assert (1, 64) == (b.received, b.octets)


def test_closed_loop_never_overfills() -> None:
    """SATURATE keeps no more under way than the receive ring holds; FLOOD fills the ring."""
    with load() as rounds:
        device = Device(rounds)
        a, b = rounds.load.ends
        a.rate = SATURATE
        assert SIZE == driver.offer_due(a, b, 0)
        frames = device.transmitted()
        assert 0 == driver.offer_due(a, b, 0)
        device.deliver(frames[0])
        driver.take_ring(b)
        assert 1 == driver.offer_due(a, b, 0)
        a.rate = FLOOD
        assert SIZE - 1 == driver.offer_due(a, b, 0)


def test_pace_is_kept() -> None:
    """A rate gives the frames due by then; those a full ring held up for long are refused."""
    with load() as rounds:
        device = Device(rounds)
        a, b = rounds.load.ends
        a.rate = 1_000_000
        assert 0 == driver.offer_due(a, b, 999)
        assert 3 == driver.offer_due(a, b, 3000)
        assert 0 == driver.offer_due(a, b, 3999)
        device.transmitted()
        assert SIZE == driver.offer_due(a, b, 100_000)
        assert 100 - 3 - SIZE - SIZE == a.refused
        assert 100 - SIZE == a.offered


@pytest.mark.parametrize("event_idx", [False, True])
def test_kicks_are_sent_where_wanted(event_idx: bool) -> None:
    """The device's flag, or its event index, decides (spec SP-29)."""
    features = Setting().features | event_idx << virtio.VIRTIO_F_EVENT_IDX
    with load(Setting(features=features, ring_size=SIZE, huge=False)) as rounds:
        a = rounds.load.ends[0]
        ring, guest_ring = a.rings[TX], rounds.rings[0][TX]
        kick_fd = os.eventfd(0, os.EFD_NONBLOCK)
        ring.kick_fd = kick_fd
        cases = (
            [(0, 3, True), (2, 1, False), (4, 1, True)]
            if event_idx
            else [
                (0, 3, True),
                (1, 1, False),
                (0, 1, True),
            ]
        )
        at = virtio.vring_used_len(SIZE) - 2 if event_idx else 0
        kicks = 0
        for word, offered, wanted in cases:
            guest_ring.memory.write(guest_ring.used_gpa + at, U16.pack(word))
            driver.offer_ring(a, offered)
            driver.kick(rounds.load, a, ring)
            kicks += wanted
            assert kicks == a.kicks
        assert kicks == os.eventfd_read(kick_fd)
        os.close(kick_fd)


@pytest.mark.parametrize("csum", list(Csum))
@pytest.mark.parametrize("length", [60, 61, 64, 1500])
def test_frames_are_valid(csum: Csum, length: int) -> None:
    """scapy agrees with lengths and checksums, also after the driver wrote a number."""
    header, data = build_frame(0, length, csum)
    seq = 0x1234
    data = data[:42] + struct.pack("<II", seq, seq ^ 0xFFFFFFFF) + data[50:]
    frame = Ether(data)
    assert (mac_of(0), mac_of(1)) == tuple(
        bytes.fromhex(mac.replace(":", "")) for mac in (frame.src, frame.dst)
    )
    whole = Ether(data)
    del whole[IP].chksum, whole[UDP].chksum
    whole = Ether(bytes(whole))
    assert length == len(data) == 14 + frame[IP].len == 34 + frame[UDP].len
    assert whole[IP].chksum == frame[IP].chksum
    if csum is Csum.NONE:
        assert (0, 0) == (header.flags, frame[UDP].chksum)
    elif csum is Csum.COMPLETE:
        assert (0, whole[UDP].chksum) == (header.flags, frame[UDP].chksum)
    else:
        assert (1, 34, 6) == (header.flags, header.csum_start, header.csum_offset)
        assert whole[UDP].chksum == ones_sum(data[34:]) ^ 0xFFFF


@pytest.mark.skipif(LANE is Lane.INTERPRETED, reason="interpreted, load and relay share one core")
def test_yardstick_loses_nothing() -> None:
    """A round over the relay: whatever was sent arrived, and was right."""
    with Yardstick(Setting(ring_size=64, huge=False), core=0) as rounds:
        for length in (64, 1500):
            rounds.write_frames(length)
            done = rounds.run(0.03, (SATURATE, SATURATE), warm_up=0.01)
            assert [0, 0] == [d.lost for d in done.directions]
            assert 0 == done.wrong
            assert done.rate > 0
