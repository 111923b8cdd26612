"""VLANs of a switch: every kind of port to every other, compared with a plain model."""

import pytest

from tests.reference import checksum
from tests.reference.frame import BROADCAST, MACS, Frame, Layers
from tests.reference.guest import Guest
from tests.reference.network import Network
from tests.reference.plug import FULL, GUEST_CSUM, GUEST_TSO4, HOST_TSO4, Options
from tests.reference.vlan import (
    ACCESS_10,
    ACCESS_20,
    NATIVE,
    TRANSPARENT,
    TRUNK,
    Membership,
    tagged,
)
from vionet.engine.layout import BURST_MAX, FRAME_MAX
from vionet.engine.status import FabricKind

BODY = bytes(range(200))
PORTS = {
    "access 10": ACCESS_10,
    "access 20": ACCESS_20,
    "trunk": TRUNK,
    "trunk with native 30": NATIVE,
    "trunk with native 10": Membership(10, frozenset({20})),
    "transparent": TRANSPARENT,
}
TAGS = {
    "untagged": (),
    "10": ((0x8100, 10),),
    "20, priority 5": ((0x8100, 5 << 13 | 20),),
    "30": ((0x8100, 30),),
    "99": ((0x8100, 99),),
    "priority": ((0x8100, 7 << 13),),
    "10 and 20": ((0x8100, 10), (0x8100, 20)),
    "service tag": ((0x88A8, 10), (0x8100, 20)),
}


def plug_in(network: Network, kind: Membership, features: int = FULL, **more: object) -> Guest:
    """A guest on a port of that kind, with buffers."""
    options = Options(vlan=kind.vlan or None, trunk=kind.mask, **more)  # type: ignore[arg-type]
    guest = network.guest(features, options=options)
    for _ in range(8):
        guest.post(2000)
    return guest


def finished(guest: Guest) -> list[bytes]:
    """What a guest received, each frame finished as its header says."""
    return [
        checksum.finish(one.frame, one.header.csum_start, one.header.csum_offset)
        if one.header.flags & 1
        else one.frame
        for one in guest.received()
    ]


@pytest.mark.parametrize("tags", TAGS)
@pytest.mark.parametrize("source", PORTS)
def test_w51_every_kind_of_port_to_every_other(source: str, tags: str) -> None:
    """What enters by one port leaves by each other as IEEE 802.1Q has it, or not at all; partial
    sums are finished at the same field whatever the tag did to their offsets (SG-13, W51)."""
    frame = Layers(dst=BROADCAST, tags=TAGS[tags]).tcp(BODY)
    with Network() as network:
        sender = plug_in(network, PORTS[source])
        kinds = [kind for kind in PORTS.values() for _ in range(2)]
        sinks = [
            plug_in(network, kind, FULL if i % 2 else FULL & ~GUEST_CSUM)
            for i, kind in enumerate(kinds)
        ]
        sender.send(frame.partial, frame.header)
        assert 1 == network.run(sender)
        assert 1 == network.state.vlan_aware
        inside = PORTS[source].enter(frame.data)
        if inside is None:
            assert {"vlan_not_allowed": 1} == sender.drops
        for kind, sink in zip(kinds, sinks, strict=True):
            out = None if inside is None else kind.leave(inside)
            assert ([] if out is None else [out]) == finished(sink)
            assert {} == sink.drops, "a port outside the VLAN is not asked in a flood"


def test_unicast_is_learnt_in_each_vlan() -> None:
    """The same address in two VLANs is at two ports (independent learning)."""
    with Network() as network:
        trunk = plug_in(network, TRUNK)
        one, other = plug_in(network, ACCESS_10), plug_in(network, ACCESS_20)
        here = Layers(src=MACS[1], dst=BROADCAST).udp(BODY).data
        for guest in (one, other):
            guest.send(here)
            network.run(guest)
        assert [tagged(here, 10), tagged(here, 20)] == finished(trunk)
        there = Layers(src=MACS[2], dst=MACS[1]).udp(BODY).data
        for vid, sink, silent in ((10, one, other), (20, other, one)):
            trunk.send(tagged(there, vid))
            network.run(trunk)
            assert [there] == finished(sink)
            assert [] == finished(silent)


def test_frame_without_members_goes_nowhere() -> None:
    """A frame whose VLAN no other port carries is counted at its sender."""
    with Network() as network:
        sender = plug_in(network, Membership(77))
        sink = plug_in(network, ACCESS_10)
        sender.send(Layers(dst=BROADCAST).udp(BODY).data)
        network.run(sender)
        assert {"no_other_port": 1} == sender.drops
        assert ([], {}) == (finished(sink), sink.drops)


def test_known_address_outside_the_vlan() -> None:
    """A port that has left a VLAN gets nothing of it, though its address is still known there."""
    with Network() as network:
        sender, sink = plug_in(network, ACCESS_10), plug_in(network, ACCESS_10)
        sink.send(Layers(src=MACS[1], dst=BROADCAST).udp(BODY).data)
        network.run(sink)
        sink.record.vlan = 20
        sender.send(Layers(src=MACS[2], dst=MACS[1]).udp(BODY).data)
        network.run(sender)
        assert [] == finished(sink)
        assert {"vlan_not_allowed": 1} == sink.drops


def test_locked_address_holds_in_its_vlans() -> None:
    """A locked port's address is nobody else's in any VLAN that passes it, and free elsewhere;
    what is for it is not flooded before it has said a word."""
    with Network() as network:
        number = int.from_bytes(MACS[1], "big")
        owner = plug_in(network, ACCESS_10, mac=number, locked=True)
        thief, stranger = plug_in(network, ACCESS_10), plug_in(network, ACCESS_20)
        thief.send(Layers(src=MACS[2], dst=MACS[1]).udp(BODY).data)
        network.run(thief)
        assert 1 == len(finished(owner))
        stolen = Layers(src=MACS[1], dst=BROADCAST).udp(BODY).data
        for guest in (thief, stranger):
            guest.send(stolen)
            network.run(guest)
        assert {"source_mac_locked": 1} == thief.drops
        assert {"no_other_port": 1} == stranger.drops


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(("source", "sink"), [(ACCESS_10, TRUNK), (TRUNK, ACCESS_10)])
def test_large_frames_change_their_tag(source: Membership, sink: Membership, whole: bool) -> None:
    """A frame to be segmented keeps its meaning when a tag is pushed or popped: whole for who
    takes it, with the header's length moved, and in segments for who does not."""
    tags = ((0x8100, 10),) if source is TRUNK else ()
    frame: Frame = Layers(dst=BROADCAST, tags=tags).tcp(BODY * 20)
    outside: Frame = Layers(dst=BROADCAST, tags=() if tags else ((0x8100, 10),)).tcp(BODY * 20)
    with Network() as network:
        sender = plug_in(network, source, FULL | HOST_TSO4)
        receiver = plug_in(network, sink, FULL | GUEST_TSO4 if whole else FULL)
        sender.send(frame.partial, frame.gso(1000))
        assert 1 == network.run(sender)
        if whole:
            (one,) = receiver.received()
            expected = outside.gso(1000)
            assert expected._replace(num_buffers=one.header.num_buffers) == one.header
            assert outside.partial == one.frame
        else:
            assert outside.segments(1000) == finished(receiver)


def test_every_offset_is_restored() -> None:
    """A flood over untagged, tagged and transparent ports in any order gives each its own form."""
    order = [ACCESS_10, TRUNK, ACCESS_10, TRUNK, TRANSPARENT, ACCESS_10]
    frame = Layers(dst=BROADCAST).tcp(BODY)
    with Network() as network:
        sender = plug_in(network, ACCESS_10)
        sinks = [plug_in(network, kind) for kind in order]
        sender.send(frame.partial, frame.header)
        network.run(sender)
        for kind, sink in zip(order, sinks, strict=True):
            assert [frame.data if kind is ACCESS_10 else tagged(frame.data, 10)] == finished(sink)


def test_more_tags_than_copies() -> None:
    """A burst that is flooded over many trunks uses up the head copies; none is used twice before
    it was written."""
    with Network() as network:
        sender = network.guest(options=Options(vlan=10), size=128)
        sinks = [network.guest(options=Options(trunk=1 << 10), size=128) for _ in range(5)]
        frames = [
            Layers(dst=BROADCAST, src=MACS[3]).udp(bytes([i]) * 60).data for i in range(BURST_MAX)
        ]
        for sink in sinks:
            for _ in frames:
                sink.post(300)
        for frame in frames:
            sender.send(frame)
        assert BURST_MAX == network.run(sender)
        for sink in sinks:
            assert [tagged(frame, 10) for frame in frames] == finished(sink)


def test_largest_frame_cannot_be_tagged() -> None:
    """A tag that would make a frame longer than any may be is refused at the receiver."""
    with Network() as network:
        sender = network.guest(options=Options(vlan=10), data_len=1 << 18)
        sink = network.guest(options=Options(trunk=1 << 10), data_len=1 << 18)
        sink.post(66000)
        sink.post(66000)
        for length in (FRAME_MAX, FRAME_MAX - 4):
            sender.send(BROADCAST + MACS[0] + b"\x12\x34" + bytes(length - 14))
        assert 2 == network.run(sender)
        assert [FRAME_MAX] == [len(frame) for frame in finished(sink)]
        assert {"frame_too_long": 1} == sink.drops


@pytest.mark.parametrize("length", [14, 15, 16, 17])
def test_tag_that_is_cut_off(length: int) -> None:
    """A frame that ends within its tag is refused where VLANs are known, and is no tag else."""
    data = BROADCAST + MACS[0] + b"\x81\x00\x00"
    data = (data + bytes(3))[:length]
    for vlan, drops in ((10, {"frame_too_short": 1}), (None, {})):
        with Network() as network:
            sender, sink = network.guest(options=Options(vlan=vlan)), network.guest()
            sink.post(100)
            sender.send(data)
            network.run(sender)
            assert drops == sender.drops
            assert ([] if drops else [data]) == finished(sink)


def test_mtu_does_not_count_the_tag() -> None:
    """The MTU is the IP datagram's, with a tag and without (spec CF-09)."""
    fits = Layers(dst=BROADCAST).datagram(bytes(980), 50)
    with Network() as network:
        sender = plug_in(network, ACCESS_10)
        trunk = plug_in(network, TRUNK, mtu=1000)
        access = plug_in(network, ACCESS_10, mtu=1000)
        sender.send(fits)
        sender.send(Layers(dst=BROADCAST).datagram(bytes(981), 50))
        network.run(sender)
        assert ([tagged(fits, 10)], [fits]) == (finished(trunk), finished(access))
        assert {"mtu_exceeded": 1} == trunk.drops == access.drops


def test_a_wire_has_no_vlans() -> None:
    """Tagged or not, frames cross a wire as they are."""
    with Network(FabricKind.WIRE) as network:
        sender = plug_in(network, ACCESS_10)
        sink = plug_in(network, ACCESS_20)
        frame = tagged(Layers(dst=BROADCAST).udp(BODY).data, 99)
        sender.send(frame)
        network.run(sender)
        assert 0 == network.state.vlan_aware
        assert [frame] == finished(sink)


def test_a_switch_without_vlans_looks_at_no_tag() -> None:
    """Where no port has a VLAN an address is one address, whatever tag it was seen with (CV-18)."""
    with Network() as network:
        guests = [plug_in(network, TRANSPARENT) for _ in range(3)]
        guests[1].send(tagged(Layers(src=MACS[1], dst=BROADCAST).udp(BODY).data, 5))
        network.run(guests[1])
        for guest in guests:
            guest.received()
        frame = tagged(Layers(src=MACS[0], dst=MACS[1]).udp(BODY).data, 9)
        guests[0].send(frame)
        network.run(guests[0])
        assert 0 == network.state.vlan_aware
        assert ([frame], []) == (finished(guests[1]), finished(guests[2]))
