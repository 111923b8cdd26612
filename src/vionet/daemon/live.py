"""One fabric as it runs: its state block and workers, its ports, their sockets, who watches it.

How it works: `open` plugs the ports in, opens the sockets of guests and streams and starts the
workers; from then on the fabric's notices are told and its front-ends are watched.  `close` undoes
all of it: sessions first (the worker has let go of each ring when its session ends, every finished
frame published), then workers, taps and sockets.

Invariants: after `close`, or an `open` that raised, nothing is left.  One thread, one loop.
"""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import structlog

from vionet.config import FabricConfig
from vionet.daemon.notice import Notices
from vionet.daemon.plug import Opener, Plugs, Unowned, open_port
from vionet.daemon.running import Running
from vionet.daemon.watch import Watch


class FabricError(Exception):
    """Why a fabric cannot run, and how to mend it; one line."""


class Live:
    """One fabric, on the running loop."""

    def __init__(self, config: FabricConfig, rings: Path, opener: Opener = open_port) -> None:
        """Nothing runs yet; the positions of packed rings outlive this process in `rings`."""
        from vionet.engine.layout import PORTS_MAX
        from vionet.fabric import Fabric

        if len(config.ports) > PORTS_MAX:
            problem = f"{len(config.ports)} ports; a fabric has at most {PORTS_MAX}, use two"
            raise FabricError(f"{config.name}: {problem}")
        self._log = structlog.get_logger("vionet.daemon").bind(fabric=config.name)
        self._fabric = Fabric(config.kind, config.name, config.workers, config.cores)
        self._stack = AsyncExitStack()
        self._stack.callback(lambda: self._fabric.positions.close())
        self._stack.callback(self._fabric.close)
        self.plugs = Plugs(self._fabric, rings, self._log, opener)
        self._stack.push_async_callback(self.plugs.close)
        self.running = Running(config, self.plugs)
        self._stack.push_async_callback(self.running.close)

    async def open(self, found: Mapping[str, Unowned]) -> None:
        """Plug in what was `found` open and all others, and begin to forward."""
        config = self.running.config
        try:
            self.plugs.plug_in(config, found)
            for port in config.ports:
                self.plugs.serve(port)
            self._fabric.start()
            watch = Watch(self._fabric, self.plugs.served, self.plugs.drops)
            self._stack.callback(watch.close)
            notices = Notices(
                self._log, self._fabric.notice_fd, self.plugs.guests, [watch, self.plugs]
            )
            loop = asyncio.get_running_loop()
            loop.add_reader(self._fabric.notice_fd, notices.tell)
            self._stack.callback(loop.remove_reader, self._fabric.notice_fd)
        except BaseException:
            await self.close()
            raise

    @property
    def alive(self) -> bool:
        """Whether its workers are."""
        return self._fabric.alive

    async def close(self) -> None:
        """Undo all of it."""
        await self._stack.aclose()
