"""The frames of the self-test of an uplink (`ports.uplink`), and how what comes out is compared.

How it works: a partial frame, a large one for each kind of segmentation, and a control frame that
asks for nothing; TCP and UDP between documentation addresses, to the group of PAUSE frames, which
no bridge can be told to forward and none learns from.  Each has a source port of its own, and its
payload repeats a mark of this run, so that segments that a kernel has cut are known too.  Pure:
nothing here touches the system.
"""

import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from vionet.engine.status import GSO_ALL, GSO_ECN, GSO_TCP4, GSO_TCP6, GSO_UDP4, GSO_UDP6
from vionet.spec import virtio_net as net
from vionet.spec.packet import (
    ETH_HLEN,
    ETH_P_IP,
    ETH_P_IPV6,
    IPPROTO_TCP,
    IPPROTO_UDP,
    TCP_CSUM_OFF,
    UDP_CSUM_OFF,
)
from vionet.spec.virtio_net import NetHeader

MARK_LEN: Final = 8
_GROUP: Final = bytes.fromhex("0180c2000001")
_SOURCE: Final = bytes.fromhex("00005e005301")  # of documentation (RFC 7042)
_SEGMENT: Final = 100  # payload bytes
_PORT: Final = 50000  # and the frame's bit
_TYPES: Final = {
    0: 0,
    GSO_TCP4: net.VIRTIO_NET_HDR_GSO_TCPV4,
    GSO_TCP6: net.VIRTIO_NET_HDR_GSO_TCPV6,
    GSO_ECN: net.VIRTIO_NET_HDR_GSO_TCPV4 | net.VIRTIO_NET_HDR_GSO_ECN,
    GSO_UDP4: net.VIRTIO_NET_HDR_GSO_UDP_L4,
    GSO_UDP6: net.VIRTIO_NET_HDR_GSO_UDP_L4,
}
_CONTROL: Final = -1
_UDP: Final = (GSO_UDP4, GSO_UDP6, _CONTROL)
_SIX: Final = (GSO_TCP6, GSO_UDP6)

Came = tuple[NetHeader, bytes]


class Probe(NamedTuple):
    """One frame of the test."""

    gso: int  # the `GSO_*` bit that it stands for; 0: partial only, -1: control
    header: NetHeader
    data: bytes
    l4_off: int
    payload_off: int


class Seen(NamedTuple):
    """What came out as it should."""

    partial: bool
    gso: int  # `GSO_*` bits
    control: bool


ALL_SEEN: Final = Seen(True, GSO_ALL, True)


def probes(mark: bytes, gso: int) -> list[Probe]:
    """The frames for the `GSO_*` bits in `gso`, a partial one, and the control frame."""
    wanted = [bit for bit in _TYPES if bit & ~gso == 0]
    return [_probe(bit, mark) for bit in (*wanted, _CONTROL)]


def compare(sent: Sequence[Probe], came: Sequence[Came]) -> Seen:
    """Which of the frames sent are among those that came, with every field that matters."""
    return _seen({probe.gso: _arrived(probe, came) for probe in sent})


def survivors(sent: Sequence[Probe], came: Sequence[Came]) -> Seen:
    """As `compare`, but a kernel may have finished sums and cut segments, if it did so rightly."""
    return _seen({p.gso: _arrived(p, came) or _in_pieces(p, came) for p in sent})


def _seen(there: Mapping[int, bool]) -> Seen:
    gso = sum(bit for bit, ok in there.items() if bit > 0 and ok)
    return Seen(there[0], gso if there[0] else 0, there[_CONTROL])


def _facts(header: NetHeader) -> NetHeader:
    """The fields that say something; hdr_len is a hint, and DATA_VALID costs nothing."""
    flags = header.flags & net.VIRTIO_NET_HDR_F_NEEDS_CSUM
    return header._replace(flags=flags, hdr_len=0, num_buffers=0)


def _arrived(probe: Probe, came: Sequence[Came]) -> bool:
    wanted = _facts(probe.header)
    return any(data == probe.data and _facts(header) == wanted for header, data in came)


def _in_pieces(probe: Probe, came: Sequence[Came]) -> bool:
    start, after = probe.l4_off, probe.payload_off
    key = probe.data[12:14] + probe.data[start : start + 4]
    pieces = [
        data[after:]
        for header, data in came
        if data[12:14] + data[start : start + 4] == key and _right(probe, _facts(header), data)
    ]
    return b"".join(pieces) == probe.data[after:]


def _right(probe: Probe, facts: NetHeader, data: bytes) -> bool:
    """Whether the L4 checksum of a segment is good, or a partial one that is marked."""
    start, field = probe.l4_off, probe.l4_off + probe.header.csum_offset
    pseudo = _sum(
        _pseudo(data[22:54] if probe.gso in _SIX else data[26:34], probe.gso, len(data) - start)
    )
    if facts == probe.header._replace(gso_type=0, gso_size=0, hdr_len=0):
        return pseudo == int.from_bytes(data[field : field + 2], "big")
    return facts == NetHeader() and _sum(pseudo.to_bytes(2, "big") + data[start:]) == 0xFFFF


def _probe(gso: int, mark: bytes) -> Probe:
    """The frame that stands for `gso`: its L4 checksum partial, but in the control frame."""
    udp, six, large = gso in _UDP, gso in _SIX, gso > 0
    payload = mark * ((2 * _SEGMENT + 56 if large else 48) // MARK_LEN)
    length = (8 if udp else 20) + len(payload)
    names = ("2001:db8::1", "2001:db8::2") if six else ("192.0.2.1", "192.0.2.2")
    family = socket.AF_INET6 if six else socket.AF_INET
    addresses = b"".join(socket.inet_pton(family, name) for name in names)
    protocol = IPPROTO_UDP if udp else IPPROTO_TCP
    if six:
        head = struct.pack("!IHBB", 6 << 28, length, protocol, 1) + addresses
    else:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 1, 0, 1, protocol, 0) + addresses
        head = head[:10] + struct.pack("!H", _sum(head) ^ 0xFFFF) + head[12:]
    seed = _sum(_pseudo(addresses, gso, length))
    if udp:  # a sum of 0 says that there is none
        head += struct.pack("!4H", _PORT + gso, 9, length, 0 if gso == _CONTROL else seed)
    else:
        flags = 0x5090 if gso == GSO_ECN else 0x5010  # CWR, ACK
        head += struct.pack("!HHIIHHHH", _PORT + gso, 9, 1, 1, flags, 1024, seed, 0)
    ethernet = _GROUP + _SOURCE + struct.pack("!H", ETH_P_IPV6 if six else ETH_P_IP)
    l4_off, payload_off = ETH_HLEN + (40 if six else 20), ETH_HLEN + len(head)
    header = (
        NetHeader(
            flags=net.VIRTIO_NET_HDR_F_NEEDS_CSUM,
            gso_type=_TYPES[gso],
            hdr_len=payload_off,
            gso_size=_SEGMENT if large else 0,
            csum_start=l4_off,
            csum_offset=UDP_CSUM_OFF if udp else TCP_CSUM_OFF,
        )
        if gso != _CONTROL
        else NetHeader()
    )
    return Probe(gso, header, ethernet + head + payload, l4_off, payload_off)


def _pseudo(addresses: bytes, gso: int, length: int) -> bytes:
    return addresses + struct.pack("!HH", IPPROTO_UDP if gso in _UDP else IPPROTO_TCP, length)


def _sum(data: bytes) -> int:
    """The folded sum of 16-bit words."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total
