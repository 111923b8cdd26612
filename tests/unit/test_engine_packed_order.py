"""In which order rings give chains back, and where a packed ring stands when it is stopped."""

import pytest

from tests.reference.laps import FRAME, PACKED, pass_one, rewind, rings
from tests.reference.network import Network
from tests.reference.plug import (
    FULL,
    IN_ORDER,
    RING_PACKED,
)
from tests.reference.ring import Buffer


# --- order ------------------------------------------------------------------------------------
@pytest.mark.parametrize("layout", [0, RING_PACKED])
def test_everything_comes_back_in_order(layout: int) -> None:
    """Good, refused and malformed chains are used in the order in which they were made available,
    on both rings (RF-04): IN_ORDER can be offered."""
    features = FULL | IN_ORDER | layout
    with Network() as network:
        source, sink = network.guest(features, size=32), network.guest(features, size=32)
        for turn in range(6):
            rewind(source, sink)
            posted, sent = [], []
            for i in range(6):
                posted.append(sink.post(60, 200))
                short = [Buffer(source.alloc(5), 5)]
                sent.append(source.tx.add(short, False))
                sent.append(source.send(FRAME.partial, FRAME.header, cuts=[20]))
                if i == turn:
                    bad = sink.rx.add([Buffer(sink.end_gpa, 10)], True)
                    sink.posted[bad] = []
                    posted.append(bad)
            assert 12 == network.run(source)
            assert sent == [used.head for used in source.tx.take_used()]
            found = [used.head for used in sink.rx.take_used()]
            assert posted[: len(found)] == found
            assert 6 <= len(found)
            for head in found:
                sink.posted.pop(head)
            while len(sink.posted):
                source.send(FRAME.partial, FRAME.header)
                network.run(source)
                sink.received()
                source.tx.take_used()


# --- where a ring stands ----------------------------------------------------------------------
@pytest.mark.parametrize("size", [3, 64])
def test_stopping_and_going_on(size: int) -> None:
    """`stop_ring` says where; a ring that begins there goes on, in either lap (VU-32, PK-22)."""
    with Network() as network:
        source, sink = network.guest(PACKED, size=size), network.guest(PACKED)
        _, ring = rings(source)
        for turn in range(3 * size):
            sink.post(400)
            source.send(FRAME.data)
            assert 1 == network.run(source)
            source.tx.take_used(), sink.received()
            rewind(source, sink)
            base = source.port.stop_ring(1)
            assert ring.next.word << 16 | ring.next.word == base, turn
            source.port.set_ring(1, source.described(ring, base))
        assert {} == source.drops


@pytest.mark.parametrize("base", [0, 1 << 15, 1 << 15 | 1 << 31])
def test_front_ends_that_know_less(base: int) -> None:
    """DPDK leaves the used half 0, and a front-end that does not know packed rings says 0: a new
    ring begins in lap 1 all the same."""
    with Network() as network:
        source, sink = network.guest(PACKED), network.guest(PACKED)
        source.port.stop_ring(1)
        source.port.set_ring(1, source.described(source.tx, base))
        assert (0, 1, 0, 1) == tuple(
            source.record.queues[1][name]  # type: ignore[index]
            for name in ("avail_idx", "avail_wrap", "used_idx", "used_wrap")
        )
        pass_one(network, source, sink)
