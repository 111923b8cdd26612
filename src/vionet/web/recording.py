"""A capture that the page asked for: `vionet capture` as a child, its file passed on as it comes.

How it works: the child writes pcapng to a pipe for as long as was asked, and until the file is as
large as it may be.  If it is still there after its time, it is told to end; then it is killed.

Invariants: at most `RECORDINGS_MAX` at once, each with at most `SECONDS_MAX` and `BYTES_MAX`,
whoever reads it, or does not; one whose file is not whole ends with a `RecordingError`; nothing of
a request reaches a shell, or can be taken for an option; whoever starts one closes it, and then no
child is left.
Trust: the request comes from a browser that has the cookie; the filter is judged by the child, by
libpcap and by vionet.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

RECORDINGS_MAX: Final = 2
SECONDS_MAX: Final = 300
BYTES_MAX: Final = 64 << 20
REQUEST_LEN_MAX: Final = 4096
FILTER_LEN_MAX: Final = 1024
_NAME_LEN_MAX: Final = 128
_GRACE_S: Final = 5.0
_START_S: Final = 120.0  # the first capture of a version compiles
_ERROR_LEN_MAX: Final = 2000
_PIECE: Final = 1 << 16


class RecordingError(Exception):
    """Why a capture cannot be had; one line."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for."""

    socket: Path
    fabric: str
    port: str | None  # or all of them
    seconds: int
    expression: str
    as_delivered: bool

    @classmethod
    def parse(cls, body: bytes, sockets: Sequence[Path]) -> "Wanted":
        """From a request's JSON; `sockets` are those that may be asked."""
        try:
            asked = json.loads(body)
            wanted = cls(
                Path(asked["socket"]),
                asked["fabric"],
                asked["port"],
                asked["seconds"],
                asked["filter"],
                asked["as_delivered"],
            )
        except (ValueError, RecursionError, KeyError, TypeError):
            raise RecordingError("not a request for a capture") from None
        if wanted.socket not in sockets:
            raise RecordingError("that fabric does not run any more")
        _want_text("the fabric", wanted.fabric, _NAME_LEN_MAX)
        if wanted.port is not None:
            _want_text("the port", wanted.port, _NAME_LEN_MAX)
        _want_text("the filter", wanted.expression, FILTER_LEN_MAX)
        if type(wanted.seconds) is not int or not 1 <= wanted.seconds <= SECONDS_MAX:
            raise RecordingError(f"seconds: 1 to {SECONDS_MAX}")
        return wanted

    @property
    def argv(self) -> list[str]:
        """The child's command line."""
        return [
            *(sys.executable, "-m", "vionet", "capture", "-q", "-w", "-"),
            f"--max-size={BYTES_MAX}",
            *(f"--control={self.socket}", f"--fabric={self.fabric}", f"--duration={self.seconds}"),
            *([f"--filter={self.expression}"] if self.expression else []),
            *(["--as-delivered"] if self.as_delivered is True else []),
            *([] if self.port is None else ["--", self.port]),
        ]

    @property
    def file_name(self) -> str:
        """What a browser saves it as."""
        return f"vionet-{re.sub(r'[^A-Za-z0-9_-]+', '_', self.port or self.fabric)}.pcapng"


def _want_text(what: str, value: object, most: int) -> None:
    if not isinstance(value, str) or len(value) > most or not value.isprintable():
        raise RecordingError(f"{what}: at most {most} printable characters")


class Recording:
    """One child that captures."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._said = asyncio.create_task(self._listen())
        self._first = b""
        self._end_after(_START_S)

    @classmethod
    async def start(cls, wanted: Wanted, argv: Sequence[str] = ()) -> "Recording":
        """Start it and wait for the beginning of the file; `argv` stands in for the child's."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *(argv or wanted.argv),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            process_group=0,
        )
        made = cls(process)
        try:
            made._first = await made._piece()
            made._timer.cancel()
            made._end_after(wanted.seconds + _GRACE_S)
            if not made._first:
                raise RecordingError(await made._said or "vionet capture ended without a word")
        except BaseException:
            await made.close()
            raise
        return made

    async def pieces(self) -> AsyncIterator[bytes]:
        """The file."""
        piece, length = self._first, 0
        while piece:
            yield piece
            length += len(piece)
            if length > 2 * BYTES_MAX:
                raise RecordingError("more comes than was asked for")
            piece = await self._piece()
        if await self._process.wait():
            raise RecordingError(await self._said or "vionet capture was killed")

    async def _piece(self) -> bytes:
        assert self._process.stdout is not None
        return await self._process.stdout.read(_PIECE)

    def _end_after(self, seconds: float, number: int = signal.SIGTERM) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._end, number)

    def _end(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
        if number == signal.SIGTERM:
            self._end_after(_GRACE_S, signal.SIGKILL)

    async def _listen(self) -> str:
        """Read what it says until it ends.  *returns* the last line."""
        assert self._process.stderr is not None
        said = b""
        while piece := await self._process.stderr.read(_PIECE):
            said = (said + piece)[-_ERROR_LEN_MAX:]
        return (said.decode(errors="replace").strip().splitlines() or [""])[-1]

    async def close(self) -> None:
        """Have it gone."""
        self._timer.cancel()
        self._end(signal.SIGKILL)
        self._said.cancel()
        await self._process.wait()
