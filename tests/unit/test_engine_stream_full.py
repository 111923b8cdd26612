"""Streams that take no more: a switch drops, a wire waits; and large frames in segments."""

import select

import pytest

from tests.reference.frame import BROADCAST, Layers
from tests.reference.header import parse
from tests.reference.plug import FULL
from tests.reference.segment import segment
from tests.reference.stream import SocketStream, StreamNetwork, packed
from vionet.engine.layout import FRAME_MAX
from vionet.engine.status import FabricKind
from vionet.spec.virtio_net import VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, NetHeader

PAYLOAD = bytes(range(256)) * 4
TCP = Layers(dst=BROADCAST).tcp(PAYLOAD)
SMALL = TCP.data[:60]
LARGEST = Layers(dst=BROADCAST).ethernet(bytes(FRAME_MAX - 14), 0x1234)
KINDS = list(FabricKind)
TSO = 1 << VIRTIO_NET_F_HOST_TSO4 | 1 << VIRTIO_NET_F_HOST_TSO6


def fill_up(network: StreamNetwork, source: SocketStream, sink: SocketStream, data: bytes) -> int:
    """Send `data` until `sink` takes no more; *returns* the frames that were given to it."""
    given = 0
    while sink.record.writable:
        source.give(packed(data))
        given += network.run_stream(source)
    return given


@pytest.mark.parametrize("step", [1, 3, 1000, 1 << 20])
@pytest.mark.parametrize("data", [TCP.data, LARGEST[:30_000]])
def test_slow_reader_on_a_switch(step: int, data: bytes) -> None:
    """What the socket does not take is dropped and counted; a frame taken in part is finished."""
    with StreamNetwork() as network:
        source, sink = network.stream(), network.stream()
        sink.set_send_buffer(20_000)
        given = fill_up(network, source, sink, data)
        left = int(sink.record.out_len)
        for _ in range(5):
            source.give(packed(data))
            given += network.run_stream(source)
        assert left == sink.record.out_len
        assert 5 <= sink.drops["stream_full"] < given
        arrived = sink.taken(step)
        network.go_on(sink)
        while not sink.record.writable:
            arrived += sink.taken()
            network.go_on(sink)
        arrived += sink.taken()
        source.give(packed(SMALL))
        network.run_stream(source)
        assert [SMALL] == sink.taken()
        assert [data] * (given - sink.drops["stream_full"]) == arrived
        # The kernel takes small frames whole or not at all.
        assert left == 0 if data is TCP.data else 0 < left < 4 + len(data)


def test_epoll_tells_when_the_stream_takes_more() -> None:
    """Only while it is full is EPOLLOUT asked for."""
    with StreamNetwork() as network:
        source, sink = network.stream(), network.stream()
        fd = int(sink.record.fd)
        network.epoll.register(fd, select.EPOLLIN | select.EPOLLET)
        source.give(packed(SMALL))
        network.run_stream(source)
        sink.taken()
        assert [] == network.epoll.poll(0)
        fill_up(network, source, sink, TCP.data)
        assert [] == network.epoll.poll(0)
        sink.taken()
        ((_, what),) = network.epoll.poll(5)
        assert what & select.EPOLLOUT
        network.go_on(sink)
        assert 1 == sink.record.writable
        sink.taken()
        assert [] == network.epoll.poll(0)
        network.epoll.unregister(fd)


@pytest.mark.parametrize("state", ["complete", "partial"])
def test_wire_waits_for_a_slow_reader(state: str) -> None:
    """A guest's frames stay in its ring until the stream takes more: none is lost (W70)."""
    with StreamNetwork(FabricKind.WIRE) as network:
        source, sink = network.guest(size=512, data_len=1 << 20), network.stream()
        sink.set_send_buffer(20_000)
        for _ in range(400):
            if state == "complete":
                source.send(TCP.data)
            else:
                source.send(TCP.partial, TCP.header)
        while network.run(source):
            pass
        assert 1 == source.record.queues[1].held
        arrived = sink.taken()
        assert 0 < len(arrived) < 400
        while len(arrived) < 400:
            network.go_on(sink)
            while network.run(source):
                pass
            found = sink.taken()
            assert found
            arrived += found
        assert [TCP.data] * 400 == arrived
        assert {} == sink.drops | source.drops
        assert 400 == source.ledger["tx_frames"] == sink.ledger["rx_frames"]


def test_wire_holds_back_a_peer() -> None:
    """Where the guest has no buffers, frames stay in the stream, and nothing is lost."""
    frames = [SMALL[:-1] + bytes([n]) for n in range(6)]
    with StreamNetwork(FabricKind.WIRE) as network:
        source, sink = network.stream(), network.guest()
        sink.post(200)
        source.give(packed(*frames))
        assert 1 == network.run_stream(source)
        assert 0 == network.run_stream(source)
        assert (1, 1) == (source.record.readable, sink.record.queues[0].starved)
        for _ in range(5):
            sink.post(200)
        assert 5 == network.run_stream(source)
        assert frames == [received.frame for received in sink.received()]
        assert {} == source.drops | sink.drops


def large(payload: bytes, mss: int, version: int = 4) -> tuple[bytes, NetHeader, list[bytes]]:
    """A frame to be segmented, its header, and what has to come of it."""
    whole = Layers(version, dst=BROADCAST).tcp(payload)
    kind = 1 if version == 4 else 4
    header = whole.header._replace(gso_type=kind, gso_size=mss, hdr_len=whole.csum_start + 20)
    return whole.partial, header, segment(whole.partial, parse(whole.partial), mss, partial=False)


@pytest.mark.parametrize("version", [4, 6])
def test_segments_leave_together(version: int) -> None:
    """A large frame is segmented, each segment finished, and all leave by one system call."""
    data, header, expected = large(PAYLOAD * 8, 1000, version)
    with StreamNetwork() as network:
        source, sink = network.guest(FULL | TSO), network.stream()
        source.send(data, header)
        network.run(source)
        assert 9 == len(expected)
        assert expected == sink.parser.feed(sink.peer.recv(1 << 17))
        assert [] == sink.taken()
        assert (9, 1, 9) == tuple(
            sink.ledger[key] for key in ("segments", "gso_segmented", "csum_filled")
        )


@pytest.mark.parametrize("kind", KINDS)
def test_segments_for_a_slow_reader(kind: FabricKind) -> None:
    """What is begun is finished; on a wire the next large frame waits as a whole."""
    data, header, expected = large(PAYLOAD * 40, 1000)
    with StreamNetwork(kind) as network:
        source, sink = network.guest(FULL | TSO, data_len=1 << 20), network.stream()
        sink.set_send_buffer(20_000)
        for _ in range(4):
            source.send(data, header)
        network.run(source)
        assert 0 == sink.record.writable
        arrived = sink.taken()
        while not sink.record.writable:
            network.go_on(sink)
            network.run(source)
            arrived += sink.taken()
        arrived += sink.taken()
        lost = sink.drops.get("stream_full", 0)
        assert arrived == expected * (4 if kind is FabricKind.WIRE else 4 - lost)
        assert (lost == 0) is (kind is FabricKind.WIRE)
