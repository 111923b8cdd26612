"""Receive buffers: merged over any number of chains, split anywhere, never overrun, and what
happens when they are too few, too small or wrong.
"""

import pytest

from tests.reference.frame import Layers
from tests.reference.guest import DATA_GPA, Guest
from tests.reference.network import Network
from tests.reference.plug import CSUM, FULL, GUEST_CSUM, INDIRECT_DESC, MRG_RXBUF, VERSION_1
from tests.reference.ring import INDIRECT, NEXT, WRITE, Buffer

FRAME = Layers().udp(bytes(range(251)))
LEN = len(FRAME.data)
SINGLE = CSUM | GUEST_CSUM | INDIRECT_DESC | VERSION_1
LEGACY = CSUM | GUEST_CSUM | INDIRECT_DESC


def delivered(network: Network, source: Guest, sink: Guest) -> list[bytes]:
    """Send the frame once; what the sink finds."""
    source.next_gpa = DATA_GPA
    source.send(FRAME.partial, FRAME.header)
    assert 1 == network.run(source)
    source.tx.take_used()
    return [received.frame for received in sink.received()]


@pytest.mark.parametrize("features", [LEGACY, LEGACY | MRG_RXBUF, SINGLE, FULL, FULL & ~GUEST_CSUM])
def test_w34_w37_chain_split_anywhere(features: int) -> None:
    """The receive chain cut apart at every byte of the first 160 (HD-10, RB-07, W37)."""
    expected = FRAME.partial if features & GUEST_CSUM else FRAME.data
    with Network() as network:
        source, sink = network.guest(), network.guest(features)
        for cut in range(1, 160):
            sink.next_gpa = DATA_GPA
            sink.post(cut, 400, gap=5, indirect=cut % 2 == 0)
            assert [expected] == delivered(network, source, sink)


@pytest.mark.parametrize("features", [FULL, FULL & ~GUEST_CSUM, LEGACY | MRG_RXBUF])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 11, 12, 13, 61, 128, 139, 140, 141, 200])
def test_w38_merged(features: int, size: int) -> None:
    """One frame over as many buffers as it needs; `received` checks RX-02 to RX-05 (W38)."""
    expected = FRAME.partial if features & GUEST_CSUM else FRAME.data
    with Network() as network:
        source, sink = network.guest(), network.guest(features, size=512)
        count = -(-(sink.header_len + LEN) // size)
        for _ in range(count + 1):
            sink.post(size, gap=1)
        source.send(FRAME.partial, FRAME.header)
        network.run(source)
        shown = sink.rx.used_idx
        (received,) = sink.received()
        assert expected == received.frame
        assert count == shown == len(received.lengths) == received.header.num_buffers
        assert sink.header_len + LEN == sum(received.lengths)


@pytest.mark.parametrize("features", [SINGLE, LEGACY, FULL])
@pytest.mark.parametrize(("spare", "reason"), [(0, ""), (1, ""), (-1, "short")])
def test_w35_w36_exact_buffers(features: int, spare: int, reason: str) -> None:
    """A buffer of exactly header and frame, one byte more, one byte less (W35, W36, SG-20)."""
    with Network() as network:
        source, sink = network.guest(), network.guest(features)
        sink.post(sink.header_len + LEN + spare)
        found = delivered(network, source, sink)
        assert found == ([] if reason else [FRAME.partial])
        if not reason:
            return
        too_few = "rx_ring_full" if features & MRG_RXBUF else "rx_buffer_too_small"
        assert {too_few: 1} == sink.drops
        assert 0 == sink.rx.used_idx
        sink.post(2000)
        expected = [FRAME.partial] if features & MRG_RXBUF else []
        assert expected == delivered(network, source, sink)


def test_empty_ring_is_counted_and_recovers() -> None:
    """Without buffers a switch drops; with the next buffer it goes on (RB-04)."""
    with Network() as network:
        source, sink = network.guest(), network.guest()
        assert [] == delivered(network, source, sink)
        assert {"rx_ring_full": 1} == sink.drops
        sink.post(2000)
        assert [FRAME.partial] == delivered(network, source, sink)


def test_buffers_posted_between_looks() -> None:
    """Buffers that were added after the index was last read are found when needed."""
    with Network() as network:
        source, sink = network.guest(), network.guest()
        sink.post(160)
        assert [] == delivered(network, source, sink)
        sink.post(160)
        assert [FRAME.partial] == delivered(network, source, sink)


def test_several_frames_shown_together() -> None:
    """One used index for the whole burst, each frame in its own buffers."""
    with Network() as network:
        source, sink = network.guest(), network.guest()
        for _ in range(20):
            sink.post(160)
        for i in range(8):
            source.send(FRAME.partial[:-1] + bytes([i]), FRAME.header)
        network.run(source)
        assert 16 == sink.rx.used_idx
        assert [bytes([i]) for i in range(8)] == [r.frame[-1:] for r in sink.received()]
        assert 1 == sink.calls()


BROKEN = ("readable", "unmapped", "loop", "next beyond ring", "indirect of 8", "nested")


def spoil(sink: Guest, kind: str) -> int:
    """Make one receive chain available that breaks a rule."""
    ring = sink.rx
    gpa = sink.alloc(2000)
    a, b = ring.take_slots(2)
    match kind:
        case "readable":
            ring.set_descriptor(a, gpa, 2000, 0, 0)
        case "unmapped":
            ring.set_descriptor(a, sink.end_gpa - 1999, 2000, WRITE, 0)
        case "loop":
            ring.set_descriptor(a, gpa, 1, WRITE | NEXT, a)
        case "next beyond ring":
            ring.set_descriptor(a, gpa, 1, WRITE | NEXT, ring.size)
        case "indirect of 8":
            ring.set_descriptor(a, gpa, 8, INDIRECT, 0)
        case "nested":
            table = gpa.to_bytes(8, "little") + b"\x10\0\0\0" + b"\4\0\0\0"
            sink.memory.write(gpa, table)
            ring.set_descriptor(a, gpa, 16, INDIRECT, 0)
    sink.posted[a] = []
    return ring.offer(a, [a, b])


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_chain_is_given_back(kind: str) -> None:
    """A chain that breaks a rule is returned unused, and shown to the driver at once."""
    with Network() as network:
        source, sink = network.guest(), network.guest()
        head = spoil(sink, kind)
        assert [] == delivered(network, source, sink)
        assert {"rx_chain_invalid": 1} == sink.drops
        assert 1 == sink.rx.used_idx and head not in sink.posted
        assert 1 == sink.calls()
        sink.post(2000)
        assert [FRAME.partial] == delivered(network, source, sink)


def test_broken_chain_behind_a_small_one_does_not_block() -> None:
    """Where the first buffer does not suffice and the second is wrong, frames come through again
    some time after the driver has posted good ones."""
    with Network() as network:
        source, sink = network.guest(), network.guest()
        sink.post(100)
        spoil(sink, "readable")
        for _ in range(4):
            sink.post(2000)
        found = [frame for _ in range(4) for frame in delivered(network, source, sink)]
        assert FRAME.partial in found


def test_head_beyond_the_ring() -> None:
    """It cannot be given back: the ring is broken, and people are told (VU-44)."""
    with Network() as network:
        source, sink = network.guest(), network.guest()
        sink.rx.offer(sink.rx.size, [])
        assert [] == delivered(network, source, sink)
        assert [] == delivered(network, source, sink)
        assert 2 == sink.drops["rx_ring_broken"]
        assert ["receiveq1"] == sink.port.broken_rings
        assert 1 == sink.errors()


@pytest.mark.parametrize("jump", [65, 0x8000, 0xFFFF])
def test_index_jumps(jump: int) -> None:
    """An available index that jumps by more than the ring breaks it (SP-14)."""
    with Network() as network:
        source, sink = network.guest(), network.guest()
        sink.rx.publish(jump)
        assert [] == delivered(network, source, sink)
        assert 1 == sink.drops["rx_ring_broken"]
        assert 0 == sink.rx.used_idx


def test_index_goes_backwards() -> None:
    """A driver that takes buffers back breaks its ring; the device uses nothing (SP-14)."""
    with Network() as network:
        source, sink = network.guest(), network.guest()
        for _ in range(4):
            sink.post(20)
        assert [] == delivered(network, source, sink)
        sink.rx.publish(2)
        assert [] == delivered(network, source, sink)
        assert 1 == sink.drops["rx_ring_broken"]
        assert 0 == sink.rx.used_idx


def test_disabled_ring_gets_nothing() -> None:
    """A receive ring that is not enabled is left alone (VU-27)."""
    with Network() as network:
        source, sink = network.guest(), network.guest()
        sink.post(2000)
        sink.enable(0, False)
        assert [] == delivered(network, source, sink)
        assert {"rx_ring_stopped": 1} == sink.drops
        sink.enable(0, True)
        assert [FRAME.partial] == delivered(network, source, sink)


def test_used_index_wraps() -> None:
    """The indices run past 65535 (SP-13)."""
    with Network() as network:
        source = network.guest(start=65530)
        sink = network.guest(size=16, start=65534)
        for _ in range(8):
            sink.next_gpa = DATA_GPA
            sink.post(200)
            sink.post(200)
            assert [FRAME.partial] == delivered(network, source, sink)


def test_more_pieces_than_there_is_room_for() -> None:
    """Chains of 1024 buffers that each lie in two regions fill the scatter list; the next is
    refused, and written nowhere."""
    with Network() as network:
        source, sink = network.guest(), network.guest()
        middle = (DATA_GPA + sink.end_gpa) // 2
        for _ in range(3):
            sink.next_gpa += -sink.next_gpa % 16
            table = sink.alloc(16 * 1024)
            head = sink.rx.add([Buffer(middle - 1, 2)] * 1024, True, table_gpa=table)
            sink.posted[head] = [Buffer(middle - 1, 2)] * 1024
        frame = Layers().udp(bytes(5000))
        source.send(frame.partial, frame.header)
        assert 1 == network.run(source)
        assert {"rx_chain_invalid": 1} == sink.drops
