"""Captures where frames wait, come from a kernel or a stream, or go to the service port."""

import pytest

from tests.reference.capture import GIVEN, SENT, Capturing
from tests.reference.exchange import BODY, kernel
from tests.reference.frame import Layers
from tests.reference.locked import ASKS, LOCKED
from tests.reference.network import Network
from tests.reference.plug import FULL
from tests.reference.stream import StreamNetwork, packed
from tests.unit.test_engine_capture import BACK, TCP, A, B, only
from vionet.engine.status import Accepts, Action, Csum, FabricKind
from vionet.spec.virtio_net import NetHeader


def test_wire_holds_a_frame() -> None:
    """A frame that a wire leaves where it is has no record until it goes; then it has one."""
    with Network(FabricKind.WIRE) as network:
        source, sink = network.guest(), network.guest()
        with Capturing(network.state) as whole, Capturing(network.state, {0}) as sender:
            source.send(TCP.partial, TCP.header)
            assert [0, 0] == [network.run(source), network.run(source)]
            assert [] == whole.taken() + sender.taken()
            sink.post(2000)
            assert 1 == network.run(source)
            assert [(A, B, GIVEN)] == [one.way for one in whole.taken()]
            assert [(A, B, SENT)] == [one.way for one in sender.taken()]


@pytest.mark.parametrize("captured", [{0}, {1}, None])
def test_tap_of_a_wire(captured: set[int] | None) -> None:
    """What a wire would read into the guest's buffers is read privately while either end is
    captured; the guest gets the same, and frames still wait in the tap for its buffers."""
    seen = []
    for on in (False, True):
        with Network(FabricKind.WIRE) as network:
            sink, tap = network.guest(), network.tap()
            capture = Capturing(network.state, captured) if on else None
            for frame, header in ((TCP.partial, TCP.header), (TCP.data, NetHeader(flags=2))):
                tap.give(frame, header)
            sink.post(1600)
            assert 1 == network.run_tap(tap)
            sink.post(1600)
            tap.record.readable = 1
            assert 1 == network.run_tap(tap)
            seen.append(([(one.header, one.frame) for one in sink.received()], sink.drops))
            copied = sink.ledger.get("payload_bytes_copied", 0)
            assert (2 * (len(TCP.data) - 128) if on else 0) == copied
            if capture:
                records = capture.taken()
                assert [TCP.partial, TCP.data] == [one.data for one in records]
                assert [Csum.PARTIAL, Csum.VALID] == [one.state for one in records]
                assert {(B, A, SENT if captured == {1} else GIVEN)} == {one.way for one in records}
                assert {(-1, 1, -1)} == {(one.chain, one.pieces, one.ring) for one in records}
                capture.__exit__(None, None, None)
    assert seen[0] == seen[1]


def test_tap_that_cannot_take_back() -> None:
    """What was read and found no room after all is recorded as dropped."""
    large = Layers().tcp(BODY[:9000])
    with Network(FabricKind.WIRE) as network:
        sink, tap = network.guest(FULL, data_len=1 << 19), kernel(network)
        with Capturing(network.state) as whole, Capturing(network.state, {1}) as sender:
            for _ in range(60):
                sink.post(1600)
            sink.record.queues[0].posted_max = 200  # it had more before
            tap.give(large.partial, large.gso(100))
            network.run_tap(tap)
            given, sent = only(whole.taken()), only(sender.taken())
    assert {"rx_ring_full": 1} == sink.drops
    assert ("rx_ring_full", B, A, GIVEN) == (given.reason, *given.way)
    assert ("rx_ring_full", B, A, SENT) == (sent.reason, *sent.way)
    assert large.partial == given.data == sent.data


def test_to_and_from_a_stream() -> None:
    """A stream's frames are known by nothing but their bytes."""
    with StreamNetwork(FabricKind.WIRE) as network:
        guest, stream = network.guest(), network.stream()
        with Capturing(network.state, {1}) as capture:
            guest.send(TCP.partial, TCP.header)
            network.run(guest)
            record = only(capture.taken())
            assert (A, B, GIVEN, TCP.partial) == (*record.way, record.data)
            assert (Accepts.STREAM, Action.FILL) == (record.accepts, record.action)
            guest.post(2000)
            stream.give(packed(BACK.data))
            network.run_stream(stream)
            record = only(capture.taken())
            assert (B, A, SENT, BACK.data) == (*record.way, record.data)
            assert (0, Csum.UNKNOWN, -1) == (record.header, record.state, record.chain)


def test_to_the_service() -> None:
    """What a locked guest asks goes to the service port alone, and is recorded so."""
    with StreamNetwork() as network:
        guest = network.guest(options=LOCKED)
        service = network.stream()
        service.record.service = 1
        with Capturing(network.state, {0}) as sender, Capturing(network.state) as whole:
            guest.send(ASKS["discover"])
            network.run(guest)
            sent, got = only(sender.taken()), only(whole.taken())
    assert (A, B, SENT) == sent.way
    assert (A, B, GIVEN) == got.way
    assert ASKS["discover"] == sent.data == got.data
