"""Who is told what, and when: interrupts, kicks, with and without the event index."""

import pytest

from tests.reference.frame import Layers
from tests.reference.guest import Guest
from tests.reference.network import Network
from tests.reference.plug import EVENT_IDX, FULL
from vionet.engine.split import arm, disarm, publish

FRAME = Layers().udp(bytes(50)).data


def burst(network: Network, source: Guest, sink: Guest, count: int) -> int:
    """Send `count` frames in one burst; how often the sink was interrupted."""
    for _ in range(count):
        sink.post(200)
        source.send(FRAME)
    assert count == network.run(source)
    sink.received()
    source.tx.take_used()
    return sink.calls()


def crossed(event: int, old: int, new: int) -> bool:
    """Whether the entry with index `event` is among those written (SP-17)."""
    return (event - old) % 65536 < (new - old) % 65536


@pytest.mark.parametrize("start", [0, 100, 65533, 65535])
@pytest.mark.parametrize("count", [1, 3])
def test_used_event_sweep(start: int, count: int) -> None:
    """Every `used_event` around the entries written, over the wrap at 65535 (SP-17, SP-18)."""
    for distance in range(-4, 8):
        with Network() as network:
            source = network.guest()
            sink = network.guest(FULL | EVENT_IDX, size=16, start=start)
            event = (start + distance) % 65536
            sink.rx.want_event(event)
            sink.rx.suppress(distance & 1)  # SP-19: bit 0 of the flags is nothing here
            expected = crossed(event, start, (start + count) % 65536)
            assert expected == burst(network, source, sink, count), distance
            assert expected == ("calls" in sink.ledger)
            assert (not expected) == ("calls_suppressed" in sink.ledger)


def test_flags_ask_for_silence() -> None:
    """Without the event index the driver's flag decides, and `used_event` is nothing (SP-15)."""
    with Network() as network:
        source, sink = network.guest(), network.guest()
        sink.rx.want_event(77)
        assert 1 == burst(network, source, sink, 2)
        sink.rx.suppress(1)
        assert 0 == burst(network, source, sink, 2)
        assert {"calls": 1, "calls_suppressed": 1}.items() <= sink.ledger.items()


def test_sender_is_told_too() -> None:
    """The transmit ring's used entries are shown and told the same way (TX-16)."""
    with Network() as network:
        source = network.guest(FULL | EVENT_IDX)
        network.guest()
        source.tx.want_event(1)
        source.send(FRAME)
        network.run(source)
        assert (1, 0) == (source.tx.used_idx, source.calls())
        source.send(FRAME)
        network.run(source)
        assert (2, 1) == (source.tx.used_idx, source.calls())


def test_nothing_new_is_not_told() -> None:
    """Without new entries there is no interrupt, whatever `used_event` says."""
    with Network() as network:
        sink = network.guest(FULL | EVENT_IDX)
        sink.rx.want_event(0)
        assert 0 == publish(sink.record, sink.record.queues[0])


@pytest.mark.parametrize("features", [FULL, FULL | EVENT_IDX])
@pytest.mark.parametrize("start", [0, 65535])
def test_arm_asks_and_looks_again(features: int, start: int) -> None:
    """Arming asks for a kick and sees what came meanwhile; disarming advises against (SP-26 to
    SP-29)."""
    with Network() as network:
        guest = network.guest(features, start=start)
        network.guest()
        ring, queue = guest.tx, guest.record.queues[1]
        assert 0 == ring.used_flags
        assert 0 == arm(guest.record, queue)
        guest.send(FRAME)
        assert 1 == arm(guest.record, queue)
        network.run(guest)
        assert (0 if features & EVENT_IDX else 1) == ring.used_flags
        assert 0 == arm(guest.record, queue)
        assert 0 == ring.used_flags
        if features & EVENT_IDX:
            assert ring.next_idx == ring.avail_event
        disarm(guest.record, queue)
        assert (0 if features & EVENT_IDX else 1) == ring.used_flags


def test_ring_is_adopted_where_it_stands() -> None:
    """Used entries go on where the ring's own index says (VU-38)."""
    with Network() as network:
        guest = network.guest(FULL | EVENT_IDX, start=41)
        queue = guest.record.queues[1]
        assert (41, 41, 41) == (queue.avail_idx, queue.used_idx, queue.published_idx)
        assert 41 == guest.tx.avail_event
        assert 0 == guest.tx.used_flags
