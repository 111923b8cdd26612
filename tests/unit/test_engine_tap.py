"""Taps in the engine: reading privately and in place, one `writev` out, and what cannot be done.

One end of a socket pair stands where the kernel's tap is.
"""

import os
import socket

import pytest

from tests.reference import checksum
from tests.reference.frame import BROADCAST, Layers, options
from tests.reference.guest import DATA_GPA
from tests.reference.network import Network
from tests.reference.plug import FULL, GUEST_CSUM, GUEST_GSO, Options
from vionet.engine.layout import FRAME_MAX
from vionet.engine.status import FabricKind
from vionet.spec.virtio_net import NetHeader

PAYLOAD = bytes(range(256)) * 4
TCP = Layers(dst=BROADCAST).tcp(PAYLOAD)
KINDS = list(FabricKind)


def plain(found: list[tuple[NetHeader, bytes]]) -> list[tuple[NetHeader, bytes]]:
    """What a tap was given; the last field is nothing to it."""
    return [(header._replace(num_buffers=0), data) for header, data in found]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cuts", [(), (5,), (12,), (12, 26, 500), (139, 140, 141)])
def test_guest_to_tap(kind: FabricKind, cuts: tuple[int, ...]) -> None:
    """The payload goes from the guest's memory to the tap uncopied, the sum uncomputed."""
    with Network(kind) as network:
        source, sink = network.guest(), network.tap()
        source.send(TCP.partial, TCP.header, cuts=cuts)
        source.send(TCP.data, cuts=cuts)
        assert 2 == network.run(source)
        assert [(TCP.header, TCP.partial), (NetHeader(), TCP.data)] == plain(sink.taken())
        assert {"rx_frames": 2, "rx_bytes": 2 * len(TCP.data), "csum_elided": 1,
                "header_bytes": 256} == sink.ledger  # fmt: skip


def test_guest_to_tap_repairs_the_seed() -> None:
    """What the kernel is given to finish starts from our own pseudo-header sum."""
    with Network() as network:
        source, sink = network.guest(), network.tap()
        source.send(checksum.put(TCP.data, TCP.field, 7) + b"trailer", TCP.header)
        network.run(source)
        assert [(TCP.header, TCP.partial)] == plain(sink.taken())
        assert 1 == source.ledger["pseudo_header_repaired"]


def test_guest_to_stream() -> None:
    """A tap that takes nothing is given finished frames, inner sums too."""
    with Network() as network:
        source, sink = network.guest(), network.tap(False)
        tunnel = Layers().vxlan(Layers(6).udp(PAYLOAD[:301]))
        source.send(TCP.partial, TCP.header, cuts=(100, 300))
        source.send(tunnel.partial, tunnel.header, cuts=(60,))
        network.run(source)
        assert [TCP.data, tunnel.data] == [data for _, data in sink.taken()]
        assert 2 == sink.ledger["csum_filled"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("buffers", [[2000], [12, 2000], [140, 1500], [141, 1500], [100] * 20])
def test_tap_to_guest(kind: FabricKind, buffers: list[int]) -> None:
    """Read privately by a switch, in place by a wire; what arrives is the same."""
    with Network(kind) as network:
        source = network.tap()
        sink = network.guest(size=128)
        for _ in range(5):
            sink.post(*buffers)
        cases = [(TCP.partial, TCP.header), (TCP.data, NetHeader(flags=2)),
                 (TCP.data, NetHeader()), (TCP.bad, NetHeader())]  # fmt: skip
        for data, header in cases:
            source.give(data, header)
        assert 4 == network.run_tap(source)
        found = [(received.header.flags, received.frame) for received in sink.received()]
        assert [(1, TCP.partial)] * 3 + [(0, TCP.bad)] == found
        assert 0 == source.record.readable
        copied = 0 if kind is FabricKind.WIRE else 4 * (len(TCP.data) - 128)
        assert copied == sink.ledger.get("payload_bytes_copied", 0)


@pytest.mark.parametrize("kind", KINDS)
def test_tap_to_guest_that_takes_nothing(kind: FabricKind) -> None:
    """The kernel's partial frames are finished, where they already lie too."""
    with Network(kind) as network:
        source = network.tap()
        sink = network.guest(FULL & ~GUEST_CSUM)
        tunnel = Layers().vxlan(Layers().udp(PAYLOAD[:777]))
        for _ in range(3):
            sink.post(333, 1700)
        source.give(TCP.partial, TCP.header)
        source.give(tunnel.partial, tunnel.header)
        source.give(TCP.partial[:100], NetHeader())
        network.run_tap(source)
        assert [TCP.data, tunnel.data, TCP.partial[:100]] == [r.frame for r in sink.received()]


def test_tap_merged_in_place() -> None:
    """A wire reads over as many buffers as the largest frame may need, and uses what it took."""
    with Network(FabricKind.WIRE) as network:
        source, sink = network.tap(), network.guest()
        for _ in range(30):
            sink.post(128)
        udp = Layers(6).udp(PAYLOAD[:300])
        source.give(udp.partial, udp.header)
        source.give(udp.data[:60], NetHeader())
        network.run_tap(source)
        first, second = sink.received()
        assert (udp.partial, 3) == (first.frame, first.header.num_buffers)
        assert (udp.data[:60], 1) == (second.frame, second.header.num_buffers)


def test_wire_leaves_frames_in_the_tap() -> None:
    """Without buffers nothing is read; with the next ones it goes on."""
    with Network(FabricKind.WIRE) as network:
        source, sink = network.tap(), network.guest()
        source.give(TCP.partial, TCP.header)
        assert 0 == network.run_tap(source)
        assert (1, 1) == (source.record.readable, sink.record.queues[0].starved)
        sink.post(2000)
        assert 1 == network.run_tap(source)
        assert [TCP.partial] == [received.frame for received in sink.received()]
        assert {} == source.drops | sink.drops


def test_wire_with_small_buffers_reads_privately() -> None:
    """Where the largest frame would not fit, a smaller one still does."""
    with Network(FabricKind.WIRE) as network:
        source = network.tap()
        sink = network.guest(FULL & ~(1 << 15))
        sink.post(1200)
        source.give(TCP.partial, TCP.header)
        network.run_tap(source)
        assert [TCP.partial] == [received.frame for received in sink.received()]
        assert {} == source.drops | sink.drops


def test_wire_to_a_tiny_ring() -> None:
    """A ring that as a whole is smaller than the largest frame still gets smaller ones."""
    with Network(FabricKind.WIRE) as network:
        source, sink = network.tap(), network.guest(size=4)
        for _ in range(4):
            sink.post(100)
        source.give(TCP.partial, TCP.header)
        source.give(TCP.data[:60])
        network.run_tap(source)
        assert [TCP.data[:60]] == [received.frame for received in sink.received()]
        assert {"rx_buffer_too_small": 1} == sink.drops


def test_frame_that_was_cut_off() -> None:
    """A frame that fills the buffers and whose IP length says more was cut off (TP-15)."""
    with Network(FabricKind.WIRE) as network:
        source, sink = network.tap(options=Options(mtu=500)), network.guest()
        source.record.max_frame_len = 514
        source.record.mtu = 0
        sink.post(12 + 514 + 1)
        source.give(Layers().udp(PAYLOAD[:600]).data)
        network.run_tap(source)
        assert {"tap_truncated": 1} == source.drops
        assert 0 == sink.rx.used_idx


def test_short_and_endless_frames() -> None:
    """Frames below 14 bytes are counted; a burst is bounded."""
    with Network() as network:
        source, sink = network.tap(), network.tap()
        source.give(bytes(13))
        for _ in range(70):
            source.give(TCP.data[:60])
        assert 64 == network.run_tap(source)
        assert {"frame_too_short": 1} == source.drops
        assert 1 == source.record.readable
        assert 7 == network.run_tap(source)
        assert 70 == len(sink.taken())


def test_tap_that_is_full_or_gone() -> None:
    """EAGAIN drops, counts, and goes on; so does any other error (TP-18)."""
    with Network() as network:
        source, sink = network.guest(size=512, data_len=1 << 20), network.tap()
        for _ in range(300):
            source.send(TCP.data)
        while network.run(source):
            pass
        full = sink.drops["tap_full"]
        assert full > 0
        assert 300 == full + len(sink.taken())
        sink.kernel.shutdown(socket.SHUT_RD)
        source.next_gpa = source.tx.memory.ranges[1].gpa
        source.tx.take_used()
        source.send(TCP.data)
        network.run(source)
        assert 1 == sink.drops["tap_error"]


def test_tap_whose_kernel_end_is_gone() -> None:
    """A read that fails is counted once, and the port waits for the next event."""
    with Network() as network:
        source, sink = network.tap(), network.tap()
        source.kernel.close()
        assert 0 <= network.run_tap(source) <= 64
        assert [] == sink.taken()


def test_too_many_pieces_for_one_writev() -> None:
    """More vectors than the kernel takes: dropped by name."""
    with Network() as network:
        source, sink = network.guest(size=4096), network.tap()
        data = TCP.data.ljust(3000, b"\0")
        source.send(data, cuts=range(200, 200 + 1023))
        source.send(data, cuts=range(200, 200 + 1020))
        network.run(source)
        assert [data] == [data for _, data in sink.taken()]
        assert {"chain_too_long": 1} == sink.drops


def test_wire_reads_over_many_pieces() -> None:
    """More pieces than one `readv` takes: read privately, and the frame arrives whole."""
    with Network(FabricKind.WIRE) as network:
        source, sink = network.tap(), network.guest()
        for _ in range(2):
            sink.post(*[1] * 900, indirect=True)
        udp = Layers().udp(PAYLOAD[:1000] + PAYLOAD[:400])
        source.give(udp.data)
        network.run_tap(source)
        assert {} == source.drops | sink.drops
        assert [udp.partial] == [received.frame for received in sink.received()]


def test_wire_meets_a_broken_chain() -> None:
    """A chain that breaks a rule is given back before the read; the frame waits or comes."""
    with Network(FabricKind.WIRE) as network:
        source, sink = network.tap(), network.guest()
        (slot,) = sink.rx.take_slots(1)
        sink.rx.set_descriptor(slot, DATA_GPA, 2000, 0, 0)
        sink.posted[slot] = []
        sink.rx.offer(slot, [slot])
        sink.post(2000)
        source.give(TCP.partial, TCP.header)
        network.run_tap(source)
        assert [TCP.partial] == [received.frame for received in sink.received()]
        assert 1 == sink.calls()


def test_wire_meets_a_broken_ring() -> None:
    """A head beyond the ring breaks it, and people are told (VU-44)."""
    with Network(FabricKind.WIRE) as network:
        source, sink = network.tap(), network.guest()
        sink.rx.offer(sink.rx.size, [])
        source.give(TCP.partial, TCP.header)
        assert 1 == network.run_tap(source)
        assert ["receiveq1"] == sink.port.broken_rings
        assert 1 == sink.errors()
        assert 1 == sink.drops["rx_ring_broken"]


def test_tap_that_cannot_be_read() -> None:
    """Any error but an empty tap is counted, once, until the next event."""
    with Network() as network:
        source, _ = network.tap(), network.guest()
        reading, writing = os.pipe()
        os.dup2(writing, int(source.record.fd))
        os.close(writing)
        assert 0 == network.run_tap(source)
        os.close(reading)
        assert {"tap_error": 1} == source.drops
        assert 0 == source.record.readable


def test_long_headers_of_a_tap() -> None:
    """Headers beyond the copy: a switch looks on, a wire finishes the sum where the frame lies."""
    udp = Layers(6, extensions=((0, options(bytes(200))),)).udp(PAYLOAD[:333])
    for kind in FabricKind:
        with Network(kind) as network:
            source, sink = network.tap(), network.guest()
            sink.post(1700)
            source.give(udp.partial, udp.header)
            network.run_tap(source)
            (one,) = sink.received()
            if one.header.flags:
                assert udp.partial == one.frame
            else:
                assert udp.data == one.frame


def test_frame_that_no_header_can_describe() -> None:
    """EINVAL is one frame lost, and the tap is read on; a burst of them is bounded (LX-19)."""
    with Network() as network:
        source, _ = network.tap(), network.guest()
        unreadable = os.pidfd_open(os.getpid())  # every read of it is EINVAL
        os.dup2(unreadable, int(source.record.fd))
        os.close(unreadable)
        assert 64 == network.run_tap(source)
        assert {"tap_error": 64} == source.drops
        assert 1 == source.record.readable


def test_wire_fills_buffers_made_for_one_tag() -> None:
    """Linux's buffers without MRG_RXBUF hold a tagged frame and no byte more: read in place."""
    with Network(FabricKind.WIRE) as network:
        source, sink = network.tap(), network.guest(FULL & ~(1 << 15))
        udp = Layers(dst=BROADCAST).udp(bytes(1472))
        tagged = udp.data[:12] + b"\x81\x00\x00\x05" + udp.data[12:]
        for _ in range(2):
            sink.post(12 + 1518)
        source.give(udp.partial, udp.header)
        source.give(tagged)
        assert 2 == network.run_tap(source)
        header = udp.header._replace(csum_start=38)
        assert [(udp.header, udp.partial), (header, 1518)] == [
            (r.header._replace(num_buffers=0), r.frame if len(r.frame) < 1518 else len(r.frame))
            for r in sink.received()
        ]
        assert {} == source.drops | sink.drops
        assert 0 == sink.ledger.get("payload_bytes_copied", 0)


@pytest.mark.parametrize("kind", KINDS)
def test_largest_frame_of_a_tap(kind: FabricKind) -> None:
    """64 KiB of IP, a tag and a header are read whole (TP-15); a frame that is longer than any
    may be is dropped by name."""
    with Network(kind) as network:
        source = network.tap()
        sink = network.guest(FULL | GUEST_GSO, size=256, data_len=1 << 20)
        source.record.max_frame_len = FRAME_MAX
        tcp = Layers(dst=BROADCAST).tcp(bytes(65535 - 40))
        tagged = tcp.partial[:12] + b"\x81\x00\x00\x05" + tcp.partial[12:]
        header = tcp.gso(1460)._replace(csum_start=38, hdr_len=58)
        for _ in range(120):
            sink.post(2000)
        source.give(tagged, header)
        six = Layers(6, dst=BROADCAST).tcp(bytes(65535 - 20))
        longer = six.partial[:12] + b"\x81\x00\x00\x05" + six.partial[12:]
        source.give(longer, six.gso(1440)._replace(csum_start=58))
        source.give(tagged, header)
        assert (65553, FRAME_MAX + 4) == (len(tagged), len(longer))
        assert 3 == network.run_tap(source)
        found = [(r.header._replace(num_buffers=0), r.frame) for r in sink.received()]
        assert [(header, tagged)] * 2 == found
        assert {"tap_truncated": 1} == source.drops
