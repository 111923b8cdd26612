"""Segmentation at delivery: what a receiver gets of a frame that is larger than its wire, against
the reference segmenter byte for byte, and what of a sender is refused.
"""

from collections.abc import Sequence

import pytest

from tests.reference import checksum
from tests.reference.exchange import BODY, FAST, PARTIAL_ONLY, PLAIN_GUEST, SENDER, exchange
from tests.reference.frame import BROADCAST, Frame, Layers, fragment6, options, routing
from tests.reference.header import parse
from tests.reference.network import Network
from tests.reference.plug import (
    FULL,
    GUEST_ECN,
    GUEST_TSO4,
    GUEST_TSO6,
    GUEST_USO4,
    GUEST_USO6,
    MRG_RXBUF,
)
from tests.reference.receiver import obeys, on_the_wire, stream
from vionet.engine.status import FabricKind, Policy

FIN, PSH, ACK, URG, ECE, CWR = 0x01, 0x08, 0x10, 0x20, 0x40, 0x80
TAGS = ((0x88A8, 0x2005), (0x8100, 0x0006), (0x8100, 7))
TIMESTAMP = b"\1\1\x08\x0a" + b"\1\2\3\4\5\6\7\x08"


FRAMES = {
    "tcp4": (Layers().tcp(BODY[:10_000]), 1448),
    "tcp6": (Layers(6).tcp(BODY[:10_000]), 1428),
    "udp4": (Layers().udp(BODY[:10_000]), 1472),
    "udp6": (Layers(6).udp(BODY[:10_000]), 1452),
    "odd size": (Layers().tcp(BODY[:9_999]), 1001),
    "odd size, udp6": (Layers(6).udp(BODY[:9_999]), 1001),
    "tcp options": (Layers().tcp(BODY[:5000], TIMESTAMP), 1436),
    "longest tcp options": (Layers(6).tcp(BODY[:5000], b"\1" * 40), 1000),
    "ipv4 options": (Layers(options=b"\1" * 7 + b"\0").tcp(BODY[:5000]), 1000),
    "all options": (Layers(options=b"\1" * 40, tags=TAGS).tcp(BODY[:5000], b"\1" * 40), 1000),
    "tag": (Layers(tags=TAGS[1:2]).tcp(BODY[:5000]), 1448),
    "two tags, v6": (Layers(6, tags=TAGS[:2]).udp(BODY[:5000]), 1448),
    "three tags": (Layers(tags=TAGS).udp(BODY[:5000]), 1448),
    "extensions": (
        Layers(6, extensions=((0, options()), (60, options(bytes(40))))).tcp(BODY[:5000]), 1000,
    ),
    "extensions longer than the copy": (
        Layers(6, extensions=((60, options(bytes(200))),)).tcp(BODY[:5000], TIMESTAMP), 1000,
    ),
    "atomic fragment": (Layers(6, extensions=((44, fragment6(0, False)),)).udp(BODY[:5000]), 1000),
    "routing done": (Layers(6, extensions=((43, routing(0)),)).tcp(BODY[:5000]), 1000),
    "id wraps": (Layers(ident=0xFFFE).tcp(BODY[:5000]), 1000),
    "seq wraps": (Layers().tcp(BODY[:5000], seq=0xFFFFFFFF - 1500), 1000),
    "do not fragment": (Layers(fragment=0x4000).tcp(BODY[:5000]), 1000),
    "fin and push": (Layers().tcp(BODY[:5000], flags=FIN | PSH | ACK), 1000),
    "urgent": (Layers(6).tcp(BODY[:5000], flags=URG | ACK, urgent=700), 1000),
    "cwr": (Layers().tcp(BODY[:5000], flags=CWR | ACK), 1000),
    "cwr and all others": (Layers(6).tcp(BODY[:5000], flags=0xFF), 1000),
    "two segments, the last of one byte": (Layers().tcp(BODY[:1001]), 1000),
    "two equal segments": (Layers().udp(BODY[:2000]), 1000),
    "longest": (Layers().tcp(BODY[:65_495]), 536),
    "largest segments": (Layers(6).tcp(BODY[:65_515]), 65_000),
}  # fmt: skip


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("policy", list(Policy))
@pytest.mark.parametrize("features", [FAST, PARTIAL_ONLY, PLAIN_GUEST])
def test_the_wire_sees_what_a_plain_sender_sends(name: str, features: int, policy: Policy) -> None:
    """Whole, in partial segments or in complete ones: finished, they are the plain sender's."""
    frame, size = FRAMES[name]
    cwr = "cwr" in name
    got = exchange(frame, frame.gso(size, ecn=cwr), features, policy=policy)
    assert {} == got.source.drops == got.sink.drops
    assert frame.segments(size) == got.wire
    whole = features == FAST and policy is not Policy.COMPLETE
    made = len(frame.segments(size))
    few = parse(frame.data).protocol == checksum.TCP or made <= 64
    assert (1 if whole and few else made) == len(got.found)
    complete = features == PLAIN_GUEST or policy is Policy.COMPLETE
    assert {0 if complete else 1} == {header.flags for header, _ in got.found}
    if whole and few:
        ((header, data),) = got.found
        assert frame.partial == data
        assert frame.gso(size, ecn=cwr)._replace(num_buffers=header.num_buffers) == header
    assert (0 if whole and few else 1) == got.sink.ledger.get("gso_segmented", 0)
    assert (0 if whole and few else made) == got.sink.ledger.get("segments", 0)
    assert (1 if whole and few else 0) == got.sink.ledger.get("gso_passed", 0)


NEED = {
    "tcp4": (Layers().tcp(BODY[:5000]), GUEST_TSO4),
    "tcp6": (Layers(6).tcp(BODY[:5000]), GUEST_TSO6),
    "ecn4": (Layers().tcp(BODY[:5000], flags=CWR), GUEST_TSO4 | GUEST_ECN),
    "ecn6": (Layers(6).tcp(BODY[:5000], flags=CWR), GUEST_TSO6 | GUEST_ECN),
    "udp4": (Layers().udp(BODY[:5000]), GUEST_USO4),
    "udp6": (Layers(6).udp(BODY[:5000]), GUEST_USO6),
}


@pytest.mark.parametrize("name", NEED)
def test_w26_whole_only_with_every_feature_it_needs(name: str) -> None:
    """RX-08 to RX-13: without any one of them the receiver gets segments (W26)."""
    frame, needed = NEED[name]
    header = frame.gso(1000, ecn="ecn" in name)
    got = exchange(frame, header, FULL | needed)
    assert 1 == len(got.found)
    for bit in (GUEST_TSO4, GUEST_TSO6, GUEST_ECN, GUEST_USO4, GUEST_USO6):
        if needed & bit:
            got = exchange(frame, header, FAST & ~bit)
            assert 5 == len(got.found)


@pytest.mark.parametrize("bit", [0, 0x80])
@pytest.mark.parametrize("flags", [ACK, ACK | CWR])
def test_ecn_is_what_the_bit_or_the_flag_says(bit: int, flags: int) -> None:
    """RX-13, TD-07: a sender without HOST_ECN may leave the bit out; the receiver has it."""
    frame = Layers().tcp(BODY[:5000], flags=flags)
    header = frame.gso(1000)._replace(gso_type=1 | bit)
    got = exchange(frame, header)
    ((found, _),) = got.found
    assert 1 | (0x80 if bit or flags & CWR else 0) == found.gso_type
    cut = exchange(frame, header, FAST & ~GUEST_ECN)
    assert (5 if bit or flags & CWR else 1) == len(cut.found)


@pytest.mark.parametrize("hdr_len", [0, 1, 33, 53, 54, 1000, 0xFFFF])
@pytest.mark.parametrize("features", [FAST, PLAIN_GUEST])
def test_w45_length_of_headers_is_a_hint(hdr_len: int, features: int) -> None:
    """W45, TX-03, TX-04: whatever the driver says, the result is the same and hdr_len is right."""
    frame = Layers().tcp(BODY[:5000])
    got = exchange(frame, frame.gso(1000, hdr_len=hdr_len), features)
    assert frame.segments(1000) == got.wire
    assert {54 if features == FAST else 0} == {header.hdr_len for header, _ in got.found}


@pytest.mark.parametrize("payload", [0, 1, 99, 100])
@pytest.mark.parametrize("features", [FAST, PLAIN_GUEST])
@pytest.mark.parametrize("make", [Layers().tcp, Layers(6).udp])
def test_w44_one_segment_is_an_ordinary_frame(payload: int, features: int, make: object) -> None:
    """W44, LX-11: gso_size of at least the payload is legal, and nothing is left to segment."""
    frame: Frame = make(BODY[:payload])  # type: ignore[operator]
    got = exchange(frame, frame.gso(100), features)
    ((header, _),) = got.found
    assert (0, 0, 0) == (header.gso_type, header.gso_size, header.hdr_len)
    assert [frame.data] == got.wire
    assert "gso_segmented" not in got.sink.ledger
    assert {} == got.source.drops


@pytest.mark.parametrize("features", [FAST, PARTIAL_ONLY, PLAIN_GUEST])
def test_w46_large_datagrams_are_not_tcp(features: int) -> None:
    """W46, SG-11: a UDP frame's type follows from its protocol; labelled TCP it is refused."""
    for layers, wrong in ((Layers(), 1), (Layers(6), 4)):
        frame = layers.udp(BODY[:9000])
        got = exchange(frame, frame.gso(1000), features)
        assert {5 if features == FAST else 0} == {header.gso_type for header, _ in got.found}
        got = exchange(frame, frame.gso(1000)._replace(gso_type=wrong), features)
        assert [] == got.found
        assert {"gso_header_mismatch": 1} == got.source.drops


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("count", [2, 3, 63, 64, 65, 127, 128])
@pytest.mark.parametrize("tail", ["equal", "one byte", "shorter"])
def test_w61_datagrams_of_any_tail(version: int, count: int, tail: str) -> None:
    """W61, SG-09: each datagram has its own length, id and checksum; more than 64 never pass
    whole (LX-09), more than 128 not at all."""
    size = 100
    last = {"equal": size, "one byte": 1, "shorter": size - 1}[tail]
    frame = Layers(version).udp(BODY[: size * (count - 1) + last])
    for features in (FAST, PLAIN_GUEST):
        got = exchange(frame, frame.gso(size), features, chains=[[200]] * 200)
        assert {} == got.source.drops
        assert (1 if features == FAST and count <= 64 else count) == len(got.found)
        assert frame.segments(size) == got.wire
    lengths = [len(one) - (42 if version == 4 else 62) for one in frame.segments(size)]
    assert [size] * (count - 1) + [last] == lengths


@pytest.mark.parametrize("features", [PARTIAL_ONLY, PLAIN_GUEST])
def test_w62_each_field_of_each_segment(features: int) -> None:
    """W62, SG-06: flags only where due, sequence, id, window, options, urgent pointer."""
    options_ = TIMESTAMP
    layers = Layers(ident=0xFFFF, fragment=0x4000)
    frame = layers.tcp(BODY[:2500], options_, flags=0xFF, seq=0xFFFFFF00, urgent=9)
    got = exchange(frame, frame.gso(1000, ecn=True), features)
    assert 3 == len(got.found)
    for i, (_, data) in enumerate(got.found):
        segment = data[34:]
        assert (0xFFFF + i) & 0xFFFF == checksum.word(data, 18)
        assert 0x4000 == checksum.word(data, 20)
        assert 0xFFFF == checksum.ones_sum(data[14:34])
        assert len(data) - 14 == checksum.word(data, 16)
        assert (0xFFFFFF00 + 1000 * i) & 0xFFFFFFFF == int.from_bytes(segment[4:8], "big")
        wanted = 0xFF & ~(0 if i == 0 else CWR) & ~(0 if i == 2 else FIN | PSH)
        assert wanted == segment[13]
        assert frame.data[42:46] == segment[8:12], "acknowledgement"
        assert frame.data[48:50] == segment[14:16], "window"
        assert 9 == checksum.word(segment, 18)
        assert options_ == segment[20:32]
        assert BODY[:2500][1000 * i : 1000 * (i + 1)] == segment[32:]


@pytest.mark.parametrize("value", [0, 0xFFFF, 0x1234])
@pytest.mark.parametrize("features", [FAST, PARTIAL_ONLY, PLAIN_GUEST])
def test_w17_ipv4_header_checksum_is_made_anew(value: int, features: int) -> None:
    """W17, SG-05: wrong or 0 in the large frame, it is right in each segment, and in a frame
    that passes whole."""
    frame = Layers().tcp(BODY[:5000])
    data = checksum.put(frame.partial, 24, value)
    got = exchange(frame, frame.gso(1000), features, data=data)
    assert frame.segments(1000) == got.wire
    assert {0xFFFF} == {checksum.ones_sum(one[14:34]) for _, one in got.found}


@pytest.mark.parametrize("seed", [0, 0xFFFF, 0x1234])
@pytest.mark.parametrize("features", [FAST, PARTIAL_ONLY, PLAIN_GUEST])
def test_seed_of_the_guest_does_not_matter(seed: int, features: int) -> None:
    """SG-07: with the length, without it, or nonsense: each sum is computed from the headers."""
    frame = Layers(6).tcp(BODY[:5000])
    data = checksum.put(frame.partial, frame.field, seed)
    got = exchange(frame, frame.gso(1000), features, data=data)
    assert frame.segments(1000) == got.wire
    assert 1 == got.source.ledger["pseudo_header_repaired"]


@pytest.mark.parametrize("features", [PARTIAL_ONLY, PLAIN_GUEST])
def test_routing_under_way_keeps_the_senders_sum(features: int) -> None:
    """The final address is not ours to know: the sender's seed, corrected by the length."""
    final = bytes(range(16))
    layers = Layers(6, extensions=((43, routing(1)),))
    plain = layers.tcp(BODY[:2500])
    seed = checksum.pseudo_header(layers.ends[0], final, checksum.TCP, 2520)
    frame = Frame(plain.data, plain.csum_start, plain.csum_offset, seed)
    got = exchange(frame, frame.gso(1000), features)
    for header, data in got.found:
        done = on_the_wire(header, data)[0]
        l4 = done[frame.csum_start :]
        wanted = checksum.pseudo_header(layers.ends[0], final, checksum.TCP, len(l4))
        assert 0xFFFF == checksum.ones_sum(l4, wanted)
    assert 3 == len(got.found)


@pytest.mark.parametrize("version", [4, 6])
def test_w52_w53_a_sum_of_zero(version: int) -> None:
    """W52, W53: a segment whose sum is 0 has 0xffff if it is UDP, and 0 if it is TCP."""
    for make, stored in ((Layers(version).udp, 0xFFFF), (Layers(version).tcp, 0)):
        payload = bytearray(BODY[:3000])
        for at in (0, 1000, 2000):  # choose one word of each segment so that the sum is 0
            payload[at : at + 2] = b"\0\0"
            segment = make(bytes(payload)).segments(1000)[at // 1000]
            held = checksum.word(segment, len(segment) - 1000 - (2 if stored else 4))
            payload[at : at + 2] = held.to_bytes(2, "big")
        frame = make(bytes(payload))
        got = exchange(frame, frame.gso(1000), PLAIN_GUEST)
        fields = [checksum.word(data, frame.field) for _, data in got.found]
        assert [stored] * 3 == fields
        assert frame.segments(1000) == [data for _, data in got.found]


def test_trailer_is_not_payload() -> None:
    """SG-04: bytes behind the IP datagram are in no segment."""
    frame = Layers().tcp(BODY[:5000])
    for features in (FAST, PARTIAL_ONLY, PLAIN_GUEST):
        got = exchange(frame, frame.gso(1000), features, data=frame.partial + b"junk" * 300)
        assert frame.segments(1000) == got.wire


@pytest.mark.parametrize("kind", list(FabricKind))
@pytest.mark.parametrize("cuts", [range(1, 200), (12, 66, 1066, 1067), (5, 140, 141, 4000)])
def test_sender_cuts_its_frame_anywhere(cuts: Sequence[int], kind: FabricKind) -> None:
    """The segments do not depend on the sender's scatter list; neither does the next frame."""
    frame = Layers(6, tags=TAGS).tcp(BODY[:5000], TIMESTAMP)
    for features in (FAST, PARTIAL_ONLY, PLAIN_GUEST):
        got = exchange(frame, frame.gso(999), features, cuts=cuts, kind=kind)
        assert frame.segments(999) == got.wire


def test_w36_buffers_too_small_for_the_whole() -> None:
    """W36, SG-20: GUEST_TSO4 without mergeable buffers, buffers of one page: segments."""
    frame = Layers().tcp(BODY[:9000])
    features = FAST & ~MRG_RXBUF
    for chains, whole in (([[9066]], True), ([[4096]] * 20, False), ([[12, 2000]] * 20, False)):
        got = exchange(frame, frame.gso(1448), features, chains=chains)
        assert {} == got.source.drops == got.sink.drops
        assert (1 if whole else 7) == len(got.found)
        assert frame.segments(1448) == got.wire


def test_buffers_too_small_for_a_segment() -> None:
    """SG-20: what does not fit at all is dropped and counted, and the buffers stay posted."""
    frame = Layers().tcp(BODY[:9000])
    got = exchange(frame, frame.gso(1448), FAST & ~MRG_RXBUF, chains=[[1500]] * 10)
    assert [] == got.found
    assert {"rx_buffer_too_small"} == set(got.sink.drops)
    assert 0 == got.sink.rx.used_idx


@pytest.mark.parametrize("features", [FAST, PARTIAL_ONLY, PLAIN_GUEST])
@pytest.mark.parametrize(("mtu", "passes"), [(1487, False), (1488, True), (1500, True)])
def test_mtu_counts_for_a_segment(features: int, mtu: int, passes: bool) -> None:
    """Headers and gso_size are what has to fit, at the receiver and at the sender."""
    frame = Layers(tags=TAGS).tcp(BODY[:9000])
    got = exchange(frame, frame.gso(1448), features, mtu=mtu)
    assert passes == bool(got.found)
    assert ({} if passes else {"mtu_exceeded": 1}) == got.sink.drops
    got = exchange(frame, frame.gso(1448), features, sender_mtu=mtu)
    assert passes == bool(got.found)
    assert ({} if passes else {"frame_too_long": 1}) == got.source.drops


def test_w14_flooded_frame_reaches_each_in_its_own_form() -> None:
    """W14, SG-18, SG-19: one frame, five receivers, and the sender's bytes unchanged."""
    frame = Layers(dst=BROADCAST).udp(BODY[:9000])
    kinds = [FAST, PLAIN_GUEST, FAST & ~GUEST_USO4, FULL & ~MRG_RXBUF, FAST]
    with Network() as network:
        source = network.guest(SENDER)
        sinks = [network.guest(features) for features in kinds]
        taps = network.tap(), network.tap(takes_partial=False)
        for sink in sinks:
            for _ in range(32):
                sink.post(2000)
        source.send(frame.partial, frame.gso(1000), cuts=(12, 1000))
        assert 1 == network.run(source)
        for sink, count in zip(sinks, (1, 9, 9, 9, 1), strict=True):
            found = [(one.header, one.frame) for one in sink.received()]
            assert count == len(found)
            for one in found:
                obeys(sink.features, *one)
            assert frame.segments(1000) == stream(found)
        for end in taps:
            found = end.taken()
            assert frame.segments(1000) == stream(found)
        assert 9 == len(found)


def test_w14_receiver_that_runs_out_harms_no_other() -> None:
    """The first takes what it has room for, the rest is counted there; the second gets all."""
    frame = Layers(dst=BROADCAST).tcp(BODY[:9000])
    with Network() as network:
        source, short, other = (network.guest(word) for word in (SENDER, PLAIN_GUEST, PLAIN_GUEST))
        for sink, count in ((short, 2), (other, 9)):
            for _ in range(count):
                sink.post(1200)
        source.send(frame.partial, frame.gso(1000), cuts=(12, 3500))
        assert 1 == network.run(source)
        assert {"rx_ring_full": 7} == short.drops
        assert frame.segments(1000)[:2] == [one.frame for one in short.received()]
        assert frame.segments(1000) == [one.frame for one in other.received()]


def test_segments_end_a_burst() -> None:
    """A sender of nothing but frames that have to be cut up does not keep the worker."""
    frame = Layers().tcp(BODY[:1000])
    with Network() as network:
        source = network.guest(SENDER)
        sink = network.guest(PLAIN_GUEST, size=4096, data_len=1 << 19)
        for _ in range(4000):
            sink.post(80)
        for _ in range(4):
            source.send(frame.partial, frame.gso(1))
        assert 1 == network.run(source)
        assert 1 == network.run(source)
        assert 2000 == len(sink.received())


def test_mixed_burst() -> None:
    """Ordinary and large frames of one burst arrive in order, none with anything of another."""
    small, large, udp = Layers().tcp(b"abc"), Layers().tcp(BODY[:5000]), Layers(6).udp(BODY[:3000])
    for features in (FAST, PARTIAL_ONLY, PLAIN_GUEST):
        with Network() as network:
            source, sink = network.guest(SENDER), network.guest(features, size=256)
            for _ in range(100):
                sink.post(2000)
            for _ in range(3):
                source.send(small.partial, small.header)
                source.send(large.partial, large.gso(1000))
                source.send(small.data)
                source.send(udp.partial, udp.gso(1400))
            assert 12 == network.run(source)
            found = [(one.header, one.frame) for one in sink.received()]
        for one in found:
            obeys(features, *one)
        wanted = [small.data, *large.segments(1000), small.data, *udp.segments(1400)] * 3
        assert wanted == stream(found)
