"""One frame of a capture file, and how its sender handed it over.

How it works: libpcap reads the bytes, of pcap and pcapng alike.  A file of vionet's own has a
comment beside each packet (`capture.note`), which libpcap does not tell: the blocks of a pcapng
file are walked for it once more.  From the comment come the ports, the VLAN and the header; a sum
that was finished in the copy, or for its receiver, is left partial again, one that the receiver got
partial is finished.  Without one, the checksum field says whether the sender left the sum partial.

Trust: the file is anybody's.  Only regular files are read, by libpcap one packet at a time, by the
walk as many bytes as a packet may have; what does not fit ends it.
"""

import ctypes
import ctypes.util
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from vionet.check import judge
from vionet.spec import virtio_net as net
from vionet.spec.packet import ETH_HLEN
from vionet.spec.virtio_net import NetHeader

FRAME_MAX: Final = 65589  # spec RB-02
FRAMES_MAX: Final = 100_000_000
_ETHERNET: Final = 1  # DLT_EN10MB
_SECTION: Final = 0x0A0D0D0A
_PACKETS: Final = {6: 28, 3: 12, 2: 28}  # block types, and where their bytes begin
_LENGTH_AT: Final = {6: 20, 2: 20}  # where such a block says how many bytes it has
_BLOCK_MAX: Final = 1 << 18
_COMMENT: Final = 1
_PAIR: Final = re.compile(r"([\w.-]+) → ([\w.-]+)(?: vlan (\d{1,4}))?: ")
_NO_PORT: Final = ("all", "nobody")
_SEGMENT: Final = "one of its segments"
_FILLED: Final = re.compile(rf"finished in this copy|{_SEGMENT}|→ filled|→ inner sum filled")
_UNFILLED: Final = "unfilled"
_WHOLE: Final = re.compile(r": (UNKNOWN|VALID)\b")
_SUM: Final = re.compile(r"PARTIAL csum_start=(\d+) csum_offset=(\d+)")
_GSO: Final = re.compile(r"gso (tcp4|tcp6|udp)( ecn)? size=(\d+)")
_TYPES: Final = {
    "tcp4": net.VIRTIO_NET_HDR_GSO_TCPV4,
    "tcp6": net.VIRTIO_NET_HDR_GSO_TCPV6,
    "udp": net.VIRTIO_NET_HDR_GSO_UDP_L4,
}


class PcapError(ValueError):
    """Why there is no such frame: one line, and how to mend it."""


class Picked(NamedTuple):
    """The frame."""

    data: bytes
    header: NetHeader
    ports: tuple[str, ...]  # by its comment: who sent it, and to whom if to one
    vid: int  # and in which VLAN


class _Packet(ctypes.Structure):
    _fields_ = (
        ("sec", ctypes.c_long),
        ("usec", ctypes.c_long),
        ("caplen", ctypes.c_uint32),
        ("len", ctypes.c_uint32),
    )


def pick(path: Path, number: int) -> Picked:
    """Frame `number` of the file, from 1."""
    try:
        if not path.is_file():
            raise PcapError(f"{path}: no file; give one that tcpdump or vionet capture wrote")
        data, whole_len = _read(path, number)
        comment = _comment(path, number)
    except OSError as error:
        raise PcapError(f"{path}: {error.strerror or error}; check the path") from None
    if len(data) < whole_len:
        raise PcapError(
            f"{path}: frame {number} is cut off; capture without --snap (tcpdump: -s 0)"
        )
    if not ETH_HLEN <= len(data) <= FRAME_MAX:
        raise PcapError(f"{path}: frame {number} has {len(data)} bytes, which no frame has")
    header, found = _header(data, comment), _PAIR.match(comment)
    if _SUM.search(comment) and _FILLED.search(comment):
        data = _left_open(data, header)
    elif whole := _WHOLE.search(comment):
        data = judge.finish(header, data) if _UNFILLED in comment else data
        header = NetHeader(net.VIRTIO_NET_HDR_F_DATA_VALID * (whole[1] == "VALID"))
    ports = tuple(one for one in found.groups()[:2] if one not in _NO_PORT) if found else ()
    return Picked(data, header, ports, int(found[3] or 0) if found else 0)


def _left_open(data: bytes, header: NetHeader) -> bytes:
    """The frame before its sum was finished: the field held what the finished sum does not cover.

    The sum of all the rest and the seed is the complement of the finished one.
    """
    field, at = header.csum_start + header.csum_offset, judge.parse(data)
    if judge.l4_sum(data, partial=True) is judge.Sum.PARTIAL:
        if header.csum_start == at.l4_off:
            return data
        data = judge.finish(header._replace(csum_start=at.l4_off, csum_offset=at.csum_off), data)
    if field + 2 > len(data):
        return data
    rest = data[header.csum_start : field] + b"\0\0" + data[field + 2 :]
    finished = int.from_bytes(data[field : field + 2], "big")
    seed = judge.ones_sum(b"", (~finished & 0xFFFF) + judge.checksum(rest))
    return data[:field] + (seed or 0xFFFF).to_bytes(2, "big") + data[field + 2 :]


def _read(path: Path, number: int) -> tuple[bytes, int]:
    """The bytes that the file has of a frame, and how many it had."""
    try:
        pcap = ctypes.CDLL(ctypes.util.find_library("pcap") or "libpcap.so.0.8")
    except OSError:
        raise PcapError("--pcap needs libpcap, which is not here: apt install libpcap0.8") from None
    why = ctypes.create_string_buffer(256)
    pcap.pcap_open_offline.restype = ctypes.c_void_p
    pcap.pcap_geterr.restype = ctypes.c_char_p
    opened: int | None = pcap.pcap_open_offline(bytes(path), why)
    handle = ctypes.c_void_p(opened)
    if not opened:
        raise PcapError(f"{path}: {why.value.decode(errors='replace')}; give pcap or pcapng")
    try:
        if (link := pcap.pcap_datalink(handle)) != _ETHERNET:
            raise PcapError(f"{path}: no Ethernet frames (link type {link}); capture elsewhere")
        packet, data = ctypes.POINTER(_Packet)(), ctypes.POINTER(ctypes.c_ubyte)()
        for at in range(1, min(number, FRAMES_MAX) + 1):
            found = pcap.pcap_next_ex(handle, ctypes.byref(packet), ctypes.byref(data))
            if found == -1:
                problem = pcap.pcap_geterr(handle).decode(errors="replace")
                raise PcapError(f"{path}: frame {at}: {problem}; the file is damaged")
            if found != 1:
                raise PcapError(f"{path}: has {at - 1} frames; give --frame 1 to {at - 1}")
        one = packet.contents
        return ctypes.string_at(data, min(one.caplen, _BLOCK_MAX)), one.len
    finally:
        pcap.pcap_close(handle)


def _comment(path: Path, number: int) -> str:
    """The first comment beside packet `number`, of a pcapng file."""
    with path.open("rb") as file:
        for order, kind, body in _blocks(file):
            number -= kind in _PACKETS
            if number == 0:
                return _text(order, kind, body)
    return ""


def _blocks(file: BinaryIO) -> Iterator[tuple[str, int, bytes]]:
    """Byte order, type and content of each block; packets' content only as far as it is used."""
    order = "<"
    while len(head := file.read(12)) == 12:
        if head[:4] == _SECTION.to_bytes(4, "big"):
            order = "<" if head[8:] == b"\x4d\x3c\x2b\x1a" else ">"
        kind, length = struct.unpack(f"{order}II", head[:8])
        if length < 12 or length % 4 or (kind != _SECTION and file.tell() == 12):
            return
        kept = length if kind in _PACKETS and length <= _BLOCK_MAX else 12
        yield order, kind, head + file.read(kept - 12)
        file.seek(length - kept, 1)


def _text(order: str, kind: int, block: bytes) -> str:
    if kind not in _LENGTH_AT or len(block) < 32:
        return ""
    (captured,) = struct.unpack_from(f"{order}I", block, _LENGTH_AT[kind])
    at = _PACKETS[kind] + captured + -captured % 4
    while at + 4 <= len(block) - 4:
        code, length = struct.unpack_from(f"{order}HH", block, at)
        if code == _COMMENT:
            return block[at + 4 : at + 4 + length].decode(errors="replace")
        if code == 0:
            return ""
        at += 4 + length + -length % 4
    return ""


def _header(data: bytes, comment: str) -> NetHeader:
    """What the sender said of it: by the comment, else as the checksum field shows."""
    said, gso = _SUM.search(comment), _GSO.search(comment)
    parsed = judge.parse(data)
    if said:
        start, offset = int(said[1]), int(said[2])
    elif judge.l4_sum(data) is judge.Sum.PARTIAL:
        start, offset = parsed.l4_off, parsed.csum_off
    else:
        return NetHeader()
    header = NetHeader(net.VIRTIO_NET_HDR_F_NEEDS_CSUM, csum_start=start, csum_offset=offset)
    if gso and _SEGMENT not in comment and len(data) > start + int(gso[3]):
        kind = _TYPES[gso[1]] | (net.VIRTIO_NET_HDR_GSO_ECN if gso[2] else 0)
        header = header._replace(gso_type=kind, gso_size=min(int(gso[3]), 0xFFFF))
    return header if start <= 0xFFFF and offset <= 0xFFFF else NetHeader()
