"""The page's process: one listening socket on loopback, uvicorn on it, until a signal.

How it works: the address is judged before anything is bound; uvicorn gets the socket ready made and
leaves the signals alone (`daemon.foreground` has them).  At the end streams are cut off.
"""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Callable
from typing import Final

import uvicorn

from vionet.daemon.foreground import Ending, RunError, foreground
from vionet.web.app import Web

CONNECTIONS_MAX: Final = 128
HEAD_LEN_MAX: Final = 16384  # bytes of a request's head
IDLE_S: Final = 5
GRACE_S: Final = 1


def listen(text: str) -> socket.socket:
    """A socket on HOST:PORT, which must be a loopback address; a `RunError` else."""
    host, _, port = text.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host.removeprefix("[").removesuffix("]")
    try:
        address = ipaddress.ip_address(host)
        number = int(port)
    except ValueError:
        raise RunError(f"{text}: an address and a port are wanted, as 127.0.0.1:8080") from None
    if not address.is_loopback:
        raise RunError(
            f"{text}: others could reach it; listen on 127.0.0.1, and come from elsewhere by"
            " ssh -L 8080:127.0.0.1:8080"
        )
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, number))
        made.listen(CONNECTIONS_MAX)
    except (OSError, OverflowError) as error:
        made.close()
        problem = getattr(error, "strerror", None) or error
        raise RunError(f"{text}: {problem}; give another --listen") from None
    return made


def address_of(listening: socket.socket) -> str:
    """The page's address, without the token."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


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

    with listening, foreground({}):
        asyncio.run(run())
