"""What systemd is told, and what it kept for us: sd_notify(3), sd_listen_fds(3), no libsystemd.

How it works: a message is a datagram of `KEY=value` lines to $NOTIFY_SOCKET (a path, or an abstract
name behind `@`), descriptors travel beside it.  Without that variable every call does nothing, so
nobody else needs to know whether systemd is there.  The watchdog is fed from the event loop, at
half the time that systemd allows, and only while `alive` says so: a control plane that hangs and a
worker that died are both noticed.

Invariants: the variables are taken out of the environment, so that no child answers for us or takes
descriptors that are not its own; a service manager that does not listen costs at most `_SEND_S` a
message and is never an error.
"""

import asyncio
import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable
from typing import Final

_SEND_S: Final = 1.0
_FIRST_FD: Final = 3  # SD_LISTEN_FDS_START
_FDS_MAX: Final = 4096


class Notify:
    """The service manager's ear; silent where there is none."""

    def __init__(self, address: str | None, watchdog_us: int = 0) -> None:
        self._address = address
        self._watchdog_s = watchdog_us / 1e6
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    def from_environment(cls) -> "Notify":
        """As systemd says in the environment; it is taken out of there."""
        address = os.environ.pop("NOTIFY_SOCKET", "")
        usec, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
        mine = usec.isdecimal() and pid in ("", str(os.getpid()))
        return cls(address if address.startswith(("/", "@")) else None, int(usec) if mine else 0)

    @property
    def listening(self) -> bool:
        """Whether there is a service manager (that can keep descriptors)."""
        return self._address is not None

    def ready(self) -> None:
        """Everything answers; also the end of a reload."""
        self._send("READY=1")

    def reloading(self) -> None:
        """The file is read again; `ready` follows."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The end has begun."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send("STATUS=" + " ".join(text.split()))

    def store(self, name: str, fd: int) -> None:
        """Have a descriptor kept for our successor, until `discard`; `name` is without colons."""
        assert name.isprintable() and ":" not in name and len(name) < 256
        # Without FDPOLL=0 a tap whose other end is gone for a moment would be thrown away.
        self._send("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", fd=fd)

    def discard(self, name: str) -> None:
        """Have it closed."""
        self._send("FDSTOREREMOVE=1", f"FDNAME={name}")

    def watchdog(self, alive: Callable[[], bool]) -> None:
        """Feed the watchdog from the running loop, if there is one and as long as `alive` holds."""
        if self._address is None or not self._watchdog_s:
            return
        if alive():
            self._send("WATCHDOG=1")
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._watchdog_s / 2, self.watchdog, alive)

    def close(self) -> None:
        """Feed no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _send(self, *lines: str, fd: int | None = None) -> None:
        if self._address is None:
            return
        address = self._address
        if address.startswith("@"):
            address = "\0" + address[1:]
        rights = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("=i", fd))]
            if fd is not None
            else []
        )
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out,
        ):
            out.settimeout(_SEND_S)
            out.sendmsg(["\n".join(lines).encode()], rights, 0, address)


def inherited() -> dict[str, int]:
    """The descriptors that systemd kept for us or opened, by name; for the first caller only."""
    pid = os.environ.pop("LISTEN_PID", "")
    count = os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdecimal() or int(count) > _FDS_MAX:
        return {}
    found: dict[str, int] = {}
    for number in range(int(count)):
        fd = _FIRST_FD + number
        name = names[number] if number < len(names) and names[number] else f"unknown-{number}"
        try:
            os.set_inheritable(fd, False)
        except OSError:
            continue
        if name in found:  # kept twice: the later one is the newer
            os.close(found[name])
        found[name] = fd
    return found
