"""A capture ring written by a test: records as vionet writes them, of whatever the test wants."""

import fcntl
import mmap
import os
import struct
from typing import get_type_hints

from vionet.engine.layout import Seen

PAGE = 4096
WORDS = list(get_type_hints(Seen))
HEAD, LOST, TAIL, WAITS = 0, 8, 64, 72
F_ADD_SEALS, SEAL_SHRINK = 1033, 2
JUDGED = 16
USUAL = dict.fromkeys(WORDS, 0) | {"in_serial": 1, "out_serial": 2, "side": 1, "facts": JUDGED}


def header(flags: int = 0, gso_type: int = 0, gso_size: int = 0, csum_start: int = 0) -> int:
    """The first eight bytes of a virtio-net header, as a signed word."""
    data = struct.pack("<BBHHH", flags, gso_type, 0, gso_size, csum_start)
    return struct.unpack("<q", data)[0]


class Ring:
    """The producer's side."""

    def __init__(self, length: int = 1 << 16) -> None:
        self.length = length
        self.fd = os.memfd_create("ring", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, PAGE + length)
        fcntl.fcntl(self.fd, F_ADD_SEALS, SEAL_SHRINK)
        self.notify_fd, self.write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.memory = mmap.mmap(self.fd, PAGE + length)
        self.head = self.lost = 0

    def word(self, off: int) -> int:
        """What stands on the page."""
        return struct.unpack_from("<q", self.memory, off)[0]

    def put_word(self, off: int, value: int) -> None:
        """Write on the page, or a record's word behind it."""
        struct.pack_into("<q", self.memory, off, value)

    def put(self, frame: bytes, **words: int) -> bool:
        """One record, or one more that is lost."""
        seen = USUAL | {"length": len(frame), "cap_len": len(frame), "time_ns": 1} | words
        size = 8 * len(WORDS) + len(frame) + 7 & ~7
        off = self.head & self.length - 1
        skipped = self.length - off if off + size > self.length else 0
        if self.head + skipped + size - self.word(TAIL) > self.length:
            self.lost += 1
            self.put_word(LOST, self.lost)
            return False
        if skipped:
            self.put_word(PAGE + off, 0)
            off = 0
        seen["record_len"] = size
        data = struct.pack(f"<{len(WORDS)}q", *(seen[word] for word in WORDS)) + frame
        self.memory[PAGE + off : PAGE + off + len(data)] = data
        self.head += skipped + size
        self.put_word(HEAD, self.head)
        if self.word(WAITS):
            self.put_word(WAITS, 0)
            os.write(self.write_fd, b"\1" * 8)
        return True

    def __enter__(self) -> "Ring":
        return self

    def __exit__(self, *_: object) -> None:
        self.memory.close()
        for fd in (self.fd, self.notify_fd, self.write_fd):
            os.close(fd)
