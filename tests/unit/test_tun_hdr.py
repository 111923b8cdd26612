"""OpenBSD's tun_hdr, both ways; the vectors are typed in from the facts about its layout."""

import struct

import pytest

from tests.reference import checksum
from tests.reference.frame import Layers, options, routing
from vionet.engine.status import GSO_ECN, GSO_TCP4, GSO_TCP6, GSO_UDP4, Csum
from vionet.ports.tun_hdr import LENGTH, Meta, TunError, from_tun, to_tun

TCP4 = Layers().tcp(b"payload" * 100)
TCP6 = Layers(6).tcp(b"payload" * 100)
UDP4 = Layers().udp(b"payload" * 100)
PARTIAL = Csum.PARTIAL


def words(flags: int, tag: int = 0, mss: int = 0) -> bytes:
    """Four 16-bit words in host order: flags, pad, tag, segment size."""
    return struct.pack("=HHHH", flags, 0, tag, mss)


VECTORS = [
    (words(0), Meta(), TCP4),
    (words(0x0200), Meta(PARTIAL, 34, 16), TCP4),
    (words(0x0200), Meta(PARTIAL, 54, 16), TCP6),
    (words(0x0400), Meta(PARTIAL, 34, 6), UDP4),
    (words(0x0210, tag=0x6064), Meta(PARTIAL, 34, 16, tci=0x6064), TCP4),
    (words(0x0010, tag=5), Meta(tci=5), TCP4),
    (words(0x0220, mss=300), Meta(PARTIAL, 34, 16, GSO_TCP4, 300), TCP4),
    (words(0x0230, tag=7, mss=300), Meta(PARTIAL, 54, 16, GSO_TCP6, 300, 7), TCP6),
]


@pytest.mark.parametrize(("header", "meta", "frame"), VECTORS)
def test_vectors_both_ways(header: bytes, meta: Meta, frame: object) -> None:
    """Eight bytes, and the same facts; going there and back changes nothing."""
    data = frame.data  # type: ignore[attr-defined]
    assert LENGTH == len(header)
    assert header == to_tun(meta, len(data))
    assert meta == from_tun(header, data[:128], len(data))[0]


LAYERS = [
    Layers(),
    Layers(6),
    Layers(tags=((0x8100, 5),)),
    Layers(6, tags=((0x88A8, 5), (0x8100, 6))),
    Layers(options=bytes([1] * 8)),
    Layers(6, extensions=((0, options()), (60, options(b"\1\4....")))),
    Layers(6, extensions=((43, routing(0)),)),
]


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("flags", [0x0200, 0x0400])
def test_parsing_finds_the_sum(layers: Layers, flags: int) -> None:
    """Start, offset and seed are rebuilt wherever the L4 header is; finished, the sum is right."""
    frame = layers.tcp(b"data" * 9) if flags == 0x0200 else layers.udp(b"data" * 9)
    meta, writes = from_tun(words(flags), frame.bad[:128], len(frame.data))
    assert (PARTIAL, frame.csum_start, frame.csum_offset) == (
        meta.state,
        meta.csum_start,
        meta.csum_offset,
    )
    assert {frame.field: frame.seed} == writes
    made = checksum.put(frame.bad, frame.field, writes[frame.field])
    assert frame.data == checksum.finish(made, meta.csum_start, meta.csum_offset)


def test_ipv4_header_checksum() -> None:
    """virtio has no word for it: it is computed on the way in, options and all."""
    frame = Layers(options=bytes([1] * 4)).udp(b"data")
    right = checksum.word(frame.data, 24)
    broken = checksum.put(frame.data, 24, right ^ 0x55)
    assert (Meta(), {24: right}) == from_tun(words(0x0100), broken, len(broken))
    meta, writes = from_tun(words(0x0500), broken, len(broken))
    assert (PARTIAL, {24: right, frame.field: frame.seed}) == (meta.state, writes)


@pytest.mark.parametrize(("version", "protocol"), [(4, 1), (6, 58)])
def test_icmp(version: int, protocol: int) -> None:
    """A sum like any other to virtio, but of a kind that no guest may be shown: to be finished."""
    layers = Layers(version)
    body = b"\x08\0\0\0\0\1\0\2data"
    seed = checksum.pseudo_header(*layers.ends, protocol, len(body)) if version == 6 else 0
    data = layers.datagram(body, protocol)
    start = len(data) - len(body)
    meta, writes = from_tun(words(0x0800), data, len(data))
    assert (Meta(Csum.INNER_PARTIAL, start, 2), {start + 2: seed}) == (meta, writes)


def test_cwr_is_seen_in_the_frame() -> None:
    """The flag is all that tells that a segment must not repeat it."""
    data = TCP4.data[:47] + bytes([TCP4.data[47] | 0x80]) + TCP4.data[48:]
    meta, _ = from_tun(words(0x0220, mss=300), data, len(data))
    assert GSO_TCP4 | GSO_ECN == meta.gso


@pytest.mark.parametrize(
    ("meta", "length", "said"),
    [
        (Meta(PARTIAL, 34, 2), 100, "csum_offset 2"),
        (Meta(PARTIAL, 34, 8), 100, "csum_offset 8"),
        (Meta(Csum.INNER_PARTIAL, 84, 16), 1000, "tunnel"),
        (Meta(PARTIAL, 34, 16, GSO_TCP4 | GSO_ECN, 300), 1000, "ECN"),
        (Meta(PARTIAL, 34, 6, GSO_UDP4, 300), 1000, "only TCP"),
        (Meta(Csum.VALID, 0, 0, GSO_TCP4, 300), 1000, "without a TCP sum"),
        (Meta(PARTIAL, 34, 16, GSO_TCP4, 0), 1000, "0 bytes"),
        (Meta(), 13, "13 bytes"),
        (Meta(), 14 + 65537, "65551 bytes"),
    ],
)
def test_no_words_there(meta: Meta, length: int, said: str) -> None:
    """What virtio can say and OpenBSD cannot is an error, not something else."""
    with pytest.raises(TunError, match=said):
        to_tun(meta, length)


FRAGMENT = Layers(fragment=0x2000).udp(b"data" * 9).data
ROUTED = Layers(6, extensions=((43, routing(1)),)).udp(b"data" * 9).data


@pytest.mark.parametrize(
    ("header", "data", "said"),
    [
        (words(0x0600), TCP4.data, "more than one"),
        (words(0x0E00), TCP4.data, "more than one"),
        (words(0x0020, mss=300), TCP4.data, "without a TCP sum"),
        (words(0x0220), TCP4.data, "0 bytes"),
        (words(0x1000), TCP4.data, "0x1000"),
        (words(0x0008), TCP4.data, "0x0008"),
        (words(0x0400), TCP4.data, "protocol 17"),
        (words(0x0100), TCP6.data, "IPv6"),
        (words(0x0200), Layers().ethernet(bytes(46), 0x0806), "0x0806"),
        (words(0x0400), FRAGMENT, "fragment"),
        (words(0x0400), ROUTED, "router"),
        (words(0x0200), TCP4.data[:-1], "does not fit"),
        (words(0x0200), b"\0" * 12 + b"\x08\0" + b"\x64" + TCP4.data[15:], "does not fit"),
    ],
)
def test_no_words_here(header: bytes, data: bytes, said: str) -> None:
    """What the kernel must not say, or what no frame can mean."""
    with pytest.raises(TunError, match=said):
        from_tun(header, data, len(data))


@pytest.mark.parametrize("here", range(54))
def test_head_that_is_too_short(here: int) -> None:
    """Too few bytes to parse are said to be too few, never guessed."""
    with pytest.raises(TunError, match="are here"):
        from_tun(words(0x0220, mss=300), TCP6.data[:here], len(TCP6.data))


def test_priority_and_verified_sums() -> None:
    """Priority says nothing to us; that a sum was verified has no word there."""
    assert Meta() == from_tun(words(7), TCP4.data, len(TCP4.data))[0]
    assert words(0) == to_tun(Meta(Csum.VALID), 100)
