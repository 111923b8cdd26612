"""A record made a frame again: those that the property test of captures seldom meets."""

import contextlib
from collections.abc import Iterator

import pytest

from tests.reference.capture import Capturing
from tests.reference.exchange import BODY, FAST, PLAIN_GUEST, SENDER
from tests.reference.frame import Layers
from tests.reference.network import Network
from tests.reference.pcapng import Packet, packets
from tests.reference.plug import FULL, Options
from vionet.capture.pcapng import Interface
from vionet.capture.reader import Reader, View
from vionet.engine.status import Policy
from vionet.spec.virtio_net import NetHeader

DELIVERED = View(delivered=True)


@contextlib.contextmanager
def reading(network: Network, view: View, snap_len: int = 1 << 17) -> Iterator[Reader]:
    """A capture of all ports, and its reader."""
    with Capturing(network.state, whole=True, snap_len=snap_len) as capturing:
        ring = capturing.ring
        yield Reader(
            ring.fd, ring.notify_fd, capturing.ring_len, view, Interface("all"),
            lambda serial: Interface(f"p{serial}"),
        )  # fmt: skip


def shown(reader: Reader) -> list[Packet]:
    """All that is in the ring."""
    blocks, more = reader.blocks()
    assert not more and not reader.broken
    return packets(bytes(blocks))


@pytest.mark.parametrize("flags", [0, 2])
@pytest.mark.parametrize("padding", [b"", b"\0" * 6, b"\0" * 80])
def test_verified_again(flags: int, padding: bytes) -> None:
    """A finished sum that the receiver got partial: so in the one file, and in the other as it was
    sent, padding and all, whatever flags a guest sets that mean nothing from it."""
    frame = Layers().tcp(BODY[:60])
    for view in (DELIVERED, View()):
        with Network() as network:
            source, sink = network.guest(SENDER), network.guest(FAST)
            sink.post(2000)
            with reading(network, view) as reader:
                source.send(frame.data + padding, NetHeader(flags=flags))
                network.run(source)
                (one,) = sink.received()
                (packet,) = shown(reader)
        assert (one.frame if view.delivered else frame.data + padding) == packet.data
        untouched = len(padding) == 80
        assert (frame.data + padding if untouched else frame.partial) == one.frame
        assert ("NONE → passed" if untouched else "UNKNOWN → verified, unfilled") in packet.comment


def test_a_bad_sum_is_bad_in_every_view() -> None:
    """What is really bad looks so, and the comment says who found it."""
    frame = Layers(6).udp(BODY[:500])
    for view in (DELIVERED, View(), View(segment=True)):
        with Network() as network:
            source, sink = network.guest(SENDER), network.guest(FAST)
            sink.post(2000)
            with reading(network, view) as reader:
                source.send(frame.bad)
                network.run(source)
                (packet,) = shown(reader)
        assert frame.bad == packet.data
        assert "UNKNOWN → verified: bad, passed as it is" in packet.comment


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("pops", [False, True])
def test_tags(pops: bool, inner: bool) -> None:
    """A tag that is popped moves every sum: both files show what the receiver's port carries."""
    layers = Layers(tags=((0x8100, 10),))
    frame = layers.vxlan(Layers().tcp(BODY[:300]), True) if inner else layers.tcp(BODY[:300])
    plain = Layers()
    wanted = plain.vxlan(Layers().tcp(BODY[:300]), True) if inner else plain.tcp(BODY[:300])
    finished = wanted.data if pops else frame.data
    trunk = Options(trunk=(1 << 4095) - 2)
    for view in (DELIVERED, View()):
        with Network() as network:
            source = network.guest(SENDER, options=trunk)
            sink = network.guest(
                FULL, policy=Policy.NATURAL, options=Options(vlan=10) if pops else trunk
            )
            network.state.vlan_aware = 1
            sink.post(2000)
            with reading(network, view) as reader:
                source.send(frame.partial, frame.header)
                network.run(source)
                (one,) = sink.received()
                (packet,) = shown(reader)
        assert (one.frame if view.delivered else finished) == packet.data
        assert "p1 → p2 vlan 10: " in packet.comment


def test_large_frame_in_every_view() -> None:
    """Whole and finished, or in the segments that a plain receiver got; each says so."""
    frame = Layers().tcp(BODY[:10_000])
    for view, features in ((View(), FAST), (View(segment=True), FAST), (DELIVERED, PLAIN_GUEST)):
        with Network() as network:
            source, sink = network.guest(SENDER, size=256), network.guest(features, size=256)
            for _ in range(64):
                sink.post(2000)
            with reading(network, view) as reader:
                source.send(frame.partial, frame.gso(1448))
                network.run(source)
                found = shown(reader)
        assert all("gso tcp4 size=1448" in packet.comment for packet in found)
        if view == View():
            assert [frame.data] == [packet.data for packet in found]
            assert "PARTIAL csum_start=34 csum_offset=16 → passed partial" in found[0].comment
            assert "size=1448, whole; finished in this copy; " in found[0].comment
            assert "negotiated p1: CSUM HOST_TSO4 HOST_TSO6 HOST_ECN HOST_USO" in found[0].comment
        else:
            assert frame.segments(1448) == [packet.data for packet in found]
            assert "one of its segments" in found[0].comment
            assert (features == PLAIN_GUEST) == ("7 segments" in found[0].comment)


def test_cut_frames_are_as_they_were() -> None:
    """The file's snap length cuts what was finished before; a record that is not whole is left as
    it is, and says so."""
    frame = Layers().tcp(BODY[:1000])
    with Network() as network:
        source, sink = network.guest(SENDER), network.guest(FAST)
        sink.post(2000)
        with reading(network, View(snap_len=60)) as reader:
            source.send(frame.partial, frame.header)
            network.run(source)
            (packet,) = shown(reader)
    assert (frame.data[:60], len(frame.data)) == (packet.data, packet.length)
    with Network() as network:
        source, sink = network.guest(SENDER), network.guest(PLAIN_GUEST)
        sink.post(2000)
        with reading(network, View(), snap_len=60) as reader:
            source.send(frame.data)
            network.run(source)
            (packet,) = shown(reader)
    assert (frame.data[:60], len(frame.data)) == (packet.data, packet.length)
    assert "this copy is cut off" in packet.comment


def test_refused_frames_are_as_they_came() -> None:
    """Nothing is made of a header that was not believed."""
    frame = Layers().tcp(BODY[:100])
    with Network() as network:
        source = network.guest(FULL & ~1)
        network.guest(FAST)
        with reading(network, View()) as reader:
            source.send(frame.partial, frame.header)
            network.run(source)
            (packet,) = shown(reader)
    assert frame.partial == packet.data
    assert "p1 → nobody: not judged, flags=0x1; drop=csum_not_negotiated" in packet.comment
    assert 2 == packet.flags
