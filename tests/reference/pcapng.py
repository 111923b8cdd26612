"""What stands in pcapng blocks, read without the code that writes them."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

COMMENT, FLAGS = 1, 2


class Packet(NamedTuple):
    """An Enhanced Packet Block."""

    interface: int
    time_ns: int
    length: int  # of the packet, of which `data` is the begin
    flags: int
    comment: str
    data: bytes


def blocks(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and body of each block; they are whole, and say so at both ends."""
    while data:
        kind, length = struct.unpack_from("<II", data)
        assert length % 4 == 0 and 12 <= length <= len(data)
        assert (length,) == struct.unpack_from("<I", data, length - 4)
        yield kind, data[8 : length - 4]
        data = data[length:]


def options(data: bytes) -> dict[int, bytes]:
    """By their codes; they have an end."""
    found: dict[int, bytes] = {}
    while True:
        code, length = struct.unpack_from("<HH", data)
        if code == 0:
            assert (0, b"") == (length, data[4:])
            return found
        found[code] = data[4 : 4 + length]
        data = data[4 + (length + 3 & ~3) :]


def packets(data: bytes) -> list[Packet]:
    """Of all blocks, which have no others between them."""
    found = []
    for kind, body in blocks(data):
        assert 6 == kind
        interface, high, low, cap_len, length = struct.unpack_from("<5I", body)
        said = options(body[20 + (cap_len + 3 & ~3) :])
        (flags,) = struct.unpack("<I", said[FLAGS])
        packet = body[20 : 20 + cap_len]
        comment = said[COMMENT].decode()
        found.append(Packet(interface, high << 32 | low, length, flags, comment, packet))
    return found
