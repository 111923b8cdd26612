"""Asking a driver to announce itself after its link has come up.

How it works: Linux sends the announcement, acknowledges it, and only then notices its carrier; what
it has sent until then has reached nobody.  So it is asked once with the change of the link, and
again a while after each acknowledgement, as often and as late as QEMU does after a migration.

Invariants: a driver that does not acknowledge is not asked again; nothing waits after the last
round, after `stop`, or when the session is over.
"""

from collections.abc import Callable
from typing import Final

from vionet.vhost_user.device import FrontEnd

ROUNDS_S: Final = (0.05, 0.15, 0.25, 0.35, 0.45)  # each after the acknowledgement before


class Announcement:
    """How far one driver has come with it."""

    def __init__(self, ask: Callable[[], None]) -> None:
        """`ask` sets the bit and interrupts the driver."""
        self._ask = ask
        self._done = len(ROUNDS_S)
        self._cancel: Callable[[], None] | None = None

    def begin(self) -> None:
        """Ask at once, and so many times more."""
        self.stop()
        self._done = 0
        self._ask()

    def stop(self) -> None:
        """Ask no more."""
        self._done = len(ROUNDS_S)
        if self._cancel is not None:
            self._cancel()
            self._cancel = None

    def go_on(self, front_end: FrontEnd) -> None:
        """The driver has nothing to acknowledge: the next round comes in a while, if any is left.

        To be called as often as one likes.
        """
        if self._cancel is None and self._done < len(ROUNDS_S):
            self._cancel = front_end.call_later(ROUNDS_S[self._done], self._next)

    def _next(self) -> None:
        self._cancel = None
        self._done += 1
        self._ask()
