"""Several queues: flows stay on one, follow their driver, and never land where nobody looks."""

from dataclasses import replace

import pytest

from tests.reference.frame import BROADCAST, MACS, Layers
from tests.reference.guest import Received
from tests.reference.network import Network
from tests.reference.pairs import MultiGuest
from tests.reference.plug import FULL
from tests.reference.tap import SocketTap
from vionet.engine.burst import from_queues
from vionet.engine.layout import FLOWS_MAX
from vionet.engine.status import FabricKind

PAIRS = 4
SECOND = 1_000_000_000


def multi(network: Network, pairs: int = PAIRS, **more: object) -> MultiGuest:
    """Plug in a guest with several pairs and buffers on each."""
    guest = MultiGuest(network, network._next_index(), pairs, **more)  # type: ignore[arg-type]
    network.guests.append(guest)
    guest.post_all(300, 30)
    return guest


def flow(number: int, version: int = 4, *, back: bool = False, body: bytes = b"body") -> bytes:
    """A frame of one of many UDP flows between two hosts, one way or the other."""
    there = Layers(version, src=MACS[1 if back else 0], dst=MACS[0 if back else 1])
    src, dst = there.ends
    ports = (1000 + number, 53000)
    if back:
        there = replace(there, addresses=(dst, src))
        ports = (ports[1], ports[0])
    return there.udp(body.ljust(30, b"."), ports).data


def pair_of(found: list[list[Received]]) -> int:
    """The one pair on which a frame came."""
    (pair,) = [i for i, received in enumerate(found) if received]
    return pair


def deliver(network: Network, sender: object, sink: MultiGuest, frame: bytes) -> int:
    """The pair on which one frame arrives."""
    if isinstance(sender, SocketTap):
        sender.give(frame)
        sender.record.readable = 1
        assert 1 == network.run_tap(sender)
    else:
        sender.send(frame)  # type: ignore[attr-defined]
        assert 1 == network.run(sender)  # type: ignore[arg-type]
    found = sink.received_on()
    assert [1] == [len(received) for received in found if received]
    return pair_of(found)


@pytest.mark.parametrize("kind", list(FabricKind))
@pytest.mark.parametrize("version", [4, 6])
def test_flows_spread_and_stay(kind: FabricKind, version: int) -> None:
    """Flows that the driver has not sent spread over all rings, each on one of them."""
    with Network(kind) as network:
        sender, sink = network.guest(size=256), multi(network)
        assert (PAIRS, 1) == (sink.record.n_pairs, sink.record.steers)
        first = [deliver(network, sender, sink, flow(i, version)) for i in range(24)]
        assert set(range(PAIRS)) == set(first)
        assert first == [deliver(network, sender, sink, flow(i, version)) for i in range(24)]


@pytest.mark.parametrize("version", [4, 6])
def test_flow_comes_back_where_it_was_sent(version: int) -> None:
    """What the driver sends on transmitqX comes back on receiveqX, and follows it when it moves
    (CV-24, CV-25); other flows are not moved."""
    with Network() as network:
        other, guest = network.guest(size=256), multi(network)
        for _ in range(40):
            other.post(300)
        before = [deliver(network, other, guest, flow(i, version)) for i in range(8)]
        for pair in (2, 0, 3, 1):
            with guest.on(pair):
                guest.send(flow(0, version, back=True))
            assert 1 == network.run(guest, 2 * pair + 1)
            assert pair == deliver(network, other, guest, flow(0, version))
            after = [deliver(network, other, guest, flow(i, version)) for i in range(1, 8)]
            assert before[1:] == after


def test_fragments_follow_their_addresses() -> None:
    """All fragments of a datagram come on one ring, though only the first has ports."""
    addresses = (b"\x0a\0\0\x01", b"\x0a\0\0\x02")
    with Network() as network:
        sender, sink = network.guest(), multi(network)
        pairs = set()
        for port, fragment in ((1, 0x2000), (2, 0x2000), (77, 0x0001), (9, 0x2002)):
            layers = Layers(src=MACS[0], dst=MACS[1], fragment=fragment, addresses=addresses)
            head = port.to_bytes(2, "big") + b"\x00\x35\x00\x28\x00\x00"
            pairs.add(deliver(network, sender, sink, layers.datagram(head + bytes(32), 17)))
        assert 1 == len(pairs)


@pytest.mark.parametrize("frame", [
    BROADCAST + MACS[0] + b"\x12\x34" + bytes(46),
    BROADCAST + MACS[0] + b"\x08\x00",
    BROADCAST + MACS[0] + b"\x86\xdd" + b"\x60" + bytes(20),
    Layers(dst=BROADCAST).datagram(b"", 17),
    Layers(dst=BROADCAST).datagram(bytes(8), 1),
])  # fmt: skip
def test_frames_without_a_flow(frame: bytes) -> None:
    """Frames without addresses or ports of their own have one ring too."""
    with Network() as network:
        sender, sink = network.guest(), multi(network)
        assert 1 == len({deliver(network, sender, sink, frame) for _ in range(3)})


def test_disabled_ring_gets_nothing() -> None:
    """A ring that the front-end disables gets no frame from then on; its flows go to the others,
    each still to one, and those of the others stay (VU-27, CV-27)."""
    with Network() as network:
        sender, sink = network.guest(size=256), multi(network)
        for i in range(12):
            with sink.on(i % PAIRS):
                sink.send(flow(i, back=True))
            network.run(sink, 2 * (i % PAIRS) + 1)
            sender.received()
        before = [deliver(network, sender, sink, flow(i)) for i in range(12)]
        assert [i % PAIRS for i in range(12)] == before
        sink.switch_ring(2, 0, enabled=False)
        during = [deliver(network, sender, sink, flow(i)) for i in range(12)]
        assert 2 not in during
        assert during == [deliver(network, sender, sink, flow(i)) for i in range(12)]
        for old, new in zip(before, during, strict=True):
            assert old in (new, 2)
        sink.switch_ring(2, 0, enabled=True)
        assert before == [deliver(network, sender, sink, flow(i)) for i in range(12)]


def test_transmit_ring_in_disuse_is_drained() -> None:
    """Frames on a disabled transmit ring and on one beyond the pairs in use are taken and dropped
    by name, and the ring is not stuck (VU-27, CV-29)."""
    with Network() as network:
        guest, sink = multi(network), network.guest()
        sink.post(300)
        guest.switch_ring(1, 1, enabled=False)
        guest.record.n_pairs = 3
        for pair in (1, 3):
            with guest.on(pair):
                guest.send(flow(0))
            assert 1 == network.run(guest, 2 * pair + 1)
            with guest.on(pair):
                assert [0] == [used.length for used in guest.tx.take_used()]
        assert {"ring_disabled": 1, "queue_unused": 1} == guest.drops
        assert [] == sink.received()


def test_rings_take_turns() -> None:
    """One burst a turn, the rings of a port one after the other, empty ones passed over."""
    with Network() as network:
        guest, sink = multi(network), network.guest(size=256)
        for i in range(9):
            sink.post(300)
            with guest.on((0, 2, 3)[i % 3]):
                guest.send(flow(i))
        assert PAIRS == guest.record.tx_pairs
        sources = []
        for _ in range(3):
            assert 3 == from_queues(network.state, network.work, guest.index)
            sources.append(tuple(one.frame[34:36] for one in sink.received()))
        assert 0 == from_queues(network.state, network.work, guest.index)
        expected = [tuple((1000 + i).to_bytes(2, "big") for i in range(k, 9, 3)) for k in range(3)]
        assert expected == sources


def test_slot_of_the_table_has_one_owner() -> None:
    """Two flows that hash to one slot do not push each other about: the first keeps it while it is
    alive, and what is idle makes room."""
    with Network() as network:
        other, guest = network.guest(size=256), multi(network)
        flows = {}
        for i in range(FLOWS_MAX):
            guest.record.flows[:] = 0
            with guest.on(0):
                guest.send(flow(i, back=True))
            network.run(guest, 1)
            with guest.on(0):
                guest.tx.take_used()
            guest.next_gpa -= 84  # the buffer is free again
            other.received()
            slot = int(guest.record.flows.nonzero()[0][0])
            if slot in flows:
                break
            flows[slot] = i
        first, second = flows[slot], i
        guest.record.flows[:] = 0
        strange = deliver(network, other, guest, flow(second))
        one, two = (strange + 1) % PAIRS, (strange + 2) % PAIRS
        for number, pair in ((first, one), (second, two)):
            with guest.on(pair):
                guest.send(flow(number, back=True))
            network.run(guest, 2 * pair + 1)
        assert one == deliver(network, other, guest, flow(first))
        assert strange == deliver(network, other, guest, flow(second))
        network.work.now_ns += 20 * SECOND
        with guest.on(two):
            guest.send(flow(second, back=True))
        network.run(guest, 2 * two + 1)
        assert two == deliver(network, other, guest, flow(second))


def test_wire_waits_for_the_right_ring() -> None:
    """A wire holds a frame whose ring has no buffer, though others have; it crosses when that ring
    has one, in order."""
    with Network(FabricKind.WIRE) as network:
        sender = network.guest(size=256)
        sink = MultiGuest(network, network._next_index(), 2)
        network.guests.append(sink)
        for pair in (0, 1):
            sender.post(300)
            with sink.on(pair):
                sink.send(flow(pair, back=True))
            assert 1 == network.run(sink, 2 * pair + 1)
        with sink.on(0):
            for _ in range(4):
                sink.post(300)
        bodies = [bytes([i]) * 8 for i in range(4)]
        for i, body in enumerate(bodies):
            sender.send(flow(i % 2, body=body))
        assert 1 == network.run(sender)
        assert (1, 1) == (sink.record.queues[2].starved, sender.record.queues[1].held)
        with sink.on(1):
            for _ in range(2):
                sink.post(300)
        assert 3 == network.run(sender)
        found = [[one.frame[42:50] for one in received] for received in sink.received_on()]
        assert [bodies[0::2], bodies[1::2]] == found
        assert {} == sink.drops


def test_tap_on_a_wire_waits_for_every_ring() -> None:
    """A frame's ring is known only when it was read: nothing is read while one has no buffer, so
    that nothing is lost; then each flow has its ring."""
    with Network(FabricKind.WIRE) as network:
        tap = network.tap()
        sink = MultiGuest(network, network._next_index(), 2, FULL)
        network.guests.append(sink)
        with sink.on(0):
            for _ in range(8):
                sink.post(2000)
        tap.give(flow(3))
        assert 0 == network.run_tap(tap)
        assert 1 == sink.record.queues[2].starved
        with sink.on(1):
            for _ in range(8):
                sink.post(2000)
        assert 1 == network.run_tap(tap)
        pair = pair_of(sink.received_on())
        assert pair == deliver(network, tap, sink, flow(3))
        assert {} == sink.drops


def test_one_pair_is_not_steered() -> None:
    """A guest with one pair has no table, and its frames come on ring 0."""
    with Network() as network:
        sender, sink = network.guest(), multi(network, 1)
        assert (1, 0) == (sink.record.n_pairs, sink.record.steers)
        assert 0 == deliver(network, sender, sink, flow(1))
        sink.send(flow(1, back=True))
        network.run(sink)
        assert not sink.record.flows.any()
