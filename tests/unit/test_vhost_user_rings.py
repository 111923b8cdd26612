"""Ring states, and what happens to rings when memory or the ring itself is rearranged."""

import itertools
import mmap
from collections.abc import Iterator

import pytest

from tests.recorder import (
    CALL,
    ERR,
    FEATURES,
    KICK,
    Peer,
)
from vionet.spec import vhost_user as vu
from vionet.spec import virtio
from vionet.spec.vhost_user import Request
from vionet.vhost_user.frontend import pack_region
from vionet.vhost_user.guest_memory import GuestMemory
from vionet.vhost_user.message import ProtocolError
from vionet.vhost_user.session import BIT_30

PAGE = mmap.PAGESIZE
ACK = 1 << vu.VHOST_USER_PROTOCOL_F_REPLY_ACK


@pytest.fixture
def peer() -> Iterator[Peer]:
    """A peer whose protocol features are negotiated."""
    peer = Peer()
    yield peer
    peer.close()


@pytest.fixture
def ready(peer: Peer) -> Peer:
    """A peer with memory, features, and both rings ready."""
    peer.set_memory()
    peer.tell(Request.SET_FEATURES, vu.U64.pack(FEATURES & ~(1 << 5) & ~(1 << 16) | BIT_30))
    for index in (0, 1):
        peer.set_up(index)
    return peer


# --- ring states ------------------------------------------------------------------------------
def test_a_new_ring_is_neither_ready_nor_enabled(peer: Peer) -> None:
    """spec VU-23."""
    assert [(False, False)] * 3 == [(r.ready, r.enabled) for r in peer.session.rings]


def test_a_ring_is_ready_when_all_is_said_in_any_order(peer: Peer) -> None:
    """Size, addresses, memory and kick in every order make a ring ready, and not one earlier."""
    for order in itertools.permutations(range(4)):
        one = Peer()
        steps = (
            one.set_memory,
            lambda one=one: one.state(Request.SET_VRING_NUM, 0, 8),
            lambda one=one: one.tell(Request.SET_VRING_ADDR, one.place(0)),
            lambda one=one: one.tell(Request.SET_VRING_KICK, vu.U64.pack(0), KICK),
        )
        for step in order:
            assert not one.session.rings[0].ready
            steps[step]()
        assert one.session.rings[0].ready, order
        region = one.memory.regions[0]
        assert region.hva == one.device.rings[0].desc_hva
        assert region.hva + PAGE == one.device.rings[0].avail_hva
        assert region.hva + 2 * PAGE == one.device.rings[0].used_hva
        one.close()


def test_enable_is_remembered_before_everything_else(peer: Peer) -> None:
    """spec VU-31: and acknowledging bit 30 afterwards, as QEMU does, does not clear it."""
    peer.state(Request.SET_VRING_ENABLE, 0, 1)
    peer.tell(Request.SET_FEATURES, vu.U64.pack(BIT_30))
    peer.set_memory()
    peer.set_up()
    assert (True, True) == (peer.device.rings[0].ready, peer.device.rings[0].enabled)


def test_bit_30_leaves_rings_disabled(ready: Peer) -> None:
    """spec VU-30: until SET_VRING_ENABLE 1; 0 disables again and stops nothing."""
    assert not ready.device.rings[0].enabled
    ready.state(Request.SET_VRING_ENABLE, 0, 1)
    assert ready.device.rings[0].enabled
    ready.state(Request.SET_VRING_ENABLE, 0, 0)
    assert (False, True) == (ready.device.rings[0].enabled, ready.device.rings[0].ready)


def test_without_bit_30_all_rings_are_enabled_at_once(ready: Peer) -> None:
    """spec VU-29."""
    ready.tell(Request.SET_FEATURES, vu.U64.pack(1 << virtio.VIRTIO_F_VERSION_1))
    assert [True, True] == [ready.device.rings[i].enabled for i in (0, 1)]


def test_no_fd_means_polling(ready: Peer) -> None:
    """spec VU-26 and VU-42: without a kick the ring is polled, without a call nobody is told."""
    ready.tell(Request.SET_VRING_KICK, vu.U64.pack(vu.VRING_NOFD))
    ready.tell(Request.SET_VRING_CALL, vu.U64.pack(vu.VRING_NOFD))
    ring = ready.device.rings[0]
    assert (True, True, -1, -1) == (ring.ready, ring.polled, ring.kick_fd, ring.call_fd)


def test_stopping_answers_where_the_device_stopped(ready: Peer) -> None:
    """spec VU-32, VU-33, VU-35: the base is the device's; enabled stays; a kick has to come."""
    ready.state(Request.SET_VRING_ENABLE, 0, 1)
    ready.device.consumed[0] = 70_000
    assert 70_000 & 0xFFFF == ready.base()
    ring = ready.session.rings[0]
    assert (False, True, -1) == (ring.ready, ring.enabled, ring.kick_fd)
    assert 1 == sum(call == ("stop_ring", 0) for call in ready.device.calls)
    assert 70_000 & 0xFFFF == ready.base()  # stopped already: the device is not asked again
    assert 1 == sum(call == ("stop_ring", 0) for call in ready.device.calls)
    ready.tell(Request.SET_VRING_KICK, vu.U64.pack(0), KICK)
    assert (True, True, 70_000 & 0xFFFF) == (
        ready.device.rings[0].ready,
        ready.device.rings[0].enabled,
        ready.device.rings[0].base,
    )


def test_the_base_of_a_ring_that_never_ran(peer: Peer) -> None:
    """GET_VRING_BASE gives back what SET_VRING_BASE said; the device has nothing to stop."""
    peer.state(Request.SET_VRING_BASE, 1, 0xFFFF)
    assert 0xFFFF == peer.base(1)
    assert [] == [call for call in peer.device.calls if call[0] == "stop_ring"]


def test_call_and_err_change_on_the_fly(ready: Peer) -> None:
    """spec VU-36: a running ring gets a new call descriptor without being stopped."""
    ready.device.calls.clear()
    ready.tell(Request.SET_VRING_CALL, vu.U64.pack(0), CALL)
    ready.tell(Request.SET_VRING_ERR, vu.U64.pack(0), ERR)
    assert ["set_ring", "set_ring"] == [call[0] for call in ready.device.calls]
    assert (CALL, ERR) == (ready.device.rings[0].call_fd, ready.device.rings[0].err_fd)
    assert {KICK, CALL, ERR} == ready.session.fds


def test_the_same_addresses_again_change_nothing(ready: Peer) -> None:
    """spec VU-36: a VMM repeats SET_VRING_ADDR with another flag while the ring runs."""
    ready.device.calls.clear()
    payload = bytearray(ready.place(0))
    payload[4] = 1  # the flag for logging
    ready.tell(Request.SET_VRING_ADDR, bytes(payload))
    assert [] == ready.device.calls


@pytest.mark.parametrize("request_id", [Request.SET_VRING_BASE, Request.SET_VRING_NUM])
def test_a_running_ring_is_stopped_before_it_is_rearranged(ready: Peer, request_id: int) -> None:
    """The device never sees another size or base under it."""
    ready.device.calls.clear()
    ready.device.consumed[0] = 3
    ready.state(request_id, 0, 4)
    assert ["stop_ring", "set_ring"] == [call[0] for call in ready.device.calls]
    ring = ready.device.rings[0]
    assert ((4, 8) if request_id == Request.SET_VRING_BASE else (3, 4)) == (ring.base, ring.size)


# --- memory and rings -------------------------------------------------------------------------
def test_a_new_table_moves_running_rings(ready: Peer) -> None:
    """spec VU-46: the map first, then each ring's new addresses, without stopping."""
    before = ready.device.rings[0].desc_hva
    ready.device.calls.clear()
    ready.set_memory()
    assert ["set_memory", "set_ring", "set_ring"] == [call[0] for call in ready.device.calls]
    ring = ready.device.rings[0]
    assert ready.memory.regions[0].hva == ring.desc_hva != before
    assert ring.ready


def test_a_ring_whose_memory_goes_is_stopped_first(ready: Peer) -> None:
    """The device lets go of the ring before the memory under it changes; it continues later."""
    ready.device.consumed[0] = 5
    ready.device.calls.clear()
    region = ready.guest.regions[0]
    ready.tell(Request.REM_MEM_REG, vu.U64.pack(0) + pack_region(region))
    names = [call[0] for call in ready.device.calls]
    assert ["stop_ring", "stop_ring", "set_memory"] == names
    assert not ready.device.rings[0].ready
    ready.tell(Request.ADD_MEM_REG, vu.U64.pack(0) + pack_region(region), region.fd)
    assert (True, 5) == (ready.device.rings[0].ready, ready.device.rings[0].base)


def test_slots_are_told(peer: Peer) -> None:
    """spec VU-51: GET_MAX_MEM_SLOTS."""
    assert vu.U64.pack(32) == peer.ask(Request.GET_MAX_MEM_SLOTS)


def test_removal_with_a_descriptor_is_tolerated(ready: Peer) -> None:
    """spec VU-52."""
    region = ready.guest.regions[1]
    ready.tell(Request.REM_MEM_REG, vu.U64.pack(0) + pack_region(region), region.fd)
    assert 1 == len(ready.device.regions)


@pytest.mark.parametrize("fds", [0, 1, 3])
def test_as_many_descriptors_as_regions(peer: Peer, fds: int) -> None:
    """spec VU-20."""
    payload = vu.MEM_TABLE_HEAD.pack(2, 0) + b"".join(map(pack_region, peer.guest.regions))
    with pytest.raises(ProtocolError, match=f"{fds} file descriptors for 2 regions"):
        peer.send(Request.SET_MEM_TABLE, payload, *[peer.guest.regions[0].fd] * fds)


@pytest.mark.parametrize("size", [0, 3, 6, 32769, 65536, 0xFFFFFFFF])
def test_ring_sizes_that_are_none(peer: Peer, size: int) -> None:
    """spec VU-40."""
    assert not peer.acknowledged(Request.SET_VRING_NUM, vu.VRING_STATE.pack(0, size))
    assert 0 == peer.session.rings[0].size


@pytest.mark.parametrize("index", [3, 4, 255, 0xFFFFFFFF])
def test_rings_that_do_not_exist(peer: Peer, index: int) -> None:
    """spec VU-39: for every message about a ring."""
    for request in (
        Request.SET_VRING_NUM,
        Request.SET_VRING_BASE,
        Request.SET_VRING_ENABLE,
    ):
        assert not peer.acknowledged(request, vu.VRING_STATE.pack(index, 1))
    payload = vu.VRING_ADDR.pack(index, 0, 0, 0, 0, 0)
    assert not peer.acknowledged(Request.SET_VRING_ADDR, payload)
    with pytest.raises(ProtocolError, match=f"ring {index}, there are 3"):
        peer.base(index)
    if index < 256:
        for request in (Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR):
            assert not peer.acknowledged(request, vu.U64.pack(index), KICK)


@pytest.mark.parametrize(
    ("desc", "avail", "used"), [(8, 0, 0), (0, 1, 0), (0, 0, 2), (0, 3, 1), (1, 0, 0)]
)
def test_misaligned_rings(peer: Peer, desc: int, avail: int, used: int) -> None:
    """VIRTIO 1.2 section 2.7: 16, 2 and 4 bytes."""
    peer.set_memory()
    peer.state(Request.SET_VRING_NUM, 0, 8)
    base = peer.guest.regions[0].uva
    payload = vu.VRING_ADDR.pack(0, 0, base + desc, base + 512 + used, base + 256 + avail, 0)
    assert not peer.acknowledged(Request.SET_VRING_ADDR, payload)


def test_rings_misaligned_by_the_file_offset(peer: Peer) -> None:
    """User addresses may be aligned while the mapping is not: what is touched has to be."""
    with GuestMemory((16 * PAGE,), mmap_offset=PAGE + 4) as memory:
        peer.set_memory(memory.regions[0])
        peer.state(Request.SET_VRING_NUM, 0, 8)
        assert not peer.acknowledged(Request.SET_VRING_ADDR, peer.place(0))


@pytest.mark.parametrize("part", [0, 1, 2])
def test_rings_outside_the_table(peer: Peer, part: int) -> None:
    """spec VU-41: the last byte of each part has to be mapped, by user address."""
    peer.set_memory()
    peer.state(Request.SET_VRING_NUM, 0, 256)
    region = peer.guest.regions[0]
    places = [region.uva, region.uva + 8 * PAGE, region.uva + 12 * PAGE]
    lengths = [16 * 256, 6 + 2 * 256, 6 + 8 * 256]
    last = region.uva + region.size - lengths[part] & ~15
    for place, good in ((last, True), (last + 16, False), (region.gpa, False), (2**64 - 16, False)):
        places[part] = place
        desc, avail, used = places
        payload = vu.VRING_ADDR.pack(0, 0, desc, used, avail, 0)
        assert good == peer.acknowledged(Request.SET_VRING_ADDR, payload), hex(place)


def test_a_base_has_16_bits(peer: Peer) -> None:
    """A split ring's index; more is refused."""
    assert not peer.acknowledged(Request.SET_VRING_BASE, vu.VRING_STATE.pack(0, 0x10000))


def test_odd_bits_and_missing_descriptors(peer: Peer) -> None:
    """Bits above the no-fd bit are refused, and so is a kick without a descriptor."""
    assert not peer.acknowledged(Request.SET_VRING_KICK, vu.U64.pack(1 << 9), KICK)
    assert not peer.acknowledged(Request.SET_VRING_KICK, vu.U64.pack(0))
    assert not peer.acknowledged(Request.SET_VRING_ENABLE, vu.VRING_STATE.pack(0, 2))
    assert not peer.acknowledged(Request.SET_BACKEND_REQ_FD)
    assert set() == peer.session.fds


def test_a_base_for_a_ring_that_was_disabled_begins_anew(ready: Peer) -> None:
    """User Mode Linux unbinds its driver without GET_VRING_BASE: the old ring is not touched."""
    ready.state(Request.SET_VRING_ENABLE, 0, 1)
    ready.state(Request.SET_VRING_ENABLE, 0, 0)
    ready.device.consumed[0] = 3
    ready.device.calls.clear()
    ready.state(Request.SET_VRING_BASE, 0, 0)
    assert "stop_ring" == ready.device.calls[0][0]
    assert not ready.device.rings[0].ready
    ready.tell(Request.SET_VRING_ADDR, ready.place(0))
    assert not ready.device.rings[0].ready
    ready.tell(Request.SET_VRING_KICK, vu.U64.pack(0), KICK)
    assert (True, 0) == (ready.device.rings[0].ready, ready.device.rings[0].base)
