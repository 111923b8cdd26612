"""Found by reading: waits of a wire with a large frame, and what VLANs do to offsets and pins."""

import pytest

from tests.reference.exchange import BODY, FAST, PARTIAL_ONLY, SENDER
from tests.reference.frame import BROADCAST, Layers
from tests.reference.network import Network
from tests.reference.packed import PackedRing
from tests.reference.pairs import MultiGuest
from tests.reference.plug import CSUM, EVENT_IDX, FULL, MRG_RXBUF, RING_PACKED, VERSION_1, Options
from tests.reference.receiver import stream
from vionet.engine.fdb import learn, lookup, pin
from vionet.engine.kick import settle
from vionet.engine.layout import PATIENCE_NS
from vionet.engine.status import OK, FabricKind
from vionet.engine.vlan import VLAN_SHIFT
from vionet.engine.worker import arm_all, enlist
from vionet.spec.virtio import VRING_PACKED_EVENT_FLAG_DESC as DESC
from vionet.spec.virtio_net import VIRTIO_NET_HDR_F_NEEDS_CSUM, NetHeader

FRAME = Layers().tcp(BODY[:9000])
PLAIN_MERGED = VERSION_1 | MRG_RXBUF | RING_PACKED


@pytest.mark.parametrize("features", [PLAIN_MERGED, PLAIN_MERGED | EVENT_IDX])
def test_packed_driver_is_asked_to_kick_where_it_posts_next(features: int) -> None:
    """A wire that counted too few buffers on a packed ring waits for the driver's next one: it
    asks for a kick at that slot, and sees what came before it had asked."""
    with Network(FabricKind.WIRE) as network:
        source, sink = network.guest(SENDER), network.guest(features)
        queue = sink.record.queues[0]
        for _ in range(20):
            sink.post(1600)
        for _ in range(4):
            source.send(FRAME.partial, FRAME.gso(1400))
        assert 2 == network.run(source)
        assert (1, 1) == (queue.packed, queue.starved)
        assert -1 == arm_all(network.state, network.work), (
            "nothing was posted meanwhile, but it will be"
        )
        if features & EVENT_IDX:
            ring = sink.rx
            assert isinstance(ring, PackedRing)
            assert (DESC, ring.next.word) == ring.device_event
        network.run(source)
        assert 1 == queue.starved
        sink.post(1600)
        assert 1 == arm_all(network.state, network.work), "or nobody would ever look again"
        assert 0 == queue.starved


@pytest.mark.parametrize("ring", [0, RING_PACKED])
@pytest.mark.parametrize("features", [FAST, PARTIAL_ONLY])
def test_wire_waits_however_often_it_looks(features: int, ring: int) -> None:
    """A worker that polls looks hundreds of times before a driver that is behind has posted more:
    that takes no buffers away from what the driver is known to post, and nothing is lost."""
    with Network(FabricKind.WIRE) as network:
        source, sink = network.guest(SENDER | ring), network.guest(features | ring)
        for _ in range(20):
            sink.post(1600)
        for _ in range(4):
            source.send(FRAME.partial, FRAME.gso(1400))
        taken = network.run(source)
        found = [(one.header, one.frame) for one in sink.received()]
        for _ in range(60):
            assert 0 == network.run(source)
        for _ in range(20):
            sink.post(1600)
        taken += network.run(source)
        assert 4 == taken
        assert {} == sink.drops == source.drops
        found += [(one.header, one.frame) for one in sink.received()]
    assert FRAME.segments(1400) * 4 == stream(found)


@pytest.mark.parametrize("start", [65531, 65532, 65533])
def test_sum_that_a_tag_pushes_beyond_16_bits(start: int) -> None:
    """A tag moves csum_start; where it no longer fits the header of a tap, the frame is not sent
    with one that points into its addresses (SG-13)."""
    frame = BROADCAST + b"\2\0\0\0\0\1" + b"\x88\xb5" + bytes(65585 - 14)
    header = NetHeader(flags=VIRTIO_NET_HDR_F_NEEDS_CSUM, csum_start=start, csum_offset=6)
    with Network() as network:
        tap = network.tap(options=Options(trunk=1 << 10))
        guest = network.guest(FULL | CSUM, data_len=1 << 18, options=Options(vlan=10))
        tap.record.mtu = 0
        guest.send(frame, header)
        assert 1 == network.run(guest)
        sent = tap.taken()
        if start + 4 > 0xFFFF:
            assert [] == sent
            assert {"frame_too_long": 1} == tap.drops
        else:
            assert [start + 4] == [header.csum_start for header, _ in sent]


def test_locked_address_is_taken_back_in_every_vlan() -> None:
    """What another port taught the switch of an address is forgotten in each VLAN when a locked
    port comes that owns it: else its frames went there until the entry aged."""
    mac, vlan = 0x020000000005, 10 << VLAN_SHIFT
    with Network() as network:
        state = network.state
        thief = network.guest(options=Options(vlan=10))
        owner = network.guest(options=Options(vlan=10))
        assert OK == learn(state, network.work, mac | vlan, thief.index)
        assert thief.index == lookup(state, mac | vlan, network.work.now_ns)
        assert OK == pin(state, mac, owner.index, network.work.now_ns)
        assert -1 == lookup(state, mac | vlan, network.work.now_ns)
        assert 0 == thief.record.fdb_count


@pytest.mark.parametrize("ring", [0, RING_PACKED])
def test_patience_of_a_wire_ends(ring: int) -> None:
    """A driver that does not come up to what it once had gets what fits after a while, and the
    worker does not sleep past that; the next frame need not wait for as many again."""
    with Network(FabricKind.WIRE) as network:
        source, sink = network.guest(SENDER), network.guest(PARTIAL_ONLY | ring)
        for _ in range(10):
            sink.post(1600)
        for _ in range(4):
            source.send(FRAME.partial, FRAME.gso(1400))
        assert 1 == network.run(source)
        assert -1 == arm_all(network.state, network.work)
        network.work.now_ns += PATIENCE_NS - 1
        assert 0 == network.run(source)
        network.work.now_ns += 1
        assert 1 <= network.run(source)
        assert {"rx_ring_full": 4} == sink.drops
        for _ in range(3):
            sink.post(1600)
        assert 1 == network.run(source)
        network.work.now_ns += 3 * PATIENCE_NS
        assert 0 == arm_all(network.state, network.work)


def test_wire_is_not_held_by_a_broken_packed_ring() -> None:
    """A packed chain that leads to what does not wait breaks the receiver's ring; a large frame
    does not wait for it."""
    with Network(FabricKind.WIRE) as network:
        source, sink = network.guest(SENDER), network.guest(PARTIAL_ONLY | RING_PACKED)
        for _ in range(3):
            sink.post(1600)
        ring = sink.rx
        assert isinstance(ring, PackedRing)
        slot = ring.next.slot + 1
        sink.post(800, 800)
        gpa, length, identity, _ = ring.descriptor(slot)
        ring.write_descriptor(slot, gpa, length, identity, 0)
        sink.hostile = True
        source.send(FRAME.partial, FRAME.gso(1400))
        assert 1 == network.run(source)
        assert {"rx_ring_broken": 1, "ring_broken": 1} == sink.drops


@pytest.mark.parametrize("jump", [65, 30_000])
def test_wire_is_not_held_by_an_index_that_jumps(jump: int) -> None:
    """A split ring whose index is further ahead than the ring is long is broken, also where a wire
    counts what waits for a large frame; no frame goes to what an older lap left in the ring."""
    with Network(FabricKind.WIRE) as network:
        source, sink = network.guest(SENDER), network.guest(PARTIAL_ONLY)
        for _ in range(3):
            sink.post(1600)
        small = Layers().tcp(b"small")
        source.send(small.partial, small.header)
        assert 1 == network.run(source)
        sink.rx.publish(jump + 1)
        sink.hostile = True
        work = network.state.ports[sink.index].queues[0]
        work.avail_seen = work.avail_idx  # all that was seen of it is used
        source.send(FRAME.partial, FRAME.gso(1400))
        source.send(small.partial, small.header)
        assert 2 == network.run(source)
        assert {"rx_ring_broken": 2, "ring_broken": 1} == sink.drops


def test_patience_begins_with_what_is_posted() -> None:
    """A driver that had no buffers at all for long gets a large frame whole all the same, when it
    posts one buffer after the other; and nobody looks every millisecond until it does."""
    with Network(FabricKind.WIRE) as network:
        source, sink = network.guest(SENDER), network.guest(PARTIAL_ONLY)
        for _ in range(7):
            sink.post(1600)
        for _ in range(2):
            source.send(FRAME.partial, FRAME.gso(1400))
        assert 1 == network.run(source)
        network.work.now_ns += 10 * PATIENCE_NS
        assert 0 == network.run(source)
        assert 0 == arm_all(network.state, network.work)
        for taken in (0, 0, 0, 0, 0, 0, 1):
            sink.post(1600)
            assert taken == network.run(source)
        assert {} == sink.drops


def test_receive_ring_without_its_transmit_ring_is_armed() -> None:
    """A receive ring that a wire waits for is asked for a kick also where the driver has not set
    up the transmit ring beside it."""
    with Network(FabricKind.WIRE) as network:
        network.guest()
        sink = MultiGuest(network, 1, 2)
        network.guests.append(sink)
        network.state.n_ports = 2
        sink.record.queues[3].ready = 0
        settle(network.state)
        assert (1, 2) == (sink.record.tx_pairs, sink.record.n_pairs)
        queue = sink.record.queues[2]
        queue.starved = 1
        enlist(network.state, network.work)
        assert 0 == arm_all(network.state, network.work)
        with sink.on(1):
            sink.post(1600)
        assert 1 == arm_all(network.state, network.work)
        assert 0 == queue.starved
