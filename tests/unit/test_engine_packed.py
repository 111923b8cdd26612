"""Packed rings: laps of any size, chains, event suppression, what breaks them, where they stand."""

import pytest

from tests.reference.frame import Layers
from tests.reference.guest import Guest
from tests.reference.laps import FRAME, LEN, PACKED, pass_one, rewind, rings
from tests.reference.network import Network
from tests.reference.packed import (
    AT_DESCRIPTOR,
    AVAIL,
    DISABLE,
    ENABLE,
    USED,
    PackedRing,
    Place,
)
from tests.reference.plug import (
    EVENT_IDX,
    IN_ORDER,
    INDIRECT_DESC,
    MRG_RXBUF,
)
from tests.reference.ring import INDIRECT, NEXT, WRITE
from vionet.engine.ring import arm, disarm
from vionet.engine.status import FabricKind


# --- laps and chains --------------------------------------------------------------------------
@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 37])
@pytest.mark.parametrize("features", [PACKED, PACKED & ~MRG_RXBUF, PACKED | IN_ORDER | EVENT_IDX])
def test_laps_of_any_size(size: int, features: int) -> None:
    """Chains of 1 to 3 descriptors, direct and indirect, over three laps and more, both ways
    (PK-01, PK-02, PK-09, PK-13)."""
    with Network() as network:
        source, sink = network.guest(features, size=size), network.guest(features, size=size)
        rings(source), rings(sink)
        for turn in range(4 * size + 3):
            rewind(source, sink)
            pieces = 1 + turn % min(size, 3)
            cuts = [12, 40][: pieces - 1] if turn % 5 else [100] * (pieces - 1)
            sink.post(*[100] * (pieces - 1), 400, indirect=turn % 2 == 0)
            sent = source.send(FRAME.partial, FRAME.header, cuts=cuts, indirect=turn % 3 == 0)
            assert 1 == network.run(source)
            assert [FRAME.partial] == [received.frame for received in sink.received()]
            assert [sent] == [used.head for used in source.tx.take_used()]
        assert 4 * size + 3 == sink.ledger["rx_frames"]


@pytest.mark.parametrize("size", [3, 255, 32768])
@pytest.mark.parametrize("start", [0, 2, 254])
def test_ring_begins_anywhere(size: int, start: int) -> None:
    """A ring is taken over at any slot, in a lap of 1 or of 0 (VU-45, PK-22)."""
    with Network() as network:
        source = network.guest(PACKED, size=size, start=start)
        sink = network.guest(PACKED, size=size, start=start + size)
        for _ in range(5):
            rewind(source, sink)
            sink.post(400)
            source.send(FRAME.partial, FRAME.header)
            assert 1 == network.run(source)
            assert [FRAME.partial] == [received.frame for received in sink.received()]
            source.tx.take_used()


def test_merged_over_many_chains() -> None:
    """A frame over several chains, and over the ring's end (RX-02 to RX-05)."""
    with Network() as network:
        source, sink = network.guest(PACKED), network.guest(PACKED, size=11)
        for _ in range(20):
            pass_one(network, source, sink)
        assert 5 == -(-LEN // 60)
        assert 20 == sink.ledger["rx_frames"]


def test_full_ring() -> None:
    """A ring whose every slot waits; a burst takes its share, the next the rest."""
    with Network() as network:
        source, sink = network.guest(PACKED, size=100), network.guest(PACKED, size=128)
        for _ in range(100):
            source.send(FRAME.data)
        for _ in range(128):
            sink.post(400)
        assert [64, 36, 0] == [network.run(source) for _ in range(3)]
        assert 100 == len(source.tx.take_used()) == len(sink.received())


def test_a_ring_is_not_lapped_before_it_is_shown() -> None:
    """What is posted again within a burst waits for the next (a driver on another core)."""
    with Network() as network:
        source, sink = network.guest(PACKED), network.guest(PACKED, size=2)
        sink.post(400), sink.post(400)
        for _ in range(3):
            source.send(FRAME.data)
        network.run(source)
        assert {"rx_ring_full": 1} == sink.drops
        assert 2 == len(sink.received())
        assert 1 == sink.calls(), "a whole lap in one burst is told"


def test_longest_chain() -> None:
    """1024 descriptors are one chain; one more is too long and is given back (SP-03, PK-11)."""
    with Network() as network:
        source, sink = network.guest(PACKED, size=4000), network.guest(PACKED)
        sink.post(2000)
        frame = Layers().udp(bytes(1100))
        source.send(frame.partial, frame.header, cuts=range(1, 1024))
        source.send(frame.partial, frame.header, cuts=range(1, 1025))
        assert 2 == network.run(source)
        assert [frame.partial] == [received.frame for received in sink.received()]
        assert {"chain_too_long": 1} == source.drops
        assert 2 == len(source.tx.take_used())


# --- who is told ------------------------------------------------------------------------------
def crossed(old: Place, count: int, wanted: int) -> bool:
    """Whether the descriptor `wanted` (slot and wrap counter) is one of `count` from `old`."""
    return wanted in [old.after(i).word for i in range(count)]


@pytest.mark.parametrize("size", [1, 4, 7])
@pytest.mark.parametrize("count", [1, 3])
def test_event_at_a_descriptor_sweep(size: int, count: int) -> None:
    """Every slot and wrap counter, at every position of two laps, for one frame and for a batch
    that passes it (PK-17, PK-18)."""
    if count > size:
        count = size
    with Network() as network:
        source = network.guest(PACKED)
        sink = network.guest(PACKED | EVENT_IDX, size=size)
        ring, _ = rings(sink)
        words = [*range(size), *(1 << 15 | slot for slot in range(size))]
        for turn in range(4 * size * size):
            rewind(source, sink)
            word = words[(turn + turn // len(words)) % len(words)]
            ring.want(AT_DESCRIPTOR, word)
            expected = crossed(ring.reading, count, word)
            for _ in range(count):
                sink.post(400)
                source.send(FRAME.data)
            assert count == network.run(source)
            assert count == len(sink.received()) == len(source.tx.take_used())
            assert expected == sink.calls(), (ring.reading.word, word)


@pytest.mark.parametrize("features", [PACKED, PACKED | EVENT_IDX])
@pytest.mark.parametrize(
    ("mode", "calls"), [(ENABLE, 1), (DISABLE, 0), (3, 1), (0xFFFC, 1), (0xFFFD, 0)]
)
def test_event_modes(features: int, mode: int, calls: int) -> None:
    """Enabled, disabled, reserved; the bits behind the mode are nothing (PK-17)."""
    with Network() as network:
        source, sink = network.guest(features), network.guest(features)
        for guest, ring in ((sink, sink.rx), (source, source.tx)):
            assert isinstance(ring, PackedRing)
            ring.want(mode, 0x7FFF)
            sink.post(400)
            source.send(FRAME.data)
            network.run(source)
            assert calls == guest.calls()
            ring.want(DISABLE)
            network.guests[0].calls(), network.guests[1].calls()


def test_event_at_a_descriptor_needs_the_feature() -> None:
    """Without EVENT_IDX mode 2 is no reason to be silent."""
    with Network() as network:
        source, sink = network.guest(PACKED), network.guest(PACKED)
        rings(sink)[0].want(AT_DESCRIPTOR, 50)
        sink.post(400)
        source.send(FRAME.data)
        network.run(source)
        assert 1 == sink.calls()


@pytest.mark.parametrize("features", [PACKED, PACKED | EVENT_IDX])
@pytest.mark.parametrize("start", [0, 6, 7, 13])
def test_arm_asks_and_looks_again(features: int, start: int) -> None:
    """Arming asks for a kick at the first slot that was empty, and sees what came meanwhile; the
    device's structure has no other bits (PK-19, SP-26 to SP-29)."""
    with Network() as network:
        guest = network.guest(features, size=7, start=start)
        network.guest()
        _, ring = rings(guest)
        queue = guest.record.queues[1]
        mode = AT_DESCRIPTOR if features & EVENT_IDX else ENABLE
        assert (mode, ring.next.word) == ring.device_event
        assert 0 == arm(guest.record, queue)
        guest.send(FRAME.data)
        assert 1 == arm(guest.record, queue)
        assert 1 == network.run(guest)
        assert DISABLE == ring.device_event[0]
        assert 0 == network.run(guest)
        assert 0 == arm(guest.record, queue)
        assert (mode, ring.next.word) == ring.device_event
        disarm(guest.record, queue)
        assert (DISABLE, 0) == ring.device_event


def test_a_starved_ring_is_armed_behind_what_waits() -> None:
    """A wire that found too few buffers waits for the next one, not for those that are there."""
    with Network(FabricKind.WIRE) as network:
        source, sink = network.guest(PACKED), network.guest(PACKED | EVENT_IDX)
        sink.post(60)
        source.send(FRAME.partial, FRAME.header)
        assert 0 == network.run(source)
        queue = sink.record.queues[0]
        assert 1 == queue.starved
        assert 0 == arm(sink.record, queue)
        assert (AT_DESCRIPTOR, rings(sink)[0].next.word) == rings(sink)[0].device_event
        sink.post(400)
        assert 1 == arm(sink.record, queue)
        assert 1 == network.run(source)
        assert [FRAME.partial] == [received.frame for received in sink.received()]


# --- what a driver must not do ----------------------------------------------------------------
def unusable(guest: Guest, write: int) -> dict[str, list[tuple[int, int, int]]]:
    """Chains that are whole but no buffers: rows of (address, length, flags)."""
    gpa = guest.alloc(4096)
    wrong = WRITE ^ write
    return {
        "wrong way": [(gpa, 100, wrong)],
        "wrong way second": [(gpa, 100, write), (gpa, 100, wrong)],
        "unmapped": [(guest.end_gpa - 50, 100, write)],
        "wraps around": [((1 << 64) - 50, 100, write)],
        "4 GiB": [(gpa, 0xFFFFFFFF, write)],
        "second unmapped": [(gpa, 100, write), (guest.end_gpa, 1, write)],
        "indirect and next": [(gpa, 32, INDIRECT | write), (gpa, 100, write)],
        "next and indirect": [(gpa, 100, write), (gpa, 32, INDIRECT)],
        "next and indirect, empty": [(gpa, 0, write), (gpa, 32, INDIRECT)],
        "indirect of 0": [(gpa, 0, INDIRECT)],
        "indirect of 17": [(gpa, 17, INDIRECT)],
        "indirect of too many": [(gpa, 16 * 1025, INDIRECT)],
        "indirect unmapped": [(guest.end_gpa - 8, 16, INDIRECT)],
    }


KINDS = list(unusable(Network().guest(PACKED), 0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fabric", list(FabricKind))
def test_unusable_transmit_chain(kind: str, fabric: FabricKind) -> None:
    """It is given back unused, whatever its length in slots, and the next frame passes."""
    with Network(fabric) as network:
        source, sink = network.guest(PACKED, size=5), network.guest(PACKED)
        for _ in range(4):
            rewind(source)
            sink.post(400)
            bad = rings(source)[1].put(unusable(source, 0)[kind])
            good = source.send(FRAME.partial, FRAME.header)
            assert 2 == network.run(source)
            assert [FRAME.partial] == [received.frame for received in sink.received()]
            assert [(bad, 0), (good, 0)] == [(u.head, u.length) for u in source.tx.take_used()]
        assert 4 == sum(source.drops.values())
        assert "ring_broken" not in source.drops


@pytest.mark.parametrize("kind", KINDS)
def test_unusable_receive_chain(kind: str) -> None:
    """It is given back unused and told at once; the next chain takes the next frame."""
    with Network() as network:
        source, sink = network.guest(PACKED), network.guest(PACKED, size=5)
        for _ in range(4):
            rewind(source, sink)
            bad = rings(sink)[0].put(unusable(sink, WRITE)[kind])
            sink.posted[bad] = []
            source.send(FRAME.partial, FRAME.header)
            assert 1 == network.run(source)
            assert 1 == len(source.tx.take_used())
            assert [] == sink.received()
            assert bad not in sink.posted
            assert 1 == sink.calls()
            pass_one(network, source, sink)
            assert 1 == sink.calls()
        assert {"rx_chain_invalid": 4} == sink.drops


def test_bad_chain_behind_chosen_ones() -> None:
    """All of them go back, in order, and the ring goes on behind them (RF-04)."""
    with Network() as network:
        source, sink = network.guest(PACKED), network.guest(PACKED, size=7)
        for _ in range(5):
            rewind(source, sink)
            heads = [sink.post(60), sink.post(30, 30)]
            bad = rings(sink)[0].put([(sink.end_gpa, 1, WRITE | 0)])
            sink.posted[bad] = []
            source.send(FRAME.partial, FRAME.header)
            network.run(source)
            assert [(h, 0) for h in [*heads, bad]] == [
                (used.head, used.length) for used in sink.rx.take_used()
            ]
            for head in [*heads, bad]:
                sink.posted.pop(head)
            source.tx.take_used()
        pass_one(network, source, sink)


def spoil_chain(ring: PackedRing, kind: str, gpa: int, write: int) -> None:
    """Make a chain available that has no end."""
    match kind:
        case "leads to nothing":
            ring.put([(gpa, 100, write), (gpa, 100, write)])
            slot = (ring.next.slot - 1) % ring.size
            ring.write_descriptor(slot, gpa, 100, 7, 0 if ring.next.wrap else AVAIL | USED)
        case "endless":
            ring.put([(gpa, 100, write | NEXT)] * ring.free_slots)
        case "leads to the next lap":
            ring.put([(gpa, 100, write | NEXT)])


@pytest.mark.parametrize("kind", ["leads to nothing", "endless", "leads to the next lap"])
@pytest.mark.parametrize("before", [0, 2])
def test_chain_without_an_end(kind: str, before: int) -> None:
    """It has no id that could be given back: the ring is broken and people are told (VU-44);
    chains before it are still served."""
    with Network() as network:
        source, sink = network.guest(PACKED, size=6), network.guest(PACKED)
        for _ in range(before):
            sink.post(400)
            source.send(FRAME.partial, FRAME.header)
        spoil_chain(rings(source)[1], kind, source.alloc(100), 0)
        assert before == network.run(source)
        assert [FRAME.partial] * before == [received.frame for received in sink.received()]
        assert 0 == network.run(source)
        assert 0 == network.run(source)
        assert {"ring_broken": 1} == source.drops
        assert 1 == source.errors()


@pytest.mark.parametrize("kind", ["leads to nothing", "endless", "leads to the next lap"])
def test_receive_chain_without_an_end(kind: str) -> None:
    """The same of a receive ring."""
    with Network() as network:
        source, sink = network.guest(PACKED), network.guest(PACKED, size=6)
        spoil_chain(rings(sink)[0], kind, sink.alloc(100), WRITE)
        for _ in range(2):
            source.send(FRAME.data)
            network.run(source)
        assert {"rx_ring_broken": 2, "ring_broken": 1} == sink.drops
        assert 1 == sink.errors()
        assert 0 == sink.rx.used_idx


def test_indirect_not_negotiated() -> None:
    """SP-11 for a packed ring."""
    with Network() as network:
        source = network.guest(PACKED & ~INDIRECT_DESC)
        network.guest(PACKED)
        source.send(FRAME.data, indirect=True)
        network.run(source)
        assert {"chain_invalid": 1} == source.drops
