"""A network namespace of the site's own: its holder, found at the keeper or started, and watched.

How it works: the holder (`vm.holder`) is a child of the keeper.  When it dies, all in the namespace
is nobody's any more, and whoever wants it is told, to have another one made.

Invariants: one holder at most, which forwards as asked; after `leave` nobody is told.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import structlog

from vionet.daemon.child import end_child, have_child
from vionet.daemon.control import RequestError
from vionet.vm import holder
from vionet.vm.keeping import Keeper

NAMESPACE: Final = ":namespace"  # the child's name; machines' have no colon
HOLDER_S: Final = 10.0
_STEP_S: Final = 0.02


class OwnNamespace:
    """None yet; `path` is its path while it is there."""

    def __init__(self, keeper: Keeper, log: Path, died: Callable[[], Awaitable[None]]) -> None:
        """What the holder says goes to `log`; `died` is awaited when it has died."""
        self.path: str | None = None
        self._keeper, self._output, self._died = keeper, log, died
        self._forwards = False
        self._watching: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("vionet.daemon")

    def fits(self, *, forward: bool) -> bool:
        """Whether there is one that forwards so."""
        return self.path is not None and self._forwards is forward

    async def have(self, *, forward: bool) -> None:
        """Find or start one; of another kind it is replaced."""
        self.leave()
        self.path, self._forwards = None, forward
        argv, keeper = holder.holder_command(forward=forward), self._keeper
        pid = await have_child(keeper, NAMESPACE, argv, self._output)
        try:
            async with asyncio.timeout(HOLDER_S):
                while not holder.ready(pid):
                    if NAMESPACE not in keeper.children:
                        said = self._output.read_text(errors="replace").strip().splitlines()
                        raise RequestError(said[-1] if said else "the namespace's holder ended")
                    await asyncio.sleep(_STEP_S)
        except TimeoutError:
            await end_child(keeper, NAMESPACE)
            problem = f"the namespace's holder is not ready within {HOLDER_S:.0f} s"
            raise RequestError(f"{problem}; see {self._output}") from None
        enter = " ".join(holder.enter_command(pid))
        self._log.info("hosts' ends are in a namespace of our own", enter=enter)
        self.path = holder.network_namespace(pid)
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    def leave(self) -> None:
        """Watch it no more."""
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None

    async def _watch(self) -> None:
        status = await self._keeper.ended(NAMESPACE)
        self._log.error("the namespace's holder died, all in it is made anew", status=status)
        self.path = None
        await self._died()
