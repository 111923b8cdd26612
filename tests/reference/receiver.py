"""What a receiver may find in front of a frame, and what the frame then is: RX-06 to RX-22 judged
from the outside, without asking the device or its model.

`obeys` looks at one delivery alone.  `on_the_wire` is what a driver that forwards it to a network
card would have sent: the bytes that all of this is about.
"""

from collections.abc import Sequence
from typing import Final

from tests.reference import checksum, segment
from tests.reference.checksum import UDP, word
from tests.reference.header import CSUM_OFF, IPV4, parse
from tests.reference.table import GSO_NEEDS, TAKES, large
from vionet.spec.virtio_net import NetHeader

NEEDS_CSUM: Final = 1
DATA_VALID: Final = 2
ECN: Final = 0x80
TYPES: Final = {"tcp4": 1, "tcp6": 4, "udp4": 5, "udp6": 5}
UDP_SEGMENTS: Final = 64  # of a frame that any Linux takes (LX-09)


def obeys(features: int, header: NetHeader, frame: bytes) -> None:
    """Every rule for a receiver that negotiated `features`."""
    takes_partial = bool(features >> 1 & 1)
    assert header.flags in (0, NEEDS_CSUM, DATA_VALID), "RX-20: no flag that nobody negotiated"
    if not takes_partial:
        assert 0 == header.flags, "RX-06"
    if header.flags != NEEDS_CSUM:
        assert (0, 0) == (header.csum_start, header.csum_offset)
        assert 0 == header.gso_type, "RX-18"
    if header.gso_type:
        _obeys_large(features, header, frame)
    else:
        assert (0, 0) == (header.hdr_len, header.gso_size)
    found = parse(frame)
    if header.flags == NEEDS_CSUM:
        _obeys_partial(header, frame)
    elif header.flags == DATA_VALID:
        assert found.verifiable(frame) and found.right(frame), "RX-22"
    if found.ethertype == IPV4 and not found.bad_len and header.gso_type:
        assert 0xFFFF == checksum.ones_sum(frame[found.l3_off : found.headers_end]), "SG-05"


def _obeys_partial(header: NetHeader, frame: bytes) -> None:
    """The field holds the seed, of the outermost sum, and finishing it completes the frame."""
    found = parse(frame)
    assert (found.l4_off, CSUM_OFF[found.protocol]) == (header.csum_start, header.csum_offset), (
        "SG-16: the outermost TCP or UDP header"
    )
    assert len(frame) == found.end, "SG-04: nothing behind the datagram would be summed"
    if not found.routed:
        assert found.seed() == word(frame, found.field), "RX-16"
        done = checksum.finish(frame, header.csum_start, header.csum_offset)
        assert found.right(done), "RX-17"
    assert not found.dhcp, "SG-17"


def _obeys_large(features: int, header: NetHeader, frame: bytes) -> None:
    """RX-08 to RX-13, RX-18, RX-21, LX-09 of a GSO frame."""
    found = parse(frame)
    takes = large(features, TAKES)
    kind = GSO_NEEDS[found.protocol, found.ethertype]
    assert kind in takes, "RX-08 to RX-12"
    assert TYPES[kind] == header.gso_type & ~ECN, "SG-11"
    cwr = segment.has_cwr(frame, found)
    assert "ecn" in takes or not cwr, "RX-13"
    assert bool(header.gso_type & ECN) >= cwr, "RX-13"
    assert "ecn" in takes or not header.gso_type & ECN, "RX-13"
    assert segment.header_len(frame, found) <= header.hdr_len <= len(frame), "RX-21"
    assert 0 < header.gso_size < 0xFFFF, "RX-18"
    count = -(-segment.payload_len(frame, found) // header.gso_size)
    assert 1 < count, "LX-11: what is one segment is an ordinary frame"
    assert found.protocol != UDP or count <= UDP_SEGMENTS, "LX-09"


def on_the_wire(header: NetHeader, frame: bytes) -> list[bytes]:
    """The frames that a network card would send for it."""
    if header.gso_type:
        return segment.segment(frame, parse(frame), header.gso_size, partial=False)
    if header.flags == NEEDS_CSUM:
        return [checksum.finish(frame, header.csum_start, header.csum_offset)]
    return [frame]


def stream(found: Sequence[tuple[NetHeader, bytes]]) -> list[bytes]:
    """`on_the_wire` of one delivery after the other."""
    return [one for header, frame in found for one in on_the_wire(header, frame)]
