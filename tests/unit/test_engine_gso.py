"""What may be said of a large frame: each refusal by its name, the bounds, what a kernel may leave
out, and how a wire waits with one.
"""

import pytest

from tests.reference.exchange import BODY, FAST, PARTIAL_ONLY, PLAIN_GUEST, SENDER, exchange, kernel
from tests.reference.frame import BROADCAST, Layers
from tests.reference.network import Network
from tests.reference.plug import (
    CSUM,
    HOST_ECN,
    HOST_TSO4,
    HOST_TSO6,
    HOST_USO,
)
from tests.reference.receiver import obeys, stream
from vionet.engine.status import FabricKind

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
def test_w42_refused(name: str, features: int) -> None:
    """Dropped, and counted at the sender by its reason."""
    reason, frame, header = REFUSED[name]
    got = exchange(frame, header, features)
    assert [] == got.found
    assert {reason: 1} == got.source.drops


@pytest.mark.parametrize(("words", "passes"), [(0, 0), (1, 0), (4, 0), (5, 1), (12, 1), (13, 0)])
def test_wrong_data_offset(words: int, passes: bool) -> None:
    """LX-14: a TCP header shorter than 20 bytes, or longer than the datagram."""
    frame = Layers().tcp(BODY[:28])
    data = bytearray(frame.partial)
    data[34 + 12] = words << 4
    got = exchange(frame, frame.gso(10), data=bytes(data))
    assert passes == len(got.found)
    assert ({} if passes else {"gso_header_mismatch": 1}) == got.source.drops
    got = exchange(frame, frame.gso(10), data=bytes(data) + bytes(40))
    assert passes == len(got.found), "a trailer is no part of the header"


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
    got = exchange(frame, header)
    assert {} == got.source.drops
    got = exchange(frame, header, sender=SENDER & ~needed)
    assert [] == got.found
    assert {"gso_not_negotiated": 1} == got.source.drops


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
    got = exchange(frame, frame.gso(10), chains=[[100]] * 200)
    assert ({reason: 1} if reason else {}) == got.source.drops
    assert (0 if reason else count) == len(got.found)


KERNEL = {
    "tcp4": Layers(dst=BROADCAST).tcp(BODY[:9000]),
    "tcp6": Layers(6, dst=BROADCAST).tcp(BODY[:9000], b"\1" * 12),
    "udp4": Layers(dst=BROADCAST).udp(BODY[:9000]),
}


@pytest.mark.parametrize("name", KERNEL)
@pytest.mark.parametrize("kind", list(FabricKind))
@pytest.mark.parametrize("flags", [1, 2])
@pytest.mark.parametrize("features", [FAST, PARTIAL_ONLY, PLAIN_GUEST])
def test_from_a_kernel(name: str, kind: FabricKind, flags: int, features: int) -> None:
    """A tap's large frame, partial, or with a sum that the kernel vouches for (DATA_VALID without
    NEEDS_CSUM, LX-12): whole, or in segments with sums of their own."""
    frame = KERNEL[name]
    with Network(kind) as network:
        tap, sink = kernel(network), network.guest(features, size=256)
        for _ in range(100):
            sink.post(2000)
        header = frame.gso(1400, hdr_len=0)._replace(flags=flags)
        if flags == 2:
            header = header._replace(csum_start=0, csum_offset=0)
        tap.give(frame.partial if flags == 1 else frame.data, header)
        assert 1 == network.run_tap(tap)
        assert {} == tap.drops == sink.drops
        found = [(one.header, one.frame) for one in sink.received()]
    for one in found:
        obeys(features, *one)
    assert frame.segments(1400) == stream(found)
    assert (1 if features == FAST else 7) == len(found)


@pytest.mark.parametrize("kind", list(FabricKind))
def test_to_a_kernel(kind: FabricKind) -> None:
    """What a tap takes goes there whole, the payload uncopied, with a header of our own."""
    for frame in KERNEL.values():
        with Network(kind) as network:
            source, tap = network.guest(SENDER), kernel(network)
            source.send(frame.partial, frame.gso(1400, hdr_len=3), cuts=(12, 600))
            assert 1 == network.run(source)
            ((header, data),) = tap.taken()
            assert frame.gso(1400) == header._replace(num_buffers=0)
            assert frame.partial == data
            assert 0 == tap.ledger.get("payload_bytes_copied", 0)
            assert 1 == tap.ledger["gso_passed"]


def test_a_guest_may_not_leave_the_sum_out() -> None:
    """DATA_VALID of a guest vouches for nothing (TX-11); nor does a kernel's 0."""
    frame = KERNEL["tcp4"]
    header = frame.gso(1400)._replace(flags=0)
    with Network() as network:
        tap, sink = kernel(network), network.guest()
        sink.post(2000)
        tap.give(frame.data, header)
        assert 1 == network.run_tap(tap)
        assert {"gso_without_csum": 1} == tap.drops
    got = exchange(frame, header._replace(flags=2))
    assert {"gso_without_csum": 1} == got.source.drops
