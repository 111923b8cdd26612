"""The control socket: JSON, one line a message, for the user who started vionet.

How it works: a client sends `{"version":1,"request":NAME,…}` and gets one line back, either
`{"version":1,"reply":NAME,…}` or `{"version":1,"error":"…"}`; it may ask again on the same
connection.  What there is to ask for is a table of functions that the daemon hands over
(docs/control.md): each takes the request and returns the members of its answer, at once or when it
is awaited, or raises `RequestError` with a line for people.

Invariants: a line is at most `LINE_MAX` bytes; a connection has one answer in the making, so a
client that does not read holds one answer and no more; a client that is silent or does not read
for `IDLE_S` is dropped; beyond `CLIENTS_MAX` clients the one that has been here longest goes.
Trust: the socket has mode 0600, yet nothing that a client sends or leaves out stalls the others.
"""

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from vionet.vhost_user.listener import Listener

VERSION: Final = 1
LINE_MAX: Final = 4096  # bytes of one request
ANSWER_MAX: Final = 4 << 20  # bytes of one answer; 64 ports need about 200 kB
CLIENTS_MAX: Final = 16
IDLE_S: Final = 10.0
_ASK_S: Final = 5.0

Answer = dict[str, Any]
Requests = Mapping[str, Callable[[Mapping[str, Any]], Answer | Awaitable[Answer]]]


class ControlError(Exception):
    """Why a control socket did not answer, and how to mend it."""

    def __init__(self, path: Path, problem: str, stale: bool = False) -> None:
        super().__init__(f"{path}: {problem}")
        self.stale = stale  # nobody is there any more


class RequestError(Exception):
    """Why a request cannot be met: one line, told to whoever asked."""


class Control:
    """Answers on one control socket while it is open."""

    def __init__(self, listener: Listener, requests: Requests, idle_s: float = IDLE_S) -> None:
        self._listener = listener
        self._requests = requests
        self._idle_s = idle_s
        self._server: asyncio.Server | None = None
        # Insertion order is the order of arrival.
        self._clients: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def open(self) -> None:
        """Start to answer."""
        self._server = await asyncio.start_unix_server(
            self._arrived, sock=self._listener.socket, limit=LINE_MAX
        )

    async def close(self) -> None:
        """Stop, drop the clients, remove the socket."""
        if self._server is not None:
            self._server.close()
        self._listener.close()
        for task, writer in list(self._clients.items()):
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    def _arrived(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._clients) >= CLIENTS_MAX:
            oldest, its_writer = next(iter(self._clients.items()))
            its_writer.transport.abort()
            oldest.cancel()
            del self._clients[oldest]
        # A client's unread answer must not pile up behind the transport.
        writer.transport.set_write_buffer_limits(high=0)
        task = asyncio.get_running_loop().create_task(self._converse(reader, writer))
        self._clients[task] = writer
        task.add_done_callback(lambda done: self._clients.pop(done, None))

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                async with asyncio.timeout(self._idle_s):
                    line = await reader.readuntil(b"\n")
                    writer.write(json.dumps(await self._answer(line)).encode() + b"\n")
                    await writer.drain()
        except asyncio.LimitOverrunError:
            writer.write(json.dumps(_error(f"a request has at most {LINE_MAX} bytes")).encode())
            writer.write(b"\n")
            writer.close()
        except (TimeoutError, asyncio.IncompleteReadError, OSError):
            writer.transport.abort()

    async def _answer(self, line: bytes) -> Answer:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return _error("not JSON")
        if not isinstance(request, dict):
            return _error("not a JSON object")
        if request.get("version") != VERSION:
            return _error(f"this is version {VERSION} of the control socket")
        name = request.get("request")
        if not isinstance(name, str) or name not in self._requests:
            return _error(f"unknown request; known: {', '.join(self._requests)}")
        try:
            answer = self._requests[name](request)
            if not isinstance(answer, dict):
                answer = await answer
            return {"version": VERSION, "reply": name, **answer}
        except RequestError as error:
            return _error(str(error))


def _error(problem: str) -> dict[str, Any]:
    return {"version": VERSION, "error": problem}


def ask_status(path: Path) -> dict[str, Any]:
    """The status document of whoever answers at `path`."""
    try:
        status = _ask(path, {"request": "status"}).get("status")
    except RequestError as error:
        problem = f"{error}; use the same version of vionet on both sides"
        raise ControlError(path, problem) from None
    if not isinstance(status, dict) or not isinstance(status.get("fabrics"), list):
        raise ControlError(path, "no status; use the same version of vionet on both sides")
    return status


def set_port(path: Path, port: str, options: Sequence[str]) -> dict[str, Any]:
    """Change options of a port; its part of the status document afterwards."""
    return _port(path, {"request": "set", "port": port, "options": list(options)})


def _port(path: Path, request: dict[str, Any]) -> dict[str, Any]:
    state = _ask(path, request).get("port")
    if not isinstance(state, dict):
        raise ControlError(path, "no port; use the same version of vionet on both sides")
    return state


def add_port(path: Path, text: str) -> dict[str, Any]:
    """Plug a port in, `NAME=PORT`; its part of the status document."""
    return _port(path, {"request": "add", "port": text})


def remove_port(path: Path, name: str) -> dict[str, Any]:
    """Unplug a port; its part of the status document just before."""
    return _port(path, {"request": "remove", "port": name})


def _ask(path: Path, request: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request; a `RequestError` is what the other side says is wrong with it."""
    line = json.dumps({"version": VERSION, **request}).encode() + b"\n"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(_ASK_S)
            client.connect(os.fspath(path))
            client.sendall(line)
            answer = json.loads(_line(client))
    except (FileNotFoundError, ConnectionRefusedError):
        problem = "nobody answers; is vionet running with this --control?"
        raise ControlError(path, problem, stale=True) from None
    except TimeoutError:
        raise ControlError(path, f"no answer for {_ASK_S:.0f} s; is that vionet?") from None
    except OSError as error:
        problem = f"{error.strerror or error}; ask as the user who started it"
        raise ControlError(path, problem) from None
    except ValueError:
        raise ControlError(path, "the answer is not vionet's; check the path") from None
    if not isinstance(answer, dict):
        raise ControlError(path, "the answer is not vionet's; check the path")
    if "error" in answer:
        raise RequestError(str(answer["error"]))
    return answer


def _line(client: socket.socket) -> bytes:
    received = bytearray()
    while not received.endswith(b"\n"):
        piece = client.recv(65536)
        if not piece or len(received) > ANSWER_MAX:
            raise ValueError("no complete line")
        received += piece
    return bytes(received)
