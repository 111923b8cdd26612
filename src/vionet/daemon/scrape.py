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
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, NamedTuple, Self

import structlog

from vionet.daemon.endpoint import AnyListener, TcpListener, local_host
from vionet.vhost_user.budget import Budget

HEAD_MAX: Final = 8192  # bytes
CONNECTIONS_MAX: Final = 16
PATIENCE_S: Final = 5.0
REST_MAX: Final = 65536  # bytes of a refused request that are still taken, so that it sees why
_END: Final = b"\r\n\r\n"
_FIELD: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++:[\t -~]*+\r\n"
_HEAD: Final = re.compile(rb"([A-Z]{1,16}) (/[!-~]*) HTTP/1\.[01]\r\n((?:%s)*+)\r\n" % _FIELD)
_WORDS: Final = {
    HTTPStatus.FORBIDDEN: "Ask for it by a loopback address or as localhost",
    HTTPStatus.NOT_FOUND: "There is /metrics and nothing else",
    HTTPStatus.METHOD_NOT_ALLOWED: "GET and HEAD only",
}


class Asked(NamedTuple):
    """What is to be done about a request."""

    status: HTTPStatus
    accept: str = ""
    body: bool = True  # or only the head of the answer


def judge(head: bytes, *, tcp: bool) -> Asked:
    """Decide on a request's head, its empty line included; pure."""
    found = _HEAD.fullmatch(head)
    if found is None:
        return Asked(HTTPStatus.BAD_REQUEST)
    method, path, fields = (part.decode() for part in found.groups())

    def said(name: str) -> list[str]:
        lines = (line.partition(":") for line in fields.splitlines())
        return [value.strip() for key, _, value in lines if key.lower() == name]

    lengths, hosts = said("content-length"), said("host")
    refused = {
        HTTPStatus.BAD_REQUEST: len(hosts) != 1 or said("transfer-encoding"),
        HTTPStatus.FORBIDDEN: tcp and not all(map(local_host, hosts)),
        HTTPStatus.NOT_FOUND: path.partition("?")[0] != "/metrics",
        HTTPStatus.METHOD_NOT_ALLOWED: method not in ("GET", "HEAD"),
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE: lengths not in ([], ["0"]),
    }
    status = next((status for status, why in refused.items() if why), HTTPStatus.OK)
    return Asked(status, ",".join(said("accept")), method != "HEAD")


class Scrapes:
    """Answers on one socket, inside `async with`."""

    def __init__(
        self, listener: AnyListener, status: Callable[[], Any], patience_s: float = PATIENCE_S
    ) -> None:
        """`status` is the status document of that moment."""
        from vionet.daemon import metrics  # only now: most have no use for it

        self._metrics, self._listener, self._status = metrics, listener, status
        self._patience_s = patience_s
        self._counts: Counter[int] = Counter({HTTPStatus.OK: 0})
        self._log = structlog.get_logger("vionet.daemon")
        self._budget = Budget(5, 0.1)  # log lines
        # Insertion order is the order of arrival.
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def __aenter__(self) -> Self:
        """Start to answer."""
        socket = self._listener.socket
        self._server = await asyncio.start_server(self._arrived, sock=socket, limit=HEAD_MAX)
        self._log.info("metrics", address=self._listener.url)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop, and drop who is connected."""
        self._server.close()
        tasks = list(self._open)
        while self._open:
            self._drop_oldest()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()

    def _arrived(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= CONNECTIONS_MAX:
            self._drop_oldest()
            self._counts[HTTPStatus.SERVICE_UNAVAILABLE] += 1
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._open[task] = writer
        task.add_done_callback(lambda done: self._open.pop(done, None))

    def _drop_oldest(self) -> None:
        oldest = next(iter(self._open))
        self._open.pop(oldest).transport.abort()
        oldest.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(high=0)  # `drain` is until all is taken
        try:
            answer = await self._answer(await self._asked(reader))
            async with asyncio.timeout(self._patience_s):
                writer.write(answer)
                await writer.drain()
                writer.write_eof()
                await reader.readexactly(REST_MAX)  # until the other side has read and ended
        except (TimeoutError, asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.transport.abort()

    async def _asked(self, reader: asyncio.StreamReader) -> Asked:
        try:
            async with asyncio.timeout(self._patience_s):
                head = await reader.readuntil(_END)
        except TimeoutError:
            return Asked(HTTPStatus.REQUEST_TIMEOUT)
        except asyncio.LimitOverrunError:
            return Asked(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        return judge(head, tcp=isinstance(self._listener, TcpListener))

    async def _answer(self, asked: Asked) -> bytes:
        status, kind, text = asked.status, "text/plain", bytearray()
        self._counts[status] += 1
        try:
            if status is HTTPStatus.OK:
                moment = self._metrics.Moment(self._status(), self._counts)
                kind, pieces = self._metrics.exposition(moment, asked.accept)
                for piece in pieces:
                    text += piece
                    await asyncio.sleep(0)  # many ports take a while, and others have a turn
        except Exception:
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            self._counts[status] += 1
            if self._budget.take():
                self._log.exception("metrics failed, please report it")
        if status is not HTTPStatus.OK:
            kind, text = "text/plain", bytearray(f"{_WORDS.get(status, status.phrase)}\n".encode())
        head = (
            f"HTTP/1.1 {int(status)} {status.phrase}\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(text)}\r\nCache-Control: no-store\r\nConnection: close\r\n"
            "X-Content-Type-Options: nosniff\r\n"
        )
        allow = "Allow: GET, HEAD\r\n" * (status is HTTPStatus.METHOD_NOT_ALLOWED)
        return f"{head}{allow}\r\n".encode() + text * asked.body
