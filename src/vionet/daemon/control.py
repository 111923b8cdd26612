"""The control socket: JSON, one line a message.

How it works: a client sends `{"version":1,"request":NAME,…}` and gets one line back, either
`{"version":1,"reply":NAME,…}` or `{"version":1,"error":"…"}`; it may ask again on the same
connection.  What there is to ask for is a table of functions that the daemon hands over
(docs/control.md): each takes the request and whose it is, and returns the members of its answer, at
once or when it is awaited, or raises `RequestError` with a line for people.  After an answer of
type `Attached` the connection is a stream of bytes until either side ends it; such an answer may
bring descriptors, in the same message as the line.

Invariants: a line is at most `LINE_MAX` bytes; a connection has one answer in the making, so a
client that does not read holds one answer and no more; a client that is silent or does not read
for `IDLE_S` is dropped, but an answer may take its time; beyond `CLIENTS_MAX` clients the one goes
that has been here longest among those of the user who has most, an administrator's last.
Trust: the socket's mode is its first guard and the kernel's word on who connected the second: what
is not the peer's to ask (`access.LEVELS`) is not even looked at.  Nothing that a client sends or
leaves out stalls the others.
"""

import asyncio
import json
import os
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog

from vionet.daemon.access import LEVELS, Level, Peer, peer_of
from vionet.vhost_user.budget import Budget
from vionet.vhost_user.listener import Listener

VERSION: Final = 1
LINE_MAX: Final = 65536  # bytes of one request; a capture's filter is the longest
ANSWER_MAX: Final = 4 << 20  # bytes of one answer; 64 ports need about 200 kB
CLIENTS_MAX: Final = 64
IDLE_S: Final = 10.0
FDS_MAX: Final = 4  # descriptors that an answer may bring
ASK_S: Final = 5.0  # how long a client waits for an answer

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Attached:
    """An answer after which the connection is what `attach` makes of it; it returns at its end.

    `release` is called then, whatever ended it, also where the answer did not reach the client.
    """

    attach: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    answer: Answer = field(default_factory=dict)
    fds: Sequence[int] = ()  # that go with it; they stay the daemon's own, too
    release: Callable[[], None] = lambda: None


Reply = Answer | Attached
Request = Callable[[Mapping[str, Any], Peer], Reply | Awaitable[Reply]]
Requests = Mapping[str, Request]


class ControlError(Exception):
    """Why a control socket did not answer, and how to mend it."""

    def __init__(self, path: Path, problem: str, stale: bool = False) -> None:
        super().__init__(f"{path}: {problem}")
        self.stale = stale  # nobody is there any more


class RequestError(Exception):
    """Why a request cannot be met: told to whoever asked, one line each."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class _Client:
    writer: asyncio.StreamWriter
    peer: Peer


class Control:
    """Answers on one control socket while it is open."""

    def __init__(self, listener: Listener, requests: Requests, idle_s: float = IDLE_S) -> None:
        assert requests.keys() <= LEVELS.keys()
        self._listener = listener
        self._requests = requests
        self._idle_s = idle_s
        self._server: asyncio.Server | None = None
        self._log = structlog.get_logger("vionet.daemon")
        self._budget = Budget(5, 0.1)  # log lines
        # Insertion order is the order of arrival.
        self._clients: dict[asyncio.Task[None], _Client] = {}

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
        for task, client in list(self._clients.items()):
            client.writer.transport.abort()
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    def _arrived(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            peer = peer_of(writer.get_extra_info("socket"))
        except OSError:  # gone already
            writer.transport.abort()
            return
        if len(self._clients) >= CLIENTS_MAX:
            self._push_out()
        # A client's unread answer must not pile up behind the transport.
        writer.transport.set_write_buffer_limits(high=0)
        task = asyncio.get_running_loop().create_task(self._converse(reader, writer, peer))
        self._clients[task] = _Client(writer, peer)
        task.add_done_callback(lambda done: self._clients.pop(done, None))

    def _push_out(self) -> None:
        peers = [client.peer for client in self._clients.values()]
        # One user may have thousands of user numbers (subuid), and so be everybody.
        count = Counter(one.uid for one in [one for one in peers if not one.admin] or peers)
        ((most, _),) = count.most_common(1)
        for task, client in self._clients.items():
            if client.peer.uid == most:
                client.writer.transport.abort()
                task.cancel()
                del self._clients[task]
                return

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Peer
    ) -> None:
        async def say(answer: Answer, fds: Sequence[int] = ()) -> None:
            line = json.dumps(answer).encode() + b"\n"
            async with asyncio.timeout(self._idle_s):
                writer.write(_sent_with(writer, line, fds) if fds else line)
                await writer.drain()

        try:
            while True:
                async with asyncio.timeout(self._idle_s):
                    line = await reader.readuntil(b"\n")
                name, reply = await self._reply(line, peer)
                if isinstance(reply, Attached):
                    try:
                        await say({"version": VERSION, "reply": name, **reply.answer}, reply.fds)
                        await reply.attach(reader, writer)
                    finally:
                        reply.release()
                    writer.close()
                    return
                await say(reply)
        except asyncio.LimitOverrunError:
            writer.write(json.dumps(_error(f"a request has at most {LINE_MAX} bytes")).encode())
            writer.write(b"\n")
            writer.close()
        except (TimeoutError, asyncio.IncompleteReadError, OSError):
            writer.transport.abort()
        except BaseException:  # or the connection would stay, and count nowhere
            writer.transport.abort()
            raise

    async def _reply(self, line: bytes, peer: Peer) -> tuple[str, Reply]:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return "", _error("not JSON")
        if not isinstance(request, dict):
            return "", _error("not a JSON object")
        if request.get("version") != VERSION:
            return "", _error(f"this is version {VERSION} of the control socket")
        name = request.get("request")
        if not isinstance(name, str) or name not in self._requests:
            return "", _error(f"unknown request; known: {', '.join(self._requests)}")
        if LEVELS[name] is Level.ADMIN and not peer.admin:
            return name, _error(f"{name}: only root and the user who runs vionet may ask that")
        try:
            reply = self._requests[name](request, peer)
            if not isinstance(reply, dict | Attached):
                reply = await reply
        except RequestError as error:
            return name, _error(*error.problems)
        except Exception:
            if self._budget.take():
                self._log.exception("a request failed, please report it", request=name)
            return name, _error(f"{name}: failed; the log of vionet says why; please report it")
        if isinstance(reply, dict):
            reply = {"version": VERSION, "reply": name, **reply}
        return name, reply


def _sent_with(writer: asyncio.StreamWriter, line: bytes, fds: Sequence[int]) -> bytes:
    """Send a line with descriptors; *returns* what of it is still to be sent.

    All answers before it were sent; where the client has not read them, that is an OSError.
    """
    with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as connection:
        return line[socket.send_fds(connection, [line], fds) :]


def _error(*problems: str) -> Answer:
    many = {"problems": problems} if len(problems) > 1 else {}
    return {"version": VERSION, "error": problems[0], **many}


def ask_status(path: Path) -> Answer:
    """The status document of whoever answers at `path`."""
    try:
        status = ask(path, "status").get("status")
    except RequestError as error:
        raise ControlError(path, str(error)) from None
    if not isinstance(status, dict) or not _named(status.get("fabrics"), "ports"):
        raise ControlError(path, "no status; use the same version of vionet on both sides")
    return status


def _named(found: Any, *within: str) -> bool:
    """Whether it is a list of objects with names, and each with such a list `within`."""
    return isinstance(found, list) and all(
        isinstance(one, dict)
        and isinstance(one.get("name"), str)
        and all(_named(one.get(key)) for key in within)
        for one in found
    )


def ask_port(path: Path, request: str, port: str, **members: Any) -> Answer:
    """The port's part of the status document after `set`, after `add`, before `remove`."""
    state = ask(path, request, port=port, **members).get("port")
    if not isinstance(state, dict):
        raise ControlError(path, "no port; use the same version of vionet on both sides")
    return state


def ask(path: Path, request: str, *, wait_s: float = ASK_S, **members: Any) -> Answer:
    """The answer to a request; a `RequestError` is what the other side says is wrong with it."""
    with connected(path, request, wait_s=wait_s, **members) as (_, answer, _):
        return answer


@contextmanager
def connected(
    path: Path, request: str, *, wait_s: float = ASK_S, fds: list[int] | None = None, **members: Any
) -> Iterator[tuple[socket.socket, Answer, bytes]]:
    """The same with the connection, and what came on it behind the answer.

    Descriptors that come with it are added to `fds`, and then the caller's to close.
    """
    line = json.dumps({"version": VERSION, "request": request, **members}).encode() + b"\n"
    until = time.monotonic() + wait_s
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(wait_s)
        try:
            client.connect(os.fspath(path))
            client.sendall(line)
            first, rest = _line(client, fds, until)
            answer = json.loads(first)
        except (FileNotFoundError, ConnectionRefusedError):
            problem = "nobody answers; is vionet running with this --control?"
            raise ControlError(path, problem, stale=True) from None
        except EOFError:
            raise ControlError(path, "it hung up without an answer; ask again") from None
        except TimeoutError:
            raise ControlError(path, f"no answer for {wait_s:.0f} s; is that vionet?") from None
        except OSError as error:
            problem = f"{error.strerror or error}; ask as the user who started it"
            raise ControlError(path, problem) from None
        except (ValueError, RecursionError):
            raise ControlError(path, "the answer is not vionet's; check the path") from None
        if not isinstance(answer, dict):
            raise ControlError(path, "the answer is not vionet's; check the path")
        if "error" in answer:
            raise RequestError(*map(str, answer.get("problems") or [answer["error"]]))
        client.settimeout(None)
        yield client, answer, rest


def _line(client: socket.socket, fds: list[int] | None, until: float) -> tuple[bytes, bytes]:
    received = bytearray()
    while b"\n" not in received:
        if (left := until - time.monotonic()) <= 0:  # it comes in drops
            raise TimeoutError
        client.settimeout(left)
        if fds is None:
            piece = client.recv(65536)
        else:
            piece, more, *_ = socket.recv_fds(client, 65536, FDS_MAX)
            fds += more
        if not piece and not received:
            raise EOFError
        if not piece or len(received) > ANSWER_MAX:
            raise ValueError("no complete line")
        received += piece
    line, _, rest = bytes(received).partition(b"\n")
    return line, rest
