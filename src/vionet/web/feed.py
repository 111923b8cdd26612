"""One status sample a second, for all who look; none while nobody does.

How it works: the first viewer starts a task that asks every control socket once a second, at the
same time, on connections that it keeps; the last one ends it.  A sample is made and written as JSON
once, whatever the number of viewers; one who is slow finds the newest, not a queue.

Invariants: at most `VIEWERS_MAX` viewers and `SOCKETS_MAX` sockets; a socket that does not answer
within `ANSWER_S` is named as a problem and delays nobody.
Trust: what comes from a socket is judged by `sample`.
"""

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any, Final

from vionet.daemon.control import ANSWER_MAX, VERSION
from vionet.web.sample import PROSE_LEN_MAX, StrangeError, fabrics_of

VIEWERS_MAX: Final = 16
SOCKETS_MAX: Final = 64
PERIOD_S: Final = 1.0
ANSWER_S: Final = 0.9
_REQUEST: Final = json.dumps({"version": VERSION, "request": "status"}).encode() + b"\n"


class Source:
    """One control socket, and the connection that is kept to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer: asyncio.StreamWriter | None = None
        self._reader: asyncio.StreamReader | None = None

    async def ask(self) -> tuple[list[dict[str, Any]], str]:
        """Its fabrics, and what is wrong with it if anything is."""
        try:
            async with asyncio.timeout(ANSWER_S):
                return await self._fabrics(), ""
        except (FileNotFoundError, ConnectionRefusedError):
            problem = ""  # nobody is there, or a killed process left it behind
        except TimeoutError:
            problem = "does not answer; is that vionet?"
        except (asyncio.IncompleteReadError, ConnectionError):
            problem = ""  # it ended
        except OSError as error:
            problem = f"{error.strerror or error}; ask as the user who started it"
        except (StrangeError, asyncio.LimitOverrunError):
            problem = str(StrangeError())
        self.close()
        return [], problem and f"{self.path.name}: {problem}"

    async def _fabrics(self) -> list[dict[str, Any]]:
        if self._writer is None or self._reader is None:
            self._reader, self._writer = await asyncio.open_unix_connection(
                os.fspath(self.path), limit=ANSWER_MAX
            )
        self._writer.write(_REQUEST)
        fabrics = fabrics_of(await self._reader.readuntil(b"\n"))
        for fabric in fabrics:
            fabric["socket"] = str(self.path)
        return fabrics

    def close(self) -> None:
        """Hang up."""
        if self._writer is not None:
            self._writer.transport.abort()
        self._writer = self._reader = None


class Feed:
    """The samples, while somebody looks."""

    def __init__(self, sockets: Callable[[], Sequence[Path]]) -> None:
        self._sockets = sockets
        self._sources: dict[Path, Source] = {}
        self._news = asyncio.Event()  # a new one for each sample
        self._over = False
        self._task: asyncio.Task[None] | None = None
        self._sample = b""
        self._number = 0
        self.viewers = 0

    async def watch(self) -> AsyncGenerator[bytes]:
        """The newest sample whenever there is a new one; ends at once where too many look."""
        if self.viewers >= VIEWERS_MAX:
            return
        self.viewers += 1
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._poll())
        seen = 0
        try:
            while not self._over:
                if self._number != seen:
                    seen = self._number
                    yield self._sample
                else:
                    await self._news.wait()
        finally:
            self.viewers -= 1
            if not self.viewers:
                self._rest()

    def end(self) -> None:
        """Have all viewers go."""
        self._over = True
        self._news.set()

    def _rest(self) -> None:
        """Ask no more, and forget what was seen."""
        if self._task is not None:
            self._task.cancel()
        self._task, self._number = None, 0
        for source in self._sources.values():
            source.close()
        self._sources.clear()

    async def _poll(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            await self._ask()
            self._number += 1
            shown, self._news = self._news, asyncio.Event()
            shown.set()
            due = max(due + PERIOD_S, loop.time())
            await asyncio.sleep(due - loop.time())

    async def _ask(self) -> None:
        paths = list(self._sockets())[:SOCKETS_MAX]
        for path in self._sources.keys() - paths:
            self._sources.pop(path).close()
        sources = [self._sources.setdefault(path, Source(path)) for path in paths]
        answers = await asyncio.gather(*(source.ask() for source in sources))
        fabrics = [fabric for found, _ in answers for fabric in found]
        problems = [problem[:PROSE_LEN_MAX] for _, problem in answers if problem]
        sample = {"fabrics": fabrics, "problems": problems}
        self._sample = json.dumps(sample, separators=(",", ":")).encode()
