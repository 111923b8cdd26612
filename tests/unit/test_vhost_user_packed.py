"""What a session makes of packed rings: sizes, places, bases, and the moment when it learns."""

import itertools
import mmap
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.recorder import FEATURES, KICK, PROTOCOL_FEATURES, Peer
from vionet.spec import vhost_user as vu
from vionet.spec import virtio
from vionet.spec.vhost_user import Request
from vionet.vhost_user.device import Offer
from vionet.vhost_user.message import ProtocolError

PAGE = mmap.PAGESIZE
PACKED = 1 << virtio.VIRTIO_F_RING_PACKED
WORD = 1 << virtio.VIRTIO_F_VERSION_1 | 1 << virtio.VHOST_USER_F_PROTOCOL_FEATURES
NEW = 1 << 15 | 1 << 31
ACK = 1 << vu.VHOST_USER_PROTOCOL_F_REPLY_ACK


@pytest.fixture
def peer() -> Iterator[Peer]:
    """A peer to which packed rings are offered."""
    peer = Peer(Offer(FEATURES | PACKED, PROTOCOL_FEATURES))
    yield peer
    peer.close()


def place(peer: Peer, desc: int = 0, driver: int = PAGE, device: int = PAGE + 4) -> bytes:
    """The payload of SET_VRING_ADDR: offsets in the first region."""
    base = peer.guest.regions[0].uva
    return vu.VRING_ADDR.pack(0, 0, base + desc, base + device, base + driver, 0)


def set_up(peer: Peer, size: int, base: int = NEW) -> None:
    """A ring is described, its features are not."""
    peer.set_memory()
    peer.state(Request.SET_VRING_NUM, 0, size)
    peer.state(Request.SET_VRING_BASE, 0, base)
    peer.tell(Request.SET_VRING_ADDR, place(peer))
    peer.tell(Request.SET_VRING_KICK, vu.U64.pack(0), KICK)


@pytest.mark.parametrize("size", [1, 3, 100, 255, 256])
def test_any_size(peer: Peer, size: int) -> None:
    """PK-01: whether SET_FEATURES comes first or last."""
    peer.tell(Request.SET_FEATURES, vu.U64.pack(WORD | PACKED))
    set_up(peer, size)
    ring = peer.device.rings[0]
    assert (True, True, size) == (ring.ready, ring.packed, ring.size)
    region = peer.memory.regions[0]
    assert (region.hva, region.hva + PAGE, region.hva + PAGE + 4) == (
        ring.desc_hva,
        ring.avail_hva,
        ring.used_hva,
    )


def test_every_order_of_messages() -> None:
    """Features, size, base, place, memory and kick in every order make the same ring."""
    for order in itertools.permutations(range(6)):
        peer = Peer(Offer(FEATURES | PACKED, PROTOCOL_FEATURES))
        steps = (
            lambda peer=peer: peer.tell(Request.SET_FEATURES, vu.U64.pack(WORD | PACKED)),
            lambda peer=peer: peer.state(Request.SET_VRING_NUM, 0, 5),
            lambda peer=peer: peer.state(Request.SET_VRING_BASE, 0, 3 | 4 << 16 | 1 << 31),
            lambda peer=peer: peer.tell(Request.SET_VRING_ADDR, place(peer)),
            peer.set_memory,
            lambda peer=peer: peer.tell(Request.SET_VRING_KICK, vu.U64.pack(0), KICK),
        )
        for step in order:
            steps[step]()
        ring = peer.device.rings[0]
        assert (True, True, 5, 3 | 4 << 16 | 1 << 31) == (
            ring.ready,
            ring.packed,
            ring.size,
            ring.base,
        ), order
        peer.close()


@pytest.mark.parametrize("size", [0, 32769, 0xFFFFFFFF])
def test_sizes_that_are_none(peer: Peer, size: int) -> None:
    """VU-40."""
    peer.tell(Request.SET_FEATURES, vu.U64.pack(WORD | PACKED))
    with pytest.raises(ProtocolError, match="expected 1 to 32768"):
        peer.state(Request.SET_VRING_NUM, 0, size)


def test_a_size_of_packed_rings_is_not_one_of_split_rings(peer: Peer) -> None:
    """Known only with SET_FEATURES: the ring never becomes ready, and is one when mended."""
    set_up(peer, 6, 0)
    peer.tell(Request.SET_FEATURES, vu.U64.pack(WORD))
    assert not peer.session.rings[0].ready
    with pytest.raises(ProtocolError, match="RING_PACKED is not negotiated"):
        peer.state(Request.SET_VRING_NUM, 0, 7)
    with pytest.raises(ProtocolError, match="16 bits"):
        peer.state(Request.SET_VRING_BASE, 0, NEW)
    peer.state(Request.SET_VRING_NUM, 0, 8)
    peer.tell(Request.SET_VRING_ADDR, place(peer, device=PAGE + 64))
    assert peer.session.rings[0].ready


@pytest.mark.parametrize(
    ("desc", "driver", "device"),
    [(8, PAGE, PAGE + 4), (0, PAGE + 2, PAGE + 4), (0, PAGE, PAGE + 6)],
)
def test_alignment(peer: Peer, desc: int, driver: int, device: int) -> None:
    """PK-01: descriptors lie at multiples of 16, event structures of 4."""
    peer.tell(Request.SET_FEATURES, vu.U64.pack(WORD | PACKED))
    peer.set_memory()
    peer.state(Request.SET_VRING_NUM, 0, 5)
    with pytest.raises(ProtocolError, match="expected a multiple of"):
        peer.tell(Request.SET_VRING_ADDR, place(peer, desc, driver, device))


@pytest.mark.parametrize(("size", "base"), [(5, 5), (5, 5 << 16), (1, 1 << 15 | 1), (5, 0x7FFF)])
def test_a_base_beyond_the_ring(peer: Peer, size: int, base: int) -> None:
    """No slot of the ring: it is not touched."""
    peer.tell(Request.SET_FEATURES, vu.U64.pack(WORD | PACKED))
    set_up(peer, size, base)
    assert not peer.session.rings[0].ready
    peer.state(Request.SET_VRING_BASE, 0, NEW)
    assert peer.session.rings[0].ready


def test_an_end_that_just_fits(peer: Peer) -> None:
    """Every byte of the parts has to be mapped, and no more."""
    size = peer.guest.regions[0].size
    peer.tell(Request.SET_FEATURES, vu.U64.pack(WORD | PACKED))
    peer.set_memory()
    peer.state(Request.SET_VRING_NUM, 0, 3)
    peer.tell(Request.SET_VRING_ADDR, place(peer, size - 48, 0, 4))
    peer.tell(Request.SET_VRING_KICK, vu.U64.pack(0), KICK)
    assert peer.session.rings[0].ready
    peer.tell(Request.SET_VRING_ADDR, place(peer, 0, size - 4, 64))
    assert peer.session.rings[0].ready
    with pytest.raises(ProtocolError, match="does not lie in the memory table"):
        peer.tell(Request.SET_VRING_ADDR, place(peer, size - 32, 0, 4))


def test_features_that_change_the_format_stop_the_ring(peer: Peer) -> None:
    """Another driver came: its ring is stopped, and begins anew when all is said again."""
    peer.tell(Request.SET_FEATURES, vu.U64.pack(WORD | PACKED))
    set_up(peer, 8)
    assert peer.device.rings[0].ready
    peer.device.calls.clear()
    peer.tell(Request.SET_FEATURES, vu.U64.pack(WORD))
    stopped, *_ = peer.device.calls
    assert ("stop_ring", 0) == stopped
    ring = peer.session.rings[0]
    assert (False, 0) == (ring.packed, ring.base)
    peer.tell(Request.SET_VRING_ADDR, place(peer, device=PAGE + 64))
    assert peer.device.rings[0].ready and not peer.device.rings[0].packed


def test_the_base_has_32_bits(peer: Peer) -> None:
    """VU-45: what the device answers is what the front-end gets, and may give back."""
    peer.tell(Request.SET_FEATURES, vu.U64.pack(WORD | PACKED))
    set_up(peer, 8)
    base = 3 | 5 << 16 | 1 << 31

    def stop_ring(index: int) -> int:
        peer.device.rings[index] = replace(peer.device.rings[index], desc_hva=0)
        return base

    peer.device.stop_ring = stop_ring  # type: ignore[method-assign]
    assert base == peer.base()
    peer.state(Request.SET_VRING_BASE, 0, base)
    peer.tell(Request.SET_VRING_KICK, vu.U64.pack(0), KICK)
    assert base == peer.device.rings[0].base
