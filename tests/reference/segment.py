"""A segmenter on bytes, by the rules SG-05 to SG-12 and what Linux does where they are silent.

Slow and plain; shares no code with the engine.  `tests/interop/test_segment_oracle.py` compares it
with the host's kernel, so that it is more than a second opinion of ours.
"""

from typing import Final

from tests.reference import checksum
from tests.reference.checksum import TCP, UDP, put, word
from tests.reference.header import IPV4, Headers

FIN: Final = 0x01
PSH: Final = 0x08
CWR: Final = 0x80
TCP_FLAGS: Final = 13  # of a TCP header


def header_len(frame: bytes, headers: Headers) -> int:
    """Bytes in front of the payload.  *requires* `l4_off`; 0 where TCP's data offset is wrong."""
    if headers.protocol == UDP:
        return headers.l4_off + 8
    size = 4 * (frame[headers.l4_off + 12] >> 4)
    end = headers.l4_off + size
    return end if size >= 20 and end <= headers.end else 0


def payload_len(frame: bytes, headers: Headers) -> int:
    """Bytes of the datagram behind its headers."""
    return headers.end - header_len(frame, headers)


def has_cwr(frame: bytes, headers: Headers) -> bool:
    """Whether a TCP frame has the flag that only the first segment keeps."""
    return headers.protocol == TCP and bool(frame[headers.l4_off + TCP_FLAGS] & CWR)


def segment(frame: bytes, headers: Headers, size: int, *, partial: bool) -> list[bytes]:
    """The frames that a sender without offload would have sent: `size` payload bytes each.

    `frame` has its seed in the L4 field.  `partial`: each segment has its own there, else the
    finished checksum.
    """
    front = header_len(frame, headers)
    payload = frame[front : headers.end]
    starts = range(0, max(1, len(payload)), size)
    return [
        _one(frame[:front], headers, payload[at : at + size], at, i, len(starts), partial)
        for i, at in enumerate(starts)
    ]


def _one(
    front: bytes, headers: Headers, payload: bytes, at: int, number: int, count: int, partial: bool
) -> bytes:
    """Segment `number` of `count`, whose payload begins at byte `at`."""
    l3, l4 = headers.l3_off, headers.l4_off
    l4_len = len(front) - l4 + len(payload)
    seed = checksum.pseudo_header(headers.src, headers.dst, headers.protocol, l4_len)
    if headers.routed:  # the addresses are not ours to know, the sender's sum is
        parts = (word(front, headers.field), 0xFFFF - (headers.end - l4), l4_len)
        seed = checksum.ones_sum(b"".join(part.to_bytes(2, "big") for part in parts))
    if headers.ethertype == IPV4:
        front = put(front, l3 + 2, l4 - l3 + l4_len)
        front = put(front, l3 + 4, word(front, l3 + 4) + number & 0xFFFF)
        front = put(front, l3 + 10, 0)
        front = put(front, l3 + 10, 0xFFFF - checksum.ones_sum(front[l3:l4]))
    else:
        front = put(front, l3 + 4, l4 - l3 - 40 + l4_len)
    if headers.protocol == TCP:
        seq = int.from_bytes(front[l4 + 4 : l4 + 8], "big") + at & 0xFFFFFFFF
        flags = front[l4 + TCP_FLAGS]
        flags &= ~(FIN | PSH) if number < count - 1 else 0xFF
        flags &= ~CWR if number else 0xFF
        front = front[: l4 + 4] + seq.to_bytes(4, "big") + front[l4 + 8 :]
        front = front[: l4 + TCP_FLAGS] + bytes([flags & 0xFF]) + front[l4 + TCP_FLAGS + 1 :]
    else:
        front = put(front, l4 + 4, l4_len)
    made = put(front, headers.field, seed) + payload
    return made if partial else checksum.finish(made, l4, headers.field - l4)
