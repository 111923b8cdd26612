"""A capture from its begin to its end: the ring, what is made of it, and who may end it.

How it works: what has come is written; when the ring is empty the reader lingers for some
milliseconds, so that vionet need not wake it for each frame under load, and where nothing came it
sleeps.  It ends with a
signal, the time, the number of packets, the size, with vionet, or when nobody reads any more; what
is in the ring by then is written, and the file finished.  Who reads a pipe has a moment for that;
who does not read by then gets no more.

Invariants: whatever ends it, a regular file is complete.  What cannot be written because a pipe's
reader is slow stays in the ring and is lost there, never in vionet.
"""

import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from vionet.capture.output import SIZE_MIN, Lines, Output
from vionet.capture.reader import RECORD_MAX, Reader

LINGER_S: Final = 0.003
SAY_S: Final = 2.0  # between statistics
DRAIN_S: Final = 1.0  # for a pipe's reader to take what is in the ring at the end
AGAIN_S: Final = 0.1


class _Ended(Exception):
    """Who ought to read did not, after a signal."""


class Session:
    """One capture."""

    def __init__(self, reader: Reader, output: Output | Lines, peer_fd: int) -> None:
        """It lasts as long as the other end of `peer_fd`."""
        self._reader, self._output, self._peer_fd = reader, output, peer_fd
        self._over = self._writing = False
        self._behind = False  # there is more in the ring than was written at once
        self.cut = False  # the file ends in the middle

    def run(
        self, duration_s: float | None = None, begun: Callable[[], None] = lambda: None
    ) -> None:
        """Capture until something ends it; a signal can when `begun` is called."""
        with suppress(BrokenPipeError, _Ended), self._signals() as wake_fd:
            begun()
            self._written(self._output.begin)
            self._go_on(wake_fd, duration_s)
            head = self._reader.head
            while not self._reader.has_read(head) and self._turn():
                pass
            self._written(self._output.end)
        self._output.close()

    def _go_on(self, wake_fd: int, duration_s: float | None) -> None:
        begun = said = time.monotonic()
        end = begun + (duration_s if duration_s is not None else 1e9)
        while not self._over:
            busy = self._turn()
            now = time.monotonic()
            if now >= end or self._reader.enough or self._reader.broken:
                return
            if now - said >= SAY_S:
                said = now
                self._written(self._output.say)
            if self._behind:
                continue
            if busy:
                time.sleep(LINGER_S)
            elif self._peer_fd in self._reader.wait(
                [self._peer_fd, wake_fd], min(end - now, SAY_S)
            ):
                return

    def _turn(self) -> bool:
        """Write what has come; *returns* whether anything has."""
        reader, output = self._reader, self._output
        blocks, more = reader.blocks(output.room(reader))
        if not blocks and more:
            if output.turn_over(reader):
                return True
            if not output.oversize:
                self._over = True
                return False
            room = max(output.room(reader), SIZE_MIN)
            while not blocks and more and room < RECORD_MAX:
                room *= 2
                blocks, more = reader.blocks(room)
        self._behind = more and bool(blocks)
        if not blocks:
            return False
        self._written(lambda reader: output.write(reader, blocks))
        return True

    def _written(self, write: Callable[[Reader], None]) -> None:
        self._writing = self._output.blocking
        try:
            write(self._reader)
        finally:
            self._writing = False

    @contextmanager
    def _signals(self) -> Iterator[int]:
        """SIGINT and SIGTERM end the capture, a second one at once; *yields* what is readable
        then."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        numbers = signal.SIGINT, signal.SIGTERM, signal.SIGALRM
        before = {number: signal.signal(number, self._end) for number in numbers}
        wake_fd = signal.set_wakeup_fd(theirs.fileno())
        try:
            with ours, theirs:
                yield ours.fileno()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.set_wakeup_fd(wake_fd)
            for number, action in before.items():
                signal.signal(number, action)

    def _end(self, number: int, frame: object) -> None:
        if self._over and self._writing:
            self.cut = True
            raise _Ended
        if not self._over:
            # Again and again, because it may come just before there is something to write.
            signal.setitimer(signal.ITIMER_REAL, DRAIN_S, AGAIN_S)
        self._over = True
