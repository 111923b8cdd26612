"""What the page's server answers.

| request | answer |
|---|---|
| `GET /` | the page, which signs in with the token of its address |
| `POST /session` | the cookie, for the token in the body |
| `GET AREA/` | the page |
| `GET AREA/events` | server-sent events: `hello` once, then a sample a second |
| `POST AREA/capture` | a pcapng file as it is captured; only if captures are allowed |

How it works: every request passes the guard first (`guard.refusal`); answers carry its headers and
the page's policy.  Bodies are read up to a limit and within a time.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import structlog
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vionet.spec.counter import counters, plain
from vionet.web.feed import VIEWERS_MAX, Feed
from vionet.web.guard import HEADERS, SESSION, TOKEN_LEN_MAX, Keys, refusal
from vionet.web.page import Page
from vionet.web.recording import (
    RECORDINGS_MAX,
    REQUEST_LEN_MAX,
    SECONDS_MAX,
    Recording,
    RecordingError,
    Wanted,
)

BODY_S: Final = 5.0
RETRY_MS: Final = 2000  # after which a browser that lost the events asks again


class Guarded:
    """The application behind the guard."""

    def __init__(self, app: ASGIApp, keys: Keys, policy: str) -> None:
        self._app, self._keys = app, keys
        self._headers = HEADERS | {"Content-Security-Policy": policy}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        assert scope["type"] == "http"
        headers = Headers(scope=scope)
        twice = frozenset(name for name, n in Counter(headers.keys()).items() if n > 1)
        refused = refusal(scope["method"], scope["path"], headers, self._keys, twice)
        app = self._app
        if refused is not None:
            app = PlainTextResponse(refused.reason + "\n", refused.status)

        async def say(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        await app(scope, receive, say)


class Streamed(StreamingResponse):
    """A stream after which `closing` is called, however it ends.

    One that breaks off is left without its end, so that whoever reads it finds it broken, too.
    """

    def __init__(
        self,
        content: AsyncIterator[bytes],
        closing: Callable[[], Awaitable[None]],
        media_type: str,
        **headers: str,
    ) -> None:
        super().__init__(content, media_type=media_type, headers=headers)
        self._closing = closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        except RecordingError as error:
            log = structlog.get_logger("vionet.web")
            log.warning("capture broke off", problem=str(error))
        finally:
            await self._closing()


class Web:
    """The page's server, but for its socket."""

    def __init__(
        self, keys: Keys, sockets: Callable[[], Sequence[Path]], *, allow_capture: bool
    ) -> None:
        self._keys, self._sockets, self._allow_capture = keys, sockets, allow_capture
        self._page = Page.read()
        self._hello = _event("hello", _hello(allow_capture))
        self._recordings = 0
        self.feed = Feed(sockets)
        routes = [
            Route("/", self._show, methods=["GET"]),
            Route(SESSION, self._sign_in, methods=["POST"]),
            Route(f"{keys.area}/", self._show, methods=["GET"]),
            Route(f"{keys.area}/events", self._events, methods=["GET"]),
            Route(f"{keys.area}/capture", self._capture, methods=["POST"]),
        ]
        self.app = Guarded(Starlette(routes=routes), keys, self._page.policy)

    async def _show(self, request: Request) -> Response:
        return Response(self._page.html, media_type="text/html; charset=utf-8")

    async def _sign_in(self, request: Request) -> Response:
        token = await _body(request, TOKEN_LEN_MAX)
        if token is None or not self._keys.opens(token):
            return _problem(403, "that is not the token; vionet web printed it when it started")
        return JSONResponse(
            {"area": f"{self._keys.area}/"}, headers={"Set-Cookie": self._keys.set_cookie}
        )

    async def _events(self, request: Request) -> Response:
        samples = self.feed.watch()

        async def events() -> AsyncGenerator[bytes]:
            if self.feed.viewers >= VIEWERS_MAX:
                yield _event("full", str(VIEWERS_MAX).encode())
                return
            yield self._hello
            async for sample in samples:
                yield _event("sample", sample)

        content = events()

        async def closing() -> None:
            await content.aclose()
            await samples.aclose()

        return Streamed(content, closing, "text/event-stream")

    async def _capture(self, request: Request) -> Response:
        if not self._allow_capture:
            return _problem(403, "started without --allow-capture")
        if self._recordings >= RECORDINGS_MAX:
            return _problem(429, f"{RECORDINGS_MAX} captures run already; wait for one to end")
        self._recordings += 1
        try:
            wanted = Wanted.parse(await _body(request, REQUEST_LEN_MAX) or b"", self._sockets())
            recording = await Recording.start(wanted)
        except BaseException as error:
            self._recordings -= 1
            if isinstance(error, RecordingError):
                return _problem(400, str(error))
            raise

        async def closing() -> None:
            self._recordings -= 1
            await recording.close()

        disposition = f'attachment; filename="{wanted.file_name}"'
        headers = {"Content-Disposition": disposition}
        return Streamed(recording.pieces(), closing, "application/x-pcapng", **headers)


async def _body(request: Request, most: int) -> bytes | None:
    """The body; None if it is too long or too slow."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for piece in request.stream():
                body += piece
                if len(body) > most:
                    return None
    except (TimeoutError, ClientDisconnect):
        return None
    return bytes(body)


def _problem(status: int, words: str) -> Response:
    return JSONResponse({"problem": words}, status)


def _event(name: str, data: bytes) -> bytes:
    return b"retry: %d\nevent: %s\ndata: %s\n\n" % (RETRY_MS, name.encode(), data)


def _hello(allow_capture: bool) -> bytes:
    """What a page is told once: what it may do, and what the counters mean."""
    meanings = {
        one.name: {
            "kind": one.kind,
            "where": one.where,
            "what": plain(one.what),
            "cause": plain(one.cause),
            "mend": plain(one.mend),
        }
        for one in counters().values()
    }
    told = {"capture": allow_capture, "seconds_max": SECONDS_MAX, "meanings": meanings}
    return json.dumps(told, separators=(",", ":")).encode()
