"""Looking at a fabric once a second while it works: at a worker that hangs in the call descriptor
of a front-end, whose session is then ended, and at what was dropped.

How it works: a worker that wakes while nobody watches writes its notice, and who has slept for two
looks is left alone.  So a fabric without traffic wakes for nothing.
"""

import asyncio
from collections.abc import Mapping
from typing import Final, Protocol

from vionet.vhost_user.peer import Cause

WATCH_S: Final = 1.0  # how long a front-end may keep the worker waiting, at least


class Watched(Protocol):
    """A fabric."""

    def stuck(self) -> str | None:
        """The name of the port that kept the worker waiting since the last call, now freed."""

    def resting(self) -> bool:
        """Whether it sleeps, and will say when it wakes."""


class Session(Protocol):
    """What can be ended."""

    def drop(self, reason: str, cause: Cause) -> None:
        """End it."""


class Drops(Protocol):
    """What tells people of drops (`daemon.drops`)."""

    def look(self) -> None:
        """At all counters."""


class Watch:
    """One fabric under watch, on the running loop."""

    def __init__(self, fabric: Watched, sessions: Mapping[str, Session], drops: Drops) -> None:
        """Begin to watch; `sessions` by the names of their ports."""
        self._fabric, self._sessions, self._drops = fabric, sessions, drops
        self._timer: asyncio.TimerHandle | None = None
        self.look()

    def look(self) -> None:
        """Watch from now on; to be called when the worker has written its notice."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WATCH_S, self._look)

    def close(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        name = self._fabric.stuck()
        if name is not None and name in self._sessions:
            self._sessions[name].drop("writing its call descriptor blocks", Cause.STUCK)
        self._drops.look()
        if not self._fabric.resting():
            self.look()
