"""A wire with a large frame: it waits until the receiver has room for all of it, and never for what
the receiver will never have.
"""

import pytest

from tests.reference.exchange import BODY, FAST, PARTIAL_ONLY, PLAIN_GUEST, SENDER, kernel
from tests.reference.frame import BROADCAST, Layers, options
from tests.reference.network import Network
from tests.reference.plug import MRG_RXBUF, RING_PACKED
from tests.reference.receiver import stream
from vionet.engine.status import FabricKind
from vionet.spec.virtio_net import NetHeader


@pytest.mark.parametrize("ring", [0, RING_PACKED])
@pytest.mark.parametrize("features", [FAST, PARTIAL_ONLY, PLAIN_GUEST])
def test_wire_waits_for_room(features: int, ring: int) -> None:
    """A wire leaves a large frame with its sender until the receiver, which has posted more
    before, has buffers for all of it: nothing is lost, and nothing comes in part."""
    frame = Layers().tcp(BODY[:9000])
    with Network(FabricKind.WIRE) as network:
        source, sink = network.guest(SENDER | ring), network.guest(features | ring)
        for _ in range(20):
            sink.post(1600)
        for _ in range(4):
            source.send(frame.partial, frame.gso(1400))
        taken = network.run(source)
        assert taken < 4
        found = [(one.header, one.frame) for one in sink.received()]
        for _ in range(20):
            sink.post(1600)
        taken += network.run(source)
        assert 4 == taken
        assert {} == sink.drops == source.drops
        found += [(one.header, one.frame) for one in sink.received()]
    assert frame.segments(1400) * 4 == stream(found)


@pytest.mark.parametrize("ring", [0, RING_PACKED])
@pytest.mark.parametrize("features", [FAST, FAST & ~MRG_RXBUF, PARTIAL_ONLY, PLAIN_GUEST])
def test_wire_does_not_wait_for_ever(features: int, ring: int) -> None:
    """A driver that never has more than a handful of buffers gets what fits into them, and what
    follows; the wire is not stuck behind a frame that is too large for it."""
    large, small = Layers().tcp(BODY[:30_000]), Layers().tcp(b"small")
    with Network(FabricKind.WIRE) as network:
        source, sink = network.guest(SENDER), network.guest(features | ring)
        for _ in range(4):
            sink.post(1600)
        source.send(large.partial, large.gso(1400))
        source.send(small.partial, small.header)
        found: list[tuple[NetHeader, bytes]] = []
        for _ in range(60):
            network.run(source)
            taken = [(one.header, one.frame) for one in sink.received()]
            found += taken
            for one in taken:
                for _ in range(-(-len(one[1]) // 1600)):
                    sink.post(1600)
            if 2 == source.tx.used_idx:
                break
        assert [0, 0] == [used.length for used in source.tx.take_used()]
    assert small.data == stream(found)[-1]


@pytest.mark.parametrize("count", [1, 8, 30])
def test_wire_from_a_kernel_does_not_wait_for_ever(count: int) -> None:
    """The largest frame of a tap need not fit into what a driver of few buffers has posted: a
    small one still reaches it, even if it agreed to large ones."""
    small = Layers(dst=BROADCAST).tcp(b"small")
    with Network(FabricKind.WIRE) as network:
        tap, sink = kernel(network), network.guest(FAST, size=64)
        for _ in range(count):
            sink.post(1600)
        tap.give(small.partial, small.header)
        for _ in range(70):
            network.run_tap(tap)
        assert [small.data] == stream([(one.header, one.frame) for one in sink.received()])


@pytest.mark.parametrize("features", [FAST, PARTIAL_ONLY, PLAIN_GUEST])
@pytest.mark.parametrize("large", [True, False])
def test_wire_reads_headers_longer_than_the_copy_back(features: int, large: bool) -> None:
    """Of a frame that a wire's tap read into the receiver's buffers, headers that end beyond the
    head copy are taken back from there: they are judged, and the frame is delivered, as others."""
    layers = Layers(6, extensions=((60, options(bytes(200))),))
    frame = layers.tcp(BODY[: 9000 if large else 900])
    with Network(FabricKind.WIRE) as network:
        tap, sink = kernel(network), network.guest(features, size=256)
        for _ in range(60):
            sink.post(1700)
        tap.give(frame.partial, frame.gso(1000) if large else frame.header)
        network.run_tap(tap)
        assert {} == tap.drops | sink.drops
        found = [(one.header, one.frame) for one in sink.received()]
    assert (frame.segments(1000) if large else [frame.data]) == stream(found)
