"""A program that vionet keeps running beside itself: passt, a namespace's holder.

How it works: the keeper runs it.  One that was running already, with the same command line, is gone
on with.  One that ends is started again, after a second at first and a minute at last; that is said
each time, so log lines are as rare.
"""

import asyncio
import contextlib
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog

from vionet.vm.keeping import Keeper, KeeperError
from vionet.vm.run import last_line

FIRST_S: Final = 1.0
LAST_S: Final = 60.0
CALM_S: Final = 60.0  # who ran so long may be started at once again
GRACE_S: Final = 5.0  # from SIGTERM to SIGKILL


async def end_child(keeper: Keeper, name: str) -> None:
    """End a child of the keeper, if it runs."""
    if name in keeper.children:
        await keeper.signal(name, signal.SIGTERM)
        try:
            async with asyncio.timeout(GRACE_S):
                await keeper.ended(name)
        except TimeoutError:
            await keeper.signal(name, signal.SIGKILL)
            await keeper.ended(name)


async def have_child(keeper: Keeper, name: str, argv: Sequence[str], log: Path) -> int:
    """Have a child with this command line, found or started.  *returns* its process id."""
    child = keeper.children.get(name)
    if child is not None and list(child.argv) != list(argv):
        await end_child(keeper, name)
        child = None
    return child.pid if child is not None else await keeper.spawn(name, argv, log)


class Supervised:
    """One program under the keeper."""

    def __init__(self, keeper: Keeper, name: str, argv: Sequence[str], log: Path) -> None:
        self._keeper, self.name, self.argv, self._output = keeper, name, list(argv), log
        self._log = structlog.get_logger("vionet.daemon").bind(program=name)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Have it run.  *returns* its process id."""
        pid = await have_child(self._keeper, self.name, self.argv, self._output)
        self._task = asyncio.get_running_loop().create_task(self._watch())
        return pid

    async def stop(self) -> None:
        """End it."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await end_child(self._keeper, self.name)

    def leave(self) -> None:
        """Watch it no more; it goes on."""
        if self._task is not None:
            self._task.cancel()

    async def _watch(self) -> None:
        loop, pause_s = asyncio.get_running_loop(), FIRST_S
        while True:
            began = loop.time()
            status = await self._keeper.ended(self.name)
            if loop.time() - began > CALM_S:
                pause_s = FIRST_S
            said = {"said": text} if (text := last_line(self._output)) else {}
            self._log.warning(
                "program ended, is started again", status=status, again_in_s=pause_s, **said
            )
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_S)
            with contextlib.suppress(KeeperError):
                await self._keeper.spawn(self.name, self.argv, self._output)
