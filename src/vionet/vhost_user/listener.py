"""A listening Unix socket at a path that may be left over from an earlier process.

How it works: under a lock on the folder, a path that exists is tried first.  A refused connection
means that nobody serves it any more, and it is replaced; an answer means that another process
does, and that is an error.  The socket is made with its final permissions, and removed on `close`
if the path is still ours.
"""

import contextlib
import errno
import fcntl
import grp
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

LOCK_TIMEOUT: Final = 1.0  # seconds, in which nothing else is done; it is held for milliseconds
PATH_MAX: Final = 107  # bytes, sockaddr_un


class SocketError(Exception):
    """A socket cannot be had; the text says which, why, and what to do."""


class Listener:
    """A non-blocking listening socket and its path."""

    def __init__(self, path: Path, mode: int | None = None, group: str | None = None) -> None:
        """Bind and listen; `mode` (else the umask decides) and `group` are the socket's."""
        if len(os.fsencode(path)) > PATH_MAX:
            raise SocketError(f"{path}: longer than {PATH_MAX} bytes; choose a shorter path")
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            with _locked(path.parent):
                _clear(path)
                self._bind(mode, group)
        except OSError as error:
            self.socket.close()
            raise SocketError(f"{path}: {error.strerror}; {_remedy(error, path)}") from error
        except BaseException:
            self.socket.close()
            raise

    def _bind(self, mode: int | None, group: str | None) -> None:
        if mode is not None:
            os.fchmod(self.socket.fileno(), mode)  # never wider, not even for a moment
        self.socket.bind(str(self.path))
        status = self.path.lstat()
        self._identity = status.st_dev, status.st_ino
        try:
            if group is not None:
                os.chown(self.path, -1, _group_id(self.path, group))
            if mode is not None:
                self.path.chmod(mode)
            self.socket.listen(16)
        except BaseException:
            self.path.unlink()
            raise

    def close(self) -> None:
        """Stop listening and remove the path."""
        self.socket.close()
        with contextlib.suppress(OSError, SocketError), _locked(self.path.parent):
            status = self.path.lstat()
            if (status.st_dev, status.st_ino) == self._identity:
                self.path.unlink()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + LOCK_TIMEOUT
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise SocketError(f"{folder}: another process keeps it locked") from None
                time.sleep(0.01)
        yield
    finally:
        os.close(fd)


def _clear(path: Path) -> None:
    """Remove a socket that nobody serves."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise SocketError(f"{path}: exists and is not a socket; remove it or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        code = probe.connect_ex(str(path))
    if code == errno.ECONNREFUSED:
        path.unlink()
    elif code in (0, errno.EAGAIN):
        raise SocketError(
            f"{path}: another process serves this socket; stop it or choose another path"
        )
    elif code != errno.ENOENT:
        raise OSError(code, os.strerror(code))


def _group_id(path: Path, group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise SocketError(f"{path}: group {group} does not exist; see getent group") from None


def _remedy(error: OSError, path: Path) -> str:
    match error.errno:
        case errno.ENOENT:
            return f"make the folder {path.parent} first"
        case errno.EACCES | errno.EPERM:
            return f"choose a folder that this user may write, not {path.parent}"
        case _:
            return "choose another path"
