"""Frames built from the inside out, complete and right; every layer may be given anything.

Shares no code with the engine or with the tester's own packets.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tests.reference import checksum
from tests.reference.checksum import TCP, UDP
from tests.reference.header import CSUM_OFF, IPV4, IPV6, parse
from tests.reference.segment import header_len, segment
from vionet.spec.virtio_net import NetHeader

MACS: Final = tuple(bytes([2, 0, 0, 0, 0, i]) for i in range(16))
BROADCAST: Final = b"\xff" * 6
GSO_TCPV4: Final = 1
GSO_TCPV6: Final = 4
GSO_UDP_L4: Final = 5
V4: Final = (b"\xc0\x00\x02\x01", b"\xc0\x00\x02\x02")
V6: Final = (b"\x20\x01\x0d\xb8" + b"\0" * 11 + b"\1", b"\x20\x01\x0d\xb8" + b"\0" * 11 + b"\2")


@dataclass(frozen=True, slots=True)
class Layers:
    """What lies between Ethernet and L4."""

    version: int = 4
    src: bytes = MACS[0]
    dst: bytes = MACS[1]
    tags: tuple[tuple[int, int], ...] = ()  # (ethertype, tag), outermost first
    options: bytes = b""  # IPv4, a multiple of 4
    extensions: tuple[tuple[int, bytes], ...] = ()  # IPv6: (kind, bytes after next header)
    fragment: int = 0  # IPv4 flags and offset
    addresses: tuple[bytes, bytes] | None = None
    ident: int = 7  # IPv4

    @property
    def ends(self) -> tuple[bytes, bytes]:
        """Source and destination IP address."""
        return self.addresses or (V4 if self.version == 4 else V6)

    def ethernet(self, payload: bytes, ethertype: int) -> bytes:
        """A frame around any payload."""
        tags = b"".join(struct.pack(">HH", *tag) for tag in self.tags)
        return self.dst + self.src + tags + struct.pack(">H", ethertype) + payload

    def datagram(self, l4: bytes, protocol: int) -> bytes:
        """A frame around one IP datagram around `l4`."""
        src, dst = self.ends
        if self.version == 4:
            size = 20 + len(self.options)
            head = struct.pack(
                ">BBHHHBBH", 0x40 | size // 4, 0, size + len(l4), self.ident, self.fragment, 64,
                protocol, 0,
            )  # fmt: skip
            head += src + dst + self.options
            head = checksum.put(head, 10, 0xFFFF - checksum.ones_sum(head))
            return self.ethernet(head + l4, IPV4)
        chain = b""
        kinds = [kind for kind, _ in self.extensions] + [protocol]
        for (_, body), following in zip(self.extensions, kinds[1:], strict=True):
            chain += bytes([following]) + body
        length = len(chain) + len(l4)
        head = struct.pack(">IHBB", 6 << 28, length, kinds[0], 64) + src + dst
        return self.ethernet(head + chain + l4, IPV6)

    def summed(self, l4: bytes, protocol: int) -> "Frame":
        """TCP or UDP with the field in `l4` set to what is right."""
        offset = CSUM_OFF[protocol]
        l4 = checksum.put(l4, offset, 0)
        seed = checksum.pseudo_header(*self.ends, protocol, len(l4))
        total = checksum.ones_sum(l4, seed)
        l4 = checksum.put(l4, offset, checksum.finished(total, protocol == UDP))
        data = self.datagram(l4, protocol)
        return Frame(data, len(data) - len(l4), offset, seed)

    def udp(self, payload: bytes, ports: tuple[int, int] = (4000, 4001)) -> "Frame":
        """A UDP datagram."""
        head = struct.pack(">HHHH", *ports, 8 + len(payload), 0)
        return self.summed(head + payload, UDP)

    def tcp(
        self,
        payload: bytes,
        options: bytes = b"",
        *,
        flags: int = 0x18,
        seq: int = 1000,
        urgent: int = 0,
    ) -> "Frame":
        """A TCP segment."""
        offset = 4 * (20 + len(options))
        head = struct.pack(">HHIIBBHHH", 4000, 4001, seq, 2000, offset, flags, 65535, 0, urgent)
        return self.summed(head + options + payload, TCP)

    def vxlan(self, inner: "Frame", outer_sum: bool = True) -> "Frame":
        """`inner` in a tunnel; the checksum that the result speaks of is the inner one."""
        outer = self.udp(b"\x08\0\0\0\0\0\x01\0" + inner.data, (5000, 4789))
        data = outer.data if outer_sum else checksum.put(outer.data, outer.field, 0)
        return Frame(
            data, len(data) - len(inner.data) + inner.csum_start, inner.csum_offset, inner.seed
        )


@dataclass(frozen=True, slots=True)
class Frame:
    """A finished frame, and where and what a driver would leave to the device."""

    data: bytes
    csum_start: int
    csum_offset: int
    seed: int

    @property
    def field(self) -> int:
        """Where the checksum is."""
        return self.csum_start + self.csum_offset

    @property
    def partial(self) -> bytes:
        """The frame as a driver with CSUM sends it."""
        return checksum.put(self.data, self.field, self.seed)

    @property
    def header(self) -> NetHeader:
        """The virtio-net header that goes with `partial`."""
        return NetHeader(flags=1, csum_start=self.csum_start, csum_offset=self.csum_offset)

    def gso(self, size: int, *, ecn: bool = False, hdr_len: int | None = None) -> NetHeader:
        """The virtio-net header of `partial` as a frame to be cut into `size` bytes a piece."""
        headers = parse(self.data)
        tcp = GSO_TCPV4 if headers.ethertype == IPV4 else GSO_TCPV6
        kind = tcp if headers.protocol == TCP else GSO_UDP_L4
        front = header_len(self.data, headers) if hdr_len is None else hdr_len
        return self.header._replace(gso_type=kind | 0x80 * ecn, gso_size=size, hdr_len=front)

    def segments(self, size: int, *, partial: bool = False) -> list[bytes]:
        """The frames that a sender without offload would have sent instead."""
        return segment(self.partial, parse(self.data), size, partial=partial)

    @property
    def bad(self) -> bytes:
        """The frame with a checksum that is neither right, nor the seed, nor 0."""
        held = checksum.word(self.data, self.field)
        value = next(v for v in (0x1234, 0x4321, 0x2222) if v not in (held, self.seed))
        return checksum.put(self.data, self.field, value)


def options(body: bytes = b"") -> bytes:
    """An options extension header, next header left out, padded with Pad1."""
    size = -(-(2 + len(body)) // 8)
    return bytes([size - 1]) + body.ljust(8 * size - 2, b"\0")


def routing(segments_left: int, count: int = 1) -> bytes:
    """A routing header (type 2), next header left out."""
    return struct.pack(">BBBI", 2 * count, 2, segments_left, 0) + V6[0] * count


def fragment6(off: int, more: bool) -> bytes:
    """A fragment header, next header left out; `off` in bytes, a multiple of 8."""
    return struct.pack(">BHI", 0, off | more, 9)


def authentication(words: int = 4) -> bytes:
    """An authentication header of 4 * (words + 2) bytes, next header left out."""
    return bytes([words]) + bytes(4 * (words + 2) - 2)


HOME_ADDRESS: Final = b"\xc9\x10" + V6[1]


def pieces(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    """`data` cut into pieces of these sizes; the last takes the rest."""
    found, off = [], 0
    for size in sizes:
        found.append(data[off : off + size])
        off += size
    return [*found, data[off:]]
