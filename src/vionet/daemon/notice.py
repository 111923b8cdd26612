"""What the worker wants people to know: rings that their driver broke, each said once; and what
it leaves for others to look at: control queues, streams whose session is over."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import structlog

from vionet.vhost_user.budget import Budget

LINES_BURST: Final = 30  # log lines; a guest that breaks rings all day must not fill a disk
LINES_PER_SECOND: Final = 1 / 60


class Breakable(Protocol):
    """A port whose driver may break a ring."""

    @property
    def broken_rings(self) -> Sequence[str]:
        """By the specification's names."""


class Looking(Protocol):
    """A part of the control plane that looks at what the worker left for it."""

    def look(self) -> None:
        """Cheap where there is nothing."""


class Notices:
    """Called when the fabric's notice descriptor is readable."""

    def __init__(
        self,
        log: structlog.stdlib.BoundLogger,
        notice_fd: int,
        guests: Mapping[str, Breakable],
        looking: Sequence[Looking],
    ) -> None:
        self._log = log
        self._notice_fd = notice_fd
        self._guests = guests
        self._looking = looking
        self._known: set[tuple[str, str]] = set()
        self._budget = Budget(LINES_BURST, LINES_PER_SECOND)

    def tell(self) -> None:
        """Log what is new."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._notice_fd)
        for one in self._looking:
            one.look()
        broken = {
            (name, ring) for name, guest in self._guests.items() for ring in guest.broken_rings
        }
        for name, ring in sorted(broken - self._known):
            if self._budget.take():
                self._log.warning("the driver broke its ring", port=name, ring=ring)
        self._known = broken
