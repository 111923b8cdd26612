"""The tester's packets and judge agree with scapy, which neither shares a line with."""

import pytest
from scapy.compat import raw
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.layers.sctp import SCTP

from vionet.check import judge, packet
from vionet.check.judge import Sum
from vionet.check.packet import Flow
from vionet.spec.virtio_net import NetHeader

MACS = b"\x02\0\0\0\0\1", b"\x02\0\0\0\0\2"
EXTENSIONS = (
    (judge.NEXT_HOP_BY_HOP, packet.extension()),
    (judge.NEXT_DESTINATION, packet.extension(b"\1\4")),
)
FLOWS = [
    Flow(*MACS),
    Flow(*MACS, 6),
    Flow(*MACS, options=b"\x94\x04\0\0"),
    Flow(*MACS, 6, extensions=EXTENSIONS),
    Flow(*MACS, tags=(5,)),
    Flow(*MACS, 6, tags=(6, 7)),
]
BODIES = [b"", b"x", b"odd", bytes(range(256))]


def frames(flow: Flow) -> list[packet.Frame]:
    """TCP and UDP of several lengths."""
    return [make(body) for body in BODIES for make in (flow.udp, flow.tcp)]


def rebuilt(data: bytes) -> bytes:
    """The frame as scapy builds it with sums and lengths of its own."""
    parsed = Ether(data)
    for layer in (IP, TCP, UDP):
        if parsed.haslayer(layer):
            del parsed[layer].chksum
    return raw(parsed.__class__(raw(parsed)))


@pytest.mark.parametrize("flow", FLOWS, ids=str)
def test_frames_are_what_scapy_builds(flow: Flow) -> None:
    """Every sum is the one that scapy computes."""
    for frame in frames(flow):
        assert rebuilt(frame.data) == frame.data


@pytest.mark.parametrize("flow", FLOWS, ids=str)
def test_judge_knows_each_state(flow: Flow) -> None:
    """Complete, partial and bad sums are told apart, and a partial one can be finished."""
    for frame in frames(flow):
        header, partial = frame.partial()
        assert Sum.COMPLETE is judge.l4_sum(frame.data)
        assert Sum.PARTIAL is judge.l4_sum(partial)
        assert Sum.BAD is judge.l4_sum(frame.corrupted())
        assert frame.data == judge.finish(header, partial)
        assert [] == judge.objections(header, partial)
        assert [] == judge.objections(NetHeader(), frame.data)


@pytest.mark.parametrize("flow", FLOWS, ids=str)
def test_frame_whose_sums_are_equal_is_what_its_header_says(flow: Flow) -> None:
    """A payload can be such that the finished sum is that of the pseudo-header: both are right."""
    empty = flow.udp(bytes(2))
    held = int.from_bytes(empty.data[empty.field : empty.field + 2], "big")
    word = judge.ones_sum(held.to_bytes(2, "big"), ~empty.seed() & 0xFFFF)
    frame = flow.udp(word.to_bytes(2, "big"))
    header, partial = frame.partial()
    assert partial == frame.data
    assert [] == judge.objections(header, frame.data)
    assert [] == judge.objections(NetHeader(), frame.data)
    assert Sum.PARTIAL is judge.l4_sum(frame.data, partial=True)
    assert Sum.COMPLETE is judge.l4_sum(frame.data)


def test_judge_objects() -> None:
    """A partial sum without the flag, the flag on a complete sum, DATA_VALID on a bad one."""
    frame = FLOWS[0].udp(b"data")
    header, partial = frame.partial()
    assert judge.objections(NetHeader(), partial)
    assert judge.objections(header, frame.data)
    assert judge.objections(NetHeader(flags=2), frame.corrupted())
    assert judge.objections(header._replace(csum_start=20), partial)
    assert judge.objections(header._replace(csum_offset=0xFFF0), partial)
    wrong_ip = frame.data[:24] + b"\x12\x34" + frame.data[26:]
    assert judge.objections(NetHeader(), wrong_ip)


def test_udp_without_a_sum() -> None:
    """0 means none over IPv4 and is wrong over IPv6; a computed 0 is sent as 0xffff."""
    v4, v6 = FLOWS[0].udp(b"x"), FLOWS[1].udp(b"x")
    assert Sum.ABSENT is judge.l4_sum(v4.with_field(0))
    assert Sum.BAD is judge.l4_sum(v6.with_field(0))
    plain = FLOWS[0].udp(b"\0\0")
    held = plain.data[plain.field : plain.field + 2]
    assert b"\xff\xff" == FLOWS[0].udp(held).data[plain.field : plain.field + 2]


def test_sctp_is_not_a_sum() -> None:
    """The CRC32c is scapy's, and the judge leaves it alone."""
    frame = FLOWS[0].sctp(b"data")
    parsed = Ether(frame.data)
    del parsed[SCTP].chksum
    assert raw(parsed) == frame.data
    assert Sum.NONE is judge.l4_sum(frame.data)


def test_fragments_have_no_sum() -> None:
    """First and later fragments, IPv4 and IPv6."""
    first = FLOWS[0].datagram(bytes(64), judge.PROTOCOL_UDP, 0x2000)
    parts = ((judge.NEXT_FRAGMENT, packet.fragment_extension(64, True)),)
    later = Flow(*MACS, 6, extensions=parts).datagram(bytes(64), judge.PROTOCOL_UDP)
    assert [Sum.NONE] * 2 == [judge.l4_sum(first), judge.l4_sum(later)]
    assert IPv6 in Ether(later)


def test_tunnel_and_tags() -> None:
    """The place of a tunnelled sum is the inner one; two tags are 802.1ad outside 802.1Q."""
    inner = FLOWS[0].tcp(b"data")
    tunnel = FLOWS[1].vxlan(inner)
    header, partial = tunnel.partial()
    assert tunnel.data == judge.finish(header, partial)
    assert Sum.COMPLETE is judge.l4_sum(tunnel.data)
    assert b"\x88\xa8\x00\x06\x81\x00\x00\x07" == FLOWS[5].bare(b"")[12:20]
    assert 5 == Ether(FLOWS[4].bare(b""))[Dot1Q].vlan


def test_dhcp_and_arp() -> None:
    """Well-formed, of the smallest size at least."""
    offer = Ether(FLOWS[0].dhcp().data)
    assert (67, 68) == (offer[UDP].sport, offer[UDP].dport)
    assert 60 == len(FLOWS[0].arp())


def test_trailer_is_outside() -> None:
    """Bytes after the datagram do not belong to its sum."""
    frame = FLOWS[0].udp(b"data").followed_by(b"\xde\xad\xbe")
    assert Sum.COMPLETE is judge.l4_sum(frame.data)
