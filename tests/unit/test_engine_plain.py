"""The straight path is the long way, only shorter.

Each case runs on two fabrics alike but for one thing: on the second, senders are marked so that all
their frames go the long way (`forward`).  Every byte delivered, every counter and every drop reason
must be the same.  The first also has to have taken the straight path where the test says so.
"""

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.property.strategies import examples
from tests.reference.frame import BROADCAST, MACS, Layers
from tests.reference.guest import Guest, Received
from tests.reference.network import Network
from tests.reference.plug import (
    CSUM,
    FULL,
    GUEST_CSUM,
    MRG_RXBUF,
    NO_OPTIONS,
    RING_PACKED,
    VERSION_1,
    Options,
)
from vionet.engine.status import FILTER_NO_UNICAST, FILTER_UNICAST, FabricKind, Policy
from vionet.spec.virtio_net import NetHeader

PAYLOAD = bytes(range(200)) * 5
BACK = replace(Layers(), src=MACS[1], dst=MACS[0])
MAC = [int.from_bytes(mac, "big") for mac in MACS]


@dataclass(frozen=True)
class Ends:
    """How the two guests are made."""

    source: Options = NO_OPTIONS
    sink: Options = NO_OPTIONS
    features: tuple[int, int] = (FULL, FULL)
    buffer: int = 2000
    kind: FabricKind = FabricKind.SWITCH
    filter: int = 0


class Twin:
    """One of the two fabrics."""

    def __init__(self, network: Network, ends: Ends, long_way: bool) -> None:
        self.network = network
        self.long_way = long_way
        self.straight = 0
        self.source = network.guest(ends.features[0], options=ends.source)
        self.sink = network.guest(ends.features[1], options=ends.sink, policy=ends.sink.policy)
        self.sink.record.filter = ends.filter
        self.buffer = ends.buffer
        if network.state.kind == FabricKind.SWITCH:
            self.exchange(self.sink, self.source, BACK.udp(b"here I am").data, NetHeader())
            self.exchange(self.source, self.sink, Layers().udp(b"so am I").data, NetHeader())

    def exchange(
        self, source: Guest, sink: Guest, frame: bytes, header: NetHeader, times: int = 1
    ) -> tuple[list[Received], Any]:
        """Send; what arrived and what was counted since the beginning."""
        for _ in range(3 * times):
            sink.post(self.buffer)
        for _ in range(times):
            source.send(frame, header)
        source.record.steers = int(self.long_way)
        sink.record.steers = 0
        self.network.run(source)
        self.straight += int(self.network.work.passed_bytes)
        found = sink.received()
        sink.rx.take_used()
        source.tx.take_used()
        counted = [(guest.ledger, guest.drops) for guest in self.network.guests]
        return [replace(one, heads=()) for one in found], counted


def compare(ends: Ends, *sent: tuple[bytes, NetHeader], times: int = 2) -> int:
    """Send all of it by both fabrics; the bytes that went the straight path after the greeting."""
    with Network(ends.kind) as first, Network(ends.kind) as second:
        short, long = Twin(first, ends, False), Twin(second, ends, True)
        greeted = short.straight
        for frame, header in sent:
            expected = long.exchange(long.source, long.sink, frame, header, times)
            assert expected == short.exchange(short.source, short.sink, frame, header, times)
        assert 0 == long.straight
        return short.straight - greeted


TCP4 = Layers().tcp(PAYLOAD)
UDP4 = Layers().udp(PAYLOAD)
TCP6 = Layers(6).tcp(PAYLOAD)
UDP6 = Layers(6).udp(PAYLOAD)


def offloaded(layers: Layers, ports: tuple[int, int] | None = None) -> tuple[bytes, NetHeader]:
    """A partial frame and its header: TCP, or UDP between `ports`."""
    frame = layers.udp(PAYLOAD, ports) if ports else layers.tcp(PAYLOAD)
    return frame.partial, frame.header


NO_SUM = UDP4.data[: UDP4.field] + bytes(2) + UDP4.data[UDP4.field + 2 :]
PLAIN = {
    "tcp4": (TCP4.partial, TCP4.header),
    "udp4": (UDP4.partial, UDP4.header),
    "tcp6": (TCP6.partial, TCP6.header),
    "udp6": (UDP6.partial, UDP6.header),
    "short": (Layers().tcp(b"").partial, Layers().tcp(b"").header),
    "udp4 without a sum": (NO_SUM, NetHeader()),
    "more flags": (TCP4.partial, TCP4.header._replace(flags=0xFF)),
}  # fmt: skip
# Of these the sum is verified.
COMPLETE = {
    f"{name} {kind}": (data, NetHeader())
    for name, frame in {"tcp4": TCP4, "udp4": UDP4, "tcp6": TCP6, "udp6": UDP6}.items()
    for kind, data in {"good": frame.data, "bad": frame.bad, "seed": frame.partial}.items()
}
SHORT = Layers().udp(b"odd length, x").data
PADDED = TCP4.partial + b"padding"
UNUSUAL = {
    "wrong seed": (TCP4.bad, TCP4.header),
    "padded": (PADDED, TCP4.header),
    "start in the header": (TCP4.partial, TCP4.header._replace(csum_start=33)),
    "start behind": (TCP4.partial, TCP4.header._replace(csum_start=38)),
    "start far behind": (TCP4.partial, TCP4.header._replace(csum_start=0xFFFF)),
    "other field": (TCP4.partial, TCP4.header._replace(csum_offset=6)),
    "dhcp": offloaded(Layers(), (68, 67)),
    "dhcp6": offloaded(Layers(6), (546, 547)),
    "options": offloaded(replace(Layers(), options=b"\1\1\1\0")),
    "fragment": (replace(Layers(), fragment=0x2000).tcp(PAYLOAD).partial, NetHeader()),
    "fragment marked": (replace(Layers(), fragment=3).tcp(PAYLOAD).partial, TCP4.header),
    "tagged": offloaded(replace(Layers(), tags=((0x8100, 5),))),
    "arp": (Layers().ethernet(bytes(46), 0x806), NetHeader()),
    "nothing": (Layers().ethernet(b"", 0x800), NetHeader()),
    "large": (TCP4.partial, TCP4.gso(400)),
    "broadcast": offloaded(replace(Layers(), dst=BROADCAST)),
    "to nobody": offloaded(replace(Layers(), dst=MACS[9])),
    "to itself": offloaded(replace(Layers(), dst=MACS[0])),
    "from a group": offloaded(replace(Layers(), src=BROADCAST)),
    "from nobody": offloaded(replace(Layers(), src=bytes(6))),
    "from the other": offloaded(replace(Layers(), src=MACS[1])),
}  # fmt: skip


@pytest.mark.parametrize("kind", FabricKind)
@pytest.mark.parametrize("name", PLAIN)
def test_usual_frames_go_straight(name: str, kind: FabricKind) -> None:
    """What guests send all day goes the straight path, and nothing is different there."""
    frame, header = PLAIN[name]
    assert 2 * len(frame) == compare(Ends(kind=kind), (frame, header))


@pytest.mark.parametrize("name", COMPLETE)
def test_sums_are_verified_and_filled_straight(name: str) -> None:
    """Finished frames are verified, and good ones unfilled, on the way; partial ones are filled."""
    frame, header = COMPLETE[name]
    assert 2 * len(frame) == compare(Ends(), (frame, header))
    usual = PLAIN[name.split()[0]]
    for size in (TCP4.data, SHORT):
        assert 0 < compare(Ends(sink=Options(policy=Policy.COMPLETE)), usual, (size, NetHeader()))


@pytest.mark.parametrize("kind", FabricKind)
@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_frames_go_the_long_way(name: str, kind: FabricKind) -> None:
    """Whatever is to be refused, changed, learnt or shown to several goes the long way."""
    straight = compare(Ends(kind=kind), UNUSUAL[name], PLAIN["tcp4"], UNUSUAL[name], times=1)
    plain_on_wire = {"to nobody", "to itself", "broadcast", "from the other"}
    unusual = 0 if kind == FabricKind.SWITCH or name not in plain_on_wire else 2
    # A sender that takes the receiver's address has taken its frames with it.
    usual = 0 if name == "from the other" and kind == FabricKind.SWITCH else len(TCP4.data)
    assert unusual * len(UNUSUAL[name][0]) + usual == straight


def locked(**more: Any) -> Ends:
    """Both ends locked to their addresses."""
    return Ends(Options(mac=MAC[0], locked=True), Options(mac=MAC[1], locked=True), **more)


STRAIGHT = {
    "locked": locked(),
    "one VLAN": Ends(Options(vlan=7), Options(vlan=7)),
    "filtered by address": Ends(sink=Options(mac=MAC[1]), filter=FILTER_UNICAST),
    "natural": Ends(sink=Options(policy=Policy.NATURAL)),
    "legacy header": Ends(features=(CSUM | GUEST_CSUM, CSUM | GUEST_CSUM)),
    "legacy to modern": Ends(features=(CSUM, FULL)),
    "no merging": Ends(features=(FULL, FULL & ~MRG_RXBUF)),
    "packed to split": Ends(features=(FULL | RING_PACKED, FULL)),
    "complete": Ends(sink=Options(policy=Policy.COMPLETE)),
    "no partial": Ends(features=(FULL, FULL & ~GUEST_CSUM)),
    "split to packed": Ends(features=(FULL, FULL | RING_PACKED)),
    "large enough": Ends(sink=Options(mtu=1500)),
}
LONG = {
    "isolated": Ends(Options(isolated=True), Options(isolated=True)),
    "other VLAN": Ends(Options(vlan=7), Options(vlan=8)),
    "trunk": Ends(Options(vlan=7), Options(vlan=7, trunk=1 << 7)),
    "to another address": Ends(sink=Options(mac=MAC[5], locked=True)),
    "filtered away": Ends(sink=Options(mac=MAC[5]), filter=FILTER_UNICAST),
    "filtered altogether": Ends(sink=Options(mac=MAC[1]), filter=FILTER_NO_UNICAST),
    "no leave": Ends(features=(FULL & ~CSUM, FULL)),
    "small buffers": Ends(buffer=600),
    "no buffer": Ends(features=(FULL, VERSION_1 | GUEST_CSUM), buffer=600),
    "small at the sink": Ends(sink=Options(mtu=600)),
    "small at the source": Ends(source=Options(mtu=600)),
    "link down": Ends(sink=Options(link_up=False)),
}


@pytest.mark.parametrize("name", STRAIGHT)
def test_ports_that_frames_pass_straight(name: str) -> None:
    """Locks, access VLANs, filters by address, headers and rings of any kind keep it."""
    ends = STRAIGHT[name]
    assert 2 * len(TCP4.data) == compare(ends, PLAIN["tcp4"])
    assert 2 * len(TCP4.data) == compare(ends, COMPLETE["tcp4 good"])


@pytest.mark.parametrize("name", LONG)
def test_ports_that_frames_do_not_pass_straight(name: str) -> None:
    """Where a port's rules or buffers ask for more than a look, the long way decides."""
    assert 0 == compare(LONG[name], PLAIN["tcp4"])


@pytest.mark.parametrize("takes_partial", [True, False])
@pytest.mark.parametrize("kind", FabricKind)
def test_frames_for_a_kernel(kind: FabricKind, takes_partial: bool) -> None:
    """To a tap: the same bytes and headers, and the same drops once its kernel takes no more."""
    seen = []
    for long_way in (False, True):
        with Network(kind) as network:
            guest = network.guest(data_len=1 << 19)
            tap = network.tap(takes_partial)
            if kind == FabricKind.SWITCH:
                tap.give(BACK.udp(b"here I am").data)
                network.run_tap(tap)
                guest.send(Layers().udp(b"so am I").data)
                network.run(guest)
            found = tap.taken()
            straight = 0
            for frame, header in [*PLAIN.values(), *COMPLETE.values(), *UNUSUAL.values()]:
                guest.send(frame, header)
                guest.record.steers = int(long_way)
                network.run(guest)
                straight += int(network.work.passed_bytes)
                found += tap.taken()
            if kind == FabricKind.SWITCH:
                tap.give(BACK.udp(b"here I am again").data)
                network.run_tap(tap)
            for _ in range(300):
                guest.next_gpa = 1 << 21
                guest.send(TCP4.partial, TCP4.header)
                network.run(guest)
                guest.tx.take_used()
            assert (straight > 0) is not long_way
            seen.append((found, guest.ledger, guest.drops, tap.ledger, tap.drops))
    assert seen[1] == seen[0]
    assert 0 < seen[0][4]["tap_full"]


def test_sender_is_learnt_again_every_second() -> None:
    """The straight path learns nothing: it leaves a sender to the long way once a second."""
    with Network() as network:
        twin = Twin(network, Ends(), False)
        for late_ns in (0, 1_000_000_001, 0):
            network.work.now_ns += late_ns
            before = twin.straight
            twin.exchange(twin.source, twin.sink, *PLAIN["tcp4"], times=2)
            expected = len(TCP4.data) * (1 if late_ns else 2)
            assert expected == twin.straight - before


cases = st.sampled_from([*STRAIGHT.values(), *LONG.values(), Ends(kind=FabricKind.WIRE)])
changes = st.lists(st.tuples(st.integers(-12, 60), st.integers(0, 255)), max_size=4)
frames = st.sampled_from([*PLAIN.values(), *COMPLETE.values(), *UNUSUAL.values()])


@given(cases, st.lists(st.tuples(frames, changes), min_size=1, max_size=6))
@examples(compiled=400, interpreted=30)
def test_any_frame(ends: Ends, sent: list[tuple[Any, list[tuple[int, int]]]]) -> None:
    """Frames with any bytes of their first 60, and of their virtio-net header, changed."""
    garbled = []
    for (frame, header), edits in sent:
        data = bytearray(header.pack(12) + frame)
        for off, value in edits:
            if 12 + off < len(data):
                data[12 + off] = value
        garbled.append((bytes(data[12:]), NetHeader.unpack(bytes(data[:12]))))
    compare(ends, *garbled, times=1)
