"""What the guests of the table conclude: for each habit a frame that shows it."""

import pytest

from vionet.check import judge
from vionet.check.packet import Flow, Frame
from vionet.check.profile.guest import GUESTS, read
from vionet.check.profile.scenario import scenarios
from vionet.check.runner import Group, group_of
from vionet.check.scope import reasons
from vionet.check.segment import KINDS, Kind, breaches, expanded, large, segments
from vionet.spec.virtio_net import NetHeader

MACS = b"\x02\0\0\0\0\1", b"\x02\0\0\0\0\2"
TCP = Flow(*MACS).tcp(b"some payload")
VXLAN = Flow(*MACS).vxlan(TCP)
DHCP = Flow(*MACS).dhcp()
DEEP = Flow(*MACS, tags=(5, 6)).udp(b"two tags")


@pytest.mark.parametrize(
    ("guest", "frame", "accepted", "words", "forwards"),
    [
        ("linux", TCP, True, "finished where csum_start says", TCP.data),
        ("linux", VXLAN, True, "finished", VXLAN.data),
        ("openbsd", TCP, True, "GU-07", TCP.data),
        ("openbsd", VXLAN, False, "the sum in the tunnel", None),
        ("freebsd", TCP, True, "GU-07", TCP.data),
        ("freebsd", DEEP, True, "GU-07", DEEP.with_field(DEEP.seed())),
        ("freebsd-old", TCP, True, "GU-13", TCP.with_field(TCP.seed())),
        ("netkvm", TCP, True, "finished", TCP.data),
        ("netkvm-seed", TCP, False, "the pseudo-header sum", None),
        ("linux-big-2025", TCP, False, "the pseudo-header sum", None),
        ("firmware", TCP, False, "the pseudo-header sum", None),
        ("legacy", TCP, True, "finished", TCP.data),
        *((name, DHCP, False, "raw reader", None) for name in GUESTS),
    ],
)
def test_partial(
    guest: str, frame: Frame, accepted: bool, words: str, forwards: bytes | None
) -> None:
    """A partial sum is finished, recomputed, believed or found bad; raw readers want it whole."""
    header, data = frame.partial()
    reading = read(GUESTS[guest], header, data)
    assert accepted is reading.accepted, reading
    assert words in reading.why
    if forwards is not None:
        assert [forwards] == reading.forwarded


@pytest.mark.parametrize("guest", GUESTS)
def test_complete_and_bad(guest: str) -> None:
    """Every guest takes a complete frame, and throws a bad one away, unless told DATA_VALID."""
    row = GUESTS[guest]
    assert read(row, NetHeader(), TCP.data).accepted
    assert not read(row, NetHeader(), TCP.corrupted()).accepted
    assert read(row, NetHeader(flags=2), TCP.corrupted()).accepted
    assert not read(row, NetHeader(), TCP.data[:12]).accepted
    broken = TCP.data[:24] + b"\x12\x34" + TCP.data[26:]
    assert "IPv4 header" in read(row, NetHeader(), broken).why


def test_large_frames_need_a_word() -> None:
    """OpenBSD knows no UDP segmentation, firmware none at all, and Linux looks at the header."""
    tcp = large(Flow(*MACS), KINDS[0], bytes(4000), 1400)
    udp = large(Flow(*MACS), KINDS[2], bytes(4000), 1400)
    assert read(GUESTS["openbsd"], *tcp.sent()).accepted
    assert "not understood" in read(GUESTS["openbsd"], *udp.sent()).why
    assert "not understood" in read(GUESTS["firmware"], *tcp.sent()).why
    assert read(GUESTS["linux"], *udp.sent()).accepted
    assert "csum_offset" in read(GUESTS["linux"], *tcp.sent(csum_offset=6)).why


def test_scenarios_decide() -> None:
    """What is received decides, what would have been forwarded does not."""
    for name in GUESTS:
        found = {rule.id: group_of(rule, check) for rule, check in scenarios(name)}
        assert Group.BINDING is found[f"{name}/plain"]
        assert Group.ADVICE is found[f"{name}/partial-forwarded"]
    assert {why for status, why in reasons().values() if status == "profile"} <= GUESTS.keys()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize(("size", "length"), [(1000, 3500), (1000, 2000), (7, 50), (100, 1)])
def test_segments(kind: Kind, size: int, length: int) -> None:
    """Segments carry the payload in order, each complete; whole or cut it is the same."""
    each = large(Flow(*MACS, kind.version), kind, bytes(i % 251 for i in range(length)), size)
    cut = each.segments()
    assert -(-length // size) == len(cut)
    head = len(each.frame.data) - length
    assert each.frame.data[head:] == b"".join(piece[head:] for piece in cut)
    assert {judge.Sum.COMPLETE} == {judge.l4_sum(piece) for piece in cut}
    header, data = each.sent()
    assert cut == expanded(header, data) == segments(data, size)
    assert {} == breaches(header, data, 1 << each.kind.guest)


def test_breaches_are_named() -> None:
    """Each rule about large headers is broken by one header."""
    each = large(Flow(*MACS), KINDS[0], bytes(3000), 1000, 0x18 | 0x80)
    everything = 1 << each.kind.guest | 1 << 9
    for changes, features, rule in (
        ({}, 1 << 9 | 1 << 8, "RX-08"),
        ({}, 1 << each.kind.guest, "RX-13"),
        ({"gso_type": 1}, everything, "RX-13"),
        ({"flags": 0}, everything, "RX-18"),
        ({"gso_size": 0}, everything, "RX-18"),
        ({"hdr_len": 53}, everything, "RX-21"),
        ({}, 0, "RX-12"),
    ):
        header, data = each.sent(**changes)
        assert rule in breaches(header, data, features), rule
    assert {} == breaches(*each.sent(), everything)
