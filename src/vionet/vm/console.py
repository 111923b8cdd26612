"""A machine's serial line, shared by any number of people.

How it works: QEMU listens on the console's socket and serves one client, which is this.  What the
guest says is kept as a backlog and copied to every reader; what readers type goes to the guest.
`look` says that a QEMU may be there: it is connected to, until it ends.  The whole text is in the
log, which QEMU writes itself; when that has grown too long, its older part is cut off here.

Invariants: the guest's side is always read, so the guest never waits for a reader; a reader that
does not read loses its place; what a guest does not take of the input is thrown away after
`TYPE_S`, as a line without a machine does.

Trust: guest and readers are bounded in all that they send; a reader was let in by who calls
`attach`.
"""

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Final

import structlog

from vionet.vm.model import VmError

BACKLOG_MAX: Final = 64 << 10  # bytes that a new reader gets
READERS_MAX: Final = 16
UNREAD_MAX: Final = 256 << 10  # bytes that a reader may be behind, beside what the kernel holds
PIECE: Final = 16 << 10
TYPE_S: Final = 2.0
CONNECT_S: Final = 30.0
LOG_MAX: Final = 16 << 20  # bytes of the log
LOG_KEPT: Final = 1 << 20  # of which remain when it is cut
_STEP_S: Final = 0.05


class Console:
    """One serial line, on the running loop."""

    def __init__(self, path: Path, log: Path, vm: str = "") -> None:
        """`path` is QEMU's socket, `log` the file that QEMU appends to; `vm` is in our own log."""
        self._path, self._log_file = path, log
        self._log = structlog.get_logger("vionet.vm").bind(vm=vm, console=str(path))
        self._backlog = bytearray(_tail(log, BACKLOG_MAX))
        self._readers: set[asyncio.StreamWriter] = set()
        self._guest: asyncio.StreamWriter | None = None
        self._serving: asyncio.Task[None] | None = None
        self._again = False
        self._unchecked = LOG_MAX  # bytes since the log's length was looked at

    def look(self) -> None:
        """Connect to the QEMU that is there now or very soon."""
        self._again = True
        if self._serving is None:
            self._serving = asyncio.get_running_loop().create_task(self._serve())

    async def close(self) -> None:
        """Let go of QEMU and of all readers."""
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait([self._serving])
        for writer in self._readers:
            writer.close()

    async def attach(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Join a reader with the line until it leaves or loses its place.

        The writer is the caller's to close.
        """
        if len(self._readers) >= READERS_MAX:
            raise VmError(f"the console has {READERS_MAX} readers already; close one of them")
        self._readers.add(writer)
        try:
            writer.write(bytes(self._backlog))
            while typed := await reader.read(PIECE):
                await self._type(typed)
        except OSError:
            pass
        finally:
            self._readers.discard(writer)

    async def _type(self, typed: bytes) -> None:
        guest = self._guest
        if guest is None or guest.transport.get_write_buffer_size() > PIECE:
            return
        guest.write(typed)
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(TYPE_S):
                await guest.drain()

    async def _serve(self) -> None:
        try:
            while self._again:
                self._again = False
                try:
                    async with asyncio.timeout(CONNECT_S):
                        reader = await self._connect()
                except (TimeoutError, OSError) as error:
                    self._log.warning("no console", reason=str(error) or "no answer")
                    continue
                with contextlib.suppress(OSError):
                    while said := await reader.read(PIECE):
                        self._say(said)
                self._part()
        finally:
            self._part()
            self._serving = None

    async def _connect(self) -> asyncio.StreamReader:
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(self._path)
            except (FileNotFoundError, ConnectionRefusedError):
                await asyncio.sleep(_STEP_S)
                continue
            writer.transport.set_write_buffer_limits(high=PIECE)
            self._guest = writer
            return reader

    def _part(self) -> None:
        if self._guest is not None:
            self._guest.transport.abort()
            self._guest = None

    def _say(self, said: bytes) -> None:
        self._backlog += said
        del self._backlog[:-BACKLOG_MAX]
        for writer in self._readers:
            if writer.transport.is_closing():
                continue
            if writer.transport.get_write_buffer_size() > UNREAD_MAX:
                writer.transport.abort()
                self._log.info("a reader of the console is too slow, hung up on")
            else:
                writer.write(said)
        self._unchecked += len(said)
        if self._unchecked >= LOG_KEPT:
            self._unchecked = 0
            self._cut_log()

    def _cut_log(self) -> None:
        with contextlib.suppress(OSError):
            if self._log_file.stat().st_size > LOG_MAX:
                kept = _tail(self._log_file, LOG_KEPT)
                os.truncate(self._log_file, 0)  # QEMU appends
                with self._log_file.open("ab") as log:
                    log.write(kept)


def _tail(path: Path, most: int) -> bytes:
    """The last bytes of a file; none where there is no file."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - most))
            return file.read(most)
    except OSError:
        return b""
