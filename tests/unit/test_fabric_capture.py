"""Captures of a running fabric: whose frames, two workers on one ring, ports that come and go."""

import fcntl
import os
import select
import struct
from collections import Counter
from contextlib import nullcontext
from typing import Any

import pytest

from tests.recorder import descriptors
from tests.reference.capture import GIVEN, RingReader
from tests.reference.plug import FULL, Options
from tests.unit.test_fabric import leave
from tests.unit.test_workers import EVERYBODY, TURNS, Busy, Witness, read_number, settled, switch
from vionet.engine.layout import CAPTURES_MAX, State
from vionet.fabric import Fabric
from vionet.fabric.capture import CaptureRing, FilterError, forget_captured
from vionet.jit.record import allocate

RING = 1 << 22
SETTINGS: dict[str, Any] = {"snap_len": 1 << 16, "whole": False, "code": b"", "ring_len": RING}


def reader(ring: CaptureRing) -> RingReader:
    """Its reader."""
    return RingReader(ring.fd, ring.notify_fd)


def test_each_delivery_has_one_record() -> None:
    """Guests of two workers send to each other and to everybody at once: what each receives is what
    was recorded for it, whole, in the order of each sender; a capture of one port sees its part.
    Who spoke to whom adds up."""
    with switch(3) as (fabric, guests):
        serials = {int(guest.record.serial): guest.mac for guest in guests}
        whole = fabric.add_capture(None, **SETTINGS)
        one = fabric.add_capture([guests[0].port], **SETTINGS)
        witnesses = [Witness(guest) for guest in guests]
        for _ in range(TURNS):
            for guest, other in zip(guests, guests[1:] + guests[:1], strict=True):
                guest.offer_to(other.mac, 8)
                settled([guest])
                guest.offer_to(EVERYBODY, 2)
            settled(guests)
            for witness in witnesses:
                witness.look()
        records = [record for record in reader(whole).taken() if record.side == GIVEN]
        assert 0 == whole.lost == one.lost
        came: Counter[int] = Counter()
        last: dict[tuple[int, int], int] = {}
        for record in records:
            source, number = read_number(record.data)
            assert serials[record.in_serial] == source
            way = record.in_serial, record.out_serial
            assert last.get(way, -1) < number
            last[way] = number
            came[record.out_serial] += record.drop == 0
        frames = sum(frames for _, _, frames, *_ in fabric.talks())
        assert sum(guest.ledger["rx_frames"] for guest in guests) == frames
        counts = {int(w.guest.record.serial): w.count for w in witnesses}
        assert counts == came
        mine = int(guests[0].record.serial)
        expected = [r.data for r in records if r.out_serial == mine]
        assert expected == [r.data for r in reader(one).taken() if r.out_serial == mine]
        fabric.end_capture(whole)
        assert [(1, [guests[0].port.name], one.records, 0)] == list(fabric.captures())


def test_captures_come_and_go_under_load() -> None:
    """Whatever begins or ends meanwhile, every frame arrives or is counted."""
    with switch(2) as (fabric, guests):
        witnesses = [Witness(guest) for guest in guests]
        for turn in range(TURNS):
            ports = (None, [guests[0].port], [guest.port for guest in guests])[turn % 3]
            ring = fabric.add_capture(ports, **SETTINGS)
            for guest, other in zip(guests, guests[::-1], strict=True):
                guest.offer_to(other.mac, 8)
            if turn % 2:
                settled(guests)
            fabric.end_capture(ring)
            settled(guests)
            for witness in witnesses:
                witness.look()
        full = [guest.drops.get("rx_ring_full", 0) for guest in guests]
        arrived = [witness.count for witness in witnesses]
        assert [8 * TURNS] * 2 == [sum(pair) for pair in zip(full, arrived, strict=True)]
        assert {"same_port", "rx_ring_full"} >= {key for guest in guests for key in guest.drops}


@pytest.fixture
def fabric() -> Any:
    """A switch that never starts."""
    made = Fabric()
    yield made
    made.close()


def test_ports_that_come_and_go(fabric: Fabric) -> None:
    """A port that leaves takes its mark with it; a capture of all has those that come later."""
    one, other = (fabric.add_guest(Options(name=name)) for name in ("one", "other"))
    fabric.add_capture([one, other], **SETTINGS)
    fabric.remove(one)
    comer = fabric.add_guest(Options(name="comer"))
    assert [(0, ["other"], 0, 0)] == list(fabric.captures())
    assert [0, 8] == [int(port._slot.record.special) & 8 for port in (comer, other)]
    whole = fabric.add_capture(None, **SETTINGS)
    assert [(0, ["other"], 0, 0), (1, None, 0, 0)] == list(fabric.captures())
    last = fabric.add_guest(Options(name="last"))
    fabric.remove(other)
    assert [8, 8] == [int(port._slot.record.special) for port in (comer, last)]
    fabric.end_capture(whole)
    assert [(0, [], 0, 0)] == list(fabric.captures())
    assert [0, 0] == [int(port._slot.record.special) for port in (comer, last)]


def test_the_last_port() -> None:
    """The mask's highest bit is a port like others; all 64 of them named are not all there will
    be."""
    state = allocate(State)
    rings: list[CaptureRing] = []
    try:
        for which in ({63}, range(64), None):
            rings.append(CaptureRing(state, nullcontext, which, RING, b""))
            rings[-1].start(0, False)
        forget_captured(state, 0)
        assert [[63], [*range(1, 64)], None] == [ring.indices for ring in rings]
        forget_captured(state, 63)
        assert [[], [*range(1, 63)], None] == [ring.indices for ring in rings]
    finally:
        for ring in rings:
            ring.close()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "odd": ({"ring_len": 100_000}, "a ring of 100000 bytes: take a power of two"),
    "small": ({"ring_len": 1 << 15}, "64 KiB to 1 GiB"),
    "large": ({"ring_len": 1 << 31}, "64 KiB to 1 GiB"),
    "none": ({"ring_len": 0}, "a ring of 0 bytes"),
    "negative": ({"ring_len": -(1 << 20)}, "a ring of -1048576 bytes"),
    "filter": ({"code": struct.pack("<HBBI", 0, 0, 0, 0)}, "instruction 0 of the filter"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, fabric: Fabric) -> None:
    """One line, and nothing is left open."""
    change, said = REFUSED[name]
    before = descriptors()
    with pytest.raises(ValueError, match=said) as raised:
        fabric.add_capture(None, **{**SETTINGS, **change})
    assert "\n" not in str(raised.value)
    assert (name == "filter") == isinstance(raised.value, FilterError)
    assert (before, []) == (descriptors(), list(fabric.captures()))


def test_too_many(fabric: Fabric) -> None:
    """Four at a time; the numbers of those that ended are free again."""
    before = descriptors()
    rings = [fabric.add_capture(None, **SETTINGS) for _ in range(CAPTURES_MAX)]
    with pytest.raises(ValueError, match="4 captures of this fabric are on: end one of them"):
        fabric.add_capture(None, **SETTINGS)
    fabric.end_capture(rings.pop(1))
    rings.insert(1, fabric.add_capture([], **SETTINGS))
    assert [0, 1, 2, 3] == sorted(number for number, *_ in fabric.captures())
    assert [0, 1, 2, 3] == [ring.number for ring in rings]
    for ring in rings:
        fabric.end_capture(ring)
    assert (before, 0) == (descriptors(), fabric._state.n_captures)


def test_the_ring_is_sealed(fabric: Fabric) -> None:
    """Neither side can make it smaller or larger, or lift that; its end ends the pipe."""
    ring = fabric.add_capture(None, **SETTINGS)
    fd, notify_fd = os.dup(ring.fd), os.dup(ring.notify_fd)
    try:
        for size in (0, RING, 2 * RING):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, size)
        with pytest.raises(PermissionError):
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        assert 4096 + RING == os.fstat(fd).st_size
        assert 4096 + RING <= 512 * os.fstat(fd).st_blocks, "memory that is not there yet"
        poll = select.poll()
        poll.register(notify_fd, select.POLLIN)
        assert [] == poll.poll(0)
        fabric.end_capture(ring)
        assert [(notify_fd, select.POLLHUP)] == poll.poll(0)
    finally:
        os.close(fd)
        os.close(notify_fd)


def test_a_fabric_ends_its_captures() -> None:
    """Whoever still reads finds the pipe ended."""
    before = descriptors()
    fabric = Fabric()
    guest = Busy(fabric, FULL, polled=True)
    fabric.start()
    fabric.add_capture([guest.port], **SETTINGS)
    leave(guest)
    fabric.close()
    assert before == descriptors()
