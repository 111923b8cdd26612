"""What a capture records: a frame's bytes, whose it was, what was planned, what became of it."""

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.reference.capture import (
    BAD,
    FLOODED,
    GIVEN,
    JUDGED,
    REPAIRED,
    SEGMENTED,
    SENT,
    WHOLE,
    Capturing,
    Record,
)
from tests.reference.exchange import BODY, FAST, PARTIAL_ONLY, SENDER
from tests.reference.frame import BROADCAST, MACS, Layers
from tests.reference.network import Network
from tests.reference.plug import FULL, GUEST_CSUM, RING_PACKED, Options
from vionet.engine.status import Accepts, Action, Csum, FabricKind, Policy
from vionet.spec.virtio_net import NetHeader

A, B, C = 1, 2, 3  # serials
PAYLOAD = bytes(range(250)) * 4
TCP = Layers().tcp(PAYLOAD)
BACK = replace(Layers(), src=MACS[1], dst=MACS[0]).udp(b"here I am")
TO_ALL = replace(Layers(), dst=BROADCAST).udp(PAYLOAD)


class Pair:
    """Two guests who know each other; more can be plugged in."""

    def __init__(self, network: Network, *options: Options, features: int = FULL) -> None:
        self.network = network
        self.guests = [network.guest(features, options=one) for one in options]
        if network.state.kind == FabricKind.SWITCH:
            self.send(1, BACK.data)
            self.send(0, Layers().udp(b"so am I").data)
        self.clear()

    def clear(self) -> None:
        """Forget what arrived."""
        for guest in self.guests:
            guest.received()

    def send(self, number: int, frame: bytes, header: NetHeader | None = None) -> None:
        """One frame from a guest; everybody has buffers."""
        for guest in self.guests:
            for _ in range(3):
                guest.post(2000)
        self.guests[number].send(frame, header or NetHeader())
        assert 1 == self.network.run(self.guests[number])
        self.guests[number].tx.take_used()


@pytest.fixture
def network() -> Iterator[Network]:
    """A switch."""
    with Network() as network:
        yield network


def only(records: list[Record]) -> Record:
    """The only record."""
    (record,) = records
    return record


def test_one_delivery_is_one_record(network: Network) -> None:
    """Of a port both ways are recorded: what comes from it as it was sent, what it gets as it got
    it.  Where both ends are captured one record is enough."""
    pair = Pair(network, Options(), Options())
    before = time.time_ns()
    with Capturing(network.state, {0}) as one, Capturing(network.state, {0, 1}) as both:
        pair.send(0, TCP.partial, TCP.header)
        assert (A, B, SENT) == only(one.taken()).way
        record = only(both.taken())
        assert (A, B, GIVEN) == record.way
        pair.send(1, BACK.partial, BACK.header)
        assert (B, A, GIVEN) == only(one.taken()).way == only(both.taken()).way
    assert before <= record.time_ns <= time.time_ns()
    assert (FULL, FULL) == (record.in_features, record.out_features)
    assert (Csum.PARTIAL, Accepts.UNIFORM) == (record.state, record.accepts)
    assert (Action.PASS_PARTIAL, JUDGED, 0) == (record.action, record.facts, record.segments)
    assert TCP.header.pack()[:8] == record.header.to_bytes(8, "little")
    assert TCP.csum_offset == record.csum_offset
    assert (1, 1, 0) == (record.pieces, record.ring, record.vid)
    assert len(TCP.partial) == record.length == record.cap_len
    assert TCP.partial == record.data


@pytest.mark.parametrize("packed_ring", [0, RING_PACKED])
def test_where_a_frame_lay(packed_ring: int, network: Network) -> None:
    """The chain's first descriptor and its pieces; the bytes are put together again."""
    pair = Pair(network, Options(), Options(), features=FULL | packed_ring)
    with Capturing(network.state, {0}) as capture:
        expected = []
        for cuts in ((), (12,), (5, 90, 300)):
            for guest in pair.guests:
                guest.post(2000)
            head = pair.guests[0].send(TCP.partial, TCP.header, cuts=cuts)
            expected.append((head if not packed_ring else -1, len(cuts) + 1, TCP.partial))
        assert 3 == network.run(pair.guests[0])
        found = capture.taken()
    slots = [one.chain for one in found]
    assert packed_ring == 0 or sorted({*slots}) == slots
    assert expected == [(-1 if packed_ring else r.chain, r.pieces, r.data) for r in found]


POLICIES = {
    "uniform": (Policy.UNIFORM, FULL, Accepts.UNIFORM),
    "natural": (Policy.NATURAL, FULL, Accepts.NATURAL),
    "complete": (Policy.COMPLETE, FULL, Accepts.COMPLETE),
    "no partial": (Policy.UNIFORM, FULL & ~GUEST_CSUM, Accepts.COMPLETE),
}
PLANS = {
    "partial": (TCP.partial, TCP.header, Csum.PARTIAL, (2, 2, 3, 3)),
    "complete": (TCP.data, NetHeader(), Csum.UNKNOWN, (5, 0, 0, 0)),
    "arp": (Layers().ethernet(bytes(46), 0x806), NetHeader(), Csum.NONE, (0, 0, 0, 0)),
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", PLANS)
def test_state_and_plan(name: str, policy: str) -> None:
    """The cell of the table that it was; the bytes are those from before the plan."""
    data, header, state, actions = PLANS[name]
    kind, features, accepts = POLICIES[policy]
    with Network(FabricKind.WIRE) as network:
        source, sink = network.guest(), network.guest(features, policy=kind)
        with Capturing(network.state, {1}) as capture:
            sink.post(2000)
            source.send(data, header)
            network.run(source)
            record = only(capture.taken())
    assert (state, accepts) == (record.state, record.accepts)
    assert actions[list(POLICIES).index(policy)] == record.action
    assert data == record.data


def test_dhcp_is_planned_as_complete(network: Network) -> None:
    """What the plan used is told, not what the port takes of others."""
    pair = Pair(network, Options(), Options())
    frame = Layers().udp(PAYLOAD, (67, 68))
    with Capturing(network.state, {1}) as capture:
        pair.send(0, frame.partial, frame.header)
        record = only(capture.taken())
    assert (Accepts.COMPLETE, Action.FILL) == (record.accepts, record.action)


def test_wrong_sums(network: Network) -> None:
    """A wrong seed is repaired in the record too; a wrong finished sum is said to be bad."""
    pair = Pair(network, Options(), Options())
    with Capturing(network.state, {1}) as capture:
        pair.send(0, TCP.bad, TCP.header)
        record = only(capture.taken())
        assert (JUDGED | REPAIRED, TCP.partial) == (record.facts, record.data)
        pair.send(0, TCP.bad)
        record = only(capture.taken())
        assert (JUDGED | BAD, TCP.bad, Action.VERIFY) == (record.facts, record.data, record.action)
        pair.send(0, TCP.data)
        assert JUDGED == only(capture.taken()).facts


def test_padding_behind_a_partial_datagram(network: Network) -> None:
    """Judged bytes: what is trimmed is not in the record."""
    pair = Pair(network, Options(), Options())
    with Capturing(network.state, {0}) as capture:
        pair.send(0, TCP.partial + b"padding", TCP.header)
        record = only(capture.taken())
    assert (len(TCP.partial), TCP.partial) == (record.length, record.data)


def test_flood(network: Network) -> None:
    """Once for the sender, to nobody in particular; once for each receiver."""
    pair = Pair(network, Options(), Options(), Options())
    with Capturing(network.state, {0}) as sender, Capturing(network.state) as whole:
        pair.send(0, TO_ALL.partial, TO_ALL.header)
        record = only(sender.taken())
        assert (A, 0, SENT) == record.way
        assert (JUDGED | FLOODED, 0, -1) == (record.facts, record.drop, record.action)
        assert -1 == record.accepts
        assert [(A, B, GIVEN), (A, C, GIVEN)] == [one.way for one in whole.taken()]
        pair.send(0, replace(Layers(), dst=MACS[9]).udp(b"where are you?").data)
        assert 1 == len(sender.taken())
        assert 2 == len(whole.taken())


REFUSED = {
    "no such type": (TCP.partial, TCP.header._replace(gso_type=2), "gso_type_unknown", 0),
    "fragment": (
        replace(Layers(), fragment=3).tcp(PAYLOAD).partial, TCP.header, "csum_on_fragment", 0,
    ),
    "beyond": (TCP.partial, TCP.header._replace(csum_start=5000), "csum_out_of_frame", 0),
    "source": (replace(Layers(), src=MACS[5]).tcp(b"").data, NetHeader(), "source_mac_locked", 1),
    "to itself": (replace(Layers(), dst=MACS[0]).udp(b"x").data, NetHeader(), "same_port", 1),
    "reserved": (
        replace(Layers(), dst=b"\1\x80\xc2\0\0\0").udp(b"x").data,
        NetHeader(), "reserved_multicast", 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_at_ingress(name: str, network: Network) -> None:
    """It is recorded with its reason, for its sender and for the whole fabric, and not for others;
    the checksum's state is known where that was judged."""
    frame, header, reason, judged = REFUSED[name]
    mac = int.from_bytes(MACS[0], "big")
    pair = Pair(network, Options(mac=mac, locked=True), Options())
    with (
        Capturing(network.state, {0}) as sender,
        Capturing(network.state) as whole,
        Capturing(network.state, {1}) as other,
    ):
        pair.send(0, frame, header)
        record = only(sender.taken())
        assert [] == other.taken()
        assert record[2:] == only(whole.taken())[2:]
    assert {reason: 1} == pair.guests[0].drops
    assert (reason, A, 0, SENT) == (record.reason, *record.way)
    assert (JUDGED if judged else 0, -1, -1) == (record.facts, record.accepts, record.action)
    assert (frame, header.pack()[:8]) == (record.data, record.header.to_bytes(8, "little"))


def test_link_down(network: Network) -> None:
    """Frames that a port with its link down sends, or would get, are recorded as dropped."""
    pair = Pair(network, Options(), Options())
    with Capturing(network.state, {0}) as capture:
        pair.guests[0].record.link_down = 1
        pair.send(0, TCP.partial, TCP.header)
        pair.send(1, BACK.partial, BACK.header)
        sent, got = capture.taken()
    assert ("link_down", A, 0, SENT) == (sent.reason, *sent.way)
    assert ("link_down", B, A, GIVEN) == (got.reason, *got.way)
    assert (TCP.partial, BACK.partial) == (sent.data, got.data)
    assert (0, JUDGED) == (sent.facts, got.facts)


DROPS = {
    "rx_ring_full": {},
    "mtu_exceeded": {"mtu": 600},
    "destination_mac_locked": {"locked": 1, "mac": 77},
    "isolated": {"isolated": 1},
}


@pytest.mark.parametrize("reason", DROPS)
def test_dropped_at_the_receiver(reason: str, network: Network) -> None:
    """Its reason, on the receiver's side and on the sender's, and what was planned if it was."""
    source, sink = network.guest(), network.guest()
    sink.send(BACK.data)
    network.run(sink)
    for name, value in DROPS[reason].items():
        setattr(sink.record, name, value)
    source.record.isolated = int(reason == "isolated")
    with Capturing(network.state, {0}) as first, Capturing(network.state, {1}) as second:
        source.send(TCP.partial, TCP.header)
        network.run(source)
        sent, got = only(first.taken()), only(second.taken())
    assert {reason: 1} == sink.drops
    assert (reason, A, B, SENT) == (sent.reason, *sent.way)
    assert (reason, A, B, GIVEN) == (got.reason, *got.way)
    assert TCP.partial == sent.data == got.data
    planned = reason == "rx_ring_full"
    assert (Action.PASS_PARTIAL if planned else -1) == got.action == sent.action


def test_retagged(network: Network) -> None:
    """Each side has its own tag, and a header that belongs to its bytes."""
    pair = Pair(network, Options(vlan=7), Options(trunk=1 << 7), Options(vlan=8))
    frame = replace(Layers(), dst=BROADCAST).tcp(PAYLOAD)
    with Capturing(network.state, {0}) as sender, Capturing(network.state) as whole:
        pair.send(0, frame.partial, frame.header)
        sent, got = only(sender.taken()), only(whole.taken())
        assert frame.partial == sent.data
        assert frame.partial[:12] + b"\x81\0\0\7" + frame.partial[12:] == got.data
        assert (34, 38) == (sent.csum_start, got.csum_start)
        assert (A, B, GIVEN, 7) == (*got.way, got.vid)
        assert [] == sender.taken()
        tagged = replace(Layers(), src=MACS[1], dst=MACS[0], tags=((0x8100, 7),)).tcp(PAYLOAD)
        pair.send(1, tagged.partial, tagged.header)
        record = only(sender.taken())
        assert tagged.partial[:12] + tagged.partial[16:] == record.data
        assert (34, 7) == (record.csum_start, record.vid)


def test_not_in_the_vlan(network: Network) -> None:
    """A port outside the frame's VLAN is not asked in a flood; what is sent to it is dropped."""
    pair = Pair(network, Options(vlan=7), Options(vlan=8), Options(vlan=7))
    mac = int.from_bytes(MACS[1], "big")
    pair.guests[1].record.mac, pair.guests[1].record.locked = mac, 1
    with Capturing(network.state) as whole:
        pair.send(0, TO_ALL.partial, TO_ALL.header)
        assert [(A, C, GIVEN)] == [one.way for one in whole.taken()]


@pytest.mark.parametrize("features", [FAST, PARTIAL_ONLY, FULL & ~GUEST_CSUM])
def test_large_frames(features: int) -> None:
    """One record of all of its bytes, and whether it was delivered whole or in how many pieces."""
    frame = Layers().tcp(BODY[:9000])
    with Network() as network:
        source = network.guest(SENDER, size=256)
        sink = network.guest(features, size=256, data_len=1 << 20)
        for _ in range(100):
            sink.post(2048)
        with Capturing(network.state, {1}, snap_len=60, whole=True) as capture:
            source.send(frame.partial, frame.gso(1000))
            network.run(source)
            record = only(capture.taken())
    assert frame.partial == record.data
    whole = features == FAST
    assert JUDGED | (WHOLE if whole else SEGMENTED) == record.facts
    assert (0 if whole else 9) == record.segments
    filled = features & GUEST_CSUM == 0
    assert (Action.FILL if filled else Action.PASS_PARTIAL) == record.action


def test_snapped(network: Network) -> None:
    """Bytes beyond the limit are left out, unless something is to be computed from them."""
    pair = Pair(network, Options(), Options())
    state = network.state
    with (
        Capturing(state, {0}, snap_len=64) as short,
        Capturing(state, {0}, snap_len=200) as longer,
        Capturing(state, {0}, snap_len=64, whole=True) as whole,
        Capturing(state, {0}, snap_len=0) as none,
    ):
        pair.send(0, TCP.partial, TCP.header)
        for capture, length in ((short, 64), (longer, 200), (whole, len(TCP.data)), (none, 0)):
            record = only(capture.taken())
            assert (len(TCP.data), TCP.partial[:length]) == (record.length, record.data)
        pair.send(0, TCP.data)
        assert TCP.data[:64] == only(whole.taken()).data


def test_off_and_on(network: Network) -> None:
    """Ports are marked while they are captured, and only those; afterwards frames go straight."""
    pair = Pair(network, Options(), Options(), Options())
    straight = []
    with Capturing(network.state, {0}):
        pair.send(0, TCP.partial, TCP.header)
        straight.append(int(network.work.passed_bytes))
        assert [8, 0, 0] == [int(guest.record.special) for guest in pair.guests]
    pair.send(0, TCP.partial, TCP.header)
    straight.append(int(network.work.passed_bytes))
    assert [0, len(TCP.partial)] == straight
    assert [0, 0, 0] == [int(guest.record.special) for guest in pair.guests]
    assert 0 == network.state.n_captures
