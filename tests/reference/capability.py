"""Doing without a capability for a moment, in this thread only."""

import contextlib
import ctypes
import struct
from collections.abc import Iterator
from typing import Final

CAP_NET_ADMIN: Final = 12
CAP_NET_RAW: Final = 13
_VERSION_3: Final = 0x20080522


@contextlib.contextmanager
def without(*numbers: int) -> Iterator[None]:
    """A `with` block in which the effective set lacks these capabilities."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("=Ii", _VERSION_3, 0)
    saved = ctypes.create_string_buffer(24)
    assert libc.capget(header, saved) == 0
    words = list(struct.unpack("=6I", saved.raw))
    for number in numbers:
        words[0] &= ~(1 << number)
    assert libc.capset(header, struct.pack("=6I", *words)) == 0
    try:
        yield
    finally:
        assert libc.capset(header, saved.raw) == 0
