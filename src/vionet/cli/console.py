"""A machine's serial line in this terminal.

How it works: the terminal is raw while it is attached, so every key goes to the guest, ^C too; what
leaves is Ctrl-] anywhere, or `~.` at the beginning of a line (as cu and ssh have it; a second `~`
there is one for the guest).  Without a terminal bytes go both ways as they are, and the end of
standard input only ends what is sent.

Invariants: the terminal is given back as it was, also when a signal ends us.  A guest that does not
read holds up nobody: `PENDING_MAX` bytes wait for it; of a terminal what is beyond is lost, as on
a real line.
"""

import os
import select
import signal
import socket
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

PENDING_MAX: Final = 1 << 16
LEAVE: Final = 0x1D  # Ctrl-]
HOW_TO_LEAVE: Final = "Ctrl-] or ~. at the beginning of a line"


class Escape:
    """Finds in what is typed where the person wants to leave."""

    def __init__(self) -> None:
        self._fresh, self._tilde = True, False  # at the beginning of a line; a ~ is held back

    def typed(self, keys: bytes) -> tuple[bytes, bool]:
        """What of it is for the guest, and whether to leave after that."""
        sent = bytearray()
        for key in keys:
            if key == LEAVE or (self._tilde and key == ord(".")):
                return bytes(sent), True
            if self._fresh and not self._tilde and key == ord("~"):
                self._tilde = True
                continue
            if self._tilde and key != ord("~"):
                sent.append(ord("~"))
            sent.append(key)
            self._tilde, self._fresh = False, key in b"\r\n"
        return bytes(sent), False


def converse(line: socket.socket, first: bytes) -> bool:
    """Join the connection with standard input and output until either ends.

    `first` came already.  *Returns* whether it was the person who left.
    """
    escape = Escape() if os.isatty(0) else None
    pending = bytearray()
    keyboard = [0]  # until its end
    line.setblocking(False)
    with _raw():
        _put(first)
        while True:
            full = not escape and len(pending) >= PENDING_MAX
            wanted: list[socket.socket | int] = [line, *([] if full else keyboard)]
            readable, writable, _ = select.select(wanted, [line] if pending else [], [])
            if writable:
                del pending[: _sent(line, pending)]
            if line in readable:
                piece = _received(line)
                if not piece:
                    return False
                _put(piece)
            if 0 in readable:
                keys, leave = os.read(0, 4096), False
                if not keys:
                    keyboard, leave = [], escape is not None
                elif escape:
                    keys, leave = escape.typed(keys)
                    keys = keys[: PENDING_MAX - len(pending)]
                pending += keys
                if leave:
                    _sent(line, pending)
                    return True


def _sent(line: socket.socket, pending: bytearray) -> int:
    try:
        return line.send(pending)
    except BlockingIOError:
        return 0
    except OSError:  # gone: what it said last is still to be read
        return len(pending)


def _received(line: socket.socket) -> bytes:
    try:
        return line.recv(1 << 16)
    except OSError:
        return b""


def _put(piece: bytes) -> None:
    while piece:
        piece = piece[os.write(1, piece) :]


@contextmanager
def _raw() -> Iterator[None]:
    """The terminal of standard input without its own ideas of keys, if there is one."""
    if not os.isatty(0):
        yield
        return
    before = termios.tcgetattr(0)
    signals = {number: signal.signal(number, _end) for number in (signal.SIGTERM, signal.SIGHUP)}
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
        for number, action in signals.items():
            signal.signal(number, action)


def _end(number: int, frame: object) -> NoReturn:
    sys.exit(128 + number)
