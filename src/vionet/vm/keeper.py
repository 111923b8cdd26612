"""The keeper: the small process whose children QEMU and its like are, and who holds descriptors.

It outlives the vionet that started it, so that another vionet finds the guests running and the
taps open; and nothing outlives the keeper.

How it works: one thread, one `select` loop over the listening socket, one client, a pidfd for each
child.  A client sends `{"request":NAME,…}`, one JSON object a line and one at a time, and gets
`{"reply":NAME,…}` or `{"error":LINE}`; in between come events, `{"event":"ended",…}`.  The first
line is the keeper's own: `{"keeper":VERSION}`, or an error.  Descriptors go along with the line
that they belong to (SCM_RIGHTS).  `keeping` is the other end; REQUESTS is what can be asked for.

It is run by its path and needs the standard library only: it starts in a moment, stays small, and
reads nothing of a package that is replaced under it.  `main` listens, then goes into the
background; who started it waits for that and may connect.

Invariants: a lock on the log file, for life, makes it the only keeper of its socket.  A child has a
session of its own, the default signals, no descriptor but its log and a standard input that ends
with the keeper; the kernel kills it when the keeper dies, except where it changed its
credentials.  What is left of a child's process group goes with it.  No client for `linger_s`, a
request to end, or SIGTERM: all children are ended, then the keeper.

Trust: its own user and root.  Lines, children and descriptors are bounded all the same, and a
client that does not read is dropped.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

VERSION: Final = 1
LINE_MAX: Final = 128 << 10  # bytes of a request; the kernel takes 128 KiB for one argument
CHILDREN_MAX: Final = 256  # each costs two descriptors of the usual 1024
DESCRIPTORS_MAX: Final = 256
NAME_MAX: Final = 128
LINGER_S: Final = 20.0
LINGER_MAX_S: Final = 3600.0
SEND_S: Final = 5.0  # a client that reads nothing for so long is as good as dead
GRACE_S: Final = 5.0  # from SIGTERM to SIGKILL at the end
TAKEN: Final = 3  # exit status of `main`: another keeper has the socket
_PR_SET_PDEATHSIG: Final = 1

Answer = dict[str, Any]


class RefusedError(Exception):
    """Why a request is not met: one line for who asked."""


class Child:
    """A running child."""

    def __init__(self, argv: list[str], process: "subprocess.Popen[bytes]") -> None:
        self.argv, self.process = argv, process
        self.started = time.time()
        self.pidfd = os.pidfd_open(process.pid)

    def reap(self) -> int:
        """The status of one that has ended; kills what is left of its group."""
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        status = self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        os.close(self.pidfd)
        return status


class Keeper:
    """What runs in the background."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._libc = ctypes.CDLL(None)
        self._pid = os.getpid()
        self._client: socket.socket | None = None
        self._served = 0  # its pid
        self._received = bytearray()
        self._arrived: list[int] = []  # descriptors that came with the line being read
        self._children: dict[str, Child] = {}
        self._gone: dict[str, int] = {}  # ended while nobody listened: status
        self._descriptors: dict[str, int] = {}
        self._linger_s = LINGER_S
        self._deadline = time.monotonic() + LINGER_S  # while there is no client
        self._ending = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._signals, waker = socket.socketpair()
        for end in (self._signals, waker):
            end.setblocking(False)
        self._waker = waker
        self._selector.register(self._signals, selectors.EVENT_READ, self._signalled)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)

    def run(self) -> None:
        """Serve until it is time to end; then end the children."""
        while not self._ending:
            left = None if self._client else self._deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            # A successor's arrival after its predecessor's end, where both came at once.
            events = self._selector.select(left)
            for key, _ in sorted(events, key=lambda event: event[0].fileobj is self._listener):
                key.data()
        self._end_children()

    def _signalled(self) -> None:
        self._ending |= signal.SIGTERM in self._signals.recv(64)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            arrival, _ = self._listener.accept()
            arrival.settimeout(SEND_S)
            peer = arrival.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            pid, uid, _ = struct.unpack("3i", peer)
            if uid not in (0, os.geteuid()):
                arrival.close()
            elif self._client is not None:
                with arrival:
                    _send(arrival, {"error": f"another vionet (process {self._served}) is served"})
            else:
                self._client, self._served = arrival, pid
                self._selector.register(arrival, selectors.EVENT_READ, self._hear)
                self.tell({"keeper": VERSION, "pid": self._pid})

    def tell(self, message: Answer, fds: tuple[int, ...] = ()) -> bool:
        """Send the client a line; one that does not take it is dropped."""
        if self._client is not None:
            try:
                _send(self._client, message, fds)
            except OSError:
                self._lose()
        return self._client is not None

    def _lose(self) -> None:
        if self._client is not None:
            with contextlib.suppress(KeyError):
                self._selector.unregister(self._client)
            self._client.close()
            self._client = None
            self._received.clear()
            self._deadline = time.monotonic() + self._linger_s

    def _hear(self) -> None:
        if self._client is None:
            return
        try:
            data, fds, flags, _ = socket.recv_fds(self._client, 1 << 16, 4, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            data, fds, flags = b"", [], 0
        self._arrived += fds
        self._received += data
        while b"\n" in self._received:
            line, _, self._received = self._received.partition(b"\n")
            self._answer(line)
        if len(self._received) > LINE_MAX:
            self.tell({"error": f"a request has at most {LINE_MAX} bytes"})
        if not data or flags & socket.MSG_CTRUNC or len(self._received) > LINE_MAX:
            self._forget_arrived()
            self._lose()

    def _forget_arrived(self) -> None:
        while self._arrived:
            os.close(self._arrived.pop())

    def _answer(self, line: bytes | bytearray) -> None:
        fds: tuple[int, ...] = ()
        try:
            request = json.loads(line)
            name = request["request"]
            answer = {"reply": name, **REQUESTS[name](self, request)}
            if name == "take":
                fds = (self._descriptors[request["name"]],)
        except RefusedError as error:
            answer = {"error": str(error)}
        except OSError as error:
            answer = {"error": f"the keeper: {error.strerror or error}"}
        except Exception as error:  # whatever it is, the guests are not to die of it
            answer = {"error": f"not a request: {error!r}"}
        self._forget_arrived()
        if not self._ending:  # else `main` answers when that is done
            self.tell(answer, fds)

    def _spawn(self, request: Answer) -> Answer:
        name, argv, log = _name(request), request["argv"], request["log"]
        cwd, env = request.get("cwd"), request.get("env", {})
        if name in self._children:
            raise RefusedError(f"{name}: runs already")
        if len(self._children) >= CHILDREN_MAX:
            raise RefusedError(f"{name}: a keeper has at most {CHILDREN_MAX} children")
        if not isinstance(argv, list) or not argv:
            raise RefusedError(f"{name}: argv is a list of texts")
        sink = -1
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            sink = os.open(log, flags, 0o600)
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=sink,
                cwd=cwd,
                env={**os.environ, **env},
                bufsize=0,
                start_new_session=True,
                preexec_fn=self._bind,
            )
        except OSError as error:
            raise RefusedError(f"{error.filename or argv[0]}: {error.strerror}") from None
        finally:
            if sink >= 0:
                os.close(sink)
        try:
            child = Child(argv, process)
        except OSError:
            process.kill()
            process.communicate()
            raise
        self._children[name] = child
        self._gone.pop(name, None)
        self._selector.register(child.pidfd, selectors.EVENT_READ, lambda: self._ended(name))
        return {"pid": process.pid, "started": child.started}

    def _bind(self) -> None:
        """In the child: die with the keeper, even if it died just now."""
        self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self._pid:
            os.kill(os.getpid(), signal.SIGKILL)

    def _ended(self, name: str) -> None:
        child = self._children.pop(name)
        self._selector.unregister(child.pidfd)
        status = child.reap()
        if not self.tell({"event": "ended", "name": name, "status": status}):
            self._gone[name] = status
            while len(self._gone) > CHILDREN_MAX:
                del self._gone[next(iter(self._gone))]

    def _list(self, request: Answer) -> Answer:
        children = [
            {"name": name, "pid": one.process.pid, "argv": one.argv, "started": one.started}
            for name, one in self._children.items()
        ]
        gone, self._gone = self._gone, {}
        return {"children": children, "ended": gone, "descriptors": list(self._descriptors)}

    def _signal(self, request: Answer) -> Answer:
        name, number = _name(request), int(request["number"])
        if name not in self._children:
            raise RefusedError(f"{name}: does not run")
        os.kill(self._children[name].process.pid, number)  # its own until it is reaped
        return {}

    def _put(self, request: Answer) -> Answer:
        name = _name(request)
        if len(self._arrived) != 1:
            raise RefusedError(f"{name}: put comes with one descriptor")
        if name not in self._descriptors and len(self._descriptors) >= DESCRIPTORS_MAX:
            raise RefusedError(f"{name}: a keeper holds at most {DESCRIPTORS_MAX} descriptors")
        self._drop(request)
        self._descriptors[name] = self._arrived.pop()
        return {}

    def _take(self, request: Answer) -> Answer:
        if (name := _name(request)) not in self._descriptors:
            raise RefusedError(f"{name}: no such descriptor")
        return {}

    def _drop(self, request: Answer) -> Answer:
        fd = self._descriptors.pop(_name(request), None)
        if fd is not None:
            os.close(fd)
        return {}

    def _stay(self, request: Answer) -> Answer:
        linger_s = float(request["linger_s"])
        if not 0 <= linger_s <= LINGER_MAX_S:  # nor a NaN
            raise RefusedError(f"linger_s is 0 to {LINGER_MAX_S:.0f}")
        self._linger_s = linger_s
        return {}

    def _begin_end(self, request: Answer) -> Answer:
        self._ending = True
        return {}

    def _end_children(self) -> None:
        for end in filter(None, (self._listener, self._signals, self._client)):
            self._selector.unregister(end)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for child in self._children.values():
                os.kill(child.process.pid, number)
            deadline = time.monotonic() + GRACE_S
            while self._children and (left := deadline - time.monotonic()) > 0:
                for key, _ in self._selector.select(left):
                    key.data()


REQUESTS: Final[dict[str, Callable[[Keeper, Answer], Answer]]] = {
    "spawn": Keeper._spawn,  # name, argv, log, cwd?, env? -> pid, started
    "list": Keeper._list,  # -> children, ended (since the last client), descriptors
    "signal": Keeper._signal,  # name, number
    "put": Keeper._put,  # name, and a descriptor with the line; replaces
    "take": Keeper._take,  # name -> a copy of the descriptor with the answer
    "drop": Keeper._drop,  # name
    "stay": Keeper._stay,  # linger_s
    "end": Keeper._begin_end,  # answered when the children have ended
}


def _name(request: Answer) -> str:
    name = request["name"]
    if not isinstance(name, str) or not 0 < len(name) <= NAME_MAX:
        raise RefusedError(f"a name has 1 to {NAME_MAX} characters")
    return name


def _send(to: socket.socket, message: Answer, fds: tuple[int, ...] = ()) -> None:
    data = memoryview(json.dumps(message).encode() + b"\n")
    if fds:
        data = data[socket.send_fds(to, [data], list(fds)) :]
    to.sendall(data)


def _claim(log: str) -> int:
    """The log file, locked; -1 where another keeper has it."""
    while True:
        fd = os.open(log, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return -1
        # The one who ended just now may have removed it between the two steps.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), os.stat(log)):  # noqa: PTH116 the same file?
                return fd
        os.close(fd)


def _reset_signals() -> None:
    """Children inherit what is ignored or blocked: nothing, whatever the starter ignored."""
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:  # Popen's to reset
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, frame: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def main(place: str) -> int:
    """Listen at `place` and serve in the background; the exit status for who started this."""
    path = Path(place).absolute()
    log = path.with_suffix(".log")
    try:
        lock = _claim(str(log))
        if lock < 0:
            return TAKEN
        path.unlink(missing_ok=True)  # stale: its keeper is dead
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(str(path))
        listener.listen(8)
    except OSError as error:
        sys.stderr.write(f"{path}: {error.strerror or error}\n")
        return 1
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir(path.parent)
    _reset_signals()
    null = os.open(os.devnull, os.O_RDWR)
    for source, target in ((null, 0), (null, 1), (lock, 2)):
        os.dup2(source, target)
    os.close(null)
    keeper = Keeper(listener)
    try:
        keeper.run()
    finally:
        path.unlink(missing_ok=True)
    log.unlink(missing_ok=True)
    keeper.tell({"reply": "end"})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
