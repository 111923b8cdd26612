"""Streams in the engine: framing in any pieces, slow and dead peers, impossible lengths, bursts.

The peer is the other end of a real pair of stream sockets.
"""

import os
import signal
import socket

import pytest

from tests.reference.frame import BROADCAST, Layers
from tests.reference.plug import FULL, GUEST_CSUM, Options
from tests.reference.stream import StreamNetwork, packed
from vionet.engine.deliver_stream import LEFT, OUT_LEN
from vionet.engine.layout import FRAME_MAX
from vionet.engine.status import FabricKind
from vionet.engine.stream import IN_LEN, READS_MAX
from vionet.spec.virtio_net import VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6

PAYLOAD = bytes(range(256)) * 4
TCP = Layers(dst=BROADCAST).tcp(PAYLOAD)
SMALL = TCP.data[:60]
LARGEST = Layers(dst=BROADCAST).ethernet(bytes(FRAME_MAX - 14), 0x1234)
KINDS = list(FabricKind)
TSO = 1 << VIRTIO_NET_F_HOST_TSO4 | 1 << VIRTIO_NET_F_HOST_TSO6


def numbered(count: int, size: int = 60) -> list[bytes]:
    """Frames that can be told apart."""
    return [Layers(dst=BROADCAST).ethernet(b"%06d" % n + bytes(size - 20), 0x1234)
            for n in range(count)]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cuts", [(), (5,), (12,), (12, 26, 500), (139, 140, 141)])
def test_guest_to_stream(kind: FabricKind, cuts: tuple[int, ...]) -> None:
    """Frames leave finished, each behind its length; what is complete is not copied."""
    with StreamNetwork(kind) as network:
        source, sink = network.guest(), network.stream()
        source.send(TCP.partial, TCP.header, cuts=cuts)
        source.send(TCP.data, cuts=cuts)
        assert 2 == network.run(source)
        assert [TCP.data, TCP.data] == sink.taken()
        rest = len(TCP.data) - 128
        assert {"rx_frames": 2, "rx_bytes": 2 * len(TCP.data), "csum_filled": 1,
                "header_bytes": 256, "payload_bytes_copied": rest,
                "payload_bytes_summed": rest} == sink.ledger  # fmt: skip


def test_inner_sums_are_finished() -> None:
    """No partial sum leaves, not even one inside a tunnel that the guest has made."""
    tunnel = Layers().vxlan(Layers(6).udp(PAYLOAD[:301]))
    with StreamNetwork() as network:
        source, sink = network.guest(), network.stream()
        source.send(tunnel.partial, tunnel.header, cuts=(60,))
        network.run(source)
        assert [tunnel.data] == sink.taken()


@pytest.mark.parametrize("kind", KINDS)
def test_stream_to_guest(kind: FabricKind) -> None:
    """Complete frames, about which nobody has said anything, become what the receiver agreed to."""
    with StreamNetwork(kind) as network:
        source, sink = network.stream(), network.guest()
        for _ in range(3):
            sink.post(2000)
        source.give(packed(TCP.data, TCP.bad, SMALL))
        assert 3 == network.run_stream(source)
        found = [(received.header.flags, received.frame) for received in sink.received()]
        assert [(1, TCP.partial), (0, TCP.bad), (0, SMALL)] == found
        assert {"tx_frames": 3, "tx_bytes": 2 * len(TCP.data) + 60} == source.ledger
        assert (0, 1) == (source.record.readable, source.record.up)


def test_stream_to_guest_that_takes_nothing() -> None:
    """Frames arrive as they came, flags 0."""
    with StreamNetwork() as network:
        source, sink = network.stream(), network.guest(FULL & ~GUEST_CSUM)
        for _ in range(2):
            sink.post(700, 700)
        source.give(packed(TCP.data, TCP.bad))
        network.run_stream(source)
        assert [(0, TCP.data), (0, TCP.bad)] == [(r.header.flags, r.frame) for r in sink.received()]


def test_every_cut_of_prefix_and_frame() -> None:
    """Wherever the bytes of two frames are cut in two, the frames arrive, and once."""
    frames = [SMALL, TCP.data[:77]]
    data = packed(*frames)
    with StreamNetwork() as network:
        source, sink = network.stream(), network.stream()
        for cut in range(1, len(data)):
            assert cut == source.give(data[:cut])
            before = network.run_stream(source)
            assert len(data) - cut == source.give(data[cut:])
            assert 2 == before + network.run_stream(source)
            assert frames == sink.taken()


def test_one_byte_at_a_time() -> None:
    """Single bytes make frames too, and no burst goes on for ever."""
    with StreamNetwork() as network:
        source, sink = network.stream(), network.stream()
        for byte in packed(SMALL, SMALL):
            source.give(bytes([byte]))
            network.run_stream(source)
        assert [SMALL, SMALL] == sink.taken()
        assert 2 == source.ledger["tx_frames"]


@pytest.mark.parametrize("size", [14, 15, 128, 129, 1514, 9014, FRAME_MAX])
def test_sizes(size: int) -> None:
    """The smallest and the largest frame pass; many of them wrap around the buffer."""
    frames = [LARGEST[: size - 1] + bytes([n]) for n in range(5)]
    with StreamNetwork() as network:
        source, sink = network.stream(), network.stream()
        arrived: list[bytes] = []
        pending = packed(*frames)
        while len(arrived) < 5:
            pending = pending[source.give(pending) :]
            network.run_stream(source)
            arrived += sink.taken()
            network.go_on(sink)
        assert frames == arrived
        assert {} == source.drops | sink.drops
        assert b"" == sink.parser.pending + pending


@pytest.mark.parametrize("length", [0, 1, 13, FRAME_MAX + 1, 3 << 16, 1 << 31, (1 << 32) - 1])
def test_impossible_length(length: int) -> None:
    """It ends the session: counted, told, nothing behind it is believed, the rest goes on."""
    with StreamNetwork() as network:
        source, sink = network.stream(), network.stream()
        source.give(packed(SMALL) + length.to_bytes(4, "big") + packed(*[SMALL] * 20))
        assert 1 == network.run_stream(source)
        assert [SMALL] == sink.taken()
        assert {"stream_frame_invalid": 1} == source.drops
        assert (0, "stream_frame_invalid") == (source.record.up, source.port.ended)
        assert 1 == os.eventfd_read(network.notice_fd)
        source.port.detach()
        assert "waiting" == source.port.state
        assert b"" == source.peer.recv(10)
        source.peer.close()
        source.connect()
        source.give(packed(SMALL))
        assert 1 == network.run_stream(source)
        assert [SMALL] == sink.taken()


def test_peer_that_closes() -> None:
    """What it sent before arrives; then the session is over."""
    with StreamNetwork() as network:
        source, sink = network.stream(), network.stream()
        source.give(packed(SMALL, SMALL) + b"\0\0")
        source.peer.close()
        assert 2 == network.run_stream(source)
        assert [SMALL, SMALL] == sink.taken()
        assert (0, LEFT, {}) == (source.record.up, source.record.ended, source.drops)
        assert "the peer closed it" == source.port.ended
        assert 1 == os.eventfd_read(network.notice_fd)


def test_peer_that_closes_with_frames_unread() -> None:
    """The kernel calls that a reset; it is a peer that left like any other."""
    with StreamNetwork() as network:
        source, sink = network.stream(), network.stream()
        source.give(packed(SMALL))
        network.run_stream(source)
        sink.peer.close()
        sink.record.readable = 1
        assert 0 == network.run_stream(sink)
        assert (LEFT, {}) == (sink.record.ended, sink.drops)


def test_frame_for_a_dead_peer() -> None:
    """No signal, no wait: counted, and the session is over."""
    assert signal.SIG_IGN == signal.getsignal(signal.SIGPIPE)
    with StreamNetwork() as network:
        source, sink, guest = network.stream(), network.stream(), network.guest()
        sink.peer.close()
        source.give(packed(SMALL, SMALL))
        guest.post(2000)
        guest.post(2000)
        assert 2 == network.run_stream(source)
        assert {"stream_error": 1} == sink.drops
        assert (0, LEFT) == (sink.record.up, sink.record.ended)
        assert [SMALL, SMALL] == [received.frame for received in guest.received()]


def test_finished_frame_for_a_dead_peer() -> None:
    """The same for what leaves by way of the send buffer."""
    with StreamNetwork() as network:
        source, sink = network.guest(), network.stream()
        sink.peer.close()
        source.send(TCP.partial, TCP.header)
        network.run(source)
        assert {"stream_error": 1} == sink.drops
        assert LEFT == sink.record.ended


def test_burst_is_bounded() -> None:
    """64 frames, then the next port; the others follow."""
    frames = numbered(150)
    with StreamNetwork() as network:
        source, sink = network.stream(), network.stream()
        source.give(packed(*frames))
        arrived: list[bytes] = []
        bursts: list[int] = []
        while len(arrived) < 150:
            bursts.append(network.run_stream(source))
            arrived += sink.taken()
        assert [64, 64, 22] == bursts
        assert frames == arrived


def test_reads_are_bounded() -> None:
    """A message is read as it comes; after a few system calls the next port has its turn."""
    with StreamNetwork() as network:
        source, _ = network.stream(), network.stream()
        data = packed(LARGEST)
        with socket.fromfd(source.peer.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            for byte in data[: 3 * READS_MAX]:
                # A descriptor that comes along ends a read early.
                socket.send_fds(peer, [bytes([byte])], [network.notice_fd])
        source.record.readable = 1
        assert 1 == network.run_stream(source)
        assert (1, READS_MAX) == (source.record.readable, source.record.in_len)


def test_above_the_mtu() -> None:
    """With `mtu=` nothing larger leaves or is taken."""
    with StreamNetwork() as network:
        source, sink = network.stream(), network.stream(Options(mtu=500))
        source.give(packed(*numbered(1, 514), *numbered(1, 515)))
        network.run_stream(source)
        assert numbered(1, 514) == sink.taken()
        assert {"mtu_exceeded": 1} == sink.drops
        sink.give(packed(*numbered(1, 515)))
        network.run_stream(sink)
        assert 1 == sink.drops["frame_too_long"]


def test_many_pieces_are_gathered() -> None:
    """More pieces than one `writev` takes go by way of the send buffer."""
    with StreamNetwork() as network:
        source, sink = network.guest(size=4096), network.stream()
        data = TCP.data.ljust(3000, b"\0")
        source.send(data, cuts=range(200, 200 + 1023))
        source.send(data, cuts=range(200, 200 + 1010))
        network.run(source)
        assert [data, data] == sink.taken()
        assert {} == sink.drops


def test_buffers_hold_what_is_promised() -> None:
    """Two of the largest frames fit the receive buffer, any frame the send buffer."""
    assert 2 * (4 + FRAME_MAX) < IN_LEN
    assert 4 + FRAME_MAX < OUT_LEN


def test_flood_to_streams_and_guest() -> None:
    """Each receiver gets its own form; the head copy serves all of them."""
    with StreamNetwork() as network:
        source, guest = network.guest(), network.guest()
        streams = [network.stream(), network.stream()]
        guest.post(2000)
        source.send(TCP.partial, TCP.header)
        network.run(source)
        assert [[TCP.data]] * 2 == [stream.taken() for stream in streams]
        assert [TCP.partial] == [received.frame for received in guest.received()]
