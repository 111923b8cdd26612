"""Corners of protocols: W48 to W64 of docs/field.md."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scapy.layers.sctp import SCTP, SCTPChunkData
from scapy.packet import Raw

from tests.reference import checksum
from tests.reference.frame import BROADCAST, MACS, Frame, Layers, fragment6, options, routing
from tests.reference.guest import DATA_GPA, Guest
from tests.reference.network import Network
from tests.reference.plug import CSUM, FULL, GUEST_CSUM, GUEST_GSO, HOST_GSO, PLAIN, Options
from tests.reference.receiver import on_the_wire, stream
from tests.reference.stream import StreamNetwork
from tests.stories.scene import BODY, EVERYTHING, Found, plug, right_by_scapy, say, taken
from vionet.engine.burst import from_guest
from vionet.engine.status import Policy
from vionet.jit import LANE, Lane
from vionet.spec.virtio_net import NetHeader

ALL = Layers(dst=BROADCAST)
ALL6 = Layers(6, dst=BROADCAST)
PLAIN_GUEST = FULL & ~GUEST_CSUM
ANY = CSUM | GUEST_CSUM | HOST_GSO | GUEST_GSO


def everywhere(data: bytes, header: NetHeader = PLAIN) -> list[Found]:
    """What each kind of receiver gets of one frame: guests of every policy, one that takes
    nothing, a tap that takes everything and one that takes nothing, a stream."""
    with StreamNetwork() as network:
        source = plug(network)
        guests = [plug(network, policy=policy) for policy in Policy]
        guests.append(plug(network, PLAIN_GUEST))
        taps = network.tap(), network.tap(takes_partial=False)
        taps[0].port.change(Options(features=ANY))
        peer = network.stream()
        say(network, source, data, header)
        assert {} == source.drops
        found = [taken(guest) for guest in guests]
        found += [tap.taken() for tap in taps]
        return [*found, [(PLAIN, one) for one in peer.taken()]]


def pieces_of(version: int) -> dict[str, Layers]:
    """The first, a middle and the last fragment."""
    if version == 4:
        words = {"first": 0x2000, "middle": 0x2000 | 25, "last": 50}
        return {name: replace(ALL, fragment=word) for name, word in words.items()}
    parts = {"first": (0, True), "middle": (200, True), "last": (400, False)}
    return {
        name: replace(ALL6, extensions=((44, fragment6(*part)),)) for name, part in parts.items()
    }


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_w48_fragments_are_left_alone(version: int, protocol: str) -> None:
    """First, middle and last, with a field that is right, wrong or the seed: no byte changes on
    the way to anybody, and no flag is set."""
    for layers in pieces_of(version).values():
        frame: Frame = (layers.tcp if protocol == "tcp" else layers.udp)(BODY[:200])
        for data in (frame.data, frame.bad, frame.partial):
            for ((header, got),) in everywhere(data):
                assert (0, 0, data) == (header.flags, header.gso_type, got)


EXTENSIONS = {
    "hop by hop": (0, options()),
    "hop by hop, long": (0, options(bytes(60))),
    "routing, arrived": (43, routing(0, 2)),
    "destination": (60, options(b"\1\4" + bytes(4))),
    "atomic fragment": (44, fragment6(0, False)),
}


CHAINS = [
    *((name,) for name in EXTENSIONS),
    ("hop by hop", "destination"),
    ("hop by hop", "routing, arrived", "destination"),
    ("hop by hop", "routing, arrived", "atomic fragment"),
]


@pytest.mark.parametrize("names", CHAINS)
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_w49_extension_headers(names: tuple[str, ...], protocol: str) -> None:
    """Each of them and several, before TCP and UDP, partial and large: every receiver's frames
    are those of a plain sender, who repeats the headers in each."""
    layers = replace(ALL6, extensions=tuple(EXTENSIONS[name] for name in names))
    frame = (layers.tcp if protocol == "tcp" else layers.udp)(BODY[:2500])
    for header in (frame.header, frame.gso(1000)):
        meant = frame.segments(1000) if header.gso_type else [frame.data]
        for found in everywhere(frame.partial, header):
            assert meant == stream(found)


TWINS: dict[str, tuple[Callable[[Layers], Frame], Callable[[Frame], NetHeader]]] = {
    "tcp, complete": (lambda on: on.tcp(BODY[:300]), lambda frame: PLAIN),
    "udp, complete": (lambda on: on.udp(BODY[:300]), lambda frame: PLAIN),
    "tcp, partial": (lambda on: on.tcp(BODY[:300]), lambda frame: frame.header),
    "udp, partial": (lambda on: on.udp(BODY[:301]), lambda frame: frame.header),
    "tcp, large": (lambda on: on.tcp(BODY[:3000]), lambda frame: frame.gso(1000)),
    "tcp, large, cwr": (
        lambda on: on.tcp(BODY[:3000], flags=0x90), lambda frame: frame.gso(1000, ecn=True),
    ),
    "udp, large": (lambda on: on.udp(BODY[:3000]), lambda frame: frame.gso(1000)),
    "dhcp": (lambda on: on.udp(BODY[:300], dhcp(on)), lambda frame: frame.header),
    "tunnel": (lambda on: ALL.vxlan(replace(on, dst=MACS[1]).tcp(BODY[:99])),
               lambda frame: frame.header),
    "tagged": (lambda on: replace(on, tags=((0x8100, 5),)).tcp(BODY[:99]),
               lambda frame: frame.header),
}  # fmt: skip


def dhcp(on: Layers) -> tuple[int, int]:
    """A server's and a client's port."""
    return (67, 68) if on.version == 4 else (547, 546)


def outcome(name: str, layers: Layers) -> list[Any]:
    """All that may depend on the family and must not: flags, numbers of frames, what is large."""
    build, describe = TWINS[name]
    frame = build(layers)
    found = everywhere(frame.partial if describe(frame).flags else frame.data, describe(frame))
    return [[(h.flags, bool(h.gso_type), h.csum_offset, h.gso_size) for h, _ in one]
            for one in found]  # fmt: skip


@pytest.mark.parametrize("name", TWINS)
def test_w50_what_is_done_for_ipv4_is_done_for_ipv6(name: str) -> None:
    """The same frame in either family has the same fate at every kind of receiver."""
    assert outcome(name, ALL) == outcome(name, ALL6)


@pytest.mark.parametrize("count", range(4))
@pytest.mark.parametrize("version", [4, 6])
def test_w51_tags_shift_everything(count: int, version: int) -> None:
    """No tag to three, small and large: the outermost TCP is found behind them, for everybody."""
    kinds = (0x88A8, 0x8100, 0x8100)[3 - count :]
    tags = tuple((kind, 100 + i) for i, kind in enumerate(kinds))
    frame = Layers(version, dst=BROADCAST, tags=tags).tcp(BODY[:2500])
    assert (34 if version == 4 else 54) + 4 * count == frame.csum_start
    for header in (frame.header, frame.gso(1000)):
        found = everywhere(frame.partial, header)
        assert frame.csum_start == found[0][0][0].csum_start
        for one in found:
            assert (frame.segments(1000) if header.gso_type else [frame.data]) == stream(one)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 20, 125, 126, 127, 128, 300])
def test_w51_tags_to_the_end_of_the_frame(count: int) -> None:
    """Nothing but tags, cut off at each byte: nobody reads beyond, and it passes as it is."""
    tags = b"\x81\x00\x00\x05" * count + b"\x81\x00"
    for spare in range(4):
        data = BROADCAST + MACS[0] + tags[: len(tags) - spare]
        if len(data) < 14:
            continue
        for ((header, got),) in everywhere(data):
            assert (0, data) == (header.flags, got)


def words() -> list[int]:
    """All values of a 16-bit word; in the slower lanes a few, and those around the edges."""
    if LANE is Lane.COMPILED:
        return list(range(65_536))
    return [*range(0, 65_536, 643), 1, 0xFFFE, 0xFFFF]


def fields_of(sink: Guest, field: int) -> list[int]:
    """The word at `field` of each frame that came, one in a buffer; the buffers are posted again.

    No more is looked at, because there are many."""
    found = []
    for used in sink.rx.take_used():
        (buffer,) = posted = sink.posted.pop(used.head)
        data = sink.memory.read(buffer.gpa + sink.header_len + field, 2)
        found.append(int.from_bytes(data, "big"))
        sink.posted[sink.rx.add(posted, True)] = posted
    return found


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("length", [2, 31])
def test_w52_every_word(version: int, length: int) -> None:
    """Every value of one word of a datagram's payload, of even and odd length: the sum is what
    arithmetic says, 0xffff where it is 0.  They come as segments of large frames, 128 at a time."""
    layers = Layers(version, dst=BROADCAST)
    rest = BODY[: length - 2]
    base = layers.udp(bytes(2) + rest)
    total = (~checksum.word(base.data, base.field) & 0xFFFF) % 0xFFFF
    every = [*words(), 0xFFFF - total, (0xFFFF - total) % 0xFFFF]
    zeros = 0
    with Network() as network:
        source, sink = plug(network), plug(network, PLAIN_GUEST, buffers=150)
        for first in range(0, len(every), 128):
            some = every[first : first + 128]
            frame = layers.udp(b"".join(word.to_bytes(2, "big") + rest for word in some))
            source.next_gpa = (DATA_GPA + source.end_gpa) // 2
            source.send(frame.partial, frame.gso(length))
            assert 1 == from_guest(network.state, network.work, source.index, 1)
            source.tx.take_used()
            fields = fields_of(sink, base.field)
            meant = 0xFFFF - (np.array(some) + total) % 0xFFFF
            assert meant.tolist() == fields, "a sum of 0 is never sent"
            zeros += fields.count(0xFFFF)
    assert 2 <= zeros


@pytest.mark.parametrize("version", [4, 6])
def test_w52_w53_around_zero(version: int) -> None:
    """Ordinary frames whose sum is about to be 0: 0xffff for UDP, 0 for TCP, at every receiver."""
    layers = Layers(version, dst=BROADCAST)
    for build, zero in ((layers.udp, 0xFFFF), (layers.tcp, 0)):
        base: Frame = build(bytes(2) + BODY[:99])
        at = checksum.word(base.data, base.field)
        for word in {at - 1, at, min(at + 1, 0xFFFF)}:
            frame = build(word.to_bytes(2, "big") + BODY[:99])
            for found in everywhere(frame.partial, frame.header):
                ((_, data),) = [(None, one) for one in stream(found)]
                assert frame.data == data
            assert (word == at) is (zero == checksum.word(frame.data, frame.field))


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 17, 18, 19, 46])
def test_w55_w57_short_frames_and_their_padding(length: int) -> None:
    """A datagram of a few bytes, padded to 60 with what was in the buffer before: the sum is of
    the datagram; a frame that was not padded is not padded by us."""
    for layers in (ALL, ALL6):
        frame = layers.udp(BODY[:length])
        padded = frame.partial.ljust(60, b"\xdd")
        for found in everywhere(padded, frame.header):
            for header, data in found:
                assert frame.data == on_the_wire(header, data)[0][: len(frame.data)]
        for found in everywhere(frame.partial, frame.header):
            assert [frame.data] == stream(found)


@pytest.mark.parametrize("version", [4, 6])
def test_w58_crc_is_no_checksum(version: int) -> None:
    """SCTP with scapy's CRC32c to every kind of receiver: not a byte changes, never NEEDS_CSUM;
    a sender that asks for a sum there is refused by name."""
    chunk = SCTP(sport=7, dport=9, tag=1) / SCTPChunkData(data=bytes(range(200)))
    body = bytes(chunk)
    layers = ALL if version == 4 else ALL6
    data = layers.datagram(body, 132)
    assert body == bytes(SCTP(body)) and int.from_bytes(body[8:12], "little")
    for ((header, got),) in everywhere(data):
        assert (0, data) == (header.flags, got)
    with Network() as network:
        source, sink = plug(network), plug(network)
        start = len(data) - len(body)
        say(network, source, data, NetHeader(flags=1, csum_start=start, csum_offset=8))
        assert ({"csum_on_sctp": 1}, []) == (source.drops, taken(sink))


@pytest.mark.parametrize("outer_sum", [True, False])
@pytest.mark.parametrize("kind", ["vxlan", "gre", "ipip", "esp"])
def test_w60_a_tunnel_is_opaque(kind: str, outer_sum: bool) -> None:
    """Complete inside and out, or with a wrong sum inside: nobody looks for more than the header
    asks, and what is inside arrives as it was sent."""
    for inner in (Layers().tcp(BODY[:300]), Layers(6).udp(BODY[:301])):
        for packet in (inner.data, inner.bad, inner.partial):
            if kind == "vxlan":
                data = ALL.vxlan(replace(inner, data=packet), outer_sum).data
            else:
                number = {"gre": 47, "ipip": 4, "esp": 50}[kind]
                head = b"\0\0\x65\x58" if kind == "gre" else b""
                data = ALL.datagram(head + (packet if head else packet[14:]), number)
            for found in everywhere(data):
                assert [data] == stream(found)


@pytest.mark.parametrize("version", [4, 6])
def test_w64_errors_quote_what_they_quote(version: int) -> None:
    """An ICMP error around a datagram with a wrong sum, or a partial one: untouched inside."""
    inner = Layers(version).udp(BODY[:60])
    layers, number, kind = (ALL, 1, b"\3\3") if version == 4 else (ALL6, 58, b"\1\4")
    for quoted in (inner.bad, inner.partial, inner.data):
        body = kind + b"\0\0" + bytes(4) + quoted[14:]
        seed = checksum.pseudo_header(*layers.ends, number, len(body)) if version == 6 else 0
        body = checksum.put(body, 2, 0xFFFF - checksum.ones_sum(body, seed))
        data = layers.datagram(body, number)
        assert right_by_scapy(data)
        for ((header, got),) in everywhere(data):
            assert (0, data) == (header.flags, got)
    partial = NetHeader(flags=1, csum_start=len(data) - len(body), csum_offset=2)
    zeroed = checksum.put(data, partial.csum_start + 2, seed)
    for found in everywhere(zeroed, partial):
        assert [data] == stream(found), "a sum that is asked for is of the error alone"


def test_oracles_know_raw_layers() -> None:
    """scapy recomputes what this file relies on."""
    frame = ALL.udp(BODY[:20])
    assert right_by_scapy(frame.data) and not right_by_scapy(frame.bad)
    assert Raw(b"x").load == b"x" and EVERYTHING & GUEST_CSUM
