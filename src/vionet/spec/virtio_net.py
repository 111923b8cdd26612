"""virtio-net: feature bits, the packet header, the configuration space.

Source: VIRTIO 1.2 section 5.1 (numbers of 1.3 and 1.4 where they came later); spec 1.1 to 1.3.
"""

import struct
from typing import Final, NamedTuple, Self

# --- feature bits (spec FB-01 to FB-35) -------------------------------------------------------
VIRTIO_NET_F_CSUM: Final = 0
VIRTIO_NET_F_GUEST_CSUM: Final = 1
VIRTIO_NET_F_CTRL_GUEST_OFFLOADS: Final = 2
VIRTIO_NET_F_MTU: Final = 3
VIRTIO_NET_F_MAC: Final = 5
VIRTIO_NET_F_GSO: Final = 6
VIRTIO_NET_F_GUEST_TSO4: Final = 7
VIRTIO_NET_F_GUEST_TSO6: Final = 8
VIRTIO_NET_F_GUEST_ECN: Final = 9
VIRTIO_NET_F_GUEST_UFO: Final = 10
VIRTIO_NET_F_HOST_TSO4: Final = 11
VIRTIO_NET_F_HOST_TSO6: Final = 12
VIRTIO_NET_F_HOST_ECN: Final = 13
VIRTIO_NET_F_HOST_UFO: Final = 14
VIRTIO_NET_F_MRG_RXBUF: Final = 15
VIRTIO_NET_F_STATUS: Final = 16
VIRTIO_NET_F_CTRL_VQ: Final = 17
VIRTIO_NET_F_CTRL_RX: Final = 18
VIRTIO_NET_F_CTRL_VLAN: Final = 19
VIRTIO_NET_F_CTRL_RX_EXTRA: Final = 20
VIRTIO_NET_F_GUEST_ANNOUNCE: Final = 21
VIRTIO_NET_F_MQ: Final = 22
VIRTIO_NET_F_CTRL_MAC_ADDR: Final = 23
VIRTIO_NET_F_DEVICE_STATS: Final = 50
VIRTIO_NET_F_HASH_TUNNEL: Final = 51
VIRTIO_NET_F_VQ_NOTF_COAL: Final = 52
VIRTIO_NET_F_NOTF_COAL: Final = 53
VIRTIO_NET_F_GUEST_USO4: Final = 54
VIRTIO_NET_F_GUEST_USO6: Final = 55
VIRTIO_NET_F_HOST_USO: Final = 56
VIRTIO_NET_F_HASH_REPORT: Final = 57
VIRTIO_NET_F_GUEST_HDRLEN: Final = 59
VIRTIO_NET_F_RSS: Final = 60
VIRTIO_NET_F_RSC_EXT: Final = 61
VIRTIO_NET_F_STANDBY: Final = 62
VIRTIO_NET_F_SPEED_DUPLEX: Final = 63

# --- packet header (spec HD-01 to HD-05) ------------------------------------------------------
VIRTIO_NET_HDR_F_NEEDS_CSUM: Final = 1
VIRTIO_NET_HDR_F_DATA_VALID: Final = 2
VIRTIO_NET_HDR_F_RSC_INFO: Final = 4

VIRTIO_NET_HDR_GSO_NONE: Final = 0
VIRTIO_NET_HDR_GSO_TCPV4: Final = 1
VIRTIO_NET_HDR_GSO_UDP: Final = 3
VIRTIO_NET_HDR_GSO_TCPV6: Final = 4
VIRTIO_NET_HDR_GSO_UDP_L4: Final = 5
VIRTIO_NET_HDR_GSO_ECN: Final = 0x80

VIRTIO_NET_HDR_LEN_LEGACY: Final = 10  # without num_buffers
VIRTIO_NET_HDR_LEN: Final = 12  # VERSION_1 or MRG_RXBUF

HDR_NUM_BUFFERS: Final = 10  # offset inside the header

# Queue indices of the first pair (spec CF-01).
RECEIVEQ1: Final = 0
TRANSMITQ1: Final = 1

# --- configuration space (spec CF-03) ---------------------------------------------------------
VIRTIO_NET_S_LINK_UP: Final = 1
VIRTIO_NET_S_ANNOUNCE: Final = 2
# mac, status, max_virtqueue_pairs, mtu, speed, duplex, and four fields of RSS
CONFIG_LAYOUT: Final = struct.Struct("<6sHHHIBBHII")
SPEED_UNKNOWN: Final = 0xFFFFFFFF
DUPLEX_FULL: Final = 1  # spec ERR-01
DUPLEX_UNKNOWN: Final = 0xFF
MTU_MIN: Final = 68  # spec CF-06
MTU_MAX: Final = 65535

# --- control queue (spec 1.9): class and command, then data; one byte comes back ---------------
VIRTIO_NET_OK: Final = 0
VIRTIO_NET_ERR: Final = 1
VIRTIO_NET_CTRL_RX: Final = 0
VIRTIO_NET_CTRL_RX_PROMISC: Final = 0
VIRTIO_NET_CTRL_RX_ALLMULTI: Final = 1
VIRTIO_NET_CTRL_RX_ALLUNI: Final = 2
VIRTIO_NET_CTRL_RX_NOMULTI: Final = 3
VIRTIO_NET_CTRL_RX_NOUNI: Final = 4
VIRTIO_NET_CTRL_RX_NOBCAST: Final = 5
VIRTIO_NET_CTRL_MAC: Final = 1
VIRTIO_NET_CTRL_MAC_TABLE_SET: Final = 0
VIRTIO_NET_CTRL_MAC_ADDR_SET: Final = 1
VIRTIO_NET_CTRL_VLAN: Final = 2
VIRTIO_NET_CTRL_VLAN_ADD: Final = 0
VIRTIO_NET_CTRL_VLAN_DEL: Final = 1
VIRTIO_NET_CTRL_ANNOUNCE: Final = 3
VIRTIO_NET_CTRL_ANNOUNCE_ACK: Final = 0
VIRTIO_NET_CTRL_MQ: Final = 4
VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET: Final = 0
VIRTIO_NET_CTRL_GUEST_OFFLOADS: Final = 5
VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET: Final = 0
VLAN_ID_MAX: Final = 4095

_HEADER: Final = struct.Struct("<BBHHHHH")


class NetHeader(NamedTuple):
    """`struct virtio_net_hdr`, for people and tests; the engine reads the bytes themselves."""

    flags: int = 0
    gso_type: int = 0
    hdr_len: int = 0
    gso_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0
    num_buffers: int = 0

    def pack(self, length: int = VIRTIO_NET_HDR_LEN) -> bytes:
        """The header's first `length` bytes (10 or 12), little-endian."""
        return _HEADER.pack(*self)[:length]

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Read 10 or 12 bytes; `num_buffers` of a header of 10 bytes is 0."""
        return cls(*_HEADER.unpack(bytes(data).ljust(VIRTIO_NET_HDR_LEN, b"\0")))


def header_len(features: int) -> int:
    """Length of the packet header under the negotiated `features` (spec HD-04, HD-05)."""
    version_1 = 1 << 32
    if features & (version_1 | 1 << VIRTIO_NET_F_MRG_RXBUF):
        return VIRTIO_NET_HDR_LEN
    return VIRTIO_NET_HDR_LEN_LEGACY
