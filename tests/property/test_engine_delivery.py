"""Any frame, from any sender, to any receivers: what arrives is what the model says, and what a
sender without offload would have sent.

After each burst every byte of every guest's memory is looked at (`Network.run`): nothing changed
but used rings and the bytes that were used.
"""

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.property import strategies as some
from tests.reference import checksum, device
from tests.reference.device import NEEDS_CSUM
from tests.reference.frame import BROADCAST, MACS, Frame
from tests.reference.guest import Guest, Received
from tests.reference.header import parse
from tests.reference.network import Network
from tests.reference.plug import CSUM, FULL, GUEST_CSUM, MRG_RXBUF
from vionet.engine.status import Accepts, FabricKind
from vionet.spec.virtio_net import NetHeader

DATA_LEN = 1 << 17
Draw = Callable[[st.SearchStrategy[Any]], Any]


def make_room(draw: Draw, sink: Guest, length: int) -> None:
    """Post chains that one frame fits into."""
    merge = bool(sink.features & MRG_RXBUF)
    for sizes in draw(some.chains(sink.header_len + length, merge)):
        sink.post(*sizes, gap=1, indirect=len(sizes) > 1 and draw(st.booleans()))


def column(sink: Guest) -> str:
    """The table's column of a receiver, from what was negotiated and chosen."""
    takes = bool(sink.features & GUEST_CSUM)
    policy = sink.port._options.policy.name.lower()
    found = device.column("guest", policy, takes)
    assert Accepts[found.upper()] == sink.record.accepts
    return found


def obeys(sink: Guest, received: Received) -> None:
    """RX-06, RX-08 to RX-12, RX-14, RX-16, RX-20, RX-22 of one delivery."""
    header = received.header
    assert 0 == header.gso_type == header.gso_size
    assert header.flags in (0, 1, 2)
    if not sink.features & GUEST_CSUM:
        assert 0 == header.flags
    if header.flags != NEEDS_CSUM:
        assert (0, 0) == (header.csum_start, header.csum_offset)


def send_to_all(
    draw: Draw, network: Network, source: Guest, data: bytes, header: NetHeader
) -> list[list[Received]]:
    """One frame, cut anywhere; what each receiver found."""
    whole = source.header_len + len(data)
    cuts = draw(some.cuts(whole))
    source.send(data, header, cuts=cuts, gap=draw(st.integers(0, 3)), indirect=draw(st.booleans()))
    assert 1 == network.run(source)
    (used,) = source.tx.take_used()
    assert 0 == used.length
    return [sink.received() for sink in network.guests if sink is not source]


@some.examples(compiled=150, interpreted=60)
@given(st.data())
def test_delivery_is_what_the_model_says(data: st.DataObject) -> None:
    """Random frames with random headers to random receivers; refusals by name."""
    draw = data.draw
    with Network() as network:
        source = network.guest(draw(some.features), size=256, data_len=DATA_LEN)
        sinks = [
            network.guest(
                draw(some.features), policy=draw(some.policies), size=256, data_len=DATA_LEN
            )
            for _ in range(draw(st.integers(1, 3)))
        ]
        frame, header = draw(some.sendings())
        for sink in sinks:
            make_room(draw, sink, len(frame))
        claim = device.judge(
            frame, flags=header.flags, gso_type=header.gso_type, csum_start=header.csum_start,
            csum_offset=header.csum_offset, may_be_partial=bool(source.features & CSUM),
        )  # fmt: skip
        found = send_to_all(draw, network, source, frame, header)
        if isinstance(claim, str):
            assert {claim: 1} == source.drops
            assert not any(found)
            return
        assert {} == source.drops
        for sink, received in zip(sinks, found, strict=True):
            (one,) = received
            obeys(sink, one)
            seen = device.Delivery(
                one.header.flags, one.header.csum_start, one.header.csum_offset, one.frame
            )
            assert seen in device.deliver(claim, column(sink))


@some.examples(compiled=150, interpreted=60)
@given(st.data())
def test_receiver_gets_what_was_meant(data: st.DataObject) -> None:
    """A good frame, partial or complete: finished as its header says it is the frame that a
    sender without offload would have sent; and so for the next frame in the same burst."""
    draw = data.draw
    with Network(draw(st.sampled_from(list(FabricKind)))) as network:
        source = network.guest(FULL, size=256, data_len=2 * DATA_LEN)
        sink = network.guest(
            draw(some.features), policy=draw(some.policies), size=512, data_len=2 * DATA_LEN
        )
        sent: list[Frame] = []
        refused = 0
        for _ in range(draw(st.integers(1, 6))):
            frame = draw(some.frames())
            parsed = parse(frame.data)
            partial = draw(st.booleans()) and not parsed.fragment and not parsed.routed
            make_room(draw, sink, len(frame.data))
            source.send(
                frame.partial if partial else frame.data,
                frame.header if partial else NetHeader(),
                cuts=draw(some.cuts(12 + len(frame.data))) if draw(st.booleans()) else (),
                indirect=draw(st.booleans()),
            )
            sent.append(frame)
            if draw(st.integers(0, 4)) == 0:
                source.send(frame.partial, NetHeader(gso_type=1))
                refused += 1
        assert len(sent) + refused == network.run(source)
        assert {} == sink.drops
        assert refused == source.drops.get("gso_not_negotiated", 0)
        found = sink.received()
        assert len(sent) == len(found)
        for frame, one in zip(sent, found, strict=True):
            obeys(sink, one)
            finished = one.frame
            if one.header.flags == NEEDS_CSUM:
                start, offset = one.header.csum_start, one.header.csum_offset
                finished = checksum.finish(one.frame, start, offset)
            assert frame.data == finished


@some.examples(compiled=200, interpreted=60)
@given(st.binary(min_size=14, max_size=300), some.headers, some.features, some.policies)
def test_any_bytes(body: bytes, header: NetHeader, features: int, policy: object) -> None:
    """Noise for a frame, noise for a header: judged and delivered as the model says."""
    frame = BROADCAST + MACS[0] + body[12:]
    with Network() as network:
        source = network.guest(FULL, data_len=1 << 14)
        sink = network.guest(features, policy=policy, data_len=1 << 14)
        sink.post(500)
        claim = device.judge(
            frame, flags=header.flags, gso_type=header.gso_type, csum_start=header.csum_start,
            csum_offset=header.csum_offset,
        )  # fmt: skip
        source.send(frame, header)
        network.run(source)
        if isinstance(claim, str):
            assert {claim: 1} == source.drops
            return
        (one,) = sink.received()
        seen = device.Delivery(
            one.header.flags, one.header.csum_start, one.header.csum_offset, one.frame
        )
        assert seen in device.deliver(claim, column(sink))
