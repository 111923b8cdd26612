"""The watch over the worker, which costs nothing while it sleeps."""

import asyncio
import os
import select
import time
from collections.abc import Callable
from contextlib import closing

import pytest

from vionet.daemon import watch
from vionet.daemon.watch import Watch
from vionet.fabric import Fabric
from vionet.vhost_user.peer import Cause

PATIENCE_S = 20.0


def until(true: Callable[[], bool]) -> None:
    """Ask again and again, for a bounded time."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline


def noticed(fabric: Fabric, patience_s: float) -> bool:
    """Whether the worker has written its notice, which is then taken."""
    found = bool(select.select([fabric.notice_fd], [], [], patience_s)[0])
    if found:
        os.eventfd_read(fabric.notice_fd)
    return found


def test_worker_that_wakes_unwatched_says_so() -> None:
    """Two looks find it asleep; when it wakes after that it writes its notice, once."""
    with closing(Fabric()) as fabric:
        fabric.start()

        def woken() -> bool:
            until(fabric.resting)  # or kept from its core, which looks the same so soon
            noticed(fabric, 0)
            fabric.set_reserved(0)  # which wakes the worker
            return noticed(fabric, 0.2)

        until(woken)
        fabric.set_reserved(0)
        fabric.set_reserved(0)
        assert not noticed(fabric, 0)
        assert not fabric.resting()
        until(fabric.resting)


class Counted:
    """A fabric that counts looks and rests at the one that is asked for."""

    def __init__(self, rests_at: int) -> None:
        self.looks = 0
        self.rests_at = rests_at

    def stuck(self) -> str | None:
        """Its only port, at the second look."""
        self.looks += 1
        return "a" if self.looks == 2 else None

    def resting(self) -> bool:
        """At one look."""
        return self.looks == self.rests_at


class Dropped:
    """A session that notes why it was ended."""

    ended = ("", "")

    def drop(self, reason: str, cause: Cause) -> None:
        """End it."""
        self.ended = reason, cause


class Looked:
    """Drops that count looks."""

    looks = 0

    def look(self) -> None:
        """One more."""
        self.looks += 1


def test_watch_ends_with_rest_and_begins_with_a_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks until the fabric rests and then has no timer; a notice begins it anew."""
    monkeypatch.setattr(watch, "WATCH_S", 0.001)

    async def watched() -> None:
        fabric, session, drops = Counted(3), Dropped(), Looked()
        looking = Watch(fabric, {"a": session}, drops)
        while looking._timer is not None:
            await asyncio.sleep(0.001)
        assert 3 == fabric.looks
        assert ("writing its call descriptor blocks", Cause.STUCK) == session.ended
        assert 3 == drops.looks
        fabric.rests_at = 5
        looking.look()
        looking.look()
        while looking._timer is not None:
            await asyncio.sleep(0.001)
        assert 5 == fabric.looks

    asyncio.run(asyncio.wait_for(watched(), PATIENCE_S))
