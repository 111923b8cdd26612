"""The other end of a Unix socket: finding it again and again, and whether it is still there.

For front-ends (`backend`) and for the peers of streams (`ports.stream`), which listen where vionet
was told to connect.
"""

import asyncio
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from vionet.vhost_user.journal import Journal

BACKOFF_MIN: Final = 0.1  # seconds between attempts to connect; doubled up to the maximum
BACKOFF_MAX: Final = 2.0


async def keep_connecting(
    path: Path, whom: str, journal: Journal, serve: Callable[[socket.socket], asyncio.Event]
) -> None:
    """Connect, wait for the end of the session, connect again.

    `serve` takes each connected socket and returns what is set when its session is over; `whom`
    says in the log who is waited for.
    """
    loop = asyncio.get_running_loop()
    backoff, first = BACKOFF_MIN, True
    while True:
        arrival = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            await loop.sock_connect(arrival, str(path))
        except OSError as error:
            arrival.close()
            if first:
                journal.write("info", f"waiting for a {whom}", path=str(path), reason=str(error))
            first = False
        except BaseException:
            arrival.close()
            raise
        else:
            opened = time.monotonic()
            await serve(arrival).wait()
            first = True
            if time.monotonic() - opened > BACKOFF_MAX:
                backoff = BACKOFF_MIN
        await asyncio.sleep(backoff)
        backoff = min(2 * backoff, BACKOFF_MAX)


def hung_up(connection: socket.socket) -> bool:
    """Whether the other end is gone, whatever it has left to be read."""
    poll = select.poll()
    poll.register(connection, 0)
    return bool(poll.poll(0))
