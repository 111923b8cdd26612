"""One capture ring, read: bytes of pcapng blocks come out.

How it works: the ring is vionet's memory, mapped here: its records to be read only, the page in
front of it to be written too, because there the reader says how far it is and that it sleeps.
`blocks` has the kernels write on (`compiled.block`) and returns what they wrote; where they meet a
kind of packet for the first time, its options are written here (`note`).  A port that nobody knew
yet is then added to `descriptions`, which has to be in the file before those blocks.

Invariants: whatever is in the ring, nothing outside of it is read.  The numbers of interfaces stay
the same for a reader's life, so that every file of a rotation can have them all.

Threads: one.
"""

import mmap
import os
import select
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from fcntl import fcntl
from typing import Final

import numpy as np

from vionet.capture.compiled.block import read_on, rest
from vionet.capture.compiled.layout import (
    BROKEN,
    FULL,
    INTERFACES_MAX,
    NOTE_LEN,
    NOTES_MAX,
    PORT_GUEST,
    PORT_IN,
    PORT_STREAM,
    SLACK_LEN,
    UNKNOWN_KIND,
    Reading,
)
from vionet.capture.note import Kind, comment
from vionet.capture.pcapng import INBOUND, OUTBOUND, Interface, interface, packet_options
from vionet.engine.deliver_stream import OUT_LEN
from vionet.engine.layout import FRAME_MAX, RING_HEAD, RING_LOST, RING_PAGE, State
from vionet.engine.status import GSO_ALL, PortKind
from vionet.fabric.fabric import prepared_work
from vionet.jit.record import address_of, allocate

OUT_MAX: Final = 1 << 20  # bytes of blocks that are written at once
RECORD_MAX: Final = 6 << 20  # that one record makes: 2048 segments with the longest options
F_GET_SEALS: Final = 1034
F_SEAL_SHRINK: Final = 2


class RingError(Exception):
    """What is wrong with a ring; one line."""


@dataclass(frozen=True, slots=True)
class View:
    """What a person wants to see of the packets."""

    snap_len: int = 0  # 0: all of them
    delivered: bool = False  # as their receivers got them
    segment: bool = False  # large frames as what is made of them
    count: int = 0  # 0: without end
    expression: str = ""


class Reader:
    """A ring and who reads it."""

    def __init__(
        self,
        ring_fd: int,
        notify_fd: int,
        ring_len: int,
        view: View,
        first: Interface,
        port_of: Callable[[int], Interface],
    ) -> None:
        """`first` has what is lost; `port_of` tells what the port with a serial number is."""
        shrinks = not fcntl(ring_fd, F_GET_SEALS) & F_SEAL_SHRINK
        if shrinks or ring_len & (ring_len - 1) or os.fstat(ring_fd).st_size < RING_PAGE + ring_len:
            raise RingError("what came is no ring")
        self._page = np.frombuffer(mmap.mmap(ring_fd, RING_PAGE), np.int64)
        records = mmap.mmap(ring_fd, ring_len, prot=mmap.PROT_READ, offset=RING_PAGE)
        self._records = np.frombuffer(records, np.uint8)
        self._notify_fd, self._view, self._port_of = notify_fd, view, port_of
        self._out = np.zeros(RECORD_MAX + SLACK_LEN, np.uint8)
        self._notes = np.zeros((NOTES_MAX, NOTE_LEN), np.uint8)
        self._send = np.zeros(OUT_LEN, np.uint8)
        self._state, self._reading = allocate(State), allocate(Reading)
        self._work = prepared_work(self._state)
        self._fill_in(ring_len)
        self._ports: dict[int, Interface] = {}
        self._numbers: dict[int, int] = {}
        self.kinds: dict[bytes, Kind] = {}  # by their packets' options, of those last seen
        self.interfaces: list[Interface] = []
        self.descriptions: list[bytes] = []
        self.broken = False
        self._describe(first)

    def _fill_in(self, ring_len: int) -> None:
        reading, view = self._reading, self._view
        reading.page_hva, reading.ring_hva = address_of(self._page), address_of(self._records)
        reading.ring_len, reading.out_hva = ring_len, address_of(self._out)
        reading.seen_hva, reading.notes_hva = address_of(reading.seen), address_of(self._notes)
        reading.snap_len = view.snap_len or FRAME_MAX + 64
        reading.delivered, reading.segment = view.delivered, view.segment
        reading.left = view.count or (1 << 62)
        here, guest, stream = (self._state.ports[i] for i in (PORT_IN, PORT_GUEST, PORT_STREAM))
        here.kind, here.header_len, here.offers_partial = PortKind.TAP, 12, 1
        here.offers_gso = GSO_ALL
        guest.kind, guest.header_len = PortKind.GUEST, 12
        stream.kind, stream.fd, stream.out_hva = PortKind.STREAM, -1, address_of(self._send)

    @property
    def lost(self) -> int:
        """Records that found no room."""
        return int(self._page[RING_LOST // 8])

    @property
    def head(self) -> int:
        """Bytes that were ever put into the ring."""
        return int(self._page[RING_HEAD // 8])

    def has_read(self, head: int) -> bool:
        """Whether it is as far."""
        return int(self._reading.tail) >= head

    @property
    def packets(self) -> list[int]:
        """Written so far, by interface."""
        return [int(n) for n in self._reading.packets[: len(self.interfaces)]]

    def name(self, serial: int) -> str:
        """Of the port with this serial number."""
        return self._port(serial).name

    @property
    def enough(self) -> bool:
        """Whether as many packets were written as are wanted."""
        return int(self._reading.left) == 0

    def blocks(self, room: int = OUT_MAX) -> tuple[memoryview, bool]:
        """What is in the ring as blocks, at most `room` bytes of them; and whether there is more
        for which there was no room."""
        reading = self._reading
        reading.out_len, reading.room = 0, min(room, RECORD_MAX)
        status = UNKNOWN_KIND
        while status == UNKNOWN_KIND:
            status = read_on(self._state, self._work, reading)
            if status == UNKNOWN_KIND:
                self._learn()
        self.broken = self.broken or status == BROKEN
        return self._out.data[: int(reading.out_len)], status == FULL

    def _learn(self) -> None:
        """Write the options of the kind of packet in hand."""
        reading, slot = self._reading, int(self._reading.slot)
        kind = Kind.of([int(word) for word in reading.key])
        options = packet_options(INBOUND if kind.side else OUTBOUND, comment(kind, self.name))
        self._notes[slot, : len(options)] = np.frombuffer(options, np.uint8)
        reading.keys[slot] = reading.key
        reading.note_interface[slot] = self._number(kind.serial)
        reading.note_len[slot] = len(options)
        if len(self.kinds) >= 2 * NOTES_MAX:
            self.kinds.clear()
        self.kinds[options] = kind

    def _port(self, serial: int) -> Interface:
        if serial not in self._ports:
            self._ports[serial] = self._port_of(serial)
        return self._ports[serial]

    def _number(self, serial: int) -> int:
        """Of the interface in the file; beyond what a file can have it is the first."""
        if serial not in self._numbers:
            full = len(self.interfaces) == INTERFACES_MAX
            self._numbers[serial] = 0 if full else self._describe(self._port(serial))
        return self._numbers[serial]

    def _describe(self, one: Interface) -> int:
        if one in self.interfaces:
            return self.interfaces.index(one)
        self.interfaces.append(one)
        snap_len, expression = int(self._reading.snap_len), self._view.expression
        self.descriptions.append(interface(one, snap_len, expression))
        return len(self.interfaces) - 1

    def wait(self, others: list[int], timeout_s: float) -> list[int]:
        """Sleep until there is a record, one of `others` is readable, or time is over; *returns*
        those of `others` that are."""
        timeout_s = timeout_s if rest(self._reading, 1) else 0
        poll = select.poll()
        for fd in (self._notify_fd, *others):
            poll.register(fd, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(max(0, timeout_s * 1000))]
        rest(self._reading, 0)
        if self._notify_fd in ready:
            with suppress(BlockingIOError):
                os.read(self._notify_fd, 4096)
        return [fd for fd in ready if fd != self._notify_fd]
