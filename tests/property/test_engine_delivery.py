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
from tests.reference import device
from tests.reference.exchange import kernel
from tests.reference.frame import BROADCAST, MACS, Frame
from tests.reference.guest import Guest, Received
from tests.reference.header import parse
from tests.reference.network import Network
from tests.reference.plug import CSUM, FULL, GUEST_CSUM, MRG_RXBUF
from tests.reference.receiver import obeys, on_the_wire
from tests.reference.table import SENDS, TAKES, large
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


def judged(source: Guest, data: bytes, header: NetHeader) -> device.Claim | str:
    """What the model makes of a frame at ingress."""
    return device.judge(
        data,
        flags=header.flags,
        gso_type=header.gso_type,
        gso_size=header.gso_size,
        csum_start=header.csum_start,
        csum_offset=header.csum_offset,
        may_be_partial=bool(source.features & CSUM),
        may_be_large=large(source.features, SENDS),
    )


def seen(one: Received) -> device.Delivery:
    """A delivery in the model's words."""
    h = one.header
    return device.Delivery(
        h.flags, h.csum_start, h.csum_offset, one.frame, h.gso_type, h.hdr_len, h.gso_size
    )


def large_room(draw: Draw, sink: Guest, claim: device.Claim | str, length: int) -> bool:
    """Post chains for a frame of `length` bytes; *returns* whether it fits without being cut."""
    if isinstance(claim, str) or not claim.gso_type:
        make_room(draw, sink, length)
        return True
    merge = bool(sink.features & MRG_RXBUF)
    whole = sink.header_len + len(claim.frame)
    front = sink.header_len + claim.header_len
    chains = draw(some.large_chains(whole, front + claim.gso_size, claim.count, merge))
    for sizes in chains:
        sink.post(*sizes)
    return merge or sum(chains[0]) >= whole


def check(claim: device.Claim, sink: Guest, found: list[Received], fits: bool = True) -> None:
    """What arrived obeys the rules, and is what the model says."""
    for one in found:
        obeys(sink.features, one.header, one.frame)
    if claim.gso_type:
        takes = large(sink.features, TAKES)
        wanted = device.deliver_large(claim, column(sink), takes, fits=fits)
        assert wanted == [seen(one) for one in found]
    else:
        (one,) = found
        assert seen(one) in device.deliver(claim, column(sink))


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
        claim = judged(source, frame, header)
        found = send_to_all(draw, network, source, frame, header)
        if isinstance(claim, str):
            assert {claim: 1} == source.drops
            assert not any(found)
            return
        assert {} == source.drops
        for sink, received in zip(sinks, found, strict=True):
            check(claim, sink, received)


@some.examples(compiled=150, interpreted=60)
@given(st.data())
def test_large_frame_is_delivered_as_the_model_says(data: st.DataObject) -> None:
    """Random frames that have to be cut up to receivers of any abilities; refusals by name."""
    draw = data.draw
    with Network(draw(st.sampled_from(list(FabricKind)))) as network:
        source = network.guest(draw(some.features), size=256, data_len=DATA_LEN)
        sinks = [
            network.guest(
                draw(some.features), policy=draw(some.policies), size=4096, data_len=2 * DATA_LEN
            )
            for _ in range(1 if network.state.kind == FabricKind.WIRE else draw(st.integers(1, 3)))
        ]
        frame, header = draw(some.large_sendings())
        claim = judged(source, frame, header)
        fits = [large_room(draw, sink, claim, len(frame)) for sink in sinks]
        found = send_to_all(draw, network, source, frame, header)
        if isinstance(claim, str):
            assert {claim: 1} == source.drops
            assert not any(found)
            return
        assert {} == source.drops
        for sink, received, room in zip(sinks, found, fits, strict=True):
            check(claim, sink, received, room)


@some.examples(compiled=100, interpreted=40)
@given(st.data())
def test_large_frame_from_a_kernel(data: st.DataObject) -> None:
    """The same from a tap, whose kernel may vouch for a sum instead of leaving it open."""
    draw = data.draw
    with Network() as network:
        tap = kernel(network)
        sink = network.guest(
            draw(some.features), policy=draw(some.policies), size=4096, data_len=2 * DATA_LEN
        )
        frame, header = draw(some.large_sendings())
        everything = frozenset(word for words in SENDS.values() for word in words)
        claim = device.judge(
            frame, flags=header.flags, gso_type=header.gso_type, gso_size=header.gso_size,
            csum_start=header.csum_start, csum_offset=header.csum_offset,
            may_be_large=everything, trusted=True,
        )  # fmt: skip
        fits = large_room(draw, sink, claim, len(frame))
        tap.give(frame, header)
        assert 1 == network.run_tap(tap)
        found = sink.received()
        if isinstance(claim, str):
            assert {claim: 1} == tap.drops
            assert [] == found
            return
        assert {} == tap.drops
        check(claim, sink, found, fits)


@some.examples(compiled=150, interpreted=60)
@given(st.data())
def test_w56_receiver_gets_what_was_meant(data: st.DataObject) -> None:
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
            obeys(sink.features, one.header, one.frame)
            assert [frame.data] == on_the_wire(one.header, one.frame)


@some.examples(compiled=200, interpreted=60)
@given(st.binary(min_size=14, max_size=300), some.headers, some.features, some.policies)
def test_w42_any_bytes(body: bytes, header: NetHeader, features: int, policy: object) -> None:
    """Noise for a frame, noise for a header: judged and delivered as the model says."""
    frame = BROADCAST + MACS[0] + body[12:]
    with Network() as network:
        source = network.guest(FULL, data_len=1 << 14)
        sink = network.guest(features, policy=policy, data_len=1 << 14)
        sink.post(500)
        claim = judged(source, frame, header)
        source.send(frame, header)
        network.run(source)
        if isinstance(claim, str):
            assert {claim: 1} == source.drops
            return
        check(claim, sink, sink.received())
