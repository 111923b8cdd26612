"""The tester's packed ring, against a device of a few lines written from the specification."""

import struct
from collections.abc import Iterator

import pytest

from vionet.check.packed import AVAIL, BASE, SPECIFIC, USED, PackedRing
from vionet.check.ring import NotOffered, Piece, Used, split_at
from vionet.spec import virtio
from vionet.vhost_user.guest_memory import GuestMemory

DESC = struct.Struct("<QIHH")


class Device:
    """Takes chains and gives them back, one wrap counter for both (VIRTIO 1.2, 2.8.1)."""

    def __init__(self, ring: PackedRing, at: int = 0, wrap: int = 1) -> None:
        self.ring, self.at, self.wrap = ring, at, wrap
        self.taken: list[tuple[int, int, int, int]] = []  # slot, wrap, id, descriptors

    def step(self, count: int) -> None:
        self.at += count
        if self.at >= self.ring.size:
            self.at, self.wrap = self.at - self.ring.size, self.wrap ^ 1

    def take(self) -> list[bytes] | None:
        """The pieces of the next chain; None if there is none."""
        memory, slot, wrap, count = self.ring.memory, self.at, self.wrap, 0
        pieces: list[bytes] = []
        while True:
            place = self.ring.desc_gpa + 16 * self.at
            gpa, length, ident, flags = DESC.unpack(memory.read(place, 16))
            if (flags >> 7 & 1, flags >> 15 & 1) != (self.wrap, self.wrap ^ 1):
                assert not pieces, "a chain ends in a descriptor that is not available"
                return None
            pieces.append(memory.read(gpa, length))
            count += 1
            self.step(1)
            if not flags & virtio.VRING_DESC_F_NEXT:
                self.taken.append((slot, wrap, ident, count))
                return pieces

    def give_back(self, length: int = 0, batch: int = 1) -> None:
        """Mark the first of what was taken as used; of a batch only the last one's id."""
        slot, wrap, ident, _ = self.taken[0]
        ident = self.taken[batch - 1][2]
        del self.taken[:batch]
        flags = (AVAIL | USED) * wrap
        self.ring.memory.write(self.ring.desc_gpa + 16 * slot, DESC.pack(0, length, ident, flags))


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    """A guest's memory."""
    with GuestMemory((1 << 20,)) as made:
        yield made


def expose(ring: PackedRing, *lengths: int) -> int:
    """A chain of pieces of these lengths."""
    gpa = ring.memory.allocate(sum(lengths))
    ring.memory.write(gpa, bytes(range(sum(lengths))))
    head = ring.chain(split_at(gpa, lengths))
    ring.expose(head)
    return head


@pytest.mark.parametrize("size", [1, 2, 3, 5, 255])
def test_goes_round(memory: GuestMemory, size: int) -> None:
    """Chains of every length go round rings of every size, and come back once."""
    ring, used = PackedRing(memory, size), []
    device = Device(ring)
    for number in range(3 * size + 5):
        lengths = (12, 3, 1)[: 1 + number % min(3, size)]
        head = expose(ring, *lengths)
        assert device.take() is None
        ring.publish()
        assert [bytes(range(sum(lengths)))] == [b"".join(device.take() or [])]
        assert (0, 1) == (ring.fresh, ring.outstanding)
        device.give_back(number)
        assert 1 == ring.fresh
        used += ring.take()
        assert Used(head, number) == used[-1]
        assert (size, 0) == (ring.room, ring.outstanding)


def test_in_order_batch(memory: GuestMemory) -> None:
    """One used descriptor gives a batch back, where IN_ORDER was agreed."""
    ring = PackedRing(memory, 7)
    ring.in_order, device = True, Device(ring)
    for _ in range(9):
        heads = [expose(ring, 4), expose(ring, 4, 4), expose(ring, 4)]
        ring.publish()
        for _ in heads:
            device.take()
        device.give_back(9, batch=2)
        assert 2 == ring.fresh
        device.give_back(5)
        assert [(heads[0], 0), (heads[1], 9), (heads[2], 5)] == ring.take()


def test_base(memory: GuestMemory) -> None:
    """A base says where both ends begin (spec PK-22)."""
    ring = PackedRing(memory, 8, base=3 << 16 | 3)
    device = Device(ring, 3, 0)
    head = expose(ring, 6, 6)
    ring.publish()
    assert [6, 6] == [len(piece) for piece in device.take() or []]
    device.give_back()
    assert [(head, 0)] == ring.take()
    assert BASE == PackedRing(memory, 8).base


def test_kick_where_asked(memory: GuestMemory) -> None:
    """The device's event structure decides about kicks, over the end of the ring too."""
    ring = PackedRing(memory, 3)
    device = Device(ring)

    def publish(flags: int, where: int = 0) -> bool:
        expose(ring, 5)
        memory.write(ring.used_gpa, struct.pack("<HH", where, flags))
        told = ring.publish()
        device.take()
        device.give_back()
        ring.take()
        return told

    assert [True, False] == [publish(0), publish(1)]
    assert publish(SPECIFIC, 2 | 1 << 15)  # the third slot, first round
    assert publish(SPECIFIC, 0)  # the first one, second round
    assert not publish(SPECIFIC, 2)
    assert publish(SPECIFIC, 2)


def test_indirect(memory: GuestMemory) -> None:
    """A table is one descriptor, its entries have no NEXT."""
    ring = PackedRing(memory, 4)
    head = ring.chain([Piece(0x4000_0000, 12), Piece(0x4000_0100, 60, True)], direct=0)
    ring.expose(head)
    ring.publish()
    table, length, ident, flags = DESC.unpack(memory.read(ring.desc_gpa, 16))
    assert (32, head, virtio.VRING_DESC_F_INDIRECT | AVAIL) == (length, ident, flags)
    assert [(12, 0), (60, virtio.VRING_DESC_F_WRITE)] == [
        (DESC.unpack(memory.read(table + 16 * n, 16))[1::2]) for n in range(2)
    ]


def test_no_words_of_split_rings(memory: GuestMemory) -> None:
    """A check that pokes at a split ring's words is told so; a misspelling is not hidden."""
    ring = PackedRing(memory, 4)
    with pytest.raises(NotOffered, match="used_idx of a split ring"):
        _ = ring.used_idx
    with pytest.raises(AttributeError):
        _ = ring.nonsense
