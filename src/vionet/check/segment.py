"""The tester's own segmentation: what a sender without offloads would have sent instead.

How it works: a large frame is cut as the words of spec SG-05 to SG-11 say, slowly, every sum from
scratch.  `Large` is a frame with the header that makes a device cut it; `breaches` says what is
wrong with the header that came with a delivered one, rule by rule.
"""

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from vionet.check import judge
from vionet.check.packet import Flow, Frame
from vionet.spec import virtio_net as net

FIN, PSH, CWR = 0x01, 0x08, 0x80
ECN: Final = net.VIRTIO_NET_HDR_GSO_ECN


class Kind(NamedTuple):
    """One gso_type: what carries it, and who has to agree to it."""

    name: str
    gso_type: int
    version: int
    host: int  # feature bit of the sender
    guest: int  # of the receiver


KINDS: Final = (
    Kind("TCP over IPv4", 1, 4, net.VIRTIO_NET_F_HOST_TSO4, net.VIRTIO_NET_F_GUEST_TSO4),
    Kind("TCP over IPv6", 4, 6, net.VIRTIO_NET_F_HOST_TSO6, net.VIRTIO_NET_F_GUEST_TSO6),
    Kind("UDP over IPv4", 5, 4, net.VIRTIO_NET_F_HOST_USO, net.VIRTIO_NET_F_GUEST_USO4),
    Kind("UDP over IPv6", 5, 6, net.VIRTIO_NET_F_HOST_USO, net.VIRTIO_NET_F_GUEST_USO6),
)


def l4_header_len(frame: bytes, at: judge.Parsed) -> int:
    """Bytes of the TCP or UDP header."""
    return frame[at.l4_off + 12] >> 4 << 2 if at.protocol == judge.PROTOCOL_TCP else 8


def segments(frame: bytes, size: int) -> list[bytes]:
    """`frame` cut into pieces of `size` bytes of payload, each complete."""
    at = judge.parse(frame)
    head_len = at.l4_off + l4_header_len(frame, at)
    head, payload = frame[:head_len], frame[head_len : at.l3_end]
    count = max(1, -(-len(payload) // size))
    return [
        _piece(
            bytearray(head), at, number, payload[number * size :][:size], number + 1 == count, size
        )
        for number in range(count)
    ]


def _piece(
    head: bytearray, at: judge.Parsed, number: int, body: bytes, is_last: bool, size: int
) -> bytes:
    l4 = at.l4_off
    if at.protocol == judge.PROTOCOL_TCP:
        (sequence,) = struct.unpack_from(">I", head, l4 + 4)
        struct.pack_into(">I", head, l4 + 4, (sequence + number * size) & 0xFFFFFFFF)
        head[l4 + 13] &= 0xFF ^ (0 if is_last else FIN | PSH) ^ (CWR if number else 0)
    else:
        struct.pack_into(">H", head, l4 + 4, 8 + len(body))
    if at.ethertype == judge.ETHERTYPE_IPV4:
        (ident,) = struct.unpack_from(">H", head, at.l3_off + 4)
        length = len(head) - at.l3_off + len(body)
        struct.pack_into(">HH", head, at.l3_off + 2, length, (ident + number) & 0xFFFF)
        struct.pack_into(">H", head, at.l3_off + 10, 0)
        struct.pack_into(">H", head, at.l3_off + 10, judge.checksum(bytes(head[at.l3_off : l4])))
    else:
        struct.pack_into(">H", head, at.l3_off + 4, len(head) - at.l3_off - 40 + len(body))
    field = l4 + at.csum_off
    struct.pack_into(">H", head, field, 0)
    frame = bytes(head) + body
    value = judge.checksum(frame[l4:], judge.ones_sum(judge.parse(frame).pseudo))
    if value == 0 and at.protocol == judge.PROTOCOL_UDP:
        value = 0xFFFF
    return frame[:field] + value.to_bytes(2, "big") + frame[field + 2 :]


@dataclass(frozen=True, slots=True)
class Large:
    """A frame larger than a wire carries, and how it wants to be cut."""

    kind: Kind
    frame: Frame
    size: int
    ecn: bool = False

    def sent(self, **changes: int) -> tuple[net.NetHeader, bytes]:
        """Header and bytes as a driver hands them over; `changes` are fields of the header."""
        data = self.frame.data
        header_len = self.frame.csum_start + l4_header_len(data, judge.parse(data))
        made = {
            "gso_type": self.kind.gso_type | (ECN if self.ecn else 0),
            "gso_size": self.size,
            "hdr_len": header_len,
        }
        return self.frame.partial(**{**made, **changes})

    def segments(self) -> list[bytes]:
        """What has to reach the other end, whole or not."""
        return segments(self.frame.data, self.size)


def large(
    flow: Flow, kind: Kind, payload: bytes, size: int, flags: int = 0x19, options: bytes = b""
) -> Large:
    """A large frame of one kind; TCP has FIN, PSH and ACK set unless told otherwise."""
    is_tcp = kind.gso_type in (net.VIRTIO_NET_HDR_GSO_TCPV4, net.VIRTIO_NET_HDR_GSO_TCPV6)
    frame = flow.tcp(payload, flags=flags, options=options) if is_tcp else flow.udp(payload)
    return Large(kind, frame, size, is_tcp and bool(flags & CWR))


def expanded(header: net.NetHeader, frame: bytes) -> list[bytes]:
    """What a receiver makes of a delivery: complete frames of ordinary size."""
    if header.gso_type & ~ECN and header.gso_size:
        return segments(frame, header.gso_size)
    return [judge.finish(header, frame)]


def breaches(header: net.NetHeader, frame: bytes, features: int) -> dict[str, str]:
    """Which rules of reception the header breaks for a driver with `features`: id -> what."""
    gso = header.gso_type & ~ECN
    if not gso:
        return {}
    at, found = judge.parse(frame), {}
    version = 4 if at.ethertype == judge.ETHERTYPE_IPV4 else 6
    name = f"gso_type {header.gso_type:#x} for IPv{version}"
    rule = {1: "RX-08", 4: "RX-09", 3: "RX-10", 5: "RX-11"}.get(gso, "RX-12")
    agreed = [k.guest for k in KINDS if (k.gso_type, k.version) == (gso, version)]
    if gso == net.VIRTIO_NET_HDR_GSO_UDP:
        agreed = [net.VIRTIO_NET_F_GUEST_UFO]
    if not any(features >> bit & 1 for bit in agreed):
        found[rule] = f"{name}, which was not agreed"
    if not any(features >> k.guest & 1 for k in KINDS):
        found["RX-12"] = f"{name} to a driver that agreed to none"
    is_tcp = at.protocol == judge.PROTOCOL_TCP
    has_cwr = is_tcp and len(frame) > at.l4_off + 13 and bool(frame[at.l4_off + 13] & CWR)
    has_ecn = bool(header.gso_type & ECN)
    if (has_cwr or has_ecn) and not features >> net.VIRTIO_NET_F_GUEST_ECN & 1:
        found["RX-13"] = f"{name}, {'CWR' if has_cwr else 'ECN'} without GUEST_ECN"
    elif has_cwr and not has_ecn:
        found["RX-13"] = f"{name}, CWR without the ECN bit"
    if not header.flags & net.VIRTIO_NET_HDR_F_NEEDS_CSUM or not header.gso_size:
        found["RX-18"] = f"{name}, flags {header.flags:#x}, gso_size {header.gso_size}"
    if len(frame) > at.l4_off + 13 and header.hdr_len < at.l4_off + l4_header_len(frame, at):
        found["RX-21"] = f"{name}, hdr_len {header.hdr_len}"
    return found
