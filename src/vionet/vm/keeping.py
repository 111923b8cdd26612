"""The keeper as vionet sees it: reached or started, asked, and heard when a child has ended.

How it works: `Keeper.reach` connects to the keeper of a folder, and where there is none starts one,
as often as that takes: the keeper's own lock decides between two who start one at once, and one
that is just ending is waited for.  A request is one line and waits for its answer, one at a time;
events are taken as they come.  The protocol is described in `keeper`.

Invariants: every wait for the keeper is bounded.  Once the connection is lost, `lost` is set and
all children count as killed, because without the keeper, or with nobody served by it, they are.

Trust: the keeper is a process of the same user, of this version of vionet or an older one.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from vionet.vm import keeper as program
from vionet.vm.keeper import LINGER_S, VERSION

SOCKET: Final = "keeper.sock"
REACH_S: Final = 20.0  # one that ends takes its time
BUSY_S: Final = 3.0  # how long another vionet may need to die
ANSWER_S: Final = 10.0
ANSWER_MAX: Final = 32 << 20  # bytes: a full list of the longest command lines
_STEP_S: Final = 0.05
_KILLED: Final = -int(signal.SIGKILL)
# What systemd says to a service is not for its guests.
_OURS: Final = ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC")


class KeeperError(Exception):
    """The keeper cannot do it, or is not there: one line."""


class _LostError(KeeperError):
    """The connection is gone."""


@dataclass(frozen=True, slots=True)
class Child:
    """A process of the keeper's."""

    pid: int
    argv: tuple[str, ...]
    started: float  # seconds since the epoch


class Keeper:
    """A connection to the keeper, on the running loop."""

    def __init__(self, connection: socket.socket) -> None:
        """`reach` makes one."""
        self.children: dict[str, Child] = {}  # running
        self.gone: dict[str, int] = {}  # ended while no vionet was there: status
        self.descriptors: set[str] = set()  # names of those that it holds
        self.lost = asyncio.Event()
        self.on_lost: Callable[[], None] = lambda: None
        self._socket = connection
        self._received = bytearray()
        self._arrived: list[int] = []
        self._ends: dict[str, asyncio.Future[int]] = {}
        self.pid = 0
        self._turn = asyncio.Lock()
        self._asked: dict[str, Any] = {}
        self._tasks: set[asyncio.Task[dict[str, Any]]] = set()
        self._answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(connection, self._hear)

    @classmethod
    async def reach(cls, folder: Path, linger_s: float = LINGER_S) -> Self:
        """The keeper of `folder`, started where there is none, and what it keeps.

        It waits `linger_s` for a successor when this vionet is gone.
        """
        path = folder / SOCKET
        deadline = time.monotonic() + REACH_S
        busy = time.monotonic() + BUSY_S
        while True:
            try:
                keeper = await cls._connect(path)
                break
            except (FileNotFoundError, ConnectionError, BlockingIOError, _LostError):
                if time.monotonic() > deadline:
                    raise KeeperError(f"{path}: no keeper answers; is the folder ours?") from None
                if await asyncio.to_thread(_start, path):
                    continue
            except OSError as error:
                raise KeeperError(f"{path}: {error.strerror or error}") from None
            except KeeperError as error:
                if time.monotonic() > busy:
                    raise KeeperError(f"{path}: {error}; stop that one first") from None
            await asyncio.sleep(_STEP_S)
        try:
            await keeper._learn(linger_s)
        except BaseException:
            keeper.leave()
            raise
        return keeper

    @classmethod
    async def _connect(cls, path: Path) -> Self:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            connection.connect(str(path))
            keeper = cls(connection)
        except BaseException:
            connection.close()
            raise
        try:
            hello = await keeper._reply(ANSWER_S)
            if hello.get("keeper") != VERSION:
                raise KeeperError(f"it is of version {hello.get('keeper')}, not {VERSION}")
            keeper.pid = int(hello["pid"])
        except BaseException:
            keeper.leave()
            raise
        return keeper

    async def _learn(self, linger_s: float) -> None:
        await self._ask("stay", linger_s=linger_s)
        known = await self._ask("list")
        self.gone, self.descriptors = known["ended"], set(known["descriptors"])
        for one in known["children"]:
            self._begin(one["name"], Child(one["pid"], tuple(one["argv"]), one["started"]))

    def _begin(self, name: str, child: Child) -> None:
        self.children[name] = child
        self.gone.pop(name, None)
        self._ends[name] = asyncio.get_running_loop().create_future()

    async def spawn(
        self,
        name: str,
        argv: Sequence[str],
        log: Path,
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> int:
        """Start a child whose output is appended to `log`; its pid."""
        where = None if cwd is None else str(cwd)
        made = await self._ask(
            "spawn", name=name, argv=list(argv), log=str(log), cwd=where, env=dict(env or {})
        )
        return int(made["pid"])

    async def ended(self, name: str) -> int:
        """Wait for the end of a child; its status, negative for a signal."""
        if name not in self._ends:
            raise KeeperError(f"{name}: the keeper has no such child")
        return await asyncio.shield(self._ends[name])

    async def signal(self, name: str, number: int) -> None:
        """Send a signal to a child; none where it has ended."""
        if name in self.children:
            with contextlib.suppress(KeeperError):
                await self._ask("signal", name=name, number=int(number))

    async def put(self, name: str, fd: int) -> None:
        """Have a descriptor kept, in place of one of that name."""
        await self._ask("put", fd, name=name)
        self.descriptors.add(name)

    async def take(self) -> dict[str, int]:
        """Copies of all descriptors that are kept; they stay kept."""
        taken: dict[str, int] = {}
        try:
            for name in sorted(self.descriptors):
                taken[name] = (await self._ask("take", name=name))["fd"]
        except BaseException:
            for fd in taken.values():
                os.close(fd)
            raise
        return taken

    async def drop(self, name: str) -> None:
        """Have a descriptor closed."""
        await self._ask("drop", name=name)
        self.descriptors.discard(name)

    async def stay(self, linger_s: float) -> None:
        """Have it wait so long for a successor when this connection is gone."""
        await self._ask("stay", linger_s=linger_s)

    async def end(self) -> None:
        """Have it end all children and itself, and wait for that."""
        self.on_lost = lambda: None
        with contextlib.suppress(KeeperError, ProcessLookupError):
            pidfd = os.pidfd_open(self.pid)
            try:
                await self._ask("end", wait_s=2 * program.GRACE_S + ANSWER_S)
                await _until_ended(pidfd)
            finally:
                os.close(pidfd)
        self.leave()

    def leave(self) -> None:
        """Close the connection; the children run on for the successor."""
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
        while self._arrived:
            os.close(self._arrived.pop())

    async def _ask(
        self, request: str, fd: int | None = None, wait_s: float = ANSWER_S, **fields: Any
    ) -> dict[str, Any]:
        # To its end, whatever becomes of who asked: the next answer is the next one's.
        asking = self._converse({"request": request, **fields}, fd, wait_s)
        task = asyncio.get_running_loop().create_task(asking)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _converse(
        self, request: dict[str, Any], fd: int | None, wait_s: float
    ) -> dict[str, Any]:
        data = json.dumps(request).encode() + b"\n"
        if len(data) > program.LINE_MAX:
            raise KeeperError(f"a request of more than {program.LINE_MAX} bytes")
        async with self._turn:
            if self._socket.fileno() < 0:
                raise _LostError("the keeper is gone")
            self._asked = request
            try:
                if fd is not None:  # the keeper has read all that came before: it fits
                    socket.send_fds(self._socket, [data], [fd])
                else:
                    await asyncio.get_running_loop().sock_sendall(self._socket, data)
            except OSError as error:
                raise KeeperError(f"the keeper: {error.strerror or error}") from None
            return await self._reply(wait_s)

    async def _reply(self, wait_s: float) -> dict[str, Any]:
        try:
            async with asyncio.timeout(wait_s):
                answer = await asyncio.shield(self._answer)
        except TimeoutError:
            self._lose()  # an answer that came later would be taken for the next one's
            raise _LostError(f"the keeper does not answer for {wait_s:.0f} s") from None
        self._answer = asyncio.get_running_loop().create_future()
        if not answer:
            raise _LostError("the keeper is gone")
        if "error" in answer:
            raise KeeperError(answer["error"])
        return answer

    def _hear(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._socket, 1 << 16, 4, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        self._arrived += fds
        self._received += data
        if not data or len(self._received) > ANSWER_MAX:
            self._lose()
            return
        if b"\n" in data:
            *lines, self._received = self._received.split(b"\n")
            try:
                for line in lines:
                    self._take_in(json.loads(line))
            except (ValueError, LookupError, TypeError):
                self._lose()

    def _take_in(self, message: dict[str, Any]) -> None:
        if message.get("event") == "ended":
            self._over(message["name"], int(message["status"]))
            return
        if message.get("reply") == "spawn":  # at once: the next line may say that it has ended
            argv = tuple(self._asked["argv"])
            self._begin(self._asked["name"], Child(message["pid"], argv, message["started"]))
        if self._arrived:
            message["fd"] = self._arrived.pop()
        if not self._answer.done():
            self._answer.set_result(message)

    def _over(self, name: str, status: int) -> None:
        self.children.pop(name, None)
        end = self._ends.get(name)
        if end is not None and not end.done():
            end.set_result(status)

    def _lose(self) -> None:
        if self.lost.is_set():
            return
        self.leave()
        self.lost.set()
        if not self._answer.done():
            self._answer.set_result({})
        for name in list(self.children):
            self._over(name, _KILLED)
        self.on_lost()


async def _until_ended(pidfd: int) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(pidfd, ended.set)
    try:
        async with asyncio.timeout(ANSWER_S):
            await ended.wait()
    except TimeoutError:
        raise _LostError("the keeper does not end") from None
    finally:
        asyncio.get_running_loop().remove_reader(pidfd)


def _start(path: Path) -> bool:
    """Start a keeper and wait until it listens; false where another one has the socket."""
    env = {name: value for name, value in os.environ.items() if name not in _OURS}
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-I", program.__file__, str(path)],
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=REACH_S,
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise KeeperError(f"{path}: the keeper does not start within {REACH_S:.0f} s") from None
    except OSError as error:
        problem = f"{error.filename}: {error.strerror}"
        raise KeeperError(f"{problem}; the keeper of machines needs {path.parent}") from None
    if done.returncode not in (0, program.TAKEN):
        said = done.stderr.strip().splitlines()
        why = said[-1] if said else f"status {done.returncode}"
        raise KeeperError(f"{path}: the keeper cannot be started: {why}")
    return done.returncode == 0
