"""What DPDK's vhost back-end does, shown without the tester: sockets, structs, and a memory file.

Each function here is the evidence for rules in `dpdk_expected.toml`.  It gets two `Bare` ports of
one testpmd that forwards between them, and returns whether the fault is there.
"""

import array
import mmap
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

VERSION_1, BIT_30, GUEST_CSUM, CSUM, INDIRECT = 1 << 32, 1 << 30, 2, 1, 1 << 28
GPA, SIZE = 0x1000_0000, 8 << 20
RX, TX, ENTRIES = 0, 1, 64
BASE: Final = {RX: 0x0, TX: 0x4000}  # of a ring: table, +0x1000 available, +0x2000 used
MACS = b"\x02\0\0\0\0\2\x02\0\0\0\0\1"
FRAME = MACS + b"\x88\xb5" + b"evidence".ljust(60, b"\0")


class Bare:
    """A front-end and a driver in as few lines as will do."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(30)
        self.socket.connect(path)
        self.file = os.memfd_create("bare")
        os.ftruncate(self.file, SIZE)
        self.memory = mmap.mmap(self.file, SIZE)
        self.kick = [os.eventfd(0), os.eventfd(0)]
        self.call = [os.eventfd(0, os.EFD_NONBLOCK), os.eventfd(0, os.EFD_NONBLOCK)]
        self.sent = 0

    def close(self) -> None:
        self.socket.close()
        self.memory.close()
        for fd in (self.file, *self.kick, *self.call):
            os.close(fd)

    def say(self, request: int, payload: bytes = b"", *fds: int, flags: int = 1) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.socket.sendmsg([struct.pack("=III", request, flags, len(payload)) + payload], rights)

    def ask(self, request: int, payload: bytes = b"") -> bytes:
        self.say(request, payload)
        size = struct.unpack("=III", self.socket.recv(12))[2]
        return self.socket.recv(size)

    def number(self, request: int) -> int:
        return int.from_bytes(self.ask(request), "little")

    def put(self, off: int, layout: str, *values: int) -> None:
        struct.pack_into("<" + layout, self.memory, off, *values)

    def word(self, off: int) -> int:
        return int.from_bytes(self.memory[off : off + 2], "little")

    def used(self, ring: int) -> int:
        return self.word(BASE[ring] + 0x2002)

    def up(
        self, features: int = 0, *, base: int = 0, enable: bool = True, kick: bool = True
    ) -> "Bare":
        """Negotiate, post 32 receive buffers of 2048 bytes, start."""
        self.number(1)
        self.number(15)
        self.say(16, struct.pack("=Q", 0))
        self.say(3)
        self.say(2, struct.pack("=Q", VERSION_1 | BIT_30 | features))
        self.say(5, struct.pack("=IIQQQQ", 1, 0, GPA, SIZE, 0x7000_0000, 0), self.file)
        for slot in range(32):
            off = 0x100000 + 2048 * slot
            self.memory[off : off + 2048] = b"\xa5" * 2048
            self.put(BASE[RX] + 16 * slot, "QIHH", GPA + off, 2048, 2, 0)
            self.put(BASE[RX] + 0x1004 + 2 * slot, "H", slot)
        self.put(BASE[RX] + 0x1002, "H", 32)
        for ring in (RX, TX):
            at = 0x7000_0000 + BASE[ring]
            self.say(8, struct.pack("=II", ring, ENTRIES))
            self.say(10, struct.pack("=II", ring, base if ring == TX else 0))
            self.say(9, struct.pack("=IIQQQQ", ring, 0, at, at + 0x2000, at + 0x1000, 0))
            self.say(13, struct.pack("=Q", ring), self.call[ring])
            self.say(12, struct.pack("=Q", ring), self.kick[ring])
            if kick:
                os.eventfd_write(self.kick[ring], 1)
            if enable:
                self.say(18, struct.pack("=II", ring, 1))
        self.number(1)
        return self

    def chain(self, *pieces: tuple[int, int, int, int]) -> None:
        """Publish (gpa, length, flags, next) as the next transmit chain."""
        slot = self.sent % 8 * 8
        for i, (gpa, length, flags, following) in enumerate(pieces):
            self.put(BASE[TX] + 16 * (slot + i), "QIHH", gpa, length, flags, slot + following)
        idx = self.word(BASE[TX] + 0x1002)
        self.put(BASE[TX] + 0x1004 + 2 * (idx % ENTRIES), "H", slot)
        self.put(BASE[TX] + 0x1002, "H", idx + 1 & 0xFFFF)
        self.sent += 1
        os.eventfd_write(self.kick[TX], 1)

    def send(self, frame: bytes = FRAME, header: bytes = bytes(12)) -> None:
        off = 0x300000 + 4096 * (self.sent % 8)
        self.memory[off : off + 12 + len(frame)] = header + frame
        self.chain((GPA + off, 12 + len(frame), 0, 0))

    def received(self) -> list[bytes]:
        """Header and frame of everything that has arrived."""
        found = []
        for i in range(self.used(RX)):
            at = BASE[RX] + 0x2004 + 8 * i
            slot, length = struct.unpack("<II", self.memory[at : at + 8])
            off = 0x100000 + 2048 * slot
            found.append(self.memory[off : off + length])
        return found


def soon(condition: Callable[[], object], seconds: float = 20) -> bool:
    """It becomes true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.001)
    return True


def joined(a: Bare, b: Bare) -> None:
    """Frames pass from `a` to `b`."""
    for _ in range(400):
        a.send()
        if soon(lambda: b.used(RX), 0.05):
            return
    raise AssertionError("no frame passes")


Paths = tuple[str, str]


def pair(paths: Paths, sender: int = 0, receiver: int = 0) -> tuple[Bare, Bare]:
    """Two ports between which frames pass."""
    a, b = Bare(paths[0]).up(sender), Bare(paths[1]).up(receiver)
    joined(a, b)
    return a, b


def _arrives(paths: Paths, frame: bytes, header: bytes) -> bool:
    a, b = pair(paths, CSUM)
    before = b.used(RX)
    a.send(frame, header)
    arrived = soon(lambda: b.used(RX) > before) and b.received()[-1][12:] == frame
    a.close()
    b.close()
    return arrived


def features_alone(paths: Paths) -> bool:
    """HOST_ECN is offered without HOST_TSO4 and HOST_TSO6, and so is the old GSO bit."""
    bare = Bare(paths[0])
    word = bare.number(1)
    bare.close()
    return bool(word >> 13 & 1) and not word >> 11 & 3 and bool(word >> 6 & 1)


def gso_taken(paths: Paths) -> bool:
    """Frames with every un-negotiated gso_type are forwarded."""
    kinds = (1, 3, 4, 5, 0x81, 0x21, 0x61)
    headers = [struct.pack("<BBHHHHH", 0, kind, 54, 50, 0, 0, 0) for kind in kinds]
    return all(_arrives(paths, FRAME, header) for header in headers)


def header_unwritten(paths: Paths) -> bool:
    """num_buffers keeps what was in the buffer."""
    a, b = pair(paths)
    seen = b.received()[0][10:12]
    a.close()
    b.close()
    return seen == b"\xa5\xa5"


def runt_delivered(paths: Paths) -> bool:
    """A frame of one byte is delivered."""
    return _arrives(paths, b"x", bytes(12))


def direct_indirect(paths: Paths) -> bool:
    """A chain of a direct descriptor and an indirect one is not delivered."""
    a, b = pair(paths, INDIRECT)
    before = b.used(RX)
    a.memory[0x400000 : 0x400000 + 12] = bytes(12)
    a.memory[0x401000 : 0x401000 + len(FRAME)] = FRAME
    a.put(0x402000, "QIHH", GPA + 0x401000, len(FRAME), 0, 0)
    a.chain((GPA + 0x400000, 12, 1, 1), (GPA + 0x402000, 16, 4, 0))
    arrived = soon(lambda: b.used(RX) > before, 1) and b.received()[-1][12:] == FRAME
    a.close()
    b.close()
    return not arrived


def half_header(paths: Paths) -> bool:
    """A header in two parts is the end of the connection, or half of it is answered."""
    bare = Bare(paths[0])
    data = struct.pack("=III", 1, 1, 0)
    bare.socket.send(data[:4])
    answered = bool(select.select([bare.socket], [], [], 20)[0])
    bare.close()
    return answered


def version_two(paths: Paths) -> bool:
    """Version 2 is answered like version 1."""
    bare = Bare(paths[0])
    bare.say(1, flags=2)
    answered = len(bare.socket.recv(100)) == 20
    bare.close()
    return answered


def unasked_acknowledgement(paths: Paths) -> bool:
    """need_reply is answered without REPLY_ACK."""
    bare = Bare(paths[0])
    bare.say(3, flags=1 | 8)
    answered = bool(select.select([bare.socket], [], [], 20)[0])
    bare.close()
    return answered


def disabled_blocks(paths: Paths) -> bool:
    """A ring that is started and not enabled is not drained."""
    b, a = Bare(paths[1]).up(), Bare(paths[0]).up(enable=False)
    a.send()
    stuck = not soon(lambda: a.used(TX), 1)
    a.close()
    b.close()
    return stuck


def started_unkicked(paths: Paths) -> bool:
    """A ring runs although nobody has kicked it."""
    b, a = Bare(paths[1]).up(), Bare(paths[0])
    a.memory[0x300000 : 0x300000 + 12 + len(FRAME)] = bytes(12) + FRAME
    a.chain((GPA + 0x300000, 12 + len(FRAME), 0, 0))
    os.eventfd_read(a.kick[TX])
    a.up(kick=False)
    ran = soon(lambda: a.used(TX))
    a.close()
    b.close()
    return ran


def base_over_memory(paths: Paths) -> bool:
    """With a base of 9 and a used index of 5 in memory, entries do not go on at 5."""
    b, a = Bare(paths[1]).up(), Bare(paths[0])
    a.put(BASE[TX] + 0x2002, "H", 5)
    a.put(BASE[TX] + 0x1002, "H", 9)
    a.up(base=9)
    a.send()
    went_on = soon(lambda: a.used(TX) == 6, 1)
    a.close()
    b.close()
    return not went_on


def full_call_blocks(paths: Paths) -> bool:
    """A full, blocking call eventfd stops the traffic until somebody reads it."""
    a, b = pair(paths)
    full = os.eventfd(0xFFFFFFFF)
    os.eventfd_write(full, 0xFFFFFFFFFFFFFFFE - 0xFFFFFFFF)
    a.say(13, struct.pack("=Q", TX), full)
    before = b.used(RX)
    for _ in range(3):
        a.send()
        time.sleep(0.1)
    stopped = b.used(RX) < before + 3
    os.eventfd_read(full)
    resumed = soon(lambda: b.used(RX) >= before + 3)
    a.close()
    b.close()
    os.close(full)
    return stopped and resumed


def unmapped_blocks(paths: Paths) -> bool:
    """A descriptor at an address that is not mapped is never returned."""
    a, b = pair(paths)
    assert soon(lambda: a.used(TX) == a.sent)
    a.chain((0xFFFF_FFFF_FFFF_F000, 200, 0, 0))
    stuck = not soon(lambda: a.used(TX) == a.sent, 1)
    a.close()
    b.close()
    return stuck


def _udp() -> tuple[bytes, int]:
    """An IPv4 UDP frame with a field of 0, and what its sum from byte 34 on should give."""
    ip = struct.pack(">BBHHHBBH4s4s", 69, 0, 36, 1, 0, 64, 17, 0, b"\x0a\0\0\1", b"\x0a\0\0\2")
    words = sum(struct.unpack(">10H", ip))
    words = (words & 0xFFFF) + (words >> 16)
    ip = ip[:10] + struct.pack(">H", ~words & 0xFFFF) + ip[12:]
    udp = struct.pack(">HHHH", 1000, 2000, 16, 0) + b"payload!"
    pseudo = b"\x0a\0\0\1\x0a\0\0\2" + struct.pack(">HH", 17, 16)
    total = sum(struct.unpack(">14H", pseudo + udp))
    return MACS + b"\x08\0" + ip + udp, ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def trailer_summed(paths: Paths) -> bool:
    """Bytes after the datagram are summed, and the sum is wrong."""
    a, b = pair(paths, CSUM)
    frame, right = _udp()
    seed = 0x0A00 + 1 + 0x0A00 + 2 + 17 + 16
    frame = frame[:40] + struct.pack(">H", seed) + frame[42:] + b"\xde\xad"
    before = b.used(RX)
    a.send(frame, struct.pack("<BBHHHHH", 1, 0, 0, 0, 34, 6, 0))
    arrived = soon(lambda: b.used(RX) > before)
    seen = b.received()[-1][12 + 40 : 12 + 42]
    a.close()
    b.close()
    return arrived and seen != struct.pack(">H", right)


def partial_unmarked(paths: Paths) -> bool:
    """NEEDS_CSUM far outside the frame: it is delivered with its sum unfinished and flags 0."""
    a, b = pair(paths, CSUM, GUEST_CSUM)
    frame, _ = _udp()
    before = b.used(RX)
    a.send(frame, struct.pack("<BBHHHHH", 1, 0, 0, 0, 0xFFF0, 0xFFFF, 0))
    arrived = soon(lambda: b.used(RX) > before)
    seen = b.received()[-1]
    a.close()
    b.close()
    return arrived and seen[0] == 0 and seen[12:] == frame


def truncation_kills(paths: Paths) -> bool:
    """A memory file that is cut short while it is used ends the process."""
    a, b = pair(paths)
    os.ftruncate(a.file, 0x200000)  # rings and receive buffers stay
    a.chain((GPA + 0x600000, 1000, 0, 0))
    gone = soon(lambda: not _listens(paths[1]))
    a.close()
    b.close()
    return gone


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return Path(path).exists() and probe.connect_ex(path) == 0


EVIDENCE: Final[dict[str, Callable[[Paths], bool]]] = {
    function.__name__: function
    for function in (
        features_alone, gso_taken, header_unwritten, runt_delivered, direct_indirect, half_header,
        version_two, unasked_acknowledgement, disabled_blocks, started_unkicked, base_over_memory,
        full_call_blocks, unmapped_blocks, trailer_summed, partial_unmarked,
        truncation_kills,
    )
}  # fmt: skip
