"""vhost-user: requests, header flags, protocol features, payload layouts.

Source: QEMU docs/interop/vhost-user.rst; spec 3.1.  All integers are native-endian (spec VU-01).
"""

import struct
from enum import IntEnum
from typing import Final

# --- header (spec VU-01 to VU-03) -------------------------------------------------------------
HEADER: Final = struct.Struct("=III")  # request, flags, payload size
VERSION: Final = 1
VERSION_MASK: Final = 3
FLAG_REPLY: Final = 1 << 2
FLAG_NEED_REPLY: Final = 1 << 3
FDS_MAX: Final = 8  # most descriptors that one message may carry
PAYLOAD_MAX: Final = 4096  # ours: the largest message we know has under 400 bytes

# --- protocol features (spec VU-13) -----------------------------------------------------------
VHOST_USER_PROTOCOL_F_MQ: Final = 0
VHOST_USER_PROTOCOL_F_LOG_SHMFD: Final = 1
VHOST_USER_PROTOCOL_F_RARP: Final = 2
VHOST_USER_PROTOCOL_F_REPLY_ACK: Final = 3
VHOST_USER_PROTOCOL_F_MTU: Final = 4
VHOST_USER_PROTOCOL_F_BACKEND_REQ: Final = 5
VHOST_USER_PROTOCOL_F_CROSS_ENDIAN: Final = 6
VHOST_USER_PROTOCOL_F_CRYPTO_SESSION: Final = 7
VHOST_USER_PROTOCOL_F_PAGEFAULT: Final = 8
VHOST_USER_PROTOCOL_F_CONFIG: Final = 9
VHOST_USER_PROTOCOL_F_BACKEND_SEND_FD: Final = 10
VHOST_USER_PROTOCOL_F_HOST_NOTIFIER: Final = 11
VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD: Final = 12
VHOST_USER_PROTOCOL_F_RESET_DEVICE: Final = 13
VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS: Final = 14
VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS: Final = 15
VHOST_USER_PROTOCOL_F_STATUS: Final = 16

PROTOCOL_NAMES: Final[dict[int, str]] = {
    value: name
    for name, value in sorted(globals().items())
    if name.startswith("VHOST_USER_PROTOCOL_F_")
}


def protocol_names(word: int) -> list[str]:
    """The names of the protocol features in `word`, in the order of the bits."""
    return [PROTOCOL_NAMES.get(bit, f"bit {bit}") for bit in range(64) if word >> bit & 1]


class Request(IntEnum):
    """Front-end to back-end message ids."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SEND_RARP = 19
    NET_SET_MTU = 20
    SET_BACKEND_REQ_FD = 21
    IOTLB_MSG = 22
    SET_VRING_ENDIAN = 23
    GET_CONFIG = 24
    SET_CONFIG = 25
    POSTCOPY_ADVISE = 28
    POSTCOPY_LISTEN = 29
    POSTCOPY_END = 30
    GET_INFLIGHT_FD = 31
    SET_INFLIGHT_FD = 32
    GPU_SET_SOCKET = 33
    RESET_DEVICE = 34
    VRING_KICK = 35
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40


class BackendRequest(IntEnum):
    """Back-end to front-end message ids, over the channel of SET_BACKEND_REQ_FD."""

    CONFIG_CHANGE_MSG = 2


# --- payloads ---------------------------------------------------------------------------------
U64: Final = struct.Struct("=Q")
VRING_STATE: Final = struct.Struct("=II")  # index, num
VRING_ADDR: Final = struct.Struct("=IIQQQQ")  # index, flags, desc, used, avail, log (user addrs)
MEM_TABLE_HEAD: Final = struct.Struct("=II")  # number of regions, padding
MEM_REGION: Final = struct.Struct("=QQQQ")  # guest address, size, user address, mmap offset
MEM_REGION_MESSAGE: Final = struct.Struct("=QQQQQ")  # padding, then a region
CONFIG_HEAD: Final = struct.Struct("=III")  # offset, size, flags; data follows

VRING_INDEX_MASK: Final = 0xFF  # of the u64 of SET_VRING_KICK, _CALL and _ERR
VRING_NOFD: Final = 1 << 8
MEM_TABLE_REGIONS_MAX: Final = 8  # spec: SET_MEM_TABLE carries at most 8
CONFIG_SIZE_MAX: Final = 256
CONFIG_FLAG_WRITE: Final = 0
CONFIG_FLAG_MIGRATION: Final = 1
