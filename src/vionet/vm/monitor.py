"""QEMU's monitor (QMP): connected within bounds, asked within bounds, its events told at once.

How it works: `qemu.qmp` speaks the protocol.  Added here are the retries until QEMU listens, the
time limits, and that an event reaches a function when it arrives and is kept nowhere.

Trust: a guest may have taken QEMU over.  What it says is bounded in length, and one that says
nothing, or nonsense, costs its own machine.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Self

from qemu.qmp import ConnectError, Message, QMPClient, QMPError, Runstate

LINE_MAX: Final = 64 << 10  # bytes of an answer or event; ours have a few hundred
ANSWER_S: Final = 20.0  # an emulated machine on a busy host is slow
_STEP_S: Final = 0.02
_CLOSE_S: Final = 2.0

Told = Callable[[str, Mapping[str, Any]], None]  # name of an event, its data


class MonitorError(Exception):
    """QEMU refuses or does not answer: one line."""


class Monitor:
    """A connection to one QEMU."""

    def __init__(self, client: QMPClient) -> None:
        """`connect` makes one."""
        self._client = client

    @classmethod
    async def connect(cls, path: Path, told: Told, wait_s: float) -> Self:
        """Connect, as soon as QEMU listens; `MonitorError` when that takes too long."""
        client = QMPClient(readbuflen=LINE_MAX)
        client.logger = logging.getLogger("qemu.qmp.quiet")  # its errors are raised as well
        client.logger.setLevel(logging.CRITICAL + 1)

        def hear(event: Message) -> bool:
            name, data = event.get("event"), event.get("data")
            told(str(name), data if isinstance(data, dict) else {})
            return False  # what the library keeps it keeps for ever

        client.events.event_filter = hear
        try:
            async with asyncio.timeout(wait_s):
                await client.connect(await _reach(path))
        except TimeoutError:
            raise MonitorError(f"no answer on {path} within {wait_s:.0f} s") from None
        except (ConnectError, OSError) as error:
            raise MonitorError(f"{path}: {error}") from None
        return cls(client)

    async def execute(self, command: str) -> Mapping[str, Any]:
        """Have a command done; its answer."""
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await self._client.execute(command)
        except TimeoutError:
            raise MonitorError(f"{command}: QEMU does not answer for {ANSWER_S:.0f} s") from None
        except QMPError as error:
            raise MonitorError(f"{command}: {error}") from None
        return answer if isinstance(answer, dict) else {}

    async def gone(self) -> None:
        """Wait until QEMU has closed the connection; then all events have been told."""
        while self._client.runstate is Runstate.RUNNING:
            await self._client.runstate_changed()

    async def close(self) -> None:
        """Disconnect."""
        with contextlib.suppress(Exception):  # it tells what ended the connection
            async with asyncio.timeout(_CLOSE_S):
                await self._client.disconnect()


async def _reach(path: Path) -> socket.socket:
    """A connection, tried until there is one."""
    while True:
        attempt = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            attempt.connect(str(path))
            return attempt
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
            attempt.close()
        except BaseException:
            attempt.close()
            raise
        await asyncio.sleep(_STEP_S)
