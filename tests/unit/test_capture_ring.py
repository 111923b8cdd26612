"""Rings that nobody should write, and readers that survive them; packets of many kinds."""

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.property.strategies import examples
from tests.reference.frame import Layers
from tests.reference.pcapng import packets
from tests.seen import HEAD, PAGE, TAIL, WAITS, WORDS, Ring, header
from vionet.capture.compiled.layout import NOTES_MAX
from vionet.capture.pcapng import Interface
from vionet.capture.reader import Reader, RingError, View

FRAME = Layers().tcp(b"x" * 100)
PARTIAL = {"state": 3, "accepts": 1, "action": 2, "header": header(1, csum_start=34)}
PARTIAL["csum_offset"] = 16


def port(serial: int) -> Interface:
    """Of a test, by its number."""
    return Interface(f"p{serial}")


def reader_of(ring: Ring, view: View | None = None) -> Reader:
    """Of a ring that a test writes."""
    first = Interface("all")
    return Reader(ring.fd, ring.notify_fd, ring.length, view or View(), first, port)


def test_records_come_in_order_however_often_the_ring_turns() -> None:
    """Each once, finished, at its time; what has been read makes room."""
    with Ring(1 << 14) as ring:
        reader = reader_of(ring)
        seen, sent = [], 0
        for lap in range(60):
            for n in range(lap % 40):
                sent += ring.put(FRAME.partial, time_ns=10**18 + 1000 * lap + n, **PARTIAL)
            blocks, more = reader.blocks()
            assert not more
            seen += packets(bytes(blocks))
            assert ring.head == ring.word(TAIL)
        assert sent == len(seen) == reader.packets[1]
        assert {FRAME.data} == {packet.data for packet in seen}
        times = [packet.time_ns for packet in seen]
        assert sorted(set(times)) == times


def test_losses_are_what_the_ring_says() -> None:
    """A reader that comes late finds what had room, and how many had not."""
    with Ring(1 << 14) as ring:
        reader = reader_of(ring)
        sent = [ring.put(FRAME.data) for _ in range(200)]
        assert sum(sent) == len(packets(bytes(reader.blocks()[0])))
        assert 200 - sum(sent) == reader.lost > 0


def test_room_is_kept() -> None:
    """Blocks are whole, never more bytes than there is room for, and none is left out."""
    with Ring() as ring:
        reader = reader_of(ring)
        for n in range(50):
            ring.put(FRAME.data, time_ns=n)
        seen, more = [], True
        while more:
            blocks, more = reader.blocks(1000)
            assert 0 < len(blocks) <= 1000
            seen += packets(bytes(blocks))
        assert list(range(50)) == [packet.time_ns for packet in seen]
        ring.put(FRAME.data)
        blocks, more = reader.blocks(100)
        assert (0, True) == (len(blocks), more)


def test_count_is_exact() -> None:
    """No packet more than asked for, of segments neither."""
    large = Layers().tcp(bytes(10_000))
    with Ring() as ring:
        reader = reader_of(ring, View(count=5, segment=True))
        ring.put(FRAME.data)
        ring.put(large.partial, **PARTIAL | {"header": header(1, 1, 1448, 34), "facts": 16 | 1})
        found = packets(bytes(reader.blocks()[0]))
        assert reader.enough
    assert [FRAME.data, *large.segments(1448)[:4]] == [packet.data for packet in found]


@pytest.mark.one_lane  # of thousands
def test_more_kinds_of_packets_than_are_kept() -> None:
    """Each packet has its own comment, whatever was forgotten meanwhile."""
    with Ring(1 << 20) as ring:
        reader = reader_of(ring)
        kinds = [n * 7919 % (3 * NOTES_MAX) for n in range(3 * NOTES_MAX)] * 2
        seen = []
        for vid in kinds:
            ring.put(FRAME.data[:60], vid=vid + 1)
            if ring.head - ring.word(TAIL) > 1 << 19:
                seen += packets(bytes(reader.blocks()[0]))
        seen += packets(bytes(reader.blocks()[0]))
        assert len(kinds) == len(seen)
        for vid, packet in zip(kinds, seen, strict=True):
            assert f" vlan {vid + 1}:" in packet.comment


def test_a_sleeping_reader_is_woken() -> None:
    """It says that it sleeps, is written to, and says so no more; it does not sleep at all where
    something has come since it looked."""
    with Ring() as ring:
        reader = reader_of(ring)
        ring.put(FRAME.data)
        assert [] == reader.wait([], 100)
        assert 0 == ring.word(WAITS)
        reader.blocks()
        ours, theirs = os.pipe()
        os.write(theirs, b"x")
        assert [ours] == reader.wait([ours], 100)
        os.read(ours, 1)
        ring.put_word(WAITS, 1)  # as if it slept already
        ring.put(FRAME.data)
        assert [] == reader.wait([ours], 100)
        assert 0 == ring.word(WAITS)
        assert 1 == len(packets(bytes(reader.blocks()[0])))
        for fd in (ours, theirs):
            os.close(fd)


@pytest.mark.parametrize("head", [-8, -(1 << 63), (1 << 63) - 8, (1 << 16) + 8, 8, 1 << 16])
def test_torn_ring(head: int) -> None:
    """A head that cannot be, or with nothing behind it that is a record, ends the reading."""
    with Ring() as ring:
        reader = reader_of(ring)
        ring.memory[PAGE : PAGE + 8] = struct.pack("<q", 24)
        ring.put_word(HEAD, head)
        assert 0 == len(reader.blocks()[0])
        assert reader.broken


@examples(compiled=300, interpreted=100)
@given(
    st.dictionaries(st.sampled_from(WORDS), st.integers(-(1 << 63), (1 << 63) - 1), max_size=4),
    st.dictionaries(st.sampled_from(WORDS), st.integers(-2, 300), max_size=6),
    st.binary(max_size=200),
    st.sampled_from([View(), View(segment=True), View(delivered=True), View(snap_len=33)]),
)
def test_any_record(wild: dict[str, int], mild: dict[str, int], frame: bytes, view: View) -> None:
    """Whatever stands in a record: packets, or the end of the reading; never more than is there."""
    with Ring() as ring:
        reader = reader_of(ring, view)
        ring.put(frame or FRAME.partial, **PARTIAL | mild | wild)
        length = (mild | wild).get("record_len")
        if length is not None:
            ring.put_word(PAGE, length)
        found = packets(bytes(reader.blocks()[0]))
        assert reader.broken or found or length == 0
        assert all(packet.length < 1 << 17 for packet in found)


def test_what_is_no_ring() -> None:
    """A file that could shrink under the reader, or is smaller than it should be, is refused."""
    with Ring() as ring:
        loose = os.memfd_create("loose", os.MFD_ALLOW_SEALING)
        os.ftruncate(loose, 1 << 20)
        for fd, length in ((loose, 1 << 16), (ring.fd, 1 << 17), (ring.fd, 5000)):
            with pytest.raises(RingError, match="no ring"):
                Reader(fd, ring.notify_fd, length, View(), Interface("all"), Interface)  # type: ignore[arg-type]
        os.close(loose)
