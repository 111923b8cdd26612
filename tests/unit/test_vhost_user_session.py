"""The session: each request's meaning, its replies, and what is refused."""

import mmap
import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.recorder import (
    CALL,
    CONFIG,
    ERR,
    FEATURES,
    NEED,
    PROTOCOL_FEATURES,
    Peer,
    Recorder,
)
from vionet.spec import vhost_user as vu
from vionet.spec import virtio, virtio_net
from vionet.spec.vhost_user import Request
from vionet.vhost_user.frontend import pack_region
from vionet.vhost_user.message import ProtocolError
from vionet.vhost_user.request import FORMS
from vionet.vhost_user.session import BIT_30, Session, TurnedAway

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


# --- replies ----------------------------------------------------------------------------------
def test_every_method_has_its_form() -> None:
    """No method is named after a request whose payload nobody reads."""
    named = {request for request in Request if hasattr(Session, f"_{request.name.lower()}")}
    assert FORMS.keys() == named


PAYLOADS = {
    Request.SET_FEATURES: vu.U64.pack(0),
    Request.SET_PROTOCOL_FEATURES: vu.U64.pack(PROTOCOL_FEATURES),
    Request.SET_MEM_TABLE: vu.MEM_TABLE_HEAD.pack(0, 0),
    Request.SET_VRING_NUM: vu.VRING_STATE.pack(0, 8),
    Request.SET_VRING_ADDR: vu.VRING_ADDR.pack(0, 0, 0, 0, 0, 0),
    Request.SET_VRING_BASE: vu.VRING_STATE.pack(0, 0),
    Request.GET_VRING_BASE: vu.VRING_STATE.pack(0, 0),
    Request.SET_VRING_KICK: vu.U64.pack(vu.VRING_NOFD),
    Request.SET_VRING_CALL: vu.U64.pack(vu.VRING_NOFD),
    Request.SET_VRING_ERR: vu.U64.pack(vu.VRING_NOFD),
    Request.SET_VRING_ENABLE: vu.VRING_STATE.pack(0, 1),
    Request.SET_VRING_ENDIAN: vu.VRING_STATE.pack(0, 0),
    Request.NET_SET_MTU: vu.U64.pack(1500),
    Request.GET_CONFIG: vu.CONFIG_HEAD.pack(0, 4, 0) + bytes(4),
    Request.SET_CONFIG: vu.CONFIG_HEAD.pack(0, 4, vu.CONFIG_FLAG_MIGRATION) + bytes(4),
}
FDS = {Request.SET_LOG_FD: (ERR,), Request.SET_BACKEND_REQ_FD: (ERR,)}
REGION = {Request.ADD_MEM_REG, Request.REM_MEM_REG}


@pytest.mark.parametrize("request_id", sorted(FORMS), ids=lambda r: Request(r).name)
def test_exactly_one_reply_or_none(peer: Peer, request_id: int) -> None:
    """spec VU-04 to VU-07: own replies always, acknowledgements only when asked and agreed."""
    region = peer.guest.regions[0]
    payload = PAYLOADS.get(Request(request_id), b"")
    fds = FDS.get(Request(request_id), ())
    if request_id in REGION:
        payload, fds = vu.U64.pack(0) + pack_region(region), (region.fd,)
    if request_id == Request.REM_MEM_REG:
        peer.tell(Request.ADD_MEM_REG, payload, region.fd)
    own = Request(request_id).name.startswith("GET_")
    assert own == (peer.send(request_id, payload, *fds) is not None)
    if request_id == Request.REM_MEM_REG:
        peer.tell(Request.ADD_MEM_REG, payload, region.fd)
    if request_id == Request.ADD_MEM_REG:
        peer.tell(Request.REM_MEM_REG, payload)
    if own:
        assert peer.ask(request_id, payload)
    else:
        assert peer.acknowledged(request_id, payload, *fds)


def test_no_acknowledgement_without_reply_ack(peer: Peer) -> None:
    """spec VU-07: need_reply means nothing until REPLY_ACK is negotiated."""
    peer.tell(Request.SET_PROTOCOL_FEATURES, vu.U64.pack(PROTOCOL_FEATURES & ~ACK))
    assert peer.send(Request.SET_OWNER, flags=NEED) is None


@pytest.mark.parametrize("request_id", [0, 26, 27, 33, 200, 0xFFFFFFFF, Request.SET_LOG_BASE])
def test_unknown_requests(peer: Peer, request_id: int) -> None:
    """spec VU-08: refused if asked to say so, the end of the session otherwise."""
    assert not peer.acknowledged(request_id)
    with pytest.raises(ProtocolError, match="unknown request"):
        peer.send(request_id)


@pytest.mark.parametrize(
    "request_id", [r for r, form in FORMS.items() if form.requires], ids=lambda r: Request(r).name
)
def test_extensions_need_their_protocol_feature(peer: Peer, request_id: int) -> None:
    """spec VU-10: before its bit is negotiated a request does not exist."""
    peer.tell(Request.SET_PROTOCOL_FEATURES, vu.U64.pack(ACK))
    with pytest.raises(ProtocolError, match="was not negotiated"):
        peer.send(request_id, PAYLOADS.get(Request(request_id), b""))


@pytest.mark.parametrize("request_id", sorted(FORMS), ids=lambda r: Request(r).name)
def test_wrong_payload_sizes_end_the_session(peer: Peer, request_id: int) -> None:
    """A payload that is one byte off is refused before anything is done."""
    payload = PAYLOADS.get(Request(request_id), b"")
    for wrong in (payload + b"\0" * 300, payload[:-1]):
        if wrong == payload:
            continue
        peer.device.calls.clear()
        if request_id == Request.GET_CONFIG:
            assert b"" == peer.ask(request_id, wrong)
            continue
        with pytest.raises(ProtocolError, match="bytes"):
            peer.send(request_id, wrong)
        assert [] == peer.device.calls


def test_a_reply_from_the_front_end_ends_the_session(peer: Peer) -> None:
    """Nobody asked it anything."""
    with pytest.raises(ProtocolError, match="a reply that nobody asked for"):
        peer.send(Request.GET_FEATURES, flags=vu.VERSION | vu.FLAG_REPLY)


# --- features ---------------------------------------------------------------------------------
def offered(peer: Peer) -> int:
    """The answer to GET_FEATURES."""
    (word,) = vu.U64.unpack(peer.ask(Request.GET_FEATURES))
    return int(word)


def test_bit_30_is_always_offered(peer: Peer) -> None:
    """spec VU-12."""
    assert offered(peer) & BIT_30


def test_features_of_the_configuration_only_with_config() -> None:
    """MAC and STATUS are offered while CONFIG may still come, and with it; not once declined."""
    peer = Peer(protocol=0)
    config = virtio.mask((virtio_net.VIRTIO_NET_F_MAC, virtio_net.VIRTIO_NET_F_STATUS))
    assert config == offered(peer) & config
    peer.tell(Request.SET_PROTOCOL_FEATURES, vu.U64.pack(PROTOCOL_FEATURES))
    assert config == offered(peer) & config
    peer.tell(Request.SET_PROTOCOL_FEATURES, vu.U64.pack(ACK))
    assert 0 == offered(peer) & config
    peer.close()


def test_features_that_were_not_offered_are_refused(peer: Peer) -> None:
    """A bit outside the offer is refused by name and nothing is set."""
    payload = vu.U64.pack(1 << virtio.VIRTIO_F_RING_PACKED)
    assert not peer.acknowledged(Request.SET_FEATURES, payload)
    with pytest.raises(ProtocolError, match="VIRTIO_F_RING_PACKED"):
        peer.send(Request.SET_FEATURES, payload)
    with pytest.raises(ProtocolError, match="LOG_SHMFD"):
        peer.send(Request.SET_PROTOCOL_FEATURES, vu.U64.pack(2))
    assert [] == peer.device.calls


def test_in_band_without_its_needs_ends_the_session(peer: Peer) -> None:
    """spec VU-15, whatever else is negotiated."""
    payload = vu.U64.pack(1 << vu.VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS)
    with pytest.raises(ProtocolError, match="in-band"):
        peer.send(Request.SET_PROTOCOL_FEATURES, payload, flags=NEED)


# --- the rest ---------------------------------------------------------------------------------
def test_reset_owner_is_ignored(ready: Peer) -> None:
    """spec VU-19: traffic continues."""
    ready.device.calls.clear()
    ready.tell(Request.RESET_OWNER)
    assert [] == ready.device.calls


def test_reset_device_stops_and_disables(ready: Peer) -> None:
    """spec VU-81: memory, protocol features and the connection stay, and it can begin again."""
    ready.state(Request.SET_VRING_ENABLE, 0, 1)
    ready.tell(Request.SET_VRING_CALL, vu.U64.pack(0), CALL)
    ready.tell(Request.RESET_DEVICE)
    ring = ready.device.rings[0]
    assert (False, False, 0, -1) == (ring.ready, ring.enabled, ring.size, ring.kick_fd)
    assert (0, 2) == (ready.device.features, len(ready.memory.regions))
    assert {CALL} == ready.session.fds
    ready.set_up()
    assert ready.device.rings[0].ready


@pytest.mark.parametrize(
    ("mtu", "good"),
    [(0, False), (67, False), (68, True), (1500, True), (65535, True), (65536, False)],
)
def test_mtu_range(peer: Peer, mtu: int, good: bool) -> None:
    """spec CF-06, VU-79."""
    assert good == peer.acknowledged(Request.NET_SET_MTU, vu.U64.pack(mtu))
    assert ([("set_mtu", mtu)] if good else []) == peer.device.calls


def test_mtu_never_changes_once_set(peer: Peer) -> None:
    """spec CF-08: the same again is fine."""
    assert peer.acknowledged(Request.NET_SET_MTU, vu.U64.pack(1500))
    assert peer.acknowledged(Request.NET_SET_MTU, vu.U64.pack(1500))
    assert not peer.acknowledged(Request.NET_SET_MTU, vu.U64.pack(1400))


def test_mtu_is_limited_by_the_offer() -> None:
    """A port that has an MTU takes none that is larger."""
    peer = Peer(replace(Recorder().offered, mtu=2000))
    assert not peer.acknowledged(Request.NET_SET_MTU, vu.U64.pack(2001))
    assert peer.acknowledged(Request.NET_SET_MTU, vu.U64.pack(2000))
    peer.close()


def test_queue_pairs_are_told() -> None:
    """spec VU-17, FE-13: pairs; and twice as many rings exist, and a control queue's."""
    peer = Peer(replace(Recorder().offered, queue_pairs=4))
    assert vu.U64.pack(4) == peer.ask(Request.GET_QUEUE_NUM)
    peer.state(Request.SET_VRING_ENABLE, 8, 1)
    assert not peer.acknowledged(Request.SET_VRING_ENABLE, vu.VRING_STATE.pack(9, 1))
    peer.close()


@pytest.mark.parametrize(("offset", "size"), [(0, 0), (0, 6), (6, 2), (0, 256), (255, 1)])
def test_configuration_can_be_read_anywhere(peer: Peer, offset: int, size: int) -> None:
    """spec VU-75: the reply is as long as the request; past its end the space reads as zeros."""
    head = vu.CONFIG_HEAD.pack(offset, size, 0)
    expected = CONFIG.ljust(256, b"\0")[offset : offset + size]
    assert head + expected == peer.ask(Request.GET_CONFIG, head + bytes(size))


@pytest.mark.parametrize(("offset", "size"), [(255, 2), (256, 1), (0xFFFFFFFF, 8), (0, 257)])
def test_configuration_has_an_end(peer: Peer, offset: int, size: int) -> None:
    """spec VU-75: an empty payload is the error."""
    request = vu.CONFIG_HEAD.pack(offset, size, 0) + bytes(size)
    assert b"" == peer.ask(Request.GET_CONFIG, request)


def test_configuration_is_read_only_but_for_migration(peer: Peer) -> None:
    """spec VU-76, VU-77."""

    def write(flags: int) -> bytes:
        return vu.CONFIG_HEAD.pack(0, 6, flags) + b"\x02MIGR8"

    assert not peer.acknowledged(Request.SET_CONFIG, write(vu.CONFIG_FLAG_WRITE))
    assert not peer.acknowledged(Request.SET_CONFIG, write(2))
    assert peer.acknowledged(Request.SET_CONFIG, write(vu.CONFIG_FLAG_MIGRATION))
    head = vu.CONFIG_HEAD.pack(0, 6, 0)
    assert head + b"\x02MIGR8" == peer.ask(Request.GET_CONFIG, head + bytes(6))


def test_the_backend_channel_is_kept_and_replaced(peer: Peer) -> None:
    """spec VU-85: accepted; only the latest is in use."""
    assert peer.acknowledged(Request.SET_BACKEND_REQ_FD, b"", 70)
    assert peer.acknowledged(Request.SET_BACKEND_REQ_FD, b"", 71)
    assert {71} == peer.session.fds


def test_no_descriptor_is_ever_opened_by_a_session(ready: Peer) -> None:
    """A session uses numbers; the memory map keeps mappings, no descriptors."""
    before = os.listdir("/proc/self/fd")  # noqa: PTH208 - only names
    ready.set_memory()
    ready.base()
    assert before == os.listdir("/proc/self/fd")  # noqa: PTH208


# --- the link and the configuration ---------------------------------------------------------------
def test_a_front_end_that_cannot_read_the_link_has_to_go(peer: Peer) -> None:
    """spec FE-09: while a person holds the link down only readers of the configuration may stay;
    of the others one that was sent away before goes at once, as its guest would see a link."""
    config = 1 << vu.VHOST_USER_PROTOCOL_F_CONFIG
    peer.device.link_down = True
    peer.tell(Request.SET_FEATURES, vu.U64.pack(BIT_30))  # it reads it
    peer.tell(Request.SET_PROTOCOL_FEATURES, vu.U64.pack(PROTOCOL_FEATURES))
    peer.tell(Request.SET_PROTOCOL_FEATURES, vu.U64.pack(PROTOCOL_FEATURES & ~config))
    peer.session.sent_away = True
    with pytest.raises(TurnedAway, match="link is down"):
        peer.send(Request.SET_PROTOCOL_FEATURES, vu.U64.pack(PROTOCOL_FEATURES & ~config))


def test_a_front_end_without_protocol_features_has_to_go_too() -> None:
    """It is noticed at SET_FEATURES, which comes before any ring runs."""
    peer = Peer(protocol=0)
    peer.device.link_down = True
    calls = list(peer.device.calls)
    with pytest.raises(TurnedAway, match="link is down"):
        peer.send(Request.SET_FEATURES, vu.U64.pack(0))
    assert calls == peer.device.calls
    peer.close()


def test_rings_of_the_other_byte_order_are_refused(peer: Peer) -> None:
    """spec VU-87: said with what would help; the order of this machine is no news."""
    peer.state(Request.SET_VRING_ENDIAN, 1, 0)
    with pytest.raises(ProtocolError, match=r"ring 1 is big-endian.*VERSION_1"):
        peer.state(Request.SET_VRING_ENDIAN, 1, 1)
