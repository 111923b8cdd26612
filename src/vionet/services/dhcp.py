"""DHCP and BOOTP for one guest, as OpenBSD's vmd answers them (RFC 951, 2131, 2132, 3397; sans-IO).

How it works: there is one lease and it never ends, so there is no state.  DISCOVER gets an OFFER;
REQUEST gets an ACK where it asks for the lease's address or for none, else a NAK; a request without
a message type is BOOTP's and gets the same without one.  The gateway is router, server and, where
the lease names no resolvers, resolver.

Deviation from vmd: where it sends a NAK, INFORM gets an ACK without an address (RFC 2131 4.3.5),
and DECLINE and RELEASE get nothing.  A NAK names no address and is broadcast.  The host name is
told to every guest, not only to one that boots from the network.

Deviation from RFC 2131 4.3.2: a REQUEST with an address in use (ciaddr) is ignored, as vmd does:
only a client that renews sends one, and an endless lease is not renewed.  (One that is told to by
hand gives up after a while and asks anew.)  So is one with a boot file or hops.  The server
identifier is not looked at: there is no other server on this link.

Trust: the frame is a guest's.  Options that run over the end make the whole request ignored.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from vionet.services.frame import IPV4_HLEN, Packet, Reason, require, udp, wire_names
from vionet.services.lease import RESOLVERS_MAX, Lease
from vionet.spec.packet import DHCP_CLIENT, DHCP_SERVER, IPPROTO_UDP, UDP_HLEN

BROADCAST: Final = b"\xff" * 4
BROADCAST_MAC: Final = (1 << 48) - 1
HEAD: Final = struct.Struct(">4BIHH4s4s4s4s6s10x64s128s")
BOOTP_LEN: Final = 300  # old clients take nothing shorter, and no more options than fit
MESSAGE_LEN: Final = 576 - IPV4_HLEN - UDP_HLEN  # what everybody takes
MAGIC: Final = b"\x63\x82\x53\x63"
ENDLESS: Final = b"\xff" * 4
BROADCAST_FLAG: Final = 0x8000

PAD, END = 0, 255
MASK, ROUTER, DNS, HOST_NAME, DOMAIN, MTU = 1, 3, 6, 12, 15, 26
REQUESTED, LEASE_TIME, OVERLOAD, MESSAGE_TYPE, SERVER_ID = 50, 51, 52, 53, 54
PARAMETERS, MESSAGE_LEN_MAX, CLIENT_ID, SEARCH = 55, 57, 61, 119
_FIXED_LEN: Final = {REQUESTED: 4, OVERLOAD: 1, MESSAGE_TYPE: 1, SERVER_ID: 4, MESSAGE_LEN_MAX: 2}

DISCOVER, OFFER, REQUEST, ACK, NAK, INFORM = 1, 2, 3, 5, 6, 8
_ANSWERS: Final = {0: 0, DISCOVER: OFFER, REQUEST: ACK, INFORM: ACK}  # 0: BOOTP
_NONE: Final = bytes(4)


@dataclass(frozen=True, slots=True)
class _Request:
    """One request; `kind` is 0 for BOOTP's."""

    xid: int
    flags: int
    ciaddr: bytes
    giaddr: bytes
    options: dict[int, bytes]
    kind: int


def answer(packet: Packet, lease: Lease) -> bytes:
    """The frame that answers a datagram to port 67; *raises* `Ignored`."""
    own, gateway = lease.address.ip.packed, lease.gateway.packed
    require(packet.ports == (DHCP_CLIENT, DHCP_SERVER), Reason.PORT)
    require(packet.source in (_NONE, own), Reason.SOURCE_ADDRESS)
    require(packet.destination in (BROADCAST, gateway), Reason.DESTINATION_ADDRESS)
    request = _read(packet.payload, lease)
    kind = _ANSWERS[request.kind]
    if request.kind == REQUEST and request.options.get(REQUESTED, _NONE) not in (_NONE, own):
        kind = NAK
    given = _NONE if kind == NAK or request.kind == INFORM else own
    chaddr = lease.mac.to_bytes(6)
    boot_file = (lease.boot_file or "").encode()[:127]
    siaddr, file = (_NONE, b"") if kind == NAK else (gateway, boot_file)
    head = HEAD.pack(
        2, 1, 6, 0, request.xid, 0, request.flags, request.ciaddr, given, siaddr,
        request.giaddr, chaddr, b"", file,
    )  # fmt: skip
    room = _room(request, lease) - len(head)
    target = request.ciaddr if request.kind == INFORM else given
    if target == _NONE or (request.flags & BROADCAST_FLAG and request.kind != INFORM):
        target = BROADCAST
    return udp(
        Packet(
            source_mac=lease.service_mac,
            destination_mac=BROADCAST_MAC if target == BROADCAST else lease.mac,
            source=gateway,
            destination=target,
            protocol=IPPROTO_UDP,
            hop_limit=64,
            payload=(head + _tell(_told(kind, request, lease), room)).ljust(BOOTP_LEN, b"\0"),
            ports=(DHCP_SERVER, DHCP_CLIENT),
        )
    )


def _read(message: bytes, lease: Lease) -> _Request:
    require(len(message) >= HEAD.size, Reason.LENGTH)
    op, htype, hlen, hops, xid, _, flags, ciaddr, _, _, giaddr, chaddr, sname, file = (
        HEAD.unpack_from(message)
    )
    require(op == 1, Reason.OP)
    require((htype, hlen) == (1, 6), Reason.HARDWARE)
    require(int.from_bytes(chaddr) == lease.mac, Reason.CHADDR)
    require(hops == 0, Reason.HOPS)
    require(file[0] == 0, Reason.FILE)
    options: dict[int, bytes] = {}
    magic, area = message[HEAD.size :][:4], message[HEAD.size + 4 :]
    if magic.strip(b"\0"):
        require(magic == MAGIC, Reason.MAGIC)
        _collect(options, area)
        if options.get(OVERLOAD, b"\0")[0] & 2:
            _collect(options, sname)
    kind = options.get(MESSAGE_TYPE, b"\0")[0]
    require(kind in _ANSWERS, Reason.MESSAGE)
    expected = (_NONE, lease.address.ip.packed) if kind == INFORM else (_NONE,)
    require(ciaddr in expected, Reason.CIADDR)
    return _Request(xid, flags, ciaddr, giaddr, options, kind)


def _collect(options: dict[int, bytes], area: bytes) -> None:
    """Add the options in `area`; one that comes again is continued (RFC 3396)."""
    off = 0
    while off < len(area) and area[off] != END:
        if area[off] == PAD:
            off += 1
            continue
        require(off + 2 <= len(area) and off + 2 + area[off + 1] <= len(area), Reason.OPTION)
        value = area[off + 2 : off + 2 + area[off + 1]]
        options[area[off]] = options.get(area[off], b"") + value
        off += 2 + len(value)
    for code, length in _FIXED_LEN.items():
        require(len(options.get(code, bytes(length))) == length, Reason.OPTION)


def _told(kind: int, request: _Request, lease: Lease) -> Iterator[tuple[int, bytes]]:
    """The options of the answer, the dispensable ones last."""
    asked = request.options.get(PARAMETERS, b"")
    if kind:
        yield MESSAGE_TYPE, bytes([kind])
        yield SERVER_ID, lease.gateway.packed
    if kind and request.kind != INFORM and kind != NAK:
        yield LEASE_TIME, ENDLESS
    if kind != NAK:
        yield MASK, lease.address.netmask.packed
        yield ROUTER, lease.gateway.packed
        yield (
            DNS,
            b"".join(a.packed for a in lease.resolvers[:RESOLVERS_MAX]) or lease.gateway.packed,
        )
    if client := request.options.get(CLIENT_ID, b""):
        yield CLIENT_ID, client  # RFC 6842
    if kind == NAK:
        return
    if lease.mtu and MTU in asked:
        yield MTU, lease.mtu.to_bytes(2)
    if lease.host_name:
        yield HOST_NAME, lease.host_name.encode()
    if lease.domains:
        yield DOMAIN, lease.domains[0].encode()
    if SEARCH in asked and (names := wire_names(lease.domains)):
        yield SEARCH, names


def _tell(options: Iterator[tuple[int, bytes]], room: int) -> bytes:
    """The options as they are sent, in `room` bytes; what does not fit is left out."""
    sent = MAGIC
    for code, value in options:
        pieces = [value[off : off + 255] for off in range(0, len(value), 255)]
        more = b"".join(bytes([code, len(piece)]) + piece for piece in pieces)
        if len(sent) + len(more) < room:
            sent += more
    return sent + bytes([END])


def _room(request: _Request, lease: Lease) -> int:
    """How long the message may be."""
    if not request.kind:
        return BOOTP_LEN
    headers_len = IPV4_HLEN + UDP_HLEN
    told = int.from_bytes(request.options.get(MESSAGE_LEN_MAX, b"")) - headers_len
    return max(MESSAGE_LEN, min(told, (lease.mtu or 1500) - headers_len))
