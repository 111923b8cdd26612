"""The tester's driver: rings laid out by the book, and what it refuses to believe."""

import os
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from vionet.check.driver import POISON, TX, Broken, Port
from vionet.check.ring import Piece, Ring, split_at
from vionet.spec import virtio
from vionet.spec import virtio_net as net
from vionet.vhost_user.frontend import Frontend
from vionet.vhost_user.guest_memory import GuestMemory


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    """A guest's memory."""
    with GuestMemory((1 << 20,)) as made:
        yield made


@pytest.fixture
def port() -> Iterator[Port]:
    """A port whose back-end is the test itself."""
    ours, theirs = socket.socketpair()
    made = Port(Frontend(ours), GuestMemory((1 << 20,)), size=8)
    made.features = 1 << virtio.VIRTIO_F_VERSION_1
    yield made
    made.close()
    theirs.close()


def use(ring: Ring, head: int, length: int) -> None:
    """Do what a device does: one used element, then the index."""
    memory, idx = ring.memory, ring.used_idx
    place = ring.used_gpa + 4 + 8 * (idx % ring.size)
    memory.write(place, struct.pack("<II", head, length))
    memory.write(ring.used_gpa + 2, struct.pack("<H", (idx + 1) & 0xFFFF))


def test_chain_direct_and_indirect(memory: GuestMemory) -> None:
    """Flags and links are where the specification wants them."""
    ring = Ring(memory, 8)
    pieces = split_at(0x4000_8000, (12, 50, 60))
    head = ring.chain(pieces)
    _, second, third = ring.slots(head)
    raw = [
        struct.unpack("<QIHH", memory.read(ring.desc_gpa + 16 * s, 16)) for s in ring.slots(head)
    ]
    assert (0x4000_8000, 12, 1, second) == raw[0]
    assert (0x4000_800C, 50, 1, third) == raw[1]
    assert (0x4000_803E, 60, 0, 0) == raw[2]
    head = ring.chain(pieces, direct=1)
    _first, last = ring.slots(head)
    address, length, flags, _ = struct.unpack("<QIHH", memory.read(ring.desc_gpa + 16 * last, 16))
    assert (32, virtio.VRING_DESC_F_INDIRECT) == (length, flags)
    assert (0x4000_800C, 50, 1, 1) == struct.unpack("<QIHH", memory.read(address, 16))


def test_slots_come_back(memory: GuestMemory) -> None:
    """Descriptors are free again when the device has used their head."""
    ring = Ring(memory, 4)
    head = ring.chain(split_at(0x4000_8000, (1, 2, 3), is_writable=True))
    ring.expose(head)
    assert (1, 0) == (ring.room, ring.avail_idx)
    ring.publish()
    assert (1, 1) == (ring.avail_idx, ring.outstanding)
    use(ring, head, 6)
    assert [(head, 6)] == ring.take()
    assert (4, 0) == (ring.room, ring.outstanding)


def test_kick_only_when_asked(memory: GuestMemory) -> None:
    """With an event index the driver kicks when it was passed, across the wrap too."""
    ring = Ring(memory, 4, base=0xFFFF)
    event = ring.used_gpa + 4 + 8 * ring.size
    for wanted, told in ((0xFFFF, True), (0xFFFF, False), (1, True)):
        memory.write(event, struct.pack("<H", wanted))
        ring.expose(0)
        assert told is ring.publish()


def test_port_receives(port: Port) -> None:
    """Header and frame are taken apart; what was not written is known."""
    port.fill(1, (12, 100))
    (head,) = port.posted
    data = net.NetHeader(num_buffers=1).pack() + b"a frame"
    port.memory.write(port.posted[head][0].gpa, data)
    use(port.rx, head, len(data))
    delivery = port.collect(b"frame", 1)
    assert (b"a frame", ((112, 19),)) == (delivery.frame, delivery.buffers)
    assert bytes([POISON]) * 93 == delivery.beyond


@pytest.mark.parametrize(
    ("head", "length", "words"),
    [(7, 20, "not posted"), (None, 5000, "used length of 5000"), (None, 3, "less than the header")],
)
def test_port_disbelieves(port: Port, head: int | None, length: int, words: str) -> None:
    """A head that was not posted, and lengths that cannot be."""
    port.fill(1, (100,))
    (posted,) = port.posted
    use(port.rx, posted if head is None else head - 7 + (posted + 1) % 8, length)
    with pytest.raises(Broken, match=words):
        port.next_frame(time.monotonic() + 1)


def test_num_buffers_bounded(port: Port) -> None:
    """A count of buffers larger than the ring is not waited for."""
    port.features |= 1 << net.VIRTIO_NET_F_MRG_RXBUF
    port.fill(1, (100,))
    (head,) = port.posted
    port.memory.write(port.posted[head][0].gpa, net.NetHeader(num_buffers=999).pack())
    use(port.rx, head, 30)
    with pytest.raises(Broken, match="num_buffers is 999"):
        port.next_frame(time.monotonic() + 1)


def test_waits_end(port: Port) -> None:
    """Waiting for a device that does nothing ends, and says how far it came."""
    port.send(b"frame")
    with pytest.raises(Broken, match="0 of 1 transmit chains"):
        port.sent(0.05)
    with pytest.raises(Broken, match="nothing arrived"):
        port.collect(b"frame", 0.05)
    assert 1 == os.eventfd_read(port.events[TX].kick)


def test_sent_memory_is_reused(port: Port) -> None:
    """A long run does not need endless memory."""
    places = set()
    for _ in range(50):
        head = port.send(bytes(100))
        places.add(port.loans[head].gpa)
        use(port.tx, head, 0)
        port.sent(1)
    assert 1 == len(places)
    assert Piece(1, 2, True).flags == virtio.VRING_DESC_F_WRITE
