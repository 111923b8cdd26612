"""Where packed rings stand, kept outside this process, for front-ends that cannot know it.

How it works: a split ring's memory says how far the device has come; a packed ring's does not, and
QEMU, whose back-end was killed, gives the new one the base that it gave the old.  So each packed
ring has a record in a small mapped file: which ring it is (port, index, address, size, base) and
what the worker writes while it goes (`engine.packed`: a position once a burst, the length of each
chain).  When a ring becomes ready and its record fits, the ring goes on from there.

Three things have to agree before a record is believed: the front-end describes the same ring with
the same base as before; the record was not cleared, as it is when a ring is stopped in order (the
front-end has then been told its position); and the ring's memory was used (a driver that starts
anew clears it).

Invariants: the file is ours (owner, mode 0600, one name), of fixed size, sparse; memory for a
record is reserved before it is mapped into the data path, so that a full file system raises OSError
here and not SIGBUS there.  A file that does not look right is made anew.  Records that cannot be
had cost only the recovery.

Threads: the control plane's, the worker held.
"""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import stat
import struct
from pathlib import Path
from typing import Final

from vionet.engine.layout import QUEUES_PER_PORT, Queue
from vionet.engine.packed import MIRROR_LAP_OFF, MIRROR_LEN, MIRROR_LIVE, MIRROR_SPANS_OFF, recover
from vionet.vhost_user.ring import Ring

RECORDS_MAX: Final = 128  # of 132 KB, mostly holes: packed rings of one fabric that are recovered
_HEAD: Final = struct.Struct("=16sQ")  # magic, length of a record
_HEAD_LEN: Final = 4096
_MAGIC: Final = b"vionet rings 1\n\0"
_FILE_LEN: Final = _HEAD_LEN + RECORDS_MAX * MIRROR_LEN
# position, the lap's number (`engine.packed`); address, size, base; of which port's ring
_RECORD: Final = struct.Struct("=QQQQQ32s")
_LAP_MASK: Final = 0xFFFFFFFF


class Positions:
    """The records of one fabric.  Without a path there are none."""

    def __init__(self, path: Path | None = None) -> None:
        """Open the file, or make it.  Raises OSError."""
        self._map: mmap.mmap | None = None
        self._fd = -1
        self._keys: dict[int, bytes] = {}  # record -> the ring that it is about
        self._begun: set[int] = set()  # those that were handed out since the file was opened
        if path is None:
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o600)
        try:
            self._check()
            self._map = mmap.mmap(self._fd, _FILE_LEN)
        except BaseException:
            os.close(self._fd)
            raise
        self._hva = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        for number in range(RECORDS_MAX):
            # Read, not mapped: a hole that is looked at through a mapping takes memory.
            word, *_, key = _RECORD.unpack(os.pread(self._fd, _RECORD.size, _offset(number)))
            if word & MIRROR_LIVE:
                self._keys[number] = key

    def close(self) -> None:
        """Forget the file; what is in it stays.  No ring may be in use."""
        if self._map is not None:
            os.close(self._fd)
            self._fd, self._map = -1, None  # unmapped with the last reference

    def begin(self, queue: Queue, port: str, index: int, ring: Ring) -> int:
        """Where `ring` begins, and the place in `queue` where its position is to be kept.

        The record becomes live when the ring is adopted there.  *requires* that the queue has the
        ring's addresses.
        """
        queue.mirror_hva = 0
        used, avail = ring.base >> 16, ring.base & 0xFFFF
        if self._map is None or not ring.packed or used not in (0, avail):
            return ring.base  # chains in the hands of another back-end are not ours to know
        key = _key(port, index)
        number = self._find(key, ring.size)
        if number is None:
            return ring.base
        hva = self._hva + _offset(number)
        word, _, *known = _RECORD.unpack(ctypes.string_at(hva, _RECORD.size))
        queue.mirror_hva = hva
        fits = word & MIRROR_LIVE and known == [ring.desc_uva, ring.size, ring.base, key]
        position = -1
        if fits and word & 0x7FFF < ring.size:
            position = int(recover(queue, word & _LAP_MASK))
        if position < 0:
            position = avail
            ctypes.memset(hva, 0, MIRROR_SPANS_OFF + 4 * ring.size)
            row = _RECORD.pack(0, 0, ring.desc_uva, ring.size, ring.base, key)
            ctypes.memmove(hva, row, len(row))
        else:
            ctypes.c_int64.from_address(hva + MIRROR_LAP_OFF).value = position >> 16
        self._keys[number] = key
        self._begun.add(number)
        if position == avail:
            return ring.base
        place = position & 0xFFFF
        return place << 16 | place

    def end(self, queue: Queue) -> None:
        """The ring was stopped and its front-end told where: the record says nothing any more."""
        if queue.mirror_hva:
            ctypes.memset(int(queue.mirror_hva), 0, _RECORD.size)
            queue.mirror_hva = 0

    def forget(self, port: str) -> None:
        """The port is gone, and its rings are no longer in use: their records are free."""
        gone = {_key(port, index) for index in range(QUEUES_PER_PORT)}
        for number in [number for number, key in self._keys.items() if key in gone]:
            os.pwrite(self._fd, bytes(_RECORD.size), _offset(number))
            del self._keys[number]
            self._begun.discard(number)

    def _check(self) -> None:
        """Make the file what it should be, if it is not; alone with it as long as it is open."""
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise OSError(errno.EINVAL, "not a file, or one that has another name too")
        if status.st_uid != os.geteuid():
            raise OSError(errno.EPERM, "belongs to another user")
        os.fchmod(self._fd, 0o600)
        head = _HEAD.pack(_MAGIC, MIRROR_LEN)
        if status.st_size != _FILE_LEN or os.pread(self._fd, _HEAD.size, 0) != head:
            os.ftruncate(self._fd, 0)
            os.ftruncate(self._fd, _FILE_LEN)
            os.pwrite(self._fd, head, 0)

    def _find(self, key: bytes, size: int) -> int | None:
        """The record of `key`, a free one, or one whose port is gone; with memory for `size`."""
        numbers = [number for number, known in self._keys.items() if known == key]
        numbers += [number for number in range(RECORDS_MAX) if number not in self._keys]
        numbers += [number for number in self._keys if number not in self._begun]
        for number in numbers[:1]:
            with contextlib.suppress(OSError):
                os.posix_fallocate(self._fd, _offset(number), MIRROR_SPANS_OFF + 4 * size)
                return number
        return None


def _key(port: str, index: int) -> bytes:
    return hashlib.sha256(f"{index} {port}".encode()).digest()


def _offset(number: int) -> int:
    return _HEAD_LEN + number * MIRROR_LEN


NO_POSITIONS: Final = Positions()
