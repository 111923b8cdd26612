"""The answer to `GET /metrics`: as much of HTTP/1.1 as that takes, on the daemon's own loop.

How it works: a connection is one request and one answer.  `judge` decides on the bytes of a
request's head; what it refuses is answered with a line, and counted by its status.

Invariants: a head has `HEAD_MAX` bytes and comes within `PATIENCE_S`, an answer is taken within
that; beyond `CONNECTIONS_MAX` the oldest connection is dropped, so that whoever keeps many open
delays nobody.
Trust: nothing of a request is used but its method, its path and whether it prefers OpenMetrics.
No header permits other origins to read an answer, and on TCP a Host that is not loopback's is
refused (`endpoint.local_host`).
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import structlog

from vionet.daemon.endpoint import AnyListener, TcpListener, local_host
from vionet.vhost_user.budget import Budget

PATH: Final = "/metrics"
HEAD_MAX: Final = 8192  # bytes
CONNECTIONS_MAX: Final = 16
PATIENCE_S: Final = 5.0
REST_MAX: Final = 65536  # bytes of a refused request that are still taken, so that it sees why
_END: Final = b"\r\n\r\n"
_REQUEST: Final = re.compile(r"([A-Z]{1,16}) (/[!-~]*) HTTP/1\.[01]")
_FIELD: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t -~]*?)[ \t]*")
_WORDS: Final = {
    HTTPStatus.BAD_REQUEST: "that is not HTTP as it is spoken here",
    HTTPStatus.FORBIDDEN: "ask for it by a loopback address or as localhost",
    HTTPStatus.NOT_FOUND: f"there is {PATH} and nothing else",
    HTTPStatus.METHOD_NOT_ALLOWED: "GET and HEAD only",
    HTTPStatus.REQUEST_TIMEOUT: f"no complete request within {PATIENCE_S:.0f} s",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: f"a request's head has {HEAD_MAX} bytes at most",
    HTTPStatus.INTERNAL_SERVER_ERROR: "failed; the log of vionet says why; please report it",
}


class Asked(NamedTuple):
    """What is to be done about a request."""

    status: HTTPStatus
    accept: str = ""
    body: bool = True  # or only the head of the answer


def judge(head: bytes, *, tcp: bool) -> Asked:
    """Decide on a request's head, its empty line included; pure."""
    bad = Asked(HTTPStatus.BAD_REQUEST)
    try:
        first, *others = head.removesuffix(_END).decode("ascii").split("\r\n")
    except UnicodeDecodeError:
        return bad
    request, found = _REQUEST.fullmatch(first), [_FIELD.fullmatch(line) for line in others]
    if request is None:
        return bad
    fields: dict[str, list[str]] = {}
    for field in found:
        if field is None:
            return bad
        fields.setdefault(field[1].lower(), []).append(field[2])
    if len(fields.get("host", ())) != 1 or "transfer-encoding" in fields:
        return bad
    if tcp and not local_host(fields["host"][0]):
        return Asked(HTTPStatus.FORBIDDEN)
    if request[2].partition("?")[0] != PATH:
        return Asked(HTTPStatus.NOT_FOUND)
    if request[1] not in ("GET", "HEAD"):
        return Asked(HTTPStatus.METHOD_NOT_ALLOWED)
    if fields.get("content-length", ["0"]) != ["0"]:
        return bad
    return Asked(HTTPStatus.OK, ",".join(fields.get("accept", ())), request[1] == "GET")


@asynccontextmanager
async def answering(listener: AnyListener | None, status: Callable[[], Any]) -> AsyncIterator[None]:
    """Answer on `listener`, if there is one, until the end of the block."""
    scrapes = None if listener is None else Scrapes(listener, status)
    try:
        if scrapes:
            await scrapes.open()
        yield
    finally:
        if scrapes:
            await scrapes.close()


class Scrapes:
    """Answers on one socket while it is open."""

    def __init__(
        self, listener: AnyListener, status: Callable[[], Any], patience_s: float = PATIENCE_S
    ) -> None:
        """`status` is the status document of that moment."""
        self._listener, self._status = listener, status
        self._patience_s = patience_s
        self._tcp = isinstance(listener, TcpListener)
        self._counts: Counter[int] = Counter({HTTPStatus.OK: 0})
        self._server: asyncio.Server | None = None
        self._log = structlog.get_logger("vionet.daemon")
        self._budget = Budget(5, 0.1)  # log lines
        # Insertion order is the order of arrival.
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def open(self) -> None:
        """Start to answer."""
        import vionet.daemon.metrics  # noqa: F401 - only now: most have no use for it

        self._server = await asyncio.start_server(
            self._arrived, sock=self._listener.socket, limit=HEAD_MAX
        )
        self._log.info("metrics", address=f"{self._listener.url}{PATH * self._tcp}")

    async def close(self) -> None:
        """Stop, and drop who is connected."""
        if self._server is not None:
            self._server.close()
        self._listener.close()
        for task, writer in list(self._open.items()):
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    def _arrived(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= CONNECTIONS_MAX:
            oldest = next(iter(self._open))
            self._open.pop(oldest).transport.abort()
            oldest.cancel()
            self._counts[HTTPStatus.SERVICE_UNAVAILABLE] += 1
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._open[task] = writer
        task.add_done_callback(lambda done: self._open.pop(done, None))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(high=0)  # `drain` is until all is taken
        try:
            asked = await self._request(reader)
            answer = await self._answer(asked)
            async with asyncio.timeout(self._patience_s):
                writer.write(answer)
                await writer.drain()
                writer.write_eof()
                await reader.readexactly(REST_MAX)  # until the other side has read and ended
        except (TimeoutError, asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.transport.abort()

    async def _request(self, reader: asyncio.StreamReader) -> Asked:
        try:
            async with asyncio.timeout(self._patience_s):
                head = await reader.readuntil(_END)
        except TimeoutError:
            return Asked(HTTPStatus.REQUEST_TIMEOUT)
        except asyncio.LimitOverrunError:
            return Asked(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        return judge(head, tcp=self._tcp)

    async def _answer(self, asked: Asked) -> bytes:
        status, kind, text = asked.status, "text/plain; charset=utf-8", b""
        self._counts[status] += 1
        if status is HTTPStatus.OK:
            try:
                kind, text = await self._text(asked.accept)
            except Exception:
                status = HTTPStatus.INTERNAL_SERVER_ERROR
                self._counts[status] += 1
                if self._budget.take():
                    self._log.exception("metrics failed, please report it")
        if status is not HTTPStatus.OK:
            text = f"{_WORDS[status]}\n".encode()
        lines = [
            f"HTTP/1.1 {int(status)} {status.phrase}",
            f"Content-Type: {kind}",
            f"Content-Length: {len(text)}",
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            "Connection: close",
        ]
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            lines.append("Allow: GET, HEAD")
        return "\r\n".join(lines).encode() + _END + text * asked.body

    async def _text(self, accept: str) -> tuple[str, bytes]:
        from vionet.daemon.metrics import Moment, exposition

        kind, pieces = exposition(Moment(self._status(), self._counts), accept)
        text = bytearray()
        for piece in pieces:
            text += piece
            await asyncio.sleep(0)  # many ports take a while, and others have a turn
        return kind, bytes(text)
