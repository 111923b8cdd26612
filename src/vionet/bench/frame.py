"""What the load sends: IPv4 UDP from one port to the other, with room for a sequence number.

The sequence number opens the payload and is followed by its complement, so a checksum over the
payload is the same for every frame and can be made once.  Frames larger than any MTU are TCP's
and are to be segmented (TSO), as a Linux guest sends them.
"""

import random
import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from vionet.spec.virtio_net import (
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
    VIRTIO_NET_HDR_GSO_TCPV4,
    NetHeader,
)

ETHERNET_LEN: Final = 14
IPV4_LEN: Final = 20
UDP_LEN: Final = 8
TCP_LEN: Final = 20
L4_OFF: Final = ETHERNET_LEN + IPV4_LEN
FRAME_MIN: Final = 60
PLAIN_MAX: Final = 9216  # larger ones are sent as TSO
UDP: Final = 17
TCP: Final = 6
GSO_SIZE: Final = 1448
GSO_LEN: Final = L4_OFF + TCP_LEN + 45 * GSO_SIZE  # as many segments as fit into 64 KB


class Csum(StrEnum):
    """The state of the UDP checksum in the frames that are sent."""

    NONE = "none"  # 0: there is none
    PARTIAL = "partial"  # NEEDS_CSUM, the pseudo-header sum in the field
    COMPLETE = "complete"


def ones_sum(data: bytes) -> int:
    """The folded ones'-complement sum of `data`, not complemented."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) & ~1]))
    if len(data) & 1:
        total += data[-1] << 8
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def mac_of(end: int, number: int = 0) -> bytes:
    """An address of load port `end`: locally administered."""
    return bytes((0x02, 0x76, 0x6E, 0xA + end)) + number.to_bytes(2, "big")


@dataclass(frozen=True)
class Sample:
    """A frame as it is sent, and where in it frames may differ."""

    header: NetHeader
    frame: bytes
    seq_off: int  # of the sequence number
    csum_off: int  # of the L4 checksum, which a switch may finish or undo


def build_sample(end: int, length: int, csum: Csum) -> Sample:
    """What port `end` sends to the other: `length` bytes."""
    if length <= PLAIN_MAX:
        header, frame = build_frame(end, length, csum)
        return Sample(header, frame, L4_OFF + UDP_LEN, L4_OFF + 6)
    return Sample(*build_large(end, length), L4_OFF + TCP_LEN, L4_OFF + 16)


def build_frame(end: int, length: int, csum: Csum) -> tuple[NetHeader, bytes]:
    """The header and the UDP frame of `length` bytes that port `end` sends to the other."""
    if length < FRAME_MIN:
        raise ValueError(f"frame of {length} bytes: at least {FRAME_MIN}")
    payload = _payload(length - L4_OFF - UDP_LEN)
    lower, pseudo = lower_layers(end, UDP, UDP_LEN + len(payload))
    header = NetHeader()
    udp = struct.pack("!HHHH", 7000, 7001, UDP_LEN + len(payload), 0)
    if csum is Csum.PARTIAL:
        header = NetHeader(
            flags=VIRTIO_NET_HDR_F_NEEDS_CSUM,
            hdr_len=L4_OFF + UDP_LEN,
            csum_start=L4_OFF,
            csum_offset=6,
        )
        udp = udp[:6] + struct.pack("!H", ones_sum(pseudo))
    elif csum is Csum.COMPLETE:
        value = ones_sum(pseudo + udp + payload) ^ 0xFFFF or 0xFFFF
        udp = udp[:6] + struct.pack("!H", value)
    return header, lower + udp + payload


def build_large(end: int, length: int) -> tuple[NetHeader, bytes]:
    """The header and the TCP frame of `length` bytes, to be cut into segments of GSO_SIZE."""
    payload = _payload(length - L4_OFF - TCP_LEN)
    lower, pseudo = lower_layers(end, TCP, TCP_LEN + len(payload))
    tcp = struct.pack("!HHIIBBHHH", 7000, 7001, 1, 1, 0x50, 0x10, 512, ones_sum(pseudo), 0)
    header = NetHeader(
        flags=VIRTIO_NET_HDR_F_NEEDS_CSUM,
        gso_type=VIRTIO_NET_HDR_GSO_TCPV4,
        hdr_len=L4_OFF + TCP_LEN,
        gso_size=GSO_SIZE,
        csum_start=L4_OFF,
        csum_offset=16,
    )
    return header, lower + tcp + payload


def _payload(length: int) -> bytes:
    """Number 0, its complement, and bytes that are nowhere the same."""
    return bytes(4) + b"\xff" * 4 + random.Random(length).randbytes(length - 8)


def lower_layers(
    end: int, protocol: int, l4_len: int, number: int = 0, flags: int = 0
) -> tuple[bytes, bytes]:
    """Ethernet and IPv4 headers, and the pseudo-header of the L4 checksum."""
    source, target = bytes((192, 0, 2, 1 + end)), bytes((192, 0, 2, 2 - end))
    ip = struct.pack("!BBHHHBBH", 0x45, 0, IPV4_LEN + l4_len, number, flags, 64, protocol, 0)
    ip = ip[:10] + struct.pack("!H", ones_sum(ip + source + target) ^ 0xFFFF) + source + target
    ethernet = mac_of(1 - end) + mac_of(end) + struct.pack("!H", 0x0800)
    return ethernet + ip, source + target + struct.pack("!BBH", 0, protocol, l4_len)
