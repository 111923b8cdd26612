"""Drops in the log: the first of each reason at a port at once, then at most one line a minute.

How it works: `look` compares each port's drop counters with what was said.  It is called once a
second while a worker is awake (`daemon.watch`), so nothing wakes for it while nothing passes.  What
may not be said yet has one timer, which is there only as long as there is something unsaid.

Invariants: of one port and reason at most one line a minute, whatever its guest does; a last line
when the port goes.  Every drop that was counted is said, with the total beside it.

Threads: the control plane's.  Counters are read while the workers go on.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import structlog

from vionet.spec.counter import counters, plain

QUIET_S: Final = 60.0  # between two lines about one reason at one port
_USUAL: Final = ("normal", "choice")  # kinds of drops that nothing is wrong with


class Counted(Protocol):
    """A port."""

    def drops(self) -> dict[str, int]:
        """By reason."""


class DropLog:
    """The drops of one fabric's ports."""

    def __init__(
        self,
        log: structlog.stdlib.BoundLogger,
        ports: Mapping[str, Counted],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ports` by name, as they are plugged in at each look."""
        self._log, self._ports, self._clock = log, ports, clock
        self._said: dict[tuple[str, str], tuple[int, float]] = {}  # how many, and when
        self._timer: asyncio.TimerHandle | None = None

    def look(self) -> None:
        """Say what is new, and see to it that the rest is said in time."""
        due = [self._tell(name, last=False) for name in self._ports]
        wait_s = min(filter(None, due), default=None)
        if wait_s is None:
            self._rest()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._look_again)

    def end(self, name: str) -> None:
        """A port is about to go: say what was not said, and forget it."""
        self._tell(name, last=True)
        self._said = {key: said for key, said in self._said.items() if key[0] != name}

    def close(self) -> None:
        """Say what was not said, of all ports; look no more."""
        self._rest()
        for name in self._ports:
            self.end(name)

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_again(self) -> None:
        self._timer = None
        self.look()

    def _tell(self, name: str, *, last: bool) -> float | None:
        """*returns* in how many seconds there is more to say; None: there is nothing."""
        now, soonest = self._clock(), None
        for reason, total in self._ports[name].drops().items():
            if not total:  # as nearly all are
                continue
            said, when = self._said.get((name, reason), (0, now - QUIET_S))
            if total == said:
                continue
            wait_s = when + QUIET_S - now
            if wait_s > 0 and not last:
                soonest = min(wait_s, soonest or wait_s)
                continue
            self._said[name, reason] = total, now
            self._write(name, reason, total - said, total)
        return soonest

    def _write(self, name: str, reason: str, count: int, total: int) -> None:
        known = counters()[reason]
        level = self._log.info if known.kind in _USUAL else self._log.warning
        level(
            "frames dropped",
            port=name,
            reason=reason,
            count=count,
            total=total,
            meaning=plain(known.what),
            mend=f"vionet explain {reason}",
        )
