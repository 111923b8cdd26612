"""Positions of packed rings that outlive the process: killed anywhere, resumed by another.

In the interpreted lane a burst is ended at each of its lines in turn, which is what SIGKILL does;
all that another process would find (the guest's memory, the file) is then given to a new fabric.
"""

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.reference.frame import Layers
from tests.reference.guest import Guest
from tests.reference.network import Network
from tests.reference.packed import PackedRing, Place
from tests.reference.plug import FULL, NO_OPTIONS, RING_PACKED, Piece, slot
from vionet.engine.burst import from_guest
from vionet.engine.control import call_drivers
from vionet.jit.lane import LANE, Lane
from vionet.ports.guest import GuestPort
from vionet.ports.position import Positions
from vionet.vhost_user.ring import Ring

PACKED = FULL | RING_PACKED
NEW = 1 << 15 | 1 << 31  # the base of a ring that never ran; QEMU repeats it whatever happened
SIZE = 8


class Killed(BaseException):
    """The process is gone."""


def killed_at(count: int, burst: Callable[[], int]) -> bool:
    """Run `burst`, ended at its line number `count`; false where it has no more lines."""
    left = count

    def line(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if event == "line":
            left -= 1
            if left < 0:
                raise Killed
        return line

    def call(frame: FrameType, event: str, argument: Any) -> Any:
        return line if "vionet/engine/" in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        burst()
        return False
    except Killed:
        return True
    finally:
        sys.settrace(before)


class Life:
    """One process: a fabric, and its view of the file.  Guests live on."""

    def __init__(self, path: Path) -> None:
        self.network = Network()
        self.positions = Positions(path)

    def port(self, name: str) -> GuestPort:
        """A port that this life keeps the positions of."""
        index = len(self.network.guests)
        options = type(NO_OPTIONS)(name=name)
        return GuestPort(slot(self.network, index), options, self.positions)

    def guest(self, name: str, features: int = PACKED, **more: Any) -> Guest:
        """A new guest."""
        guest = self.network.guest(features, size=SIZE, port=self.port(name), **more)
        assert [1, 1] == [queue.packed for queue in list(guest.record.queues)[:2]]
        assert 0 not in [queue.mirror_hva for queue in list(guest.record.queues)[:2]]
        return guest

    def attach(self, guest: Guest, name: str, base: int = NEW) -> None:
        """A guest whose front-end was left by another process, and says what it said to that."""
        guest.port = self.port(name)
        guest.index, guest.state = len(self.network.guests), self.network.state
        self.network.guests.append(guest)
        self.network.state.n_ports = len(self.network.guests)
        guest.port.opened()
        guest.port.set_features(guest.features)
        pieces = [Piece(r.gpa, r.size, guest.memory.hva + r.off) for r in guest.memory.ranges]
        guest.port.set_memory(pieces)  # type: ignore[arg-type]
        for number in (0, 1):
            guest.port.set_ring(number, self.described(guest, number, base))

    def described(self, guest: Guest, number: int, base: int) -> Ring:
        """What the front-end says of a ring."""
        return guest.described((guest.rx, guest.tx)[number], base)

    def end(self, *, last: bool = False) -> None:
        """SIGKILL: nothing is stopped; the file is let go.  With the last one the guests go too."""
        self.positions.close()
        if last:
            self.network.__exit__(None, None, None)
        else:
            os.close(self.network.notice_fd)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """Where the file goes."""
    yield tmp_path / "switch.rings"


def frame(number: int) -> tuple[Any, ...]:
    """A frame that can be told from others."""
    made = Layers().udp(bytes([number]) * 150)
    return made.partial, made.header


def send(source: Guest, count: int, first: int = 0) -> None:
    """Make `count` frames available, in one piece and in two."""
    for number in range(first, first + count):
        data, header = frame(number)
        source.send(data, header, cuts=[30] if number % 2 else [])


def exchange(life: Life, source: Guest, sink: Guest, number: int) -> None:
    """One frame passes from `source` to `sink`, behind whatever it has posted already."""
    data, header = frame(number)
    for _ in range(4):
        if sink.rx.room:
            sink.post(100 if number % 2 else 300)
    source.send(data, header)
    assert 1 == life.network.run(source)
    assert data in [received.frame for received in sink.received()]
    source.tx.take_used()


@pytest.mark.skipif(LANE is not Lane.INTERPRETED, reason="only Python can be ended at a line")
@pytest.mark.parametrize("part", range(2))
@pytest.mark.parametrize("turns", [0, 3])
def test_killed_at_any_line(path: Path, turns: int, part: int) -> None:
    """Wherever a burst ends, the next process gives back every chain that was taken, once and in
    order, and frames pass again; the front-end says what it always said."""
    step = 29
    for line in range(part * step // 2, 10_000, step):
        path.unlink(missing_ok=True)
        life = Life(path)
        source, sink = life.guest("a"), life.guest("b")
        for turn in range(turns):
            exchange(life, source, sink, turn)
        while sink.rx.room:
            sink.post([100, 300, 100, 100][sink.rx.room % 4])
        send(source, 4, 10)
        state, work = life.network.state, life.network.work
        killed = killed_at(line, partial(from_guest, state, work, source.index, 1))
        life.end()
        sink.received(), source.tx.take_used()
        second = Life(path)
        second.attach(source, "a")
        second.attach(sink, "b")
        sink.received(), source.tx.take_used()
        second.network.run(source)
        sink.received(), source.tx.take_used()
        assert SIZE == source.tx.room, line
        for number in range(30, 33):
            exchange(second, source, sink, number)
        second.end(last=True)
        if not killed:
            assert line > 300
            return
    raise AssertionError("the burst never ended")


@pytest.mark.skipif(LANE is not Lane.INTERPRETED, reason="only Python can be watched at each line")
def test_first_of_several_is_marked_last() -> None:
    """At no moment is the first chain of a frame used and a later one not (PK-16)."""
    with Network() as network:
        source = network.guest(PACKED)
        sink = network.guest(PACKED, size=SIZE)
        ring = sink.rx
        assert isinstance(ring, PackedRing)
        for _ in range(20):
            for _ in range(6):
                sink.post(40)
            source.send(*frame(1))
            places, lines = [ring.reading.after(i) for i in range(6)], 0

            def line(
                frame: FrameType, event: str, argument: Any, places: list[Place] = places
            ) -> Any:
                nonlocal lines
                lines += 1
                flags = [ring.descriptor(place.slot)[3] for place in places]
                done = [
                    f >> 7 & 1 == f >> 15 & 1 == place.wrap
                    for f, place in zip(flags, places, strict=True)
                ]
                assert all(done) or not done[0]
                return line

            def call(frame: FrameType, event: str, argument: Any, line: Any = line) -> Any:
                return line if frame.f_code.co_filename.endswith("engine/receive.py") else None

            before = sys.gettrace()  # of whoever measures coverage
            sys.settrace(call)
            try:
                from_guest(network.state, network.work, source.index, 1)
            finally:
                sys.settrace(before)
            assert lines > 20
            assert [frame(1)[0]] == [received.frame for received in sink.received()]
            source.tx.take_used()


def run_a_while(life: Life, turns: int) -> tuple[Guest, Guest]:
    """Two guests that exchanged some frames."""
    source, sink = life.guest("a"), life.guest("b")
    for turn in range(turns):
        exchange(life, source, sink, turn)
    return source, sink


@pytest.mark.parametrize("turns", [1, 2, 5, 11])
def test_resumed_after_whole_bursts(path: Path, turns: int) -> None:
    """In either lap, and several times over."""
    life = Life(path)
    source, sink = run_a_while(life, turns)
    for number in range(40, 44):
        life.end()
        life = Life(path)
        life.attach(source, "a")
        life.attach(sink, "b")
        assert 1 == source.record.queues[1].started, "it was used before: no kick will come"
        exchange(life, source, sink, number)
    life.end(last=True)


@pytest.mark.parametrize("layout", [RING_PACKED, 0])
def test_a_driver_that_waits_for_a_lost_interrupt(path: Path, layout: int) -> None:
    """A process may be killed between showing what it used and telling: the next one tells, also
    on a call descriptor that comes later, and does not where nothing was used."""
    with Network() as network:
        source, sink = network.guest(FULL | layout), network.guest(FULL | layout)
        call_drivers(network.state, network.work)
        assert 0 == source.calls()
        source.send(*frame(1))
        assert 1 == network.run(source)
        source.calls()
        base = source.port.stop_ring(1)
        ring = source.described(source.tx, base)
        source.port.set_ring(1, replace(ring, call_fd=-1))
        call_drivers(network.state, network.work)
        source.port.set_ring(1, ring)
        call_drivers(network.state, network.work)
        call_drivers(network.state, network.work)
        assert 1 == source.calls()
        assert 0 == sink.calls()


def test_a_driver_that_starts_anew(path: Path) -> None:
    """It has cleared its ring, at the same address and of the same size: the record is stale."""
    life = Life(path)
    source, sink = run_a_while(life, 5)
    life.end()
    second = Life(path)
    for guest in (source, sink):
        for name in ("rx", "tx"):
            old = getattr(guest, name)
            places = old.desc_gpa, old.avail_gpa, old.used_gpa
            setattr(guest, name, PackedRing(guest.memory, SIZE, places))
        guest.posted.clear()
    second.attach(source, "a")
    second.attach(sink, "b")
    for number in range(3):
        exchange(second, source, sink, number)
    second.end(last=True)


def test_a_ring_that_was_stopped_in_order(path: Path) -> None:
    """The front-end has been told the position and gives it to the next process."""
    life = Life(path)
    source, sink = run_a_while(life, 5)
    bases = {}
    for name, guest in (("a", source), ("b", sink)):
        bases[name] = [guest.port.stop_ring(number) for number in (0, 1)]
        assert [0, 0] == [int(queue.mirror_hva) for queue in list(guest.record.queues)[:2]]
    life.end()
    second = Life(path)
    second.attach(source, "a")
    second.attach(sink, "b")
    for name, guest in (("a", source), ("b", sink)):
        for number, base in enumerate(bases[name]):
            guest.port.stop_ring(number)
            guest.port.set_ring(number, second.described(guest, number, base))
    for number in range(3):
        exchange(second, source, sink, number)
    second.end(last=True)


@pytest.mark.parametrize("what", ["port", "size", "base", "address"])
def test_another_ring_is_not_taken_for_this(path: Path, what: str) -> None:
    """Port, ring, size, address and base have to be the same."""
    life = Life(path)
    source, _ = run_a_while(life, 5)
    ring = life.described(source, 1, NEW)
    queue = source.record.queues[1]
    life.positions.close()
    positions = Positions(path)
    name = "z" if what == "port" else "a"
    other = {
        "size": {"size": SIZE - 1},
        "base": {"base": 1 << 15 | 1 << 31 | 1 | 1 << 16},
        "address": {"desc_uva": ring.desc_uva + 4096},
        "port": {},
    }[what]
    changed = Ring(**{**{f: getattr(ring, f) for f in ring.__slots__}, **other})
    assert changed.base == positions.begin(queue, name, 1, changed)
    assert 0 != queue.mirror_hva
    positions.close()
    life.end(last=True)


@pytest.mark.parametrize("content", [b"", b"x", b"\xff" * 8192, None])
def test_a_file_that_is_none_of_ours_is_made_anew(path: Path, content: bytes | None) -> None:
    """Nothing in it is believed, and it is usable afterwards."""
    life = Life(path)
    source, sink = run_a_while(life, 3)
    life.end()
    size = path.stat().st_size
    if content is None:
        os.truncate(path, size // 2)
    else:
        path.write_bytes(content)
    second = Life(path)
    assert (size, 0o600) == (path.stat().st_size, path.stat().st_mode & 0o777)
    second.attach(source, "a")
    second.attach(sink, "b")
    assert NEW == second.described(source, 1, NEW).base
    assert 0 == source.record.queues[1].avail_idx
    second.end(last=True)


def test_one_process_at_a_time(path: Path) -> None:
    """The second finds the file taken."""
    first = Positions(path)
    with pytest.raises(OSError):
        Positions(path)
    first.close()
    Positions(path).close()


@pytest.mark.parametrize("what", ["link", "symlink", pytest.param("owner", marks=pytest.mark.root)])
def test_a_file_of_somebody_else_is_left_alone(path: Path, what: str) -> None:
    """Where others may write the folder too: nothing behind the name is changed or used."""
    other = path.with_name("other")
    other.write_bytes(b"precious")
    other.chmod(0o644)
    if what == "owner":
        os.chown(other, 1, 1)
        other.rename(path)
    else:
        (path.hardlink_to if what == "link" else path.symlink_to)(other)
    with pytest.raises(OSError):
        Positions(path)
    assert (b"precious", 0o644) == (path.read_bytes(), path.stat().st_mode & 0o777)


def test_no_more_records_than_there_is_room_for(path: Path) -> None:
    """A ring without a record begins where its front-end says."""
    life = Life(path)
    source = life.guest("a")
    ring = life.described(source, 1, NEW)
    queue = source.record.queues[1]
    kept = 0
    for number in range(200):
        assert NEW == life.positions.begin(queue, f"port{number}", 1, ring)
        kept += int(queue.mirror_hva) != 0
    assert 126 == kept
    assert path.stat().st_blocks * 512 < 4 << 20
    life.end(last=True)


def test_a_removed_port_leaves_its_records(path: Path) -> None:
    """Ports may come and go without end: a later one finds room, and nothing of a former one."""
    life = Life(path)
    source = life.guest("a")
    ring, queue = life.described(source, 1, NEW), source.record.queues[1]
    first = int(queue.mirror_hva)
    for number in range(200):
        assert NEW == life.positions.begin(queue, f"port{number}", 1, ring)
        assert int(queue.mirror_hva) not in (0, first)
        life.positions.forget(f"port{number}")
        assert bytes(8) == ctypes.string_at(int(queue.mirror_hva), 8)
    assert bytes(8) != ctypes.string_at(first, 8), "another's is left alone"
    life.end(last=True)
