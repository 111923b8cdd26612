"""What the load sends: IPv4 UDP from one port to the other, with room for a sequence number.

The sequence number is followed by its complement, so a checksum over the payload is the same for
every frame and can be made once (`driver`, SEQ_OFF).
"""

import struct
from enum import StrEnum
from typing import Final

from vionet.spec.virtio_net import VIRTIO_NET_HDR_F_NEEDS_CSUM, NetHeader

ETHERNET_LEN: Final = 14
IPV4_LEN: Final = 20
UDP_LEN: Final = 8
FRAME_MIN: Final = 60
UDP: Final = 17


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


def mac_of(end: int) -> bytes:
    """The address of load port `end`: locally administered."""
    return bytes((0x02, 0x76, 0x6E, 0, 0, 0xA + end))


def build_frame(end: int, length: int, csum: Csum) -> tuple[NetHeader, bytes]:
    """The header and the frame of `length` bytes that port `end` sends to the other."""
    if length < FRAME_MIN:
        raise ValueError(f"frame of {length} bytes: at least {FRAME_MIN}")
    udp_len = length - ETHERNET_LEN - IPV4_LEN
    source, target = bytes((192, 0, 2, 1 + end)), bytes((192, 0, 2, 2 - end))
    pseudo = source + target + struct.pack("!BBH", 0, UDP, udp_len)
    ip = struct.pack("!BBHHHBBH", 0x45, 0, length - ETHERNET_LEN, 0, 0, 64, UDP, 0)
    ip_csum = ones_sum(ip + source + target) ^ 0xFFFF
    ip = ip[:10] + struct.pack("!H", ip_csum) + source + target
    payload = bytes(4) + b"\xff" * 4 + bytes(i & 0xFF for i in range(udp_len - UDP_LEN - 8))
    header = NetHeader()
    udp = struct.pack("!HHHH", 7000, 7001, udp_len, 0)
    if csum is Csum.PARTIAL:
        header = NetHeader(
            flags=VIRTIO_NET_HDR_F_NEEDS_CSUM,
            hdr_len=ETHERNET_LEN + IPV4_LEN + UDP_LEN,
            csum_start=ETHERNET_LEN + IPV4_LEN,
            csum_offset=6,
        )
        udp = udp[:6] + struct.pack("!H", ones_sum(pseudo))
    elif csum is Csum.COMPLETE:
        value = ones_sum(pseudo + udp + payload) ^ 0xFFFF or 0xFFFF
        udp = udp[:6] + struct.pack("!H", value)
    ethernet = mac_of(1 - end) + mac_of(end) + struct.pack("!H", 0x0800)
    return header, ethernet + ip + udp + payload
