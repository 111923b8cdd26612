"""The blocks of a pcapng file that stand around the packets; bytes out, nothing else.

A file is a Section Header Block, an Interface Description Block before the first packet of each
interface, packets (`compiled.block` writes them), and Interface Statistics Blocks, of which the
last of an interface counts everything.  Little-endian; times are nanoseconds since 1970.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

SECTION, INTERFACE, STATISTICS = 0x0A0D0D0A, 1, 5
COMMENT, HARDWARE, SYSTEM, APPLICATION = 1, 2, 3, 4
IF_NAME, IF_DESCRIPTION, IF_MAC, IF_TSRESOL, IF_FILTER = 2, 3, 6, 9, 11
PACKET_FLAGS: Final = 2
INBOUND, OUTBOUND = 1, 2
START_TIME, END_TIME, RECEIVED, DROPPED, ACCEPTED = 2, 3, 4, 5, 6
NANOSECONDS: Final = b"\x09"
ETHERNET: Final = 1
TEXT_MAX: Final = 1500  # bytes of one text


@dataclass(frozen=True, slots=True)
class Interface:
    """What the file says of one port."""

    name: str
    description: str = ""
    mac: str | None = None


def section(hardware: str, system: str, application: str) -> bytes:
    """Where a file begins."""
    texts = {HARDWARE: hardware, SYSTEM: system, APPLICATION: application}
    return _block(SECTION, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1), _texts(texts))


def interface(one: Interface, snap_len: int, expression: str) -> bytes:
    """An interface, whose number is its place in the file."""
    said = _texts({IF_NAME: one.name, IF_DESCRIPTION: one.description}) | {IF_TSRESOL: NANOSECONDS}
    if one.mac:
        said[IF_MAC] = bytes.fromhex(one.mac.replace(":", ""))
    if expression:
        said[IF_FILTER] = b"\0" + _cut(expression)  # 0: in libpcap's language
    return _block(INTERFACE, struct.pack("<HHI", ETHERNET, 0, snap_len), dict(sorted(said.items())))


def statistics(number: int, begun_ns: int, now_ns: int, packets: int, lost: int) -> bytes:
    """What an interface has brought until now, and how many of its packets were lost here."""
    counts = {RECEIVED: packets + lost, DROPPED: lost, ACCEPTED: packets + lost}
    options = {START_TIME: _halves(begun_ns), END_TIME: _halves(now_ns)}
    options |= {code: struct.pack("<Q", count) for code, count in counts.items()}
    return _block(STATISTICS, struct.pack("<I", number) + _halves(now_ns), options)


def packet_options(direction: int, comment: str) -> bytes:
    """What stands behind a packet: flags, comment, the end of options."""
    return _options({PACKET_FLAGS: struct.pack("<I", direction), COMMENT: _cut(comment)})


def _halves(time_ns: int) -> bytes:
    return struct.pack("<II", time_ns >> 32, time_ns & 0xFFFFFFFF)


def _cut(text: str) -> bytes:
    return text.encode(errors="replace")[:TEXT_MAX].decode(errors="ignore").encode()


def _texts(texts: Mapping[int, str]) -> dict[int, bytes]:
    return {code: _cut(text) for code, text in texts.items() if text}


def _options(options: Mapping[int, bytes]) -> bytes:
    data = b"".join(
        struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)
        for code, value in options.items()
    )
    return data + bytes(4)


def _block(kind: int, fixed: bytes, options: Mapping[int, bytes]) -> bytes:
    body = fixed + _options(options)
    length = struct.pack("<I", 12 + len(body))
    return struct.pack("<I", kind) + length + body + length
