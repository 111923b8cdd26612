"""Transmit chains: any arrangement of a frame is the same frame; broken chains are refused."""

import numpy as np
import pytest

from tests.reference.frame import MACS, Layers
from tests.reference.guest import DATA_GPA, Guest
from tests.reference.network import Network
from tests.reference.plug import CSUM, FULL, GUEST_CSUM, INDIRECT_DESC, MRG_RXBUF, VERSION_1
from tests.reference.ring import INDIRECT, NEXT, WRITE, Buffer
from vionet.engine.status import FabricKind
from vionet.spec.virtio_net import NetHeader

FRAME = Layers().udp(bytes(range(200)))
LEGACY = CSUM | GUEST_CSUM | INDIRECT_DESC
MODERN = LEGACY | VERSION_1


def pair(network: Network, features: int = FULL, sink: int = FULL) -> tuple[Guest, Guest]:
    """Two guests; the second has room for a few frames."""
    guests = network.guest(features), network.guest(sink)
    for _ in range(8):
        guests[1].post(2000)
    return guests


@pytest.mark.parametrize("features", [LEGACY, LEGACY | MRG_RXBUF, MODERN, FULL])
def test_w34_w37_header_split_anywhere(features: int) -> None:
    """Header and frame cut apart at every byte of the first 160 (HD-04, HD-05, HD-10, W37)."""
    with Network() as network:
        source, sink = pair(network, features, features)
        for cut in range(1, 160):
            source.next_gpa = sink.next_gpa = DATA_GPA
            source.send(FRAME.partial, FRAME.header, cuts=[cut], gap=3)
            assert 1 == network.run(source)
            (received,) = sink.received()
            source.tx.take_used()
            assert (FRAME.partial, 1) == (received.frame, received.header.flags)
            sink.post(2000)


@pytest.mark.parametrize("pieces", [1, 3, 12])
def test_one_byte_descriptors(pieces: int) -> None:
    """A chain of many small descriptors, direct and indirect, with and without a direct part."""
    with Network() as network:
        source, sink = pair(network)
        cuts = range(pieces, 12 + 60, pieces)
        source.send(FRAME.partial, FRAME.header, cuts=cuts, indirect=True)
        source.send(FRAME.partial, FRAME.header, cuts=cuts, indirect=True, direct=1)
        source.send(FRAME.partial, FRAME.header, cuts=range(10, 100, 10))
        assert 3 == network.run(source)
        assert [FRAME.partial] * 3 == [received.frame for received in sink.received()]


def test_buffer_across_regions() -> None:
    """A buffer may begin in one region and end in the next, if they touch (VU-50)."""
    with Network() as network:
        source, sink = pair(network)
        for before in (1, 12, 13, 100, 139, 140, 141):
            source.next_gpa = DATA_GPA + (source.end_gpa - DATA_GPA) // 2 - before
            source.send(FRAME.partial, FRAME.header)
            network.run(source)
            (received,) = sink.received()
            assert FRAME.partial == received.frame
            sink.post(2000)


def test_empty_descriptors() -> None:
    """Descriptors of no bytes are nothing, wherever they are."""
    with Network() as network:
        source, sink = pair(network)
        data = FRAME.header.pack() + FRAME.partial
        gpa = source.alloc(len(data))
        source.memory.write(gpa, data)
        buffers = [Buffer(0, 0), Buffer(gpa, 12), Buffer(1 << 60, 0), Buffer(gpa + 12, 242)]
        source.tx.add([*buffers, Buffer(gpa, 0)], False)
        network.run(source)
        assert [FRAME.partial] == [received.frame for received in sink.received()]


def broken(source: Guest, kind: str) -> int:
    """Make one chain available that breaks a rule."""
    ring = source.tx
    gpa = source.alloc(4096)
    source.memory.write(gpa, bytes(4096))
    a, b = ring.take_slots(2)
    ring.set_descriptor(b, gpa, 100, 0, 0)
    unmapped = source.end_gpa
    match kind:
        case "loop":
            ring.set_descriptor(a, gpa, 100, NEXT, b)
            ring.set_descriptor(b, gpa, 100, NEXT, a)
        case "loop of one":
            ring.set_descriptor(a, gpa, 0, NEXT, a)
        case "next beyond ring":
            ring.set_descriptor(a, gpa, 100, NEXT, ring.size)
        case "writable":
            ring.set_descriptor(a, gpa, 100, WRITE, 0)
        case "writable second":
            ring.set_descriptor(a, gpa, 100, NEXT, b)
            ring.set_descriptor(b, gpa, 100, WRITE, 0)
        case "unmapped":
            ring.set_descriptor(a, unmapped, 100, 0, 0)
        case "end unmapped":
            ring.set_descriptor(a, unmapped - 99, 100, 0, 0)
        case "wraps":
            ring.set_descriptor(a, (1 << 64) - 50, 100, 0, 0)
        case "negative":
            ring.set_descriptor(a, 1 << 63, 100, 0, 0)
        case "four gigabytes":
            ring.set_descriptor(a, gpa, 0xFFFFFFFF, 0, 0)
        case "second unmapped":
            ring.set_descriptor(a, gpa, 100, NEXT, b)
            ring.set_descriptor(b, unmapped, 100, 0, 0)
        case "nested":
            source.memory.write(gpa, ring_entry(gpa + 64, 16, INDIRECT))
            source.memory.write(gpa + 64, ring_entry(gpa, 100, 0))
            ring.set_descriptor(a, gpa, 16, INDIRECT, 0)
        case "indirect and next":
            source.memory.write(gpa, ring_entry(gpa, 100, 0))
            ring.set_descriptor(a, gpa, 16, INDIRECT | NEXT, b)
        case "indirect loop":
            source.memory.write(gpa, ring_entry(gpa, 1, NEXT, 0))
            ring.set_descriptor(a, gpa, 16, INDIRECT, 0)
        case "indirect next beyond":
            source.memory.write(gpa, ring_entry(gpa, 100, NEXT, 1))
            ring.set_descriptor(a, gpa, 16, INDIRECT, 0)
        case "indirect unmapped":
            ring.set_descriptor(a, unmapped - 8, 16, INDIRECT, 0)
        case "header only":
            ring.set_descriptor(a, gpa, 11, 0, 0)
        case _:
            size = int(kind.removeprefix("indirect of "))
            ring.set_descriptor(a, gpa, size, INDIRECT, 0)
    return ring.offer(a, [a, b])


def ring_entry(gpa: int, length: int, flags: int, following: int = 0) -> bytes:
    """A descriptor in an indirect table."""
    return (
        gpa.to_bytes(8, "little")
        + length.to_bytes(4, "little")
        + flags.to_bytes(2, "little")
        + following.to_bytes(2, "little")
    )


BROKEN = {
    "loop": "chain_too_long",
    "loop of one": "chain_too_long",
    "next beyond ring": "chain_invalid",
    "writable": "chain_invalid",
    "writable second": "chain_invalid",
    "unmapped": "descriptor_unmapped",
    "end unmapped": "descriptor_unmapped",
    "wraps": "descriptor_unmapped",
    "negative": "descriptor_unmapped",
    "four gigabytes": "descriptor_unmapped",
    "second unmapped": "descriptor_unmapped",
    "nested": "chain_invalid",
    "indirect and next": "chain_invalid",
    "indirect loop": "chain_too_long",
    "indirect next beyond": "chain_invalid",
    "indirect unmapped": "descriptor_unmapped",
    "indirect of 0": "chain_invalid",
    "indirect of 8": "chain_invalid",
    "indirect of 17": "chain_invalid",
    "header only": "header_truncated",
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("fabric", list(FabricKind))
def test_broken_chain(kind: str, fabric: FabricKind) -> None:
    """A chain that breaks a rule is returned unused and counted; the next frame passes (SP-08,
    SP-11, SP-12, VU-48)."""
    with Network(fabric) as network:
        source, sink = pair(network)
        head = broken(source, kind)
        source.send(FRAME.partial, FRAME.header)
        assert 2 == network.run(source)
        assert {BROKEN[kind]: 1} == source.drops
        assert (head, 0) == ((used := source.tx.take_used())[0].head, used[0].length)
        assert 2 == len(used)
        assert [FRAME.partial] == [received.frame for received in sink.received()]


def test_write_flag_on_an_indirect_descriptor_is_ignored() -> None:
    """SP-09."""
    with Network() as network:
        source, sink = pair(network)
        head = source.send(FRAME.partial, FRAME.header, indirect=True)
        source.tx.set_descriptor(head, source.next_gpa - 16, 16, INDIRECT | WRITE, 0)
        network.run(source)
        assert [FRAME.partial] == [received.frame for received in sink.received()]


def test_indirect_not_negotiated() -> None:
    """SP-11."""
    with Network() as network:
        source, _ = pair(network, FULL & ~INDIRECT_DESC)
        source.send(FRAME.data, indirect=True)
        network.run(source)
        assert {"chain_invalid": 1} == source.drops


@pytest.mark.parametrize("size", [1, 2, 256, 32768])
def test_ring_sizes(size: int) -> None:
    """The smallest and the largest ring, whose indices run past their ends (SP-01, SP-13)."""
    with Network() as network:
        source = network.guest(size=size, start=65534)
        sink = network.guest(size=size, start=65533)
        for i in range(5):
            sink.post(2000)
            source.send(FRAME.data + bytes([i]))
            assert 1 == network.run(source)
            assert [FRAME.data + bytes([i])] == [r.frame for r in sink.received()]
            assert 1 == len(source.tx.take_used())


def test_longest_chain() -> None:
    """1024 descriptors are one chain; one more is too long (SP-03)."""
    with Network() as network:
        source = network.guest(size=4096)
        sink = network.guest()
        sink.post(2000)
        frame = Layers().udp(bytes(1100))
        source.send(frame.partial, frame.header, cuts=range(1, 1024))
        source.send(frame.partial, frame.header, cuts=range(1, 1025))
        assert 2 == network.run(source)
        assert [frame.partial] == [received.frame for received in sink.received()]
        assert {"chain_too_long": 1} == source.drops


def test_head_beyond_the_ring() -> None:
    """There is nothing to give back: the ring is broken and stays so, and people are told."""
    with Network() as network:
        source, _ = pair(network)
        source.tx.offer(source.tx.size, [])
        assert 0 == network.run(source)
        source.send(FRAME.data)
        assert 0 == network.run(source)
        assert {"ring_broken": 1} == source.drops
        assert ["transmitq1"] == source.port.broken_rings
        assert 1 == source.errors()


def test_nothing_is_read_again_behind_a_broken_head() -> None:
    """Where frames of an earlier burst lay may be unmapped by now: no slot remembers it."""
    with Network() as network:
        source, _ = pair(network)
        for _ in range(3):
            source.send(FRAME.data)
        assert 3 == network.run(source)
        gone = np.full(4096, 0x55, np.uint8)
        network.work.slot_hva[:] = gone.ctypes.data
        network.work.heads[:] = 0xAA
        for n in range(3):
            source.tx.offer(source.tx.size + n, [])
        network.run(source)
        assert 0x55 not in network.work.heads


@pytest.mark.parametrize("jump", [65, 1000, 0x8000, 0xFFFF])
def test_index_jumps(jump: int) -> None:
    """An available index that jumps by more than the ring breaks it (SP-14)."""
    with Network() as network:
        source, _ = pair(network)
        source.tx.publish(jump)
        assert 0 == network.run(source)
        assert {"ring_broken": 1} == source.drops
        assert 0 == source.tx.used_idx


def test_full_ring_is_no_jump() -> None:
    """As many chains as the ring has entries; a burst takes its share, the next the rest."""
    with Network() as network:
        source = network.guest(size=128, data_len=1 << 17)
        network.guest()
        for _ in range(128):
            source.send(FRAME.data)
        assert [64, 64, 0] == [network.run(source) for _ in range(3)]
        assert 128 == len(source.tx.take_used())


def test_disabled_ring_discards() -> None:
    """A started ring that is not enabled takes frames and drops them (VU-27)."""
    with Network() as network:
        source, sink = pair(network)
        source.enable(1, False)
        source.send(FRAME.data)
        assert 1 == network.run(source)
        assert {"ring_disabled": 1} == source.drops
        assert [] == sink.received()
        source.enable(1, True)
        source.send(FRAME.partial, FRAME.header)
        assert 1 == network.run(source)
        assert [FRAME.partial] == [received.frame for received in sink.received()]


def test_w39_w40_nothing_of_a_header_is_left_for_the_next() -> None:
    """A plain frame behind an offloaded one in the same burst has a clean header (W39, W40)."""
    with Network() as network:
        source, sink = pair(network)
        plain = Layers(src=MACS[0]).datagram(b"x" * 50, 50)
        source.send(FRAME.partial, FRAME.header._replace(hdr_len=0xAAAA, gso_size=0xAAAA))
        source.send(plain, NetHeader(0, 0, 0xAAAA, 0xAAAA, 0xAAAA, 0xAAAA, 0xAAAA))
        network.run(source)
        first, second = sink.received()
        assert NetHeader(1, 0, 0, 0, 34, 6, 1) == first.header
        assert NetHeader(num_buffers=1) == second.header
