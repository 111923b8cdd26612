"""The matrix: every kind of sender to every kind of receiver, and the wire sees no difference.

How it works: one network for each ring format and kind of traffic, with all senders and all
receivers on it.  For every pair the sender says the same things in its own way: large frames where
it agreed to them, partial ones where it agreed to those, else finished ones.  What arrives is
judged from the outside: each delivery obeys RX-01 to RX-22 (`tests.reference.receiver`), and
forwarded to a wire it is what a sender without any offload would have sent.  Beside that it is
counted how much arrived whole and partial, because delivering everything cut up and finished would
be right too.

A cell is one sender, receiver, kind of buffers, ring format, traffic and policy.  The interpreted
lane takes every third cell, another third for each kind of traffic and ring.
"""

from dataclasses import dataclass, replace
from itertools import product

import pytest

from tests.reference import checksum
from tests.reference.frame import BROADCAST, Frame, Layers
from tests.reference.guest import DATA_GPA, Guest, Received
from tests.reference.network import Network
from tests.reference.plug import (
    CSUM,
    GUEST_CSUM,
    GUEST_ECN,
    GUEST_TSO4,
    GUEST_TSO6,
    GUEST_USO4,
    GUEST_USO6,
    HOST_ECN,
    HOST_TSO4,
    HOST_TSO6,
    HOST_USO,
    INDIRECT_DESC,
    MRG_RXBUF,
    RING_PACKED,
    VERSION_1,
)
from tests.reference.receiver import NEEDS_CSUM, obeys, on_the_wire
from vionet.engine.burst import from_guest
from vionet.engine.status import Policy
from vionet.jit import LANE, Lane
from vionet.spec.virtio_net import NetHeader

BASE = VERSION_1 | INDIRECT_DESC
SENDERS = {
    "nothing": BASE,
    "csum": (csum := BASE | CSUM),
    "tso4": (tso4 := csum | HOST_TSO4),
    "tso6": (tso6 := tso4 | HOST_TSO6),
    "ecn": (ecn := tso6 | HOST_ECN),
    "uso": ecn | HOST_USO,
}
RECEIVERS = {
    "nothing": BASE,
    "guest_csum": (guest_csum := BASE | GUEST_CSUM),
    "tso4": (guest_tso4 := guest_csum | GUEST_TSO4),
    "tso6": (guest_tso6 := guest_tso4 | GUEST_TSO6),
    "ecn": (guest_ecn := guest_tso6 | GUEST_ECN),
    "uso4": (guest_uso4 := guest_ecn | GUEST_USO4),
    "uso6": guest_uso4 | GUEST_USO6,
}
TRAFFIC = ("ipv4", "ipv6", "tagged", "vxlan")
RINGS = {"split": 0, "packed": RING_PACKED}
CWR_ACK, PSH_ACK = 0x90, 0x18
BODY = bytes((i * 5 + (i >> 8)) & 0xFF for i in range(4096))
SIZE = 1000
Sent = list[tuple[bytes, NetHeader]]


@dataclass(frozen=True)
class Speech:
    """Something to say: a frame and, where it is larger than a wire takes, the features that a
    sender and a receiver need for it to stay whole."""

    frame: Frame
    sends: int = 0
    takes: int = 0
    ecn: bool = False
    dhcp: bool = False
    tunnel: bool = False

    @property
    def plain(self) -> list[bytes]:
        """The frames of a sender that leaves nothing to the device."""
        return self.frame.segments(SIZE) if self.sends else [self.frame.data]

    def large(self, features: int) -> bool:
        """Whether a sender that agreed to `features` hands it over in one piece."""
        return bool(self.sends) and features & self.sends == self.sends

    def said(self, features: int) -> Sent:
        """What such a sender hands over."""
        frame = self.frame
        if self.large(features):
            return [(frame.partial, frame.gso(SIZE, ecn=self.ecn))]
        if not features & CSUM:
            return [(one, NetHeader()) for one in self.plain]
        if self.sends:
            return [(one, frame.header) for one in frame.segments(SIZE, partial=True)]
        return [(frame.partial, frame.header)]

    def towards(self, mac: bytes) -> "Speech":
        """The same to another destination; nothing else depends on it."""
        return replace(self, frame=replace(self.frame, data=mac + self.frame.data[6:]))


def speeches(traffic: str) -> list[Speech]:
    """TCP and UDP, small and large, with CWR, to a DHCP port, or all that inside a tunnel."""
    if traffic == "vxlan":
        inner, other, outer = Layers(), Layers(6), Layers()
        return [
            Speech(outer.vxlan(frame, outer_sum), tunnel=True)
            for frame in (inner.tcp(BODY[:999]), other.tcp(BODY[:1001]), inner.udp(BODY[:500]))
            for outer_sum in (True, False)
        ]
    tags = ((0x8100, 0x2005),) if traffic == "tagged" else ()
    six = traffic == "ipv6"
    layers = Layers(6 if six else 4, tags=tags)
    tso = CSUM | (HOST_TSO6 if six else HOST_TSO4), GUEST_CSUM | (GUEST_TSO6 if six else GUEST_TSO4)
    uso = CSUM | HOST_USO, GUEST_CSUM | (GUEST_USO6 if six else GUEST_USO4)
    return [
        Speech(layers.tcp(BODY[:77], flags=PSH_ACK)),
        Speech(layers.tcp(BODY[:3777], b"\1" * 12, flags=PSH_ACK), *tso),
        Speech(layers.tcp(BODY[:4000], flags=CWR_ACK), tso[0] | HOST_ECN, tso[1] | GUEST_ECN, True),
        Speech(layers.udp(BODY[:3], (67, 68)), dhcp=True),
        Speech(layers.udp(BODY[:2001]), *uso),
        Speech(layers.udp(BODY[:1])),
    ]


@dataclass
class Sink:
    """A receiver, and what it is called."""

    name: str
    guest: Guest
    merge: bool
    policy: Policy
    mac: bytes

    @property
    def takes_partial(self) -> bool:
        """Whether it may be given partial checksums at all."""
        return bool(self.guest.features & GUEST_CSUM) and self.policy is not Policy.COMPLETE

    def whole(self, speech: Speech) -> bool:
        """Whether it is given a large frame in one piece."""
        return self.takes_partial and self.guest.features & speech.takes == speech.takes

    def post(self) -> None:
        """Buffers for all that one sender says; large ones where frames are not merged."""
        for _ in range(24):
            self.guest.post(*((1536,) if self.merge else (12, 4500)))

    def take(self) -> list[Received]:
        """What was delivered; its buffers are posted again."""
        posted = dict(self.guest.posted)
        found = self.guest.received()
        for head in (head for one in found for head in one.heads):
            self.guest.posted[self.guest.rx.add(posted[head], True)] = posted[head]
        return found


def build(network: Network, ring: str) -> tuple[dict[str, Guest], list[Sink]]:
    """All senders and all receivers, whose addresses the switch has learnt."""
    senders = {
        name: network.guest(features | RINGS[ring], data_len=1 << 17)
        for name, features in SENDERS.items()
    }
    sinks = []
    for (name, features), merge, policy in product(RECEIVERS.items(), (True, False), list(Policy)):
        word = features | RINGS[ring] | (MRG_RXBUF if merge else 0)
        guest = network.guest(word, policy=policy, data_len=1 << 17)
        sinks.append(Sink(name, guest, merge, policy, bytes([2, 0, 0, 0, 1, guest.index])))
    for sink in sinks:
        sink.guest.send(Layers(src=sink.mac, dst=BROADCAST).ethernet(b"hello", 0x88B5))
        assert 1 == network.run(sink.guest)
    network.work.drops[:] = 0  # of those that were flooded so
    for sink in sinks:
        sink.post()
    return senders, sinks


def flags_of(speech: Speech, sink: Sink, source: Guest) -> int:
    """The flags of each delivery: the decision table for what good senders say."""
    if not sink.takes_partial or speech.dhcp:
        return 0
    if sink.policy is Policy.UNIFORM:
        absent = speech.tunnel and checksum.word(speech.frame.data, 40) == 0
        return 0 if absent else NEEDS_CSUM
    return NEEDS_CSUM if source.features & CSUM and not speech.tunnel else 0


def check(source: Guest, sink: Sink, said: list[Speech]) -> None:
    """Everything that arrived, in order."""
    found = [(one.header, one.frame) for one in sink.take()]
    for speech in said:
        whole = speech.large(source.features) and sink.whole(speech)
        count = 1 if whole else len(speech.plain)
        deliveries, found = found[:count], found[count:]
        for header, data in deliveries:
            obeys(sink.guest.features, header, data)
            assert flags_of(speech, sink, source) == header.flags
            assert whole == bool(header.gso_type)
        assert speech.plain == [one for got in deliveries for one in on_the_wire(*got)]
    assert [] == found


@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize("traffic", TRAFFIC)
def test_w11_matrix(ring: str, traffic: str) -> None:
    """The byte stream of every cell is that of a sender without offload, and every header obeys."""
    said = speeches(traffic)
    cells = 0
    with Network() as network:
        senders, sinks = build(network, ring)
        packed = {bool(sink.guest.record.queues[0].packed) for sink in sinks}
        assert {ring == "packed"} == packed
        offset = TRAFFIC.index(traffic) + (ring == "packed")
        for sink in sinks:
            here = [speech.towards(sink.mac) for speech in said]
            for number, (name, source) in enumerate(senders.items()):
                if LANE is Lane.INTERPRETED and (number + sink.guest.index + offset) % 3:
                    continue
                cells += 1
                source.next_gpa = DATA_GPA
                sent = [one for speech in here for one in speech.said(source.features)]
                for data, header in sent:
                    source.send(data, header, cuts=(12,) if cells % 2 else (5, 50))
                assert len(sent) == from_guest(network.state, network.work, source.index, 1)
                assert [0] * len(sent) == [used.length for used in source.tx.take_used()]
                assert {} == source.drops, (name, sink.name)
                check(source, sink, here)
        assert all({} == sink.guest.drops for sink in sinks)
    wanted = len(SENDERS) * len(RECEIVERS) * 2 * len(Policy)
    assert (wanted // 3 if LANE is Lane.INTERPRETED else wanted) == cells
