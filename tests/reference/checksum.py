"""The Internet checksum on bytes, by the words of RFC 1071, 768, 793 and 8200; slow and plain.

Shares no code with the engine.  Sums are big-endian 16-bit words, folded, not inverted.
"""

import struct
from typing import Final

TCP: Final = 6
UDP: Final = 17
UDP_CSUM_OFF: Final = 6


def ones_sum(data: bytes, start: int = 0) -> int:
    """The ones'-complement sum of `data`, an odd last byte padded with a zero on its right.

    Adding words and carrying around is arithmetic modulo 2^16 - 1, of which 2^16 is 1: all words
    at once are one long number.  A sum is 0 only where every word is.
    """
    total = start + int.from_bytes(data + b"\0" * (len(data) % 2), "big")
    return (total - 1) % 0xFFFF + 1 if total else 0


def pseudo_header(src: bytes, dst: bytes, protocol: int, length: int) -> int:
    """The sum of the pseudo-header; `length` is that of the whole L4 part."""
    return ones_sum(src + dst + struct.pack(">IxxxB", length, protocol))


def finished(total: int, udp: bool) -> int:
    """What a sender writes for the folded sum `total`: inverted; for UDP never 0 (SG-03)."""
    value = 0xFFFF - total
    return 0xFFFF if udp and value == 0 else value


def finish(frame: bytes, start: int, offset: int, end: int | None = None) -> bytes:
    """Sum [start, end) with the seed in the field, and store the result there (SG-01).

    An offset of 6 is UDP's (design, section 3).
    """
    end = len(frame) if end is None else end
    field = start + offset
    value = finished(ones_sum(frame[start:end]), offset == UDP_CSUM_OFF)
    return put(frame, field, value)


def put(frame: bytes, off: int, value: int) -> bytes:
    """The frame with a big-endian 16-bit word at `off`."""
    return frame[:off] + value.to_bytes(2, "big") + frame[off + 2 :]


def word(frame: bytes, off: int) -> int:
    """The big-endian 16-bit word at `off`."""
    return int.from_bytes(frame[off : off + 2], "big")
