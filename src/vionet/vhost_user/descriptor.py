"""What kind of thing a received file descriptor is.

A kick must be an eventfd, because the data path reads it and waits for it.  A call or an error
notification may be a pipe or a socket as well: User Mode Linux gives sockets.  All are made
non-blocking, so that a full counter or pipe never stops the data path (spec VU-43).
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from vionet.spec.vhost_user import Request

_EXPECTED: Final[dict[int, tuple[str, ...]]] = {
    Request.SET_VRING_KICK: ("anon_inode:[eventfd]",),
    Request.SET_VRING_CALL: ("anon_inode:[eventfd]", "pipe:", "socket:"),
    Request.SET_VRING_ERR: ("anon_inode:[eventfd]", "pipe:", "socket:"),
    Request.SET_BACKEND_REQ_FD: ("socket:",),
}


def unfit(request: int, fds: Sequence[int]) -> str:
    """Why the first of `fds` cannot be what `request` needs; nothing if it can, then prepared."""
    expected = _EXPECTED.get(request)
    if expected is None or not fds:
        return ""
    kind = str(Path(f"/proc/self/fd/{fds[0]}").readlink())
    if not kind.startswith(expected):
        return f"file descriptor is {kind}, expected {' or '.join(expected)}"
    os.set_blocking(fds[0], False)
    return ""
