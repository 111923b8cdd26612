"""Frames for the tester: built from the inside out, every checksum complete and right.

How it works: a `Flow` names two ends; its methods wrap a payload into headers and give a `Frame`,
which knows where its L4 checksum is and so can be had partial, corrupted or without one.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from vionet.check import judge
from vionet.spec import virtio_net as net

ETHERTYPE_ARP: Final = 0x0806
ETHERTYPE_LOCAL: Final = 0x88B5  # IEEE 802: local experiments; nobody parses it
BROADCAST: Final = b"\xff" * 6
VLAN: Final = 0x8100
QINQ: Final = 0x88A8
PORT_VXLAN: Final = 4789
IPV4_DONT_FRAGMENT: Final = 0x4000


@dataclass(frozen=True, slots=True)
class Frame:
    """A finished frame and the place of the checksum that a driver would leave to the device."""

    data: bytes
    csum_start: int = 0
    csum_offset: int = 0

    @property
    def field(self) -> int:
        """Where the checksum is."""
        return self.csum_start + self.csum_offset

    def with_field(self, value: int) -> bytes:
        """The frame with another checksum."""
        return self.data[: self.field] + value.to_bytes(2, "big") + self.data[self.field + 2 :]

    def corrupted(self) -> bytes:
        """The frame with a checksum that is neither complete, nor partial, nor absent."""
        held = int.from_bytes(self.data[self.field : self.field + 2], "big")
        for value in (held ^ 0x5555, held ^ 0x3333):
            frame = self.with_field(value)
            if value and judge.l4_sum(frame) is judge.Sum.BAD:
                return frame
        raise AssertionError("no bad checksum found")

    def seed(self) -> int:
        """The pseudo-header sum: what makes the sum from csum_start on come out right."""
        zeroed = judge.ones_sum(self.with_field(0)[self.csum_start :])
        held = int.from_bytes(self.data[self.field : self.field + 2], "big")
        return judge.ones_sum((~held & 0xFFFF).to_bytes(2, "big"), ~zeroed & 0xFFFF)

    def partial(self, **changes: int) -> tuple[net.NetHeader, bytes]:
        """A NEEDS_CSUM header (fields by name change it) and the frame as a driver sends it."""
        header = net.NetHeader(
            flags=net.VIRTIO_NET_HDR_F_NEEDS_CSUM,
            csum_start=self.csum_start,
            csum_offset=self.csum_offset,
        )
        return header._replace(**changes), self.with_field(self.seed())

    def followed_by(self, trailer: bytes) -> "Frame":
        """The frame with bytes after the end of its datagram."""
        return replace(self, data=self.data + trailer)


def ethernet(payload: bytes, ethertype: int, dst: bytes, src: bytes, tags: Sequence[int]) -> bytes:
    """An Ethernet frame; `tags` are VLAN ids, outermost first (of two, the outer is 802.1ad)."""
    head = dst + src
    for depth, vlan in enumerate(tags):
        outer = len(tags) > 1 and depth == 0
        head += struct.pack(">HH", QINQ if outer else VLAN, vlan)
    return head + struct.pack(">H", ethertype) + payload


def ipv4(
    payload: bytes,
    protocol: int,
    src: bytes,
    dst: bytes,
    *,
    options: bytes = b"",
    fragment: int = IPV4_DONT_FRAGMENT,
) -> bytes:
    """An IPv4 datagram; `fragment` is the word of flags and offset."""
    options = options.ljust(-(-len(options) // 4) * 4, b"\0")
    header_len = 20 + len(options)
    head = struct.pack(
        ">BBHHHBBH4s4s", 0x40 | header_len // 4, 0, header_len + len(payload), 7, fragment,
        64, protocol, 0, src, dst,
    ) + options  # fmt: skip
    return head[:10] + judge.checksum(head).to_bytes(2, "big") + head[12:] + payload


def ipv6(
    payload: bytes,
    protocol: int,
    src: bytes,
    dst: bytes,
    *,
    extensions: Sequence[tuple[int, bytes]] = (),
) -> bytes:
    """An IPv6 datagram; an extension is its type and its bytes without the next-header byte."""
    chain = b""
    kinds = [kind for kind, _ in extensions] + [protocol]
    for (_, body), following in zip(extensions, kinds[1:], strict=True):
        chain += bytes([following]) + body
    first = kinds[0]
    length = len(chain) + len(payload)
    return struct.pack(">IHBB16s16s", 6 << 28, length, first, 64, src, dst) + chain + payload


def extension(body: bytes = b"") -> bytes:
    """An options extension header (hop-by-hop, destination) padded with Pad1, type left out."""
    padded = body.ljust(-(-(2 + len(body)) // 8) * 8 - 2, b"\0")
    return bytes([(len(padded) + 2) // 8 - 1]) + padded


def fragment_extension(offset: int, more: bool) -> bytes:
    """An IPv6 fragment header, type left out; `offset` in bytes, a multiple of 8."""
    return struct.pack(">BHI", 0, offset | more, 9)


def crc32c(data: bytes) -> int:
    """SCTP's checksum (RFC 9260 appendix A), bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Flow:
    """Two ends and the layers between Ethernet and L4; every method gives a complete frame."""

    src_mac: bytes
    dst_mac: bytes
    version: int = 4
    src_port: int = 40000
    dst_port: int = 40001
    tags: tuple[int, ...] = ()
    options: bytes = b""  # IPv4
    extensions: tuple[tuple[int, bytes], ...] = ()  # IPv6

    @property
    def src(self) -> bytes:
        """The sender's IP address (documentation ranges)."""
        return (
            b"\xc0\x00\x02\x01" if self.version == 4 else b"\x20\x01\x0d\xb8" + b"\0" * 11 + b"\1"
        )

    @property
    def dst(self) -> bytes:
        """The receiver's IP address."""
        return (
            b"\xc0\x00\x02\x02" if self.version == 4 else b"\x20\x01\x0d\xb8" + b"\0" * 11 + b"\2"
        )

    def pseudo(self, length: int, protocol: int) -> int:
        """The pseudo-header's sum for an L4 part of `length` bytes."""
        return judge.ones_sum(self.src + self.dst + struct.pack(">IxxxB", length, protocol))

    def datagram(self, l4: bytes, protocol: int, fragment: int = IPV4_DONT_FRAGMENT) -> bytes:
        """An Ethernet frame with one IP datagram around `l4`."""
        if self.version == 4:
            packet = ipv4(l4, protocol, self.src, self.dst, options=self.options, fragment=fragment)
            return self.bare(packet, judge.ETHERTYPE_IPV4)
        packet = ipv6(l4, protocol, self.src, self.dst, extensions=self.extensions)
        return self.bare(packet, judge.ETHERTYPE_IPV6)

    def bare(self, payload: bytes, ethertype: int = ETHERTYPE_LOCAL) -> bytes:
        """An Ethernet frame around any payload."""
        return ethernet(payload, ethertype, self.dst_mac, self.src_mac, self.tags)

    def _summed(self, l4: bytes, protocol: int) -> Frame:
        offset = judge.CSUM_OFF[protocol]
        value = judge.checksum(l4, self.pseudo(len(l4), protocol))
        if value == 0 and protocol == judge.PROTOCOL_UDP:
            value = 0xFFFF
        l4 = l4[:offset] + value.to_bytes(2, "big") + l4[offset + 2 :]
        frame = self.datagram(l4, protocol)
        return Frame(frame, len(frame) - len(l4), offset)

    def udp(self, payload: bytes) -> Frame:
        """A UDP datagram."""
        head = struct.pack(">HHHH", self.src_port, self.dst_port, 8 + len(payload), 0)
        return self._summed(head + payload, judge.PROTOCOL_UDP)

    def tcp(self, payload: bytes, *, flags: int = 0x18, options: bytes = b"") -> Frame:
        """A TCP segment; PSH and ACK unless told otherwise."""
        options = options.ljust(-(-len(options) // 4) * 4, b"\0")
        head = struct.pack(
            ">HHIIBBHHH", self.src_port, self.dst_port, 1000, 2000,
            (20 + len(options)) // 4 << 4, flags, 65535, 0, 0,
        )  # fmt: skip
        return self._summed(head + options + payload, judge.PROTOCOL_TCP)

    def sctp(self, payload: bytes) -> Frame:
        """An SCTP packet; its checksum is a CRC32c, which no virtio feature speaks of."""
        head = struct.pack(">HHI", self.src_port, self.dst_port, 1)
        value = crc32c(head + b"\0\0\0\0" + payload).to_bytes(4, "little")
        l4 = head + value + payload
        frame = self.datagram(l4, judge.PROTOCOL_SCTP)
        return Frame(frame, len(frame) - len(l4), 8)

    def arp(self) -> bytes:
        """A request, padded to 60 bytes, for the address of the other end."""
        body = struct.pack(">HHBBH", 1, judge.ETHERTYPE_IPV4, 6, 4, 1)
        body += self.src_mac + self.src[:4] + b"\0" * 6 + self.dst[:4]
        return self.bare(body, ETHERTYPE_ARP).ljust(60, b"\0")

    def vxlan(self, inner: Frame, *, outer_sum: bool = True) -> Frame:
        """`inner` in a VXLAN tunnel; the place of the checksum is the inner one's."""
        tunnel = replace(self, dst_port=PORT_VXLAN)
        outer = tunnel.udp(b"\x08\0\0\0\0\0\x01\0" + inner.data)
        data = outer.data if outer_sum else outer.with_field(0)
        depth = len(data) - len(inner.data)
        return Frame(data, depth + inner.csum_start, inner.csum_offset)

    def dhcp(self) -> Frame:
        """A DHCP offer: UDP 67 to 68, with a body of 300 bytes."""
        body = struct.pack(">BBBBI", 2, 1, 6, 0, 0x12345678).ljust(236, b"\0")
        body += b"\x63\x82\x53\x63\x35\x01\x02\xff"
        return replace(self, src_port=67, dst_port=68).udp(body.ljust(300, b"\0"))
