"""An epoll instance whose events carry what they mean, for a compiled loop to read.

Python's own epoll object puts the descriptor's number into the event; the worker wants the port
and the ring.  All is edge-triggered: eventfds are never read, a tap is read until it is empty.
"""

import ctypes
import os
import platform
import select
from typing import Final

from vionet.engine.event import EVENT_TAP, EVENT_WAKE

_EPOLL_CTL_ADD: Final = 1
_EPOLL_CTL_DEL: Final = 2
_libc: Final = ctypes.CDLL(None, use_errno=True)


class _Event(ctypes.Structure):
    # struct epoll_event is packed on x86-64 only.
    _pack_ = 1 if platform.machine() == "x86_64" else 8
    _fields_ = (("events", ctypes.c_uint32), ("data", ctypes.c_uint64))


class Poll:
    """What a worker sleeps on; every method is the control plane's."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.fd = self._epoll.fileno()

    def add_ring(self, fd: int, port: int, ring: int) -> None:
        """A kick eventfd; an event at once if it is readable already."""
        self._control(_EPOLL_CTL_ADD, fd, port << 8 | ring)

    def add_tap(self, fd: int, port: int) -> None:
        """A tap, an interface, a stream."""
        self._control(_EPOLL_CTL_ADD, fd, port << 8 | EVENT_TAP)

    def add_wake(self, fd: int) -> None:
        """The eventfd by which the control plane gets the worker's attention."""
        self._control(_EPOLL_CTL_ADD, fd, EVENT_WAKE)

    def remove(self, fd: int) -> None:
        """Forget a descriptor; it must still be open."""
        self._control(_EPOLL_CTL_DEL, fd, 0)

    def close(self) -> None:
        """Close the instance."""
        self._epoll.close()

    def _control(self, operation: int, fd: int, data: int) -> None:
        event = _Event(select.EPOLLIN | select.EPOLLET, data)
        if _libc.epoll_ctl(self.fd, operation, fd, ctypes.byref(event)) < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))


class Watched:
    """One port's descriptors: in its worker's instance, and in the one that all workers look at
    (`engine.kick`), where there is one, the kicks of its receive rings."""

    def __init__(self, poll: Poll, first: Poll | None) -> None:
        self._poll = poll
        self._first = first
        self._in_first: set[int] = set()

    def add_ring(self, fd: int, port: int, ring: int) -> None:
        """A kick eventfd; an event at once if it is readable already."""
        self._poll.add_ring(fd, port, ring)
        if self._first is not None and not ring & 1:
            self._first.add_ring(fd, port, ring)
            self._in_first.add(fd)

    def add_tap(self, fd: int, port: int) -> None:
        """A tap, an interface, a stream."""
        self._poll.add_tap(fd, port)

    def remove(self, fd: int) -> None:
        """Forget a descriptor; it must still be open."""
        self._poll.remove(fd)
        if self._first is not None and fd in self._in_first:
            self._first.remove(fd)
            self._in_first.remove(fd)
