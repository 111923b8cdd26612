"""One run of QEMU: what was heard of it, and how it is judged when it has ended.

Trust: texts come from QEMU, which a guest may have taken over; they are made harmless and short.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

TEXT_MAX: Final = 300
HEARD: Final = {  # events of QEMU's, as the log has them
    "BLOCK_IO_ERROR": "disk error",
    "GUEST_PANICKED": "the guest panicked",
    "RESET": "machine reset",
}
STDERR_MAX: Final = 1 << 20  # bytes; begun anew at a start
_LINE_MAX: Final = 4096
# Reasons of SHUTDOWN (qapi/run-state.json) -> our word, and whether that is a failure.
_SHUTDOWNS: Final = {
    "guest-shutdown": ("power-off", False),
    "guest-reset": ("reset", False),
    "guest-panic": ("panic", True),
    "host-qmp-quit": ("quit by its monitor", True),
    "host-signal": ("ended by a signal", True),
}


class Run:
    """From the wish to start QEMU to its end."""

    def __init__(self, stderr: Path, *, attended: bool, adopted: bool = False) -> None:
        """`stderr` is where QEMU says what is wrong; `attended`: somebody waits for the start."""
        self.attended = attended  # and is told, so it is not tried again
        self.asked = False  # to stop
        self.over = asyncio.Event()
        self.hurry = asyncio.Event()  # over, or to be stopped by force
        self.hung = False  # after a panic: to be told to quit, once
        self.going: bool | None = None  # what the last event said of its processors
        self.trouble: str | None = None  # what a pause or the end comes from
        self._began = time.monotonic()
        self._shutdown: str | None = None
        self._stderr = stderr
        self._said_off = _begin(stderr, anew=not adopted)  # before that, others spoke

    @property
    def lasted_s(self) -> float:
        """How long it has been."""
        return time.monotonic() - self._began

    def hear(self, event: str, data: Mapping[str, Any]) -> dict[str, str] | None:
        """Take in an event; the fields of a line in the log, if it is one of `HEARD`."""
        match event:
            case "SHUTDOWN":
                self._shutdown = plain(data.get("reason"))
            case "BLOCK_IO_ERROR":
                reason = plain(data.get("reason"))
                if data.get("action") == "stop":
                    self.trouble = f"disk error: {reason}"
                return {"reason": reason}
            case "GUEST_PANICKED":
                if data.get("action") != "run":
                    self.trouble = "panic"
                return {}
            case "RESET":
                return {"by": "guest" if data.get("guest") is True else "host"}
            case "RESUME":
                self.trouble = None
        return None

    def verdict(self, status: int) -> tuple[str, bool]:
        """Why QEMU ended with `status`, and whether that is a failure."""
        if self.asked:
            graceful = self._shutdown == "guest-shutdown"
            return ("power-off" if graceful else "stopped by force"), False
        if self.trouble is not None:
            return self.trouble, True
        if status == 0:
            return _SHUTDOWNS.get(self._shutdown or "", ("it ended by itself", False))
        if status < 0:
            with contextlib.suppress(ValueError):
                return f"killed by {signal.Signals(-status).name}", True
        said = last_line(self._stderr, self._said_off)
        return f"QEMU ended with status {status}{said and ': '}{said}", True


def plain(text: object) -> str:
    """A text of QEMU's, safe for a log."""
    return "".join(c if c.isprintable() else "?" for c in str(text)[:TEXT_MAX])


def _begin(path: Path, *, anew: bool) -> int:
    """The length of the file so far; a long one is begun anew."""
    with contextlib.suppress(OSError):
        if anew and path.stat().st_size > STDERR_MAX:
            os.truncate(path, 0)
        return path.stat().st_size
    return 0


def last_line(path: Path, start_off: int = 0) -> str:
    """What a program said last, after `start_off`, safe for a log."""
    try:
        with path.open("rb") as file:
            file.seek(max(start_off, file.seek(0, os.SEEK_END) - _LINE_MAX))
            lines = file.read(_LINE_MAX).decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return plain(lines[-1]) if lines else ""
