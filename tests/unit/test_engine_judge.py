"""The judgement at ingress: each refusal by its name, and what must not be refused."""

import pytest

from tests.reference.frame import MACS, Layers, fragment6, options
from tests.reference.network import Network
from tests.reference.plug import CSUM, FULL, Options
from vionet.spec.virtio_net import NetHeader

PAYLOAD = b"some payload, longer than the copy that is judged " * 5
UDP = Layers().udp(PAYLOAD)
TCP6 = Layers(6).tcp(PAYLOAD)


def needs(start: int, offset: int, **more: int) -> NetHeader:
    """A header that asks for a checksum."""
    return NetHeader(flags=1, csum_start=start, csum_offset=offset, **more)


def sent(frame: bytes, header: NetHeader, features: int = FULL, mtu: int | None = None) -> str:
    """The drop reason of one frame between two guests, or "" if it was delivered."""
    with Network() as network:
        source = network.guest(features, options=Options(mtu=mtu))
        sink = network.guest()
        sink.post(80_000)
        head = source.send(frame, header)
        assert 1 == network.run(source)
        (used,) = source.tx.take_used()
        assert (head, 0) == (used.head, used.length), "TX-15: given back, nothing written"
        received = sink.received()
        assert 1 == len(received) + len(source.drops)
        if received:
            return ""
        ((reason, count),) = source.drops.items()
        assert 1 == count
        return reason


def sctp(layers: Layers) -> bytes:
    """An SCTP packet."""
    return layers.datagram(bytes(12) + PAYLOAD, 132)


FRAGMENTED6 = Layers(6, extensions=((44, fragment6(0, True)),)).tcp(PAYLOAD)
LONG = Layers().datagram(b"x" * 100, 17)
REFUSED = {
    "gso tcpv4": ("gso_not_negotiated", UDP.partial, UDP.header._replace(gso_type=1)),
    "gso ecn alone": ("gso_type_unknown", UDP.data, NetHeader(gso_type=0x80)),
    "gso unknown": ("gso_type_unknown", UDP.data, NetHeader(gso_type=2)),
    "end beyond frame": ("csum_out_of_frame", UDP.data, needs(len(UDP.data) - 7, 6)),
    "start beyond frame": ("csum_out_of_frame", UDP.data, needs(65535, 65535)),
    "fragment, first": (
        "csum_on_fragment", Layers(fragment=0x2000).udp(PAYLOAD).data, UDP.header,
    ),
    "fragment, last": ("csum_on_fragment", Layers(fragment=5).udp(PAYLOAD).data, UDP.header),
    "fragment, v6": ("csum_on_fragment", FRAGMENTED6.data, FRAGMENTED6.header),
    "sctp": ("csum_on_sctp", sctp(Layers()), needs(34, 8)),
    "sctp, v6": ("csum_on_sctp", sctp(Layers(6)), needs(54, 8)),
    "length beyond frame": ("ip_length_invalid", UDP.data[:-1], UDP.header),
    "length below header": (
        "ip_length_invalid", LONG[:16] + b"\0\x13" + LONG[18:], needs(34, 6),
    ),
    "v6 length beyond frame": ("ip_length_invalid", TCP6.data[:-1], TCP6.header),
    "start in ethernet": ("csum_start_in_header", UDP.data, needs(13, 2)),
    "start in ipv4": ("csum_start_in_header", UDP.data, needs(33, 7)),
    "start in options": (
        "csum_start_in_header", Layers(options=b"\1" * 8).udp(PAYLOAD).data, needs(34, 6),
    ),
    "start in ipv6": ("csum_start_in_header", TCP6.data, needs(53, 17)),
    "start in extension": (
        "csum_start_in_header",
        Layers(6, extensions=((60, options()),)).tcp(PAYLOAD).data,
        needs(54, 16),
    ),
    "start in tag": (
        "csum_start_in_header", Layers(tags=((0x8100, 5),)).udp(PAYLOAD).data, needs(17, 8),
    ),
    "start in arp's ethernet": (
        "csum_start_in_header", Layers().ethernet(PAYLOAD, 0x0806), needs(12, 2),
    ),
    "group source": (
        "source_mac_invalid", Layers(src=b"\x01" + MACS[0][1:]).udp(PAYLOAD).data, NetHeader(),
    ),
    "zero source": ("source_mac_invalid", Layers(src=bytes(6)).udp(PAYLOAD).data, NetHeader()),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_w43_refused(name: str) -> None:
    """The frame is dropped, counted once by its reason, and its buffer returned."""
    reason, frame, header = REFUSED[name]
    assert reason == sent(frame, header)


def test_w28_unnegotiated_checksum() -> None:
    """NEEDS_CSUM without CSUM is refused (TD-02, W28)."""
    assert "csum_not_negotiated" == sent(UDP.partial, UDP.header, FULL & ~CSUM)


@pytest.mark.parametrize(
    ("length", "reason"), [(0, "frame_too_short"), (13, "frame_too_short"), (14, "")]
)
def test_shortest_frame(length: int, reason: str) -> None:
    """A frame has an Ethernet header."""
    assert reason == sent(UDP.data[:length], NetHeader())


@pytest.mark.parametrize(("length", "reason"), [(65589, ""), (65590, "frame_too_long")])
def test_longest_frame(length: int, reason: str) -> None:
    """14 + 40 + 65535 bytes are the most (RB-02)."""
    assert reason == sent(UDP.data[:14].ljust(length, b"\7"), NetHeader())


@pytest.mark.parametrize("tags", [(), ((0x8100, 5),), ((0x88A8, 5), (0x8100, 6))])
def test_mtu_of_the_sender(tags: tuple[tuple[int, int], ...]) -> None:
    """The MTU counts what follows the Ethernet header and its tags (CF-10, CF-20)."""
    layers = Layers(tags=tags)
    assert "" == sent(layers.udp(bytes(972)).data, NetHeader(), mtu=1000)
    assert "frame_too_long" == sent(layers.udp(bytes(973)).data, NetHeader(), mtu=1000)


ACCEPTED = {
    "unknown flags": (UDP.data, NetHeader(flags=0xE0)),
    "data valid on tx": (UDP.data, NetHeader(flags=2)),
    "garbage without needs_csum": (UDP.data, NetHeader(0, 0, 9, 9, 0xFFFF, 0xFFFF, 7)),
    "hdr_len and num_buffers": (UDP.partial, UDP.header._replace(hdr_len=0xFFFF, num_buffers=9)),
    "atomic fragment": (
        (atomic := Layers(6, extensions=((44, fragment6(0, False)),)).tcp(PAYLOAD)).partial,
        atomic.header,
    ),
    "unmarked fragment": (Layers(fragment=0x2000).udp(PAYLOAD).bad, NetHeader()),
    "unmarked sctp": (sctp(Layers()), NetHeader()),
    "length beyond frame, unmarked": (UDP.data[:-1], NetHeader()),
    "end at the last byte": (UDP.data, needs(len(UDP.data) - 8, 6)),
    "start right after arp's ethernet": (Layers().ethernet(PAYLOAD, 0x0806), needs(14, 0)),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name: str) -> None:
    """What is no reason to drop: TX-01, TX-02, TD-01, TD-14, SG-14, W48."""
    assert "" == sent(*ACCEPTED[name])
