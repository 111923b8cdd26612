"""What a reader makes of any record: as delivered it is what lies in the receiver's memory, byte
for byte; finished it is what a network card would send of that.
"""

import contextlib
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from tests.property import strategies as some
from tests.property.test_engine_delivery import judged, large_room
from tests.reference.capture import Capturing
from tests.reference.exchange import SENDER
from tests.reference.header import parse
from tests.reference.network import Network
from tests.reference.pcapng import Packet, packets
from tests.reference.receiver import on_the_wire
from vionet.capture.pcapng import Interface
from vionet.capture.reader import Reader, View
from vionet.engine.status import FabricKind

DATA_LEN = 1 << 18
VIEWS = {
    "delivered": View(delivered=True),
    "finished": View(),
    "segments": View(segment=True),
}


def port(serial: int) -> Interface:
    """Of a test, by its number."""
    return Interface(f"p{serial}")


@contextlib.contextmanager
def captured(network: Network) -> Iterator[dict[str, Reader]]:
    """Captures of everything, a reader for each view."""
    with contextlib.ExitStack() as stack:
        readers = {}
        for name, view in VIEWS.items():
            capturing = stack.enter_context(
                Capturing(network.state, whole=True, ring_len=1 << 19, snap_len=1 << 17)
            )
            ring = capturing.ring
            readers[name] = Reader(
                ring.fd, ring.notify_fd, capturing.ring_len, view, Interface("all"), port
            )
        yield readers


def shown(readers: dict[str, Reader]) -> dict[str, list[Packet]]:
    """All that is in the rings."""
    found = {}
    for name, reader in readers.items():
        blocks, more = reader.blocks()
        assert not more and not reader.broken and not reader.lost
        found[name] = packets(bytes(blocks))
    return found


def is_finished(frame: bytes, wire: bytes) -> bool:
    """Whether a frame in a file is what a card would send: but for bytes behind its datagram, and
    for the other way to write a sum of zero."""
    if frame[: len(wire)] == wire:
        return True
    (found, wanted) = (parse(one) for one in (frame, wire))
    field = wanted.field
    same = frame[:field] + frame[field + 2 : len(wire)] == wire[:field] + wire[field + 2 :]
    return same and found.right(frame[: len(wire)]) == wanted.right(wire)


@some.examples(compiled=200, interpreted=40)
@given(st.data())
def test_records_are_what_was_delivered(data: st.DataObject) -> None:
    """Random frames, ordinary and large, to random receivers, in all three views."""
    draw = data.draw
    large = draw(st.booleans())
    with Network(FabricKind.WIRE) as network:
        features = draw(st.sampled_from([SENDER, SENDER, draw(some.features)]))
        source = network.guest(features, size=256, data_len=DATA_LEN)
        sink = network.guest(
            draw(some.features), policy=draw(some.policies), size=4096, data_len=DATA_LEN
        )
        frame, header = draw(some.large_sendings() if large else some.sendings())
        large_room(draw, sink, judged(source, frame, header), len(frame))
        with captured(network) as readers:
            source.send(frame, header, cuts=draw(some.cuts(source.header_len + len(frame))))
            assert 1 == network.run(source)
            found = sink.received()
            views = shown(readers)
        if source.drops or sink.drops:
            (reason,) = (source.drops | sink.drops).keys()
            for packet in (one for view in views.values() for one in view):
                assert f"drop={reason}" in packet.comment
            assert [frame] == [
                packet.data[: len(frame)] for packet in views["finished"]
            ] or sink.drops
            return
        assert [one.frame for one in found] == [packet.data for packet in views["delivered"]]
        wire = [one for each in found for one in on_the_wire(each.header, each.frame)]
        if len(views["segments"]) == len(wire):
            for packet, wanted in zip(views["segments"], wire, strict=True):
                assert is_finished(packet.data, wanted)
        else:
            assert large and len(wire) > 1
        (whole,) = views["finished"]
        parsed = parse(whole.data)
        if len(found) == 1 and not found[0].header.gso_type:
            assert is_finished(whole.data, wire[0])
        elif not parsed.routed:
            assert parsed.right(whole.data)
