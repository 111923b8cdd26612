"""The service behind one local interface: reads the guest's requests, writes the answers.

How it works: `end` is one end of a socket pair; whatever the engine diverts comes out of it, each
frame behind its length in four bytes, highest first, and answers go back the same way.  What to
answer is `services.answer`'s business.  An advertisement goes out at the start and then a few times
within a router's lifetime: one timer, every five hours; without IPv6 there is none.

Invariants: nothing here waits.  An answer that finds no room in the socket is dropped and counted.
What was begun is finished, as the stream's records require.  After `close` no descriptor, timer or
reader is left.

Trust: the other end of the socket is our engine; a length that no frame has is our own mistake, and
ends the service.  The frames are a guest's: a budget bounds the work that they cause.  Beyond it
the socket is not read for a while; it fills up, and the engine drops and counts.
"""

import asyncio
import socket
from collections import Counter
from collections.abc import Callable
from typing import Final

from vionet.services import ndp
from vionet.services.answer import answer
from vionet.services.frame import Reason
from vionet.services.lease import Lease
from vionet.vhost_user.budget import Budget
from vionet.vhost_user.journal import Journal

ANSWERED: Final = "answered"
DROPPED: Final = "dropped"
PREFIX_LEN: Final = 4
RECORD_LEN_MAX: Final = 1 << 17  # more than that of the largest frame
READ_LEN: Final = 65536
FRAMES_BURST: Final = 60  # a boot by network with all its clients takes about 30
FRAMES_PER_SECOND: Final = 10.0
PAUSE_S: Final = 1.0
ADVERTISE_S: Final = 5 * 3600.0  # three in a router's lifetime


class Responder:
    """Answers what one guest asks its network; `lease` may be replaced, then `advertise`."""

    def __init__(self, end: socket.socket, lease: Lease, name: str, fabric: str = "") -> None:
        """Serve at `end`, which becomes ours; `name` and `fabric` are in the log."""
        end.setblocking(False)
        self.lease = lease
        self.counts: Counter[str] = Counter()  # answered, dropped, and the reasons for silence
        self._end = end
        self._journal = Journal(name, fabric, "vionet.service")
        self._budget = Budget(FRAMES_BURST, FRAMES_PER_SECOND)
        self._received = bytearray()
        self._unsent = b""
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def start(self) -> None:
        """Answer from now on."""
        self._serve()
        self.advertise()

    async def close(self) -> None:
        """Answer no more."""
        for timer in self._timers.values():
            timer.cancel()
        if self._end.fileno() >= 0:
            self._loop.remove_reader(self._end)
            self._end.close()

    def advertise(self) -> None:
        """Tell the guest about IPv6 unasked: now, and again before the router's lifetime ends."""
        if self.lease.address6 is not None:
            self._write(ndp.advertisement(self.lease))
            self._after(ADVERTISE_S, self.advertise)

    def _read(self) -> None:
        try:
            received = self._end.recv(READ_LEN)
        except BlockingIOError:
            return
        except OSError:
            received = b""  # the port is gone with what we have not taken of it
        self._received += received
        if received:
            self._serve()
        else:
            self._loop.remove_reader(self._end)

    def _serve(self) -> None:
        """Answer what was read and go on reading; beyond the budget, after a pause."""
        while (end := self._record_end()) <= len(self._received):
            if not self._budget.take():
                self._loop.remove_reader(self._end)
                self._after(PAUSE_S, self._serve)
                return
            frame = bytes(self._received[PREFIX_LEN:end])
            del self._received[:end]
            self._answer(frame)
        self._loop.add_reader(self._end, self._read)

    def _record_end(self) -> int:
        """Where the first record ends, as far as one can tell."""
        if len(self._received) < PREFIX_LEN:
            return PREFIX_LEN
        length = int.from_bytes(self._received[:PREFIX_LEN])
        assert length <= RECORD_LEN_MAX, "the engine writes frames"
        return PREFIX_LEN + length

    def _answer(self, frame: bytes) -> None:
        reply = answer(frame, self.lease)
        if isinstance(reply, Reason):
            self.counts[reply] += 1
            return
        if self._write(reply):
            self.counts[ANSWERED] += 1
            if self.counts[ANSWERED] == 1:
                self._journal.write("info", "the guest is told its addresses")

    def _write(self, frame: bytes) -> bool:
        """Send `frame` or drop it; what the socket took only a part of goes first."""
        self._unsent = self._unsent[self._send(self._unsent) :]
        record = len(frame).to_bytes(PREFIX_LEN) + frame
        sent = 0 if self._unsent else self._send(record)
        if not sent:
            self.counts[DROPPED] += 1
            return False
        self._unsent = record[sent:]
        return True

    def _send(self, data: bytes) -> int:
        try:
            return self._end.send(data)
        except OSError:  # full, or the port is gone
            return 0

    def _after(self, delay_s: float, call: Callable[[], None]) -> None:
        if earlier := self._timers.pop(call.__name__, None):
            earlier.cancel()
        self._timers[call.__name__] = self._loop.call_later(delay_s, call)

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()
