"""Where the header and the rings lie: W34 to W41 of docs/field.md."""

from itertools import product

import pytest

from tests.reference.frame import BROADCAST, MACS, Layers
from tests.reference.guest import DATA_GPA
from tests.reference.network import Network
from tests.reference.plug import (
    CSUM,
    GUEST_CSUM,
    GUEST_TSO4,
    HOST_TSO4,
    MRG_RXBUF,
    RING_PACKED,
    VERSION_1,
    Options,
)
from tests.reference.receiver import stream
from tests.stories.scene import BODY, plug, say, taken
from vionet.spec.virtio_net import NetHeader

HEADERS = {0: 10, MRG_RXBUF: 12, VERSION_1: 12, VERSION_1 | MRG_RXBUF: 12}
OWN = int.from_bytes(MACS[4], "big")
TSO = CSUM | GUEST_CSUM | HOST_TSO4 | GUEST_TSO4


@pytest.mark.parametrize(("sender", "receiver"), list(product(HEADERS, HEADERS)))
def test_w34_headers_of_ten_and_twelve_bytes(sender: int, receiver: int) -> None:
    """Each pair of legacy, mergeable and modern drivers, small frames and large ones."""
    frame = Layers(dst=BROADCAST).tcp(BODY[:3000])
    with Network() as network:
        source, sink = plug(network, TSO | sender), plug(network, TSO | receiver)
        lengths = [guest.record.header_len for guest in (source, sink)]
        assert [HEADERS[sender], HEADERS[receiver]] == lengths
        for data, header in ((frame.partial, frame.gso(1000)), (frame.data[:500], NetHeader())):
            say(network, source, data, header)
        found = taken(sink)
        assert [*frame.segments(1000), frame.data[:500]] == stream(found)
        assert (2 if receiver & MRG_RXBUF else 4) == len(found), "2048 bytes are not enough"


@pytest.mark.parametrize("room", [-1, 0, 1])
@pytest.mark.parametrize("features", HEADERS)
def test_w35_room_for_the_largest_frame(room: int, features: int) -> None:
    """A receive buffer of exactly header and largest frame, one byte less, one byte more: all of
    it or nothing, never with its end cut off."""
    frame = Layers(dst=BROADCAST).udp(BODY[:1472])
    assert 1514 == len(frame.data)
    with Network() as network:
        source = plug(network)
        sink = plug(network, CSUM | GUEST_CSUM | features, buffers=0)
        sink.post(HEADERS[features] + 1514 + room)
        say(network, source, frame.data)
        found = taken(sink)
        assert ([frame.data] if room >= 0 else []) == stream(found)
        short = "rx_ring_full" if features & MRG_RXBUF else "rx_buffer_too_small"
        assert ({short: 1} if room < 0 else {}) == sink.drops


@pytest.mark.parametrize("ring", [0, RING_PACKED])
@pytest.mark.parametrize("features", HEADERS)
def test_w39_w40_nothing_is_left_of_a_large_frame(features: int, ring: int) -> None:
    """Large, partial, plain, and once more in one burst: each header speaks of its frame alone;
    what earlier frames left in the working memory is 0xAA (`Network`)."""
    large, small = Layers(dst=BROADCAST).tcp(BODY[:1900]), Layers(dst=BROADCAST).tcp(BODY[:100])
    with Network() as network:
        source, sink = plug(network, TSO | VERSION_1), plug(network, TSO | features | ring)
        for _ in range(3):
            source.send(large.partial, large.gso(1000))
            source.send(small.partial, small.header._replace(hdr_len=99, gso_size=77))
            source.send(small.data, NetHeader(0, 0, 5, 6, 7, 8, 9))
        assert 9 == network.run(source)
        found = taken(sink)
        headers = [header._replace(num_buffers=0) for header, _ in found]
        assert [large.gso(1000), small.header, NetHeader()] * 3 != headers, "uniform unfills"
        assert [large.gso(1000), small.header, small.header] * 3 == headers
        assert [*large.segments(1000), small.data, small.data] * 3 == stream(found)


@pytest.mark.parametrize("features", HEADERS)
@pytest.mark.parametrize("first", [1, 9, 10, 11, 12, 13, 16, 18, 30])
def test_w41_the_address_is_found_behind_each_header(features: int, first: int) -> None:
    """A locked port, headers of each size, offloads, the chain cut where it hurts: the check is
    made of the source address and of nothing else."""
    with Network() as network:
        locked = plug(network, TSO | features, options=Options(mac=OWN, locked=True))
        sink = plug(network)
        for src, passes in ((MACS[4], True), (MACS[5], False), (MACS[4], True)):
            frame = Layers(src=src, dst=BROADCAST).tcp(BODY[:3000])
            for data, header in (
                (frame.partial, frame.gso(1000)),
                (frame.partial, frame.header),
                (frame.data, NetHeader()),
            ):
                locked.next_gpa = (DATA_GPA + locked.end_gpa) // 2
                locked.send(data, header, cuts=(first,))
                assert 1 == network.run(locked)
                locked.tx.take_used()
                found = taken(sink)
                meant = frame.segments(1000) if header.gso_type else [frame.data]
                assert (meant if passes else []) == stream(found)
        assert {"source_mac_locked": 3} == locked.drops
