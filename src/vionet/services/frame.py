"""Whole Ethernet frames that carry UDP or ICMPv6: taken apart strictly, built with their checksums.

How it works: a sum of 16-bit words with end-around carry is the remainder of the whole bytes, read
as one large number, by 0xffff; Python's integers do it in one step.

Invariants: `parse` reads nothing beyond the lengths that the headers give, and these nothing beyond
the frame.  A built frame has every checksum complete and is padded to 60 bytes, whatever the guest
negotiated: a DHCP client reads raw frames (war stories W1 to W4).

Trust: frames come from a guest and are not believed; what is wrong with one is raised as `Ignored`.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum, auto
from typing import Final

from vionet.spec.packet import ETH_HLEN, ETH_P_IP, ETH_P_IPV6, IPPROTO_ICMPV6, IPPROTO_UDP, UDP_HLEN

FRAME_LEN_MIN: Final = 60
FRAME_LEN_MAX: Final = ETH_HLEN + 1500  # no client asks with more
NAMES_LEN_MAX: Final = 512  # of all domain names in one answer
IPV4_HLEN: Final = 20
IPV6_HLEN: Final = 40
_FRAGMENT: Final = 0x3FFF  # more fragments, or not the first
_CSUM_OFF: Final = {IPPROTO_UDP: 6, IPPROTO_ICMPV6: 2}


class Reason(StrEnum):
    """Why a frame got no answer; the word is the counter's name."""

    LENGTH = auto()
    ETHERTYPE = auto()
    SOURCE_MAC = auto()
    DESTINATION_MAC = auto()
    IP_HEADER = auto()
    FRAGMENT = auto()
    PROTOCOL = auto()
    CHECKSUM = auto()
    PORT = auto()
    SOURCE_ADDRESS = auto()
    DESTINATION_ADDRESS = auto()
    HOP_LIMIT = auto()
    NO_IPV6 = auto()  # the interface has none
    MESSAGE = auto()  # of a type that needs no answer
    OPTION = auto()  # one that runs over the end, or of a wrong length
    SERVER = auto()  # meant for another
    CLIENT = auto()  # does not say who asks
    OP = auto()
    HARDWARE = auto()
    CHADDR = auto()
    MAGIC = auto()
    CIADDR = auto()
    FILE = auto()
    HOPS = auto()


class Ignored(Exception):
    """A frame that gets no answer."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Packet:
    """What one frame carries; MAC addresses are 48-bit numbers, IP addresses 4 or 16 bytes."""

    source_mac: int
    destination_mac: int
    source: bytes
    destination: bytes
    protocol: int
    hop_limit: int
    payload: bytes  # behind the UDP header; with ICMPv6's
    ports: tuple[int, int] = (0, 0)


def require(held: bool, reason: Reason) -> None:
    """Ignore the frame for `reason` unless `held`."""
    if not held:
        raise Ignored(reason)


def csum(data: bytes) -> int:
    """The Internet checksum of `data` (RFC 1071); 0 over bytes that hold a right one."""
    total = int.from_bytes(data + bytes(len(data) % 2))
    return 0xFFFF - (total % 0xFFFF or (0xFFFF if total else 0))


def wire_names(domains: Iterable[str]) -> bytes:
    """Domain names as DNS writes them (RFC 1035 3.1); not those that it cannot, or too many."""
    sent = b""
    for name in domains:
        labels = name.strip(".").encode(errors="replace").split(b".")
        if all(0 < len(label) < 64 for label in labels):
            more = b"".join(bytes([len(label)]) + label for label in (*labels, b""))
            if len(more) < 256 and len(sent + more) <= NAMES_LEN_MAX:
                sent += more
    return sent


def parse(frame: bytes) -> Packet:
    """What `frame` carries; *raises* `Ignored`."""
    require(ETH_HLEN <= len(frame) <= FRAME_LEN_MAX, Reason.LENGTH)
    (ethertype,) = struct.unpack_from(">H", frame, 12)
    require(ethertype in (ETH_P_IP, ETH_P_IPV6), Reason.ETHERTYPE)
    split = _split4 if ethertype == ETH_P_IP else _split6
    source, destination, protocol, hop_limit, payload = split(frame[ETH_HLEN:])
    require(protocol in _CSUM_OFF, Reason.PROTOCOL)
    ports = (0, 0)
    if protocol == IPPROTO_UDP:
        require(len(payload) >= UDP_HLEN, Reason.IP_HEADER)
        *ports_, length, field = struct.unpack_from(">4H", payload)
        require(UDP_HLEN <= length <= len(payload), Reason.IP_HEADER)
        payload, ports = payload[:length], (ports_[0], ports_[1])
        summed = field != 0 or ethertype == ETH_P_IPV6  # 0 is none, which IPv6 does not allow
        require(field != 0 or not summed, Reason.CHECKSUM)
    else:
        summed = True
    if summed:
        pseudo = _pseudo(source, destination, protocol, len(payload))
        require(csum(pseudo + payload) == 0, Reason.CHECKSUM)
    return Packet(
        source_mac=int.from_bytes(frame[6:12]),
        destination_mac=int.from_bytes(frame[:6]),
        source=source,
        destination=destination,
        protocol=protocol,
        hop_limit=hop_limit,
        payload=payload[UDP_HLEN:] if protocol == IPPROTO_UDP else payload,
        ports=ports,
    )


def udp(packet: Packet) -> bytes:
    """The frame of a UDP datagram."""
    head = struct.pack(">4H", *packet.ports, UDP_HLEN + len(packet.payload), 0)
    return _build(packet, head + packet.payload)


def icmpv6(packet: Packet) -> bytes:
    """The frame of an ICMPv6 message, whose checksum field may hold anything."""
    return _build(packet, packet.payload[:2] + bytes(2) + packet.payload[4:])


def _build(packet: Packet, payload: bytes) -> bytes:
    """The frame around `payload`, whose checksum field is 0."""
    pseudo = _pseudo(packet.source, packet.destination, packet.protocol, len(payload))
    off = _CSUM_OFF[packet.protocol]
    field = csum(pseudo + payload) or (0xFFFF if packet.protocol == IPPROTO_UDP else 0)
    payload = payload[:off] + field.to_bytes(2) + payload[off + 2 :]
    if len(packet.source) == 4:
        ethertype, length = ETH_P_IP, IPV4_HLEN + len(payload)
        head = struct.pack(">BBHIBBH", 0x45, 0, length, 0, packet.hop_limit, packet.protocol, 0)
        head += packet.source + packet.destination
        head = head[:10] + csum(head).to_bytes(2) + head[12:]
    else:
        ethertype = ETH_P_IPV6
        head = struct.pack(">IHBB", 6 << 28, len(payload), packet.protocol, packet.hop_limit)
        head += packet.source + packet.destination
    ethernet = packet.destination_mac.to_bytes(6) + packet.source_mac.to_bytes(6)
    return (ethernet + ethertype.to_bytes(2) + head + payload).ljust(FRAME_LEN_MIN, b"\0")


def _pseudo(source: bytes, destination: bytes, protocol: int, length: int) -> bytes:
    """What is summed besides the payload; IPv4's and IPv6's come to the same sum."""
    return source + destination + struct.pack(">II", length, protocol)


_Parts = tuple[bytes, bytes, int, int, bytes]  # source, destination, protocol, hop limit, payload


def _split4(data: bytes) -> _Parts:
    require(len(data) >= IPV4_HLEN and data[0] >> 4 == 4, Reason.IP_HEADER)
    length, fragment = struct.unpack_from(">H2xH", data, 2)
    header_len = (data[0] & 0xF) * 4
    require(IPV4_HLEN <= header_len <= length <= len(data), Reason.IP_HEADER)
    require(csum(data[:header_len]) == 0, Reason.CHECKSUM)
    require(fragment & _FRAGMENT == 0, Reason.FRAGMENT)
    return data[12:16], data[16:20], data[9], data[8], data[header_len:length]


def _split6(data: bytes) -> _Parts:
    require(len(data) >= IPV6_HLEN and data[0] >> 4 == 6, Reason.IP_HEADER)
    end = IPV6_HLEN + int.from_bytes(data[4:6])
    require(end <= len(data), Reason.IP_HEADER)
    return data[8:24], data[24:40], data[6], data[7], data[IPV6_HLEN:end]
