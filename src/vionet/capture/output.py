"""Where a capture goes: one file, files in turn, a pipe.

How it works: each file is complete by itself: section, interfaces, packets, and at its end, and now
and then before it, the statistics of every interface.  In turn they are named as dumpcap names
them, `FILE_00001_20261126093000.pcapng`; the oldest is removed where more than `keep` would stay.

Invariants: blocks are written whole, but for a pipe whose writing was interrupted; a file grows
beyond its limit only where a single packet is larger, and to twice that packet at most.  On a
full disk what was written of a block is taken back.
"""

import os
import stat
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from vionet.capture.pcapng import statistics
from vionet.capture.reader import OUT_MAX, Reader

SIZE_MIN: Final = 65536  # bytes that a limit is at least
_SPARE: Final = 128  # bytes that the statistics, or the description, of an interface may take


class Output:
    """The open file, and those before it."""

    def __init__(
        self, where: str, section: bytes, *, max_size: int = 0, rotate: int = 0, keep: int = 0
    ) -> None:
        """`-` is standard output; sizes are bytes, 0: as many as come."""
        self._where, self._section = where, section
        self._limit, self._rotate, self._keep = rotate or max_size, rotate, keep
        self._files: deque[Path] = deque()
        self._number = 0
        self._fd = -1
        self._said: dict[int, tuple[int, int]] = {}  # statistics, by interface
        # Opening and writing may take as long as somebody else likes.
        self.blocking = True

    def begin(self, reader: Reader) -> None:
        """Open the next file."""
        self._number += 1
        self._begun_ns = time.time_ns()
        self._written = self._described = self._packets = 0
        self._before = reader.packets, reader.lost
        self._said.clear()
        self._open()
        self._put(self._section)
        self._describe(reader)

    def room(self, reader: Reader) -> int:
        """Bytes of packets that the file may still take."""
        if not self._limit:
            return OUT_MAX
        return max(0, self._limit - self._written - 4 * _SPARE - _SPARE * len(reader.interfaces))

    def write(self, reader: Reader, blocks: memoryview) -> None:
        """Packets of the reader, behind the description of each interface that is new."""
        self._describe(reader)
        self._put(blocks)
        self._packets += 1

    def turn_over(self, reader: Reader) -> bool:
        """The file is full: go on in the next one; *returns* whether there is one."""
        if self._rotate and self._packets:
            self.end(reader)
            self.begin(reader)
            return True
        return False

    @property
    def oversize(self) -> bool:
        """Whether the next packet is written however large it is."""
        return not self._limit or bool(self._rotate and not self._packets)

    def say(self, reader: Reader) -> None:
        """Write the statistics of interfaces that have others than before."""
        packets, lost = self._before
        for number, count in enumerate(reader.packets):
            before = packets[number] if number < len(packets) else 0
            missed = reader.lost - lost if number == 0 else 0
            counts = count - before, missed
            if self._said.get(number) != counts:
                self._said[number] = counts
                self._put(statistics(number, self._begun_ns, time.time_ns(), *counts))

    def end(self, reader: Reader) -> None:
        """Finish the file and close it."""
        self._describe(reader)
        self._said.clear()
        self.say(reader)
        self.close()

    def close(self) -> None:
        """Close it as it is."""
        if self._fd > 2:
            os.close(self._fd)
        self._fd = -1

    def _open(self) -> None:
        if self._where == "-":
            self._fd = 1
        else:
            path = self._path() if self._rotate else Path(self._where)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            self._fd = os.open(path, flags, 0o600)
            self._files.append(path)
            if self._keep and len(self._files) > self._keep:
                self._files.popleft().unlink(missing_ok=True)
        if os.isatty(self._fd):
            self.close()
            raise IsATerminal("a terminal; write to a file, or through a pipe")
        self.blocking = not stat.S_ISREG(os.fstat(self._fd).st_mode)

    def _path(self) -> Path:
        path = Path(self._where)
        stamp = time.strftime("%Y%m%d%H%M%S")
        return path.with_name(f"{path.stem}_{self._number:05d}_{stamp}{path.suffix}")

    def _describe(self, reader: Reader) -> None:
        for block in reader.descriptions[self._described :]:
            self._put(block)
        self._described = len(reader.descriptions)

    def _put(self, data: bytes | memoryview) -> None:
        put = 0
        try:
            while put < len(data):
                put += os.write(self._fd, data[put:])
        except OSError:
            if not self.blocking:
                end = os.lseek(self._fd, 0, os.SEEK_CUR)
                os.ftruncate(self._fd, end - put + whole(data, put))
            raise
        self._written += put


def whole(blocks: bytes | memoryview, length: int) -> int:
    """How many of the first `length` bytes are whole blocks."""
    end = 0
    while end + 8 <= length:
        after = end + int.from_bytes(blocks[end + 4 : end + 8], "little")
        if after > length:
            break
        end = after
    return end


class IsATerminal(OSError):
    """Packets are not for people to read."""


class Lines(Output):
    """A line for each packet on standard output, which is as good as a file that has no end."""

    def __init__(self, line: Callable[[Reader, memoryview], str]) -> None:
        """`line` makes it of a packet's block."""
        super().__init__("-", b"")
        self._line = line

    def begin(self, reader: Reader) -> None:
        """Nothing stands above them."""

    def write(self, reader: Reader, blocks: memoryview) -> None:
        """Print them."""
        lines = []
        while len(blocks):
            length = int.from_bytes(blocks[4:8], "little")
            lines.append(self._line(reader, blocks[:length]) + "\n")
            blocks = blocks[length:]
        code = sys.stdout.encoding
        sys.stdout.write("".join(lines).encode(code, "replace").decode(code))
        sys.stdout.flush()

    def say(self, reader: Reader) -> None:
        """Nothing in between."""

    def end(self, reader: Reader) -> None:
        """Nothing stands below them."""
