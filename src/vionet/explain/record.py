"""The records of a capture ring, one by one, as objects: for few frames, not for a file of them.

A record is a namespace with the fields of `engine.layout.Seen`, and `data`, the bytes of the frame.
Trust: the engine wrote them.  A length that cannot be ends the reading all the same.
"""

import mmap
import os
import select
import time
from base64 import b64encode
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np

from vionet.daemon.control import connected
from vionet.engine.capture import expect
from vionet.engine.layout import FRAME_MAX, RING_HEAD, RING_PAGE, RING_TAIL, Seen
from vionet.jit.record import address_of, dtype_of

RING_LEN: Final = 1 << 20  # of records, one of which is wanted
_SEEN: Final = dtype_of(Seen)


def next_record(
    path: Path, fabric: str, port: str, code: bytes, timeout_s: float
) -> SimpleNamespace | None:
    """The next frame that a port of a running fabric sends or gets and that the filter wants."""
    fds: list[int] = []
    asked: dict[str, Any] = {
        "fabric": fabric, "port": port, "snap": FRAME_MAX, "whole": True, "ring": RING_LEN,
        "code": b64encode(code).decode(),
    }  # fmt: skip
    try:
        with connected(path, "capture", fds=fds, **asked) as (client, _, _):
            records, poll = Records(fds[0]), select.poll()
            for fd in (fds[1], client.fileno()):
                poll.register(fd, select.POLLIN)
            until = time.monotonic() + timeout_s
            while not (found := records.drain()):
                left = until - time.monotonic()
                ready = dict(poll.poll(left * 1000)) if left > 0 and records.wait() else {}
                if left <= 0 or client.fileno() in ready:
                    return None
                if fds[1] in ready:
                    os.read(fds[1], 4096)
            return found[0]
    finally:
        for fd in fds:
            os.close(fd)


class Records:
    """One ring's reader; the descriptor stays the caller's."""

    def __init__(self, fd: int) -> None:
        self._map = np.frombuffer(mmap.mmap(fd, 0), np.uint8)
        self._page = self._map[:RING_PAGE].view(np.int64)
        self._ring = self._map[RING_PAGE:]
        self._tail = int(self._page[RING_TAIL // 8])

    def wait(self) -> bool:
        """Have the engine tell of the next record; false where one is here already."""
        return not expect(address_of(self._page), self._tail)

    def drain(self) -> list[SimpleNamespace]:
        """All records that have come; they are read."""
        found: list[SimpleNamespace] = []
        while self._tail != int(self._page[RING_HEAD // 8]):
            at = self._tail & self._ring.size - 1
            length = int(self._ring[at : at + 8].view(np.int64)[0])
            if length == 0:
                self._tail += self._ring.size - at
                continue
            if not _SEEN.itemsize <= length <= self._ring.size - at:
                raise ValueError(f"a record of {length} bytes at {at}")
            found.append(self._record(self._ring[at : at + length]))
            self._tail += length
        self._page[RING_TAIL // 8] = self._tail
        return found

    def _record(self, raw: Any) -> SimpleNamespace:
        names: tuple[str, ...] = _SEEN.names or ()
        values = raw[: _SEEN.itemsize].view(_SEEN)[0].tolist()
        one = SimpleNamespace(**dict(zip(names, values, strict=True)))
        one.data = raw[_SEEN.itemsize :].tobytes()[: one.cap_len]
        return one
