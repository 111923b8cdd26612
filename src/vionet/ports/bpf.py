"""Classic BPF: what the kernel is to drop unread at a tap or a packet socket."""

import ctypes
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_LINE: Final = struct.Struct("HBBI")  # struct sock_filter
_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE = 0x20, 0x28, 0x30
_JUMP_EQUAL, _JUMP_SET, _GIVE = 0x15, 0x45, 0x06


def destination_filter(mac: int) -> bytes:
    """Accept where the group bit is set or the six octets are `mac`'s."""
    lines = (
        (_LOAD_BYTE, 0, 0, 0),
        (_JUMP_SET, 4, 0, 1),  # multicast and broadcast
        (_LOAD_WORD, 0, 0, 0),
        (_JUMP_EQUAL, 0, 3, mac >> 16),
        (_LOAD_HALF, 0, 0, 4),
        (_JUMP_EQUAL, 0, 1, mac & 0xFFFF),
        (_GIVE, 0, 0, 0x7FFFFFFF),
        (_GIVE, 0, 0, 0),
    )
    return b"".join(_LINE.pack(*line) for line in lines)


@contextmanager
def program(code: bytes) -> Iterator[bytes]:
    """A `struct sock_fprog` that points to `code`, valid inside the block."""
    buffer = ctypes.create_string_buffer(code, len(code))
    yield struct.pack("HP", len(code) // _LINE.size, ctypes.addressof(buffer))
