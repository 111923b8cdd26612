"""A capture of a fabric without workers, and a reader of its ring that shares no code with ours."""

import contextlib
import mmap
import os
import struct
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final, NamedTuple, Self

from vionet.engine.layout import State
from vionet.engine.status import DROP_REASONS
from vionet.fabric.capture import CaptureRing

PAGE: Final = 4096
HEAD, LOST, TAIL, WAITS = 0, 8, 64, 72  # in the page
FIXED: Final = struct.Struct("<21q")
WHOLE, SEGMENTED, FLOODED, REPAIRED, JUDGED, BAD = (1 << n for n in range(6))
SENT, GIVEN = 0, 1


class Record(NamedTuple):
    """One record, in the order of its words."""

    record_len: int
    time_ns: int
    in_serial: int
    out_serial: int
    in_features: int
    out_features: int
    side: int
    drop: int
    state: int
    accepts: int
    action: int
    facts: int
    segments: int
    header: int
    csum_offset: int
    chain: int
    pieces: int
    ring: int
    vid: int
    length: int
    cap_len: int
    data: bytes

    @property
    def reason(self) -> str:
        """Why it was dropped; empty: it was not."""
        return DROP_REASONS[self.drop]

    @property
    def way(self) -> tuple[int, int, int]:
        """Which port gave it, which got it (by serial), and on which side it was seen."""
        return self.in_serial, self.out_serial, self.side

    @property
    def csum_start(self) -> int:
        """Of the virtio-net header."""
        return self.header >> 48 & 0xFFFF


class RingReader:
    """The reader's side of a ring."""

    def __init__(self, fd: int, notify_fd: int) -> None:
        self.memory = mmap.mmap(fd, 0)
        self.ring_len = len(self.memory) - PAGE
        self.notify_fd = notify_fd
        self.tail = 0

    def word(self, off: int) -> int:
        """A word of the page."""
        return int(struct.unpack_from("<q", self.memory, off)[0])

    def put(self, off: int, value: int) -> None:
        """Write a word of the page."""
        struct.pack_into("<q", self.memory, off, value)

    def taken(self) -> list[Record]:
        """What was recorded since the last call."""
        found = []
        head = self.word(HEAD)
        while self.tail != head:
            assert 0 < head - self.tail <= self.ring_len and self.tail & 7 == 0
            at = PAGE + self.tail % self.ring_len
            (length,) = struct.unpack_from("<q", self.memory, at)
            if length == 0:
                self.tail += self.ring_len - self.tail % self.ring_len
                continue
            words = FIXED.unpack_from(self.memory, at)
            start = at + FIXED.size
            record = Record._make([*words, self.memory[start : start + words[-1]]])
            assert record.record_len == -(-(FIXED.size + record.cap_len) // 8) * 8
            assert self.tail % self.ring_len + record.record_len <= self.ring_len
            found.append(record)
            self.tail += record.record_len
        self.put(TAIL, self.tail)
        return found

    def woken(self) -> int:
        """How often the producer has written since the last call."""
        try:
            return len(os.read(self.notify_fd, 4096)) // 8
        except BlockingIOError:
            return 0


class Capturing(RingReader):
    """A capture of some ports of a state block, or of all; serials are 1 and the index."""

    def __init__(
        self,
        state: State,
        indices: Iterable[int] | None = None,
        *,
        snap_len: int = 1 << 17,
        whole: bool = False,
        code: bytes = b"",
        ring_len: int = 1 << 18,
        hold: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        for index in range(state.n_ports):
            state.ports[index].serial = index + 1
        self.ring = CaptureRing(state, hold, indices, ring_len, code)
        self.ring.start(snap_len, whole)
        super().__init__(self.ring.fd, self.ring.notify_fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.memory.close()
        self.ring.close()
