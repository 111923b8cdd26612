"""A guest's port apart from its rings: what it offers, what may be delivered, what changes."""

import struct
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.reader import Reader
from tests.reference.plug import Bare, Options, slot
from vionet.engine.layout import State
from vionet.engine.status import Accepts, Policy
from vionet.fabric.fabric import prepare_state
from vionet.jit.record import allocate
from vionet.ports.guest import GuestPort
from vionet.spec import virtio
from vionet.vhost_user.ring import Ring

CSUM, GUEST_CSUM, TSO4, HOST_TSO4, STATUS, CTRL_VQ, ANNOUNCE, MQ = 0, 1, 7, 11, 16, 17, 21, 22
OFFLOADS = virtio.mask((CSUM, GUEST_CSUM, TSO4, HOST_TSO4))
VERSION_1 = 1 << 32
MAC = 0x525400123456
LINK_UP, ASKED = 1, 2


@pytest.fixture
def state() -> Iterator[State]:
    """A fabric with one port and no worker."""
    state = allocate(State)
    prepare_state(state, 0)  # type: ignore[arg-type]
    state.n_ports = 1
    yield state


def plugged(state: State, **options: object) -> GuestPort:
    """A guest's port with these options, everything offered."""
    chosen = replace(Options(features=OFFLOADS | VERSION_1), **options)  # type: ignore[arg-type]
    return GuestPort(slot(Bare(state), 0), chosen)


def test_offer_follows_the_options(state: State) -> None:
    """MAC, MTU, MQ and SPEED_DUPLEX where they were given; the control queue always."""
    plain = plugged(state).offer()
    assert OFFLOADS | VERSION_1 == plain.features & (OFFLOADS | VERSION_1)
    control = virtio.mask((STATUS, CTRL_VQ, 18, 19, 20, ANNOUNCE, 23, 2))
    assert control == plain.features & control
    assert 0 == plain.features & virtio.mask((3, 5, MQ, 63))
    port = plugged(state, mac=MAC, mtu=9000, queues=4, speed=25000)
    offer = port.offer()
    assert control | virtio.mask((3, 5, MQ, 63)) == offer.features & ~(OFFLOADS | VERSION_1)
    assert offer.features == port.offered
    assert (4, 9000) == (offer.queue_pairs, offer.mtu)
    fields = struct.unpack("<6sHHHIB", offer.config[:17])
    assert (MAC.to_bytes(6, "big"), LINK_UP, 4, 9000, 25000, 1) == fields
    assert (0xFFFFFFFF, 0xFF) == struct.unpack("<IB", plain.config[12:17])
    assert 0 == plugged(state, features=VERSION_1).offer().features & 1 << 2, "FB-03"


def test_policy_and_offload_act_on_a_running_session(state: State) -> None:
    """W8, W31: what is delivered follows at once, what was negotiated stays."""
    port, record = plugged(state), state.ports[0]
    port.set_features(OFFLOADS | VERSION_1)
    options = Options(features=OFFLOADS | VERSION_1)
    told: list[tuple[int, bool]] = []
    port.follower = lambda gso, partial: told.append((gso, partial))
    for changes, accepts, takes in (
        ({"policy": Policy.NATURAL}, Accepts.NATURAL, 1),
        ({"policy": Policy.COMPLETE}, Accepts.COMPLETE, 0),
        ({"features": VERSION_1}, Accepts.COMPLETE, 0),
        ({"features": VERSION_1 | 1 << GUEST_CSUM}, Accepts.UNIFORM, 0),
        ({}, Accepts.UNIFORM, 1),
    ):
        port.change(replace(options, **changes))  # type: ignore[arg-type]
        assert (accepts, takes) == (record.accepts, record.takes_gso), changes
        assert (1, 1) == (record.offers_partial, record.offers_gso), "as negotiated"
    assert OFFLOADS | VERSION_1 == port.features
    assert [(1, True), (0, False), (0, True), (1, True)] == told


def test_features_without_what_they_need_are_not_used(state: State) -> None:
    """spec FB-06, FB-10: neither direction is large without its checksum, and it is said."""
    port, record = plugged(state), state.ports[0]
    port.set_features(VERSION_1 | 1 << TSO4 | 1 << HOST_TSO4)
    assert (0, 0, 0, 0) == (
        record.offers_partial, record.offers_gso, record.accepts, record.takes_gso
    )  # fmt: skip
    names = [warning.split(":")[0] for warning in port.warnings]
    assert ["VIRTIO_NET_F_GUEST_TSO4", "VIRTIO_NET_F_HOST_TSO4"] == names


def test_link_is_told_to_a_reader(state: State) -> None:
    """STATUS changes and is told; after up the driver is asked to announce itself (CV-21)."""
    port, record = plugged(state), state.ports[0]
    front_end = Reader(port)
    port.opened(front_end)
    port.set_features(VERSION_1 | 1 << STATUS | 1 << CTRL_VQ | 1 << ANNOUNCE)
    up = Options()
    port.change(replace(up, link_up=False))
    assert (1, True) == (record.link_down, port.link_down)
    port.change(replace(up, link_up=False))
    port.change(up)
    assert (0, False) == (record.link_down, port.link_down)
    assert [0, LINK_UP | ASKED] == front_end.changes
    assert "" == front_end.ended


def test_link_down_ends_the_session_of_any_other(state: State) -> None:
    """That is how QEMU sees it (spec FE-09)."""
    port = plugged(state)
    front_end = Reader(port, reads_config=False)
    port.opened(front_end)
    port.set_features(VERSION_1)
    port.change(Options(link_up=False))
    assert "the port's link was set down" == front_end.ended
    assert ("waiting", []) == (port.state, front_end.changes)


def test_without_our_control_queue_every_enabled_pair_is_in_use(state: State) -> None:
    """spec FE-04: SET_VRING_ENABLE rules; with it one pair until the driver asks (CV-26)."""
    port, record = plugged(state, queues=4), state.ports[0]
    port.set_features(VERSION_1 | 1 << MQ)
    assert (0, 4, 0) == (record.control_ring, record.n_pairs, record.steers)
    port.set_features(VERSION_1 | 1 << CTRL_VQ)
    assert (2, 1) == (record.control_ring, record.n_pairs)
    port.set_features(VERSION_1 | 1 << CTRL_VQ | 1 << MQ)
    assert (8, 1) == (record.control_ring, record.n_pairs)


def test_a_session_leaves_nothing_to_the_next(state: State) -> None:
    """Filters, pairs, address and features are those of a fresh port."""
    port, record = plugged(state, mac=MAC, queues=2), state.ports[0]
    port.set_features(VERSION_1 | 1 << CTRL_VQ | 1 << 18 | 1 << 19 | 1 << MQ)
    assert 4 == record.filter
    record.flows[3] = 7
    port.set_ring(0, Ring())
    port.closed("done")
    assert (0, 0, MAC, 0, 2) == (
        record.filter, record.control_ring, record.mac, record.flows[3], record.n_pairs
    )  # fmt: skip
    assert 0 == port.features


def test_pairs_in_use_are_those_that_are_enabled(state: State) -> None:
    """What `status` says is a plain number, whoever enables them."""
    port, record = plugged(state, queues=4), state.ports[0]
    port.set_features(VERSION_1 | 1 << MQ)
    assert 1 == port.pairs
    for pair in range(3):
        record.queues[2 * pair].ready = record.queues[2 * pair].enabled = 1
    assert (3, int) == (port.pairs, type(port.pairs))
