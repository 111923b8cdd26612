"""More of what DPDK's vhost back-end does: packed rings, the control queue, UDP fragmentation."""

import os
import struct
from collections.abc import Callable
from typing import Final

from tests.check.reproduce_dpdk import (
    BIT_30,
    CSUM,
    ENTRIES,
    GPA,
    MACS,
    RX,
    SIZE,
    TX,
    VERSION_1,
    Bare,
    Paths,
    pair,
    soon,
)

HOST_UFO, CTRL_VQ, RING_PACKED = 1 << 14, 1 << 17, 1 << 34


def packed_base_half(paths: Paths) -> bool:
    """GET_VRING_BASE of a packed ring leaves the used half out."""
    a = Bare(paths[0])
    a.number(1)
    a.say(2, struct.pack("=Q", VERSION_1 | BIT_30 | RING_PACKED))
    a.say(5, struct.pack("=IIQQQQ", 1, 0, GPA, SIZE, 0x7000_0000, 0), a.file)
    a.say(8, struct.pack("=II", TX, ENTRIES))
    a.say(10, struct.pack("=II", TX, 0x8005_8005))
    _, base = struct.unpack("=II", a.ask(11, struct.pack("=II", TX, 0)))
    a.close()
    return bool(base == 0x8005)


def control_unanswered(paths: Paths) -> bool:
    """CTRL_VQ is offered, and its commands are never taken."""
    a = Bare(paths[0]).up(CTRL_VQ)
    control, at = 2, 0x8000
    offered = a.number(1) & CTRL_VQ
    a.memory[0x300000:0x300003] = b"\0\0\1"
    a.put(at, "QIHH", GPA + 0x300000, 3, 1, 1)
    a.put(at + 16, "QIHH", GPA + 0x300100, 1, 2, 0)
    a.put(at + 0x1002, "HH", 1, 0)
    a.say(8, struct.pack("=II", control, ENTRIES))
    a.say(10, struct.pack("=II", control, 0))
    uva = 0x7000_0000 + at
    a.say(9, struct.pack("=IIQQQQ", control, 0, uva, uva + 0x2000, uva + 0x1000, 0))
    a.say(13, struct.pack("=Q", control), a.call[TX])
    a.say(12, struct.pack("=Q", control), a.kick[TX])
    a.say(18, struct.pack("=II", control, 1))
    os.eventfd_write(a.kick[TX], 1)
    a.number(1)
    answered = soon(lambda: a.word(at + 0x2002), 1)
    a.close()
    return bool(offered) and not answered


def fragments_unmade(paths: Paths) -> bool:
    """HOST_UFO is offered, and a datagram of two fragments never arrives."""
    a, b = pair(paths, HOST_UFO | CSUM)
    offered, before = a.number(1) & HOST_UFO, b.used(RX)
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 2028, 7, 0, 64, 17, 0, b"\xc0\0\2\1", b"\xc0\0\2\2")
    total = sum(struct.unpack(">10H", ip))
    total = (total & 0xFFFF) + (total >> 16)
    ip = ip[:10] + struct.pack(">H", ~total & 0xFFFF) + ip[12:]
    udp = struct.pack(">HHHH", 40000, 40001, 2008, 0) + bytes(2000)
    a.send(MACS + b"\x08\0" + ip + udp, struct.pack("<BBHHHHH", 1, 3, 42, 1480, 34, 6, 0))
    arrived = soon(lambda: b.used(RX) >= before + 2, 1)
    a.close()
    b.close()
    return bool(offered) and not arrived


EVIDENCE: Final[dict[str, Callable[[Paths], bool]]] = {
    function.__name__: function
    for function in (packed_base_half, control_unanswered, fragments_unmade)
}
