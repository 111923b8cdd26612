"""Segmentation at delivery: what a receiver gets of a frame that is larger than its wire, against
the reference segmenter byte for byte, and what of a sender is refused.
"""

from collections.abc import Sequence

import pytest

from tests.reference import checksum
from tests.reference.frame import BROADCAST, Frame, Layers, fragment6, options, routing
from tests.reference.guest import Guest
from tests.reference.header import parse
from tests.reference.network import Network
from tests.reference.plug import (
    CSUM,
    FULL,
    GUEST_CSUM,
    GUEST_ECN,
    GUEST_GSO,
    GUEST_TSO4,
    GUEST_TSO6,
    GUEST_USO4,
    GUEST_USO6,
    HOST_ECN,
    HOST_GSO,
    HOST_TSO4,
    HOST_TSO6,
    HOST_USO,
    MRG_RXBUF,
    Options,
)
from tests.reference.receiver import obeys, on_the_wire
from vionet.engine.status import FabricKind, Policy
from vionet.spec.virtio_net import NetHeader

SENDER = FULL | HOST_GSO
FAST = FULL | GUEST_GSO
PARTIAL_ONLY = FULL
PLAIN_GUEST = FULL & ~GUEST_CSUM
FIN, PSH, ACK, URG, ECE, CWR = 0x01, 0x08, 0x10, 0x20, 0x40, 0x80
BODY = bytes((i * 7 + (i >> 8)) & 0xFF for i in range(70_000))
TAGS = ((0x88A8, 0x2005), (0x8100, 0x0006), (0x8100, 7))
TIMESTAMP = b"\1\1\x08\x0a" + b"\1\2\3\4\5\6\7\x08"


def sent(
    frame: Frame,
    header: NetHeader,
    features: int = FAST,
    *,
    data: bytes | None = None,
    policy: Policy = Policy.UNIFORM,
    sender: int = SENDER,
    sender_mtu: int | None = None,
    mtu: int | None = None,
    cuts: Sequence[int] = (),
    chains: Sequence[Sequence[int]] = (),
    kind: FabricKind = FabricKind.SWITCH,
) -> tuple[list[tuple[NetHeader, bytes]], Guest, Guest]:
    """One frame from a guest to another: what arrived, the sender, the receiver."""
    with Network(kind) as network:
        source = network.guest(sender, size=256, options=Options(mtu=sender_mtu))
        sink = network.guest(
            features, policy=policy, size=256, data_len=1 << 20, options=Options(mtu=mtu)
        )
        for chain in chains or [[2048]] * 200:
            sink.post(*chain)
        source.send(frame.partial if data is None else data, header, cuts=cuts)
        assert 1 == network.run(source)
        assert [0] == [used.length for used in source.tx.take_used()], "TX-15"
        found = [(one.header, one.frame) for one in sink.received()]
        for one in found:
            obeys(features, *one)
        return found, source, sink


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
    found, source, sink = sent(frame, frame.gso(size, ecn=cwr), features, policy=policy)
    assert {} == source.drops == sink.drops
    assert frame.segments(size) == [one for got in found for one in on_the_wire(*got)]
    whole = features == FAST and policy is not Policy.COMPLETE
    made = len(frame.segments(size))
    few = parse(frame.data).protocol == checksum.TCP or made <= 64
    assert (1 if whole and few else made) == len(found)
    complete = features == PLAIN_GUEST or policy is Policy.COMPLETE
    assert {0 if complete else 1} == {header.flags for header, _ in found}
    if whole and few:
        ((header, data),) = found
        assert frame.partial == data
        assert frame.gso(size, ecn=cwr)._replace(num_buffers=header.num_buffers) == header
    assert (0 if whole and few else 1) == sink.ledger.get("gso_segmented", 0)
    assert (0 if whole and few else made) == sink.ledger.get("segments", 0)
    assert (1 if whole and few else 0) == sink.ledger.get("gso_passed", 0)


NEED = {
    "tcp4": (Layers().tcp(BODY[:5000]), GUEST_TSO4),
    "tcp6": (Layers(6).tcp(BODY[:5000]), GUEST_TSO6),
    "ecn4": (Layers().tcp(BODY[:5000], flags=CWR), GUEST_TSO4 | GUEST_ECN),
    "ecn6": (Layers(6).tcp(BODY[:5000], flags=CWR), GUEST_TSO6 | GUEST_ECN),
    "udp4": (Layers().udp(BODY[:5000]), GUEST_USO4),
    "udp6": (Layers(6).udp(BODY[:5000]), GUEST_USO6),
}


@pytest.mark.parametrize("name", NEED)
def test_whole_only_with_every_feature_it_needs(name: str) -> None:
    """RX-08 to RX-13: without any one of them the receiver gets segments (W26)."""
    frame, needed = NEED[name]
    header = frame.gso(1000, ecn="ecn" in name)
    found, _, _ = sent(frame, header, FULL | needed)
    assert 1 == len(found)
    for bit in (GUEST_TSO4, GUEST_TSO6, GUEST_ECN, GUEST_USO4, GUEST_USO6):
        if needed & bit:
            found, _, _ = sent(frame, header, FAST & ~bit)
            assert 5 == len(found)


@pytest.mark.parametrize("bit", [0, 0x80])
@pytest.mark.parametrize("flags", [ACK, ACK | CWR])
def test_ecn_is_what_the_bit_or_the_flag_says(bit: int, flags: int) -> None:
    """RX-13, TD-07: a sender without HOST_ECN may leave the bit out; the receiver has it."""
    frame = Layers().tcp(BODY[:5000], flags=flags)
    header = frame.gso(1000)._replace(gso_type=1 | bit)
    ((found, _),), _, _ = sent(frame, header)
    assert 1 | (0x80 if bit or flags & CWR else 0) == found.gso_type
    segments, _, _ = sent(frame, header, FAST & ~GUEST_ECN)
    assert (5 if bit or flags & CWR else 1) == len(segments)


@pytest.mark.parametrize("hdr_len", [0, 1, 33, 53, 54, 1000, 0xFFFF])
@pytest.mark.parametrize("features", [FAST, PLAIN_GUEST])
def test_w45_length_of_headers_is_a_hint(hdr_len: int, features: int) -> None:
    """W45, TX-03, TX-04: whatever the driver says, the result is the same and hdr_len is right."""
    frame = Layers().tcp(BODY[:5000])
    found, _, _ = sent(frame, frame.gso(1000, hdr_len=hdr_len), features)
    assert frame.segments(1000) == [one for got in found for one in on_the_wire(*got)]
    assert {54 if features == FAST else 0} == {header.hdr_len for header, _ in found}


@pytest.mark.parametrize("payload", [0, 1, 99, 100])
@pytest.mark.parametrize("features", [FAST, PLAIN_GUEST])
@pytest.mark.parametrize("make", [Layers().tcp, Layers(6).udp])
def test_w44_one_segment_is_an_ordinary_frame(payload: int, features: int, make: object) -> None:
    """W44, LX-11: gso_size of at least the payload is legal, and nothing is left to segment."""
    frame: Frame = make(BODY[:payload])  # type: ignore[operator]
    found, source, sink = sent(frame, frame.gso(100), features)
    ((header, _),) = found
    assert (0, 0, 0) == (header.gso_type, header.gso_size, header.hdr_len)
    assert [frame.data] == on_the_wire(*found[0])
    assert "gso_segmented" not in sink.ledger
    assert {} == source.drops


@pytest.mark.parametrize("features", [FAST, PARTIAL_ONLY, PLAIN_GUEST])
def test_w46_large_datagrams_are_not_tcp(features: int) -> None:
    """W46, SG-11: a UDP frame's type follows from its protocol; labelled TCP it is refused."""
    for layers, wrong in ((Layers(), 1), (Layers(6), 4)):
        frame = layers.udp(BODY[:9000])
        found, _, _ = sent(frame, frame.gso(1000), features)
        assert {5 if features == FAST else 0} == {header.gso_type for header, _ in found}
        found, source, _ = sent(frame, frame.gso(1000)._replace(gso_type=wrong), features)
        assert [] == found
        assert {"gso_header_mismatch": 1} == source.drops


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
        found, source, _ = sent(frame, frame.gso(size), features, chains=[[200]] * 200)
        assert {} == source.drops
        assert (1 if features == FAST and count <= 64 else count) == len(found)
        assert frame.segments(size) == [one for got in found for one in on_the_wire(*got)]
    lengths = [len(one) - (42 if version == 4 else 62) for one in frame.segments(size)]
    assert [size] * (count - 1) + [last] == lengths


@pytest.mark.parametrize("features", [PARTIAL_ONLY, PLAIN_GUEST])
def test_w62_each_field_of_each_segment(features: int) -> None:
    """W62, SG-06: flags only where due, sequence, id, window, options, urgent pointer."""
    options_ = TIMESTAMP
    layers = Layers(ident=0xFFFF, fragment=0x4000)
    frame = layers.tcp(BODY[:2500], options_, flags=0xFF, seq=0xFFFFFF00, urgent=9)
    found, _, _ = sent(frame, frame.gso(1000, ecn=True), features)
    assert 3 == len(found)
    for i, (_, data) in enumerate(found):
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
    found, _, _ = sent(frame, frame.gso(1000), features, data=data)
    assert frame.segments(1000) == [one for got in found for one in on_the_wire(*got)]
    assert {0xFFFF} == {checksum.ones_sum(one[14:34]) for _, one in found}


@pytest.mark.parametrize("seed", [0, 0xFFFF, 0x1234])
@pytest.mark.parametrize("features", [FAST, PARTIAL_ONLY, PLAIN_GUEST])
def test_seed_of_the_guest_does_not_matter(seed: int, features: int) -> None:
    """SG-07: with the length, without it, or nonsense: each sum is computed from the headers."""
    frame = Layers(6).tcp(BODY[:5000])
    data = checksum.put(frame.partial, frame.field, seed)
    found, source, _ = sent(frame, frame.gso(1000), features, data=data)
    assert frame.segments(1000) == [one for got in found for one in on_the_wire(*got)]
    assert 1 == source.ledger["pseudo_header_repaired"]


@pytest.mark.parametrize("features", [PARTIAL_ONLY, PLAIN_GUEST])
def test_routing_under_way_keeps_the_senders_sum(features: int) -> None:
    """The final address is not ours to know: the sender's seed, corrected by the length."""
    final = bytes(range(16))
    layers = Layers(6, extensions=((43, routing(1)),))
    plain = layers.tcp(BODY[:2500])
    seed = checksum.pseudo_header(layers.ends[0], final, checksum.TCP, 2520)
    frame = Frame(plain.data, plain.csum_start, plain.csum_offset, seed)
    found, _, _ = sent(frame, frame.gso(1000), features)
    for header, data in found:
        done = on_the_wire(header, data)[0]
        l4 = done[frame.csum_start :]
        wanted = checksum.pseudo_header(layers.ends[0], final, checksum.TCP, len(l4))
        assert 0xFFFF == checksum.ones_sum(l4, wanted)
    assert 3 == len(found)


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
        found, _, _ = sent(frame, frame.gso(1000), PLAIN_GUEST)
        fields = [checksum.word(data, frame.field) for _, data in found]
        assert [stored] * 3 == fields
        assert frame.segments(1000) == [data for _, data in found]


MSS = Layers().tcp(BODY[:5000])
USO = Layers(6).udp(BODY[:5000])
FRAGMENT = Layers(fragment=0x2000).tcp(BODY[:5000])
HEADER = MSS.gso(1000)
REFUSED = {
    "type 2": ("gso_type_unknown", MSS, HEADER._replace(gso_type=2)),
    "type 6": ("gso_type_unknown", MSS, HEADER._replace(gso_type=6)),
    "tunnel over v4": ("gso_type_unknown", MSS, HEADER._replace(gso_type=0x21)),
    "tunnel over v6": ("gso_type_unknown", MSS, HEADER._replace(gso_type=0x41)),
    "both tunnels": ("gso_type_unknown", MSS, HEADER._replace(gso_type=0x61)),
    "ecn alone": ("gso_type_unknown", MSS, HEADER._replace(gso_type=0x80)),
    "ufo": ("gso_not_negotiated", USO, USO.gso(1000)._replace(gso_type=3)),
    "size 0": ("gso_size_invalid", MSS, HEADER._replace(gso_size=0)),
    "size by fragments": ("gso_size_invalid", MSS, HEADER._replace(gso_size=0xFFFF)),
    "no checksum": ("gso_without_csum", MSS, HEADER._replace(flags=0)),
    "data valid instead": ("gso_without_csum", MSS, HEADER._replace(flags=2)),
    "tcp4 of tcp6": ("gso_header_mismatch", MSS, HEADER._replace(gso_type=4)),
    "udp of tcp": ("gso_header_mismatch", MSS, HEADER._replace(gso_type=5)),
    "ecn of udp": ("gso_header_mismatch", USO, USO.gso(1000, ecn=True)),
    "start in ip": ("gso_header_mismatch", MSS, HEADER._replace(csum_start=33)),
    "start in payload": ("gso_header_mismatch", MSS, HEADER._replace(csum_start=60)),
    "start beyond": ("gso_header_mismatch", MSS, HEADER._replace(csum_start=0xFFFE)),
    "offset of udp": ("gso_header_mismatch", MSS, HEADER._replace(csum_offset=6)),
    "offset of tcp": ("gso_header_mismatch", USO, USO.gso(1000)._replace(csum_offset=16)),
    "fragment": ("csum_on_fragment", FRAGMENT, FRAGMENT.gso(1000)._replace(gso_type=1)),
    "many tcp segments": ("gso_too_many_segments", MSS, HEADER._replace(gso_size=2)),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("features", [FAST, PLAIN_GUEST])
def test_refused(name: str, features: int) -> None:
    """Dropped, and counted at the sender by its reason."""
    reason, frame, header = REFUSED[name]
    found, source, _ = sent(frame, header, features)
    assert [] == found
    assert {reason: 1} == source.drops


@pytest.mark.parametrize(("words", "passes"), [(0, 0), (1, 0), (4, 0), (5, 1), (12, 1), (13, 0)])
def test_wrong_data_offset(words: int, passes: bool) -> None:
    """LX-14: a TCP header shorter than 20 bytes, or longer than the datagram."""
    frame = Layers().tcp(BODY[:28])
    data = bytearray(frame.partial)
    data[34 + 12] = words << 4
    found, source, _ = sent(frame, frame.gso(10), data=bytes(data))
    assert passes == len(found)
    assert ({} if passes else {"gso_header_mismatch": 1}) == source.drops


SENDS = {
    "tcp4": (MSS, 0, HOST_TSO4),
    "tcp6": (Layers(6).tcp(BODY[:5000]), 0, HOST_TSO6),
    "ecn": (MSS, 0x80, HOST_ECN),
    "udp4": (Layers().udp(BODY[:5000]), 0, HOST_USO),
    "udp6": (USO, 0, HOST_USO),
    "csum": (MSS, 0, CSUM),
}


@pytest.mark.parametrize("name", SENDS)
def test_sender_has_to_have_agreed(name: str) -> None:
    """TD-03 to TD-07, TD-10: each type by its own feature, and none without CSUM."""
    frame, bit, needed = SENDS[name]
    header = frame.gso(1000)
    header = header._replace(gso_type=header.gso_type | bit)
    _, source, _ = sent(frame, header)
    assert {} == source.drops
    found, source, _ = sent(frame, header, sender=SENDER & ~needed)
    assert [] == found
    assert {"gso_not_negotiated": 1} == source.drops


@pytest.mark.parametrize(("count", "reason"), [(2048, ""), (2049, "gso_too_many_segments")])
def test_number_of_segments_is_bounded(count: int, reason: str) -> None:
    """SG-08: segments of one byte each, as many as may be and one more."""
    frame = Layers().tcp(BODY[:count])
    with Network() as network:
        source = network.guest(SENDER)
        sink = network.guest(PLAIN_GUEST, size=4096, data_len=1 << 18)
        for _ in range(count):
            sink.post(80)
        source.send(frame.partial, frame.gso(1))
        assert 1 == network.run(source)
        assert ({reason: 1} if reason else {}) == source.drops
        found = [one.frame for one in sink.received()]
    assert (frame.segments(1) if not reason else []) == found


@pytest.mark.parametrize(("count", "reason"), [(128, ""), (129, "gso_too_many_segments")])
def test_number_of_datagrams_is_bounded(count: int, reason: str) -> None:
    """LX-09: no kernel makes more than 128 datagrams of one frame."""
    frame = Layers().udp(BODY[: count * 10])
    found, source, _ = sent(frame, frame.gso(10), chains=[[100]] * 200)
    assert ({reason: 1} if reason else {}) == source.drops
    assert (0 if reason else count) == len(found)


def test_trailer_is_not_payload() -> None:
    """SG-04: bytes behind the IP datagram are in no segment."""
    frame = Layers().tcp(BODY[:5000])
    for features in (FAST, PARTIAL_ONLY, PLAIN_GUEST):
        found, _, _ = sent(frame, frame.gso(1000), features, data=frame.partial + b"junk" * 300)
        assert frame.segments(1000) == [one for got in found for one in on_the_wire(*got)]


@pytest.mark.parametrize("kind", list(FabricKind))
@pytest.mark.parametrize("cuts", [range(1, 200), (12, 66, 1066, 1067), (5, 140, 141, 4000)])
def test_sender_cuts_its_frame_anywhere(cuts: Sequence[int], kind: FabricKind) -> None:
    """The segments do not depend on the sender's scatter list; neither does the next frame."""
    frame = Layers(6, tags=TAGS).tcp(BODY[:5000], TIMESTAMP)
    for features in (FAST, PARTIAL_ONLY, PLAIN_GUEST):
        found, _, _ = sent(frame, frame.gso(999), features, cuts=cuts, kind=kind)
        assert frame.segments(999) == [one for got in found for one in on_the_wire(*got)]


def test_w36_buffers_too_small_for_the_whole() -> None:
    """W36, SG-20: GUEST_TSO4 without mergeable buffers, buffers of one page: segments."""
    frame = Layers().tcp(BODY[:9000])
    features = FAST & ~MRG_RXBUF
    for chains, whole in (([[9066]], True), ([[4096]] * 20, False), ([[12, 2000]] * 20, False)):
        found, source, sink = sent(frame, frame.gso(1448), features, chains=chains)
        assert {} == source.drops == sink.drops
        assert (1 if whole else 7) == len(found)
        assert frame.segments(1448) == [one for got in found for one in on_the_wire(*got)]


def test_buffers_too_small_for_a_segment() -> None:
    """SG-20: what does not fit at all is dropped and counted, and the buffers stay posted."""
    frame = Layers().tcp(BODY[:9000])
    found, _, sink = sent(frame, frame.gso(1448), FAST & ~MRG_RXBUF, chains=[[1500]] * 10)
    assert [] == found
    assert {"rx_buffer_too_small"} == set(sink.drops)
    assert 0 == sink.rx.used_idx


@pytest.mark.parametrize("features", [FAST, PARTIAL_ONLY, PLAIN_GUEST])
@pytest.mark.parametrize(("mtu", "passes"), [(1487, False), (1488, True), (1500, True)])
def test_mtu_counts_for_a_segment(features: int, mtu: int, passes: bool) -> None:
    """Headers and gso_size are what has to fit, at the receiver and at the sender."""
    frame = Layers(tags=TAGS).tcp(BODY[:9000])
    found, _, sink = sent(frame, frame.gso(1448), features, mtu=mtu)
    assert passes == bool(found)
    assert ({} if passes else {"mtu_exceeded": 1}) == sink.drops
    found, source, _ = sent(frame, frame.gso(1448), features, sender_mtu=mtu)
    assert passes == bool(found)
    assert ({} if passes else {"frame_too_long": 1}) == source.drops


def test_w14_flooded_frame_reaches_each_in_its_own_form() -> None:
    """W14, SG-18, SG-19: one frame, five receivers, and the sender's bytes unchanged."""
    frame = Layers(dst=BROADCAST).udp(BODY[:9000])
    kinds = [FAST, PLAIN_GUEST, FAST & ~GUEST_USO4, FULL & ~MRG_RXBUF, FAST]
    with Network() as network:
        source = network.guest(SENDER)
        sinks = [network.guest(features) for features in kinds]
        tap, stream = network.tap(), network.tap(takes_partial=False)
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
            assert frame.segments(1000) == [one for got in found for one in on_the_wire(*got)]
        for end in (tap, stream):
            found = end.taken()
            assert frame.segments(1000) == [one for got in found for one in on_the_wire(*got)]
        assert 9 == len(found)


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
        assert wanted == [one for got in found for one in on_the_wire(*got)]
