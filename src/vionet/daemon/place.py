"""Where control sockets live, and how a fabric without a name of its own finds a free one."""

import os
import socket
from pathlib import Path
from typing import Final

from vionet.vhost_user.listener import Listener, SocketError

SUFFIX: Final = ".control"
NAMES_MAX: Final = 100  # fabrics of one user that nobody gave a name
_TRY_S: Final = 2.0


def runtime_folder() -> Path:
    """The folder of control sockets of this user; it need not exist yet."""
    named = os.environ.get("XDG_RUNTIME_DIR")
    if named:
        return Path(named) / "vionet"
    if os.geteuid() == 0:
        return Path("/run/vionet")
    raise SocketError(
        "XDG_RUNTIME_DIR is not set: where are the sockets? set it to a folder of yours"
    )


def control_sockets() -> list[Path]:
    """Every control socket in the runtime folder, stale ones too."""
    try:
        return sorted(runtime_folder().glob(f"*{SUFFIX}"))
    except OSError:
        return []


def listen_at(path: Path, mode: int = 0o600) -> Listener:
    """A control socket, for its owner alone unless `mode` says who may connect."""
    return Listener(path, mode)


def listen_as(name: str, *, exact: bool) -> tuple[str, Listener]:
    """The control socket of a fabric in the runtime folder, and the fabric's name.

    Unless the name is `exact`, one that is in use gets a number: switch, switch-2, switch-3.
    """
    folder = runtime_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        problem = f"{folder}: cannot be made: {error.strerror}; give --control PATH"
        raise SocketError(problem) from None
    for number in range(1, NAMES_MAX + 1):
        candidate = name if number == 1 else f"{name}-{number}"
        path = folder / f"{candidate}{SUFFIX}"
        try:
            return candidate, listen_at(path)
        except SocketError:
            if exact or not answers(path):
                raise
    raise SocketError(f"{folder}: {NAMES_MAX} fabrics run already; give --control PATH")


def answers(path: Path) -> bool:
    """Whether somebody listens on the Unix socket at `path`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_TRY_S)
        try:
            probe.connect(os.fspath(path))
        except (TimeoutError, BlockingIOError):
            return True
        except OSError:
            return False
    return True
