"""The page's process: one listening socket on loopback, uvicorn on it, until a signal.

How it works: uvicorn gets the socket ready made (`daemon.endpoint`) and leaves the signals alone
(`daemon.foreground` has them).  At the end streams are cut off.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Final

import uvicorn

from vionet.daemon.foreground import Ending, foreground
from vionet.web.app import Web

CONNECTIONS_MAX: Final = 128
HEAD_LEN_MAX: Final = 16384  # bytes of a request's head
IDLE_S: Final = 5
GRACE_S: Final = 1


class _Server(uvicorn.Server):
    """Uvicorn without its signal handlers, which says when it has started."""

    def __init__(self, web: Web, started: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                web.app,
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                limit_concurrency=CONNECTIONS_MAX,
                h11_max_incomplete_event_size=HEAD_LEN_MAX,
                timeout_keep_alive=IDLE_S,
                timeout_graceful_shutdown=GRACE_S,
            )
        )
        self._says = started

    capture_signals = contextlib.nullcontext  # type: ignore[assignment]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to answer."""
        await super().startup(sockets)
        self._says()


def serve(listening: socket.socket, make: Callable[[], Web], ready: Callable[[], None]) -> None:
    """Answer until a signal; `ready` is called when it begins."""

    async def run() -> None:
        web = make()
        server = _Server(web, ready)
        async with Ending("web") as ending:
            serving = asyncio.create_task(server.serve([listening]))
            serving.add_done_callback(lambda done: ending.end())
            await ending.wait()
            web.feed.end()
            server.should_exit = True
            await serving

    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # the rest is for its authors
    with listening, foreground({}):
        asyncio.run(run())
