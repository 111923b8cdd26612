"""Stateless DHCPv6 for one guest: resolvers and domains, no addresses (RFC 8415, 3646; sans-IO).

How it works: INFORMATION-REQUEST gets a REPLY.  SOLICIT, from who expects addresses, gets an
ADVERTISE that says there are none and that asking again can wait for a day; addresses are made by
the guest itself, from the router's advertisement.

Trust: the frame is a guest's; what is copied from it is one identifier, of bounded length.
"""

from collections.abc import Iterator
from typing import Final

from vionet.services.frame import Packet, Reason, require, udp, wire_names
from vionet.services.lease import GATEWAY_LINK_LOCAL, RESOLVERS_MAX, Lease
from vionet.spec.packet import DHCPV6_CLIENT, DHCPV6_SERVER, IPPROTO_UDP

SERVERS: Final = bytes.fromhex("ff020000000000000000000000010002")  # ff02::1:2
SOLICIT, ADVERTISE, REPLY, INFORMATION_REQUEST = 1, 2, 7, 11
CLIENT_ID, SERVER_ID, IA_NA, IA_TA, STATUS, IA_PD = 1, 2, 3, 4, 13, 25
DNS, DOMAINS, SOL_MAX_RT = 23, 24, 82
NO_ADDRS, NO_PREFIX = 2, 6
_HEADS_LEN: Final = {IA_NA: 12, IA_TA: 4, IA_PD: 12}  # the identifier, then times
DAY_S: Final = 86400
DUID_LEN_MAX: Final = 130
IAS_MAX: Final = 4  # answered of one message


def answer(packet: Packet, lease: Lease) -> bytes:
    """The frame that answers a datagram to port 547; *raises* `Ignored`."""
    require(lease.address6 is not None, Reason.NO_IPV6)
    require(packet.ports == (DHCPV6_CLIENT, DHCPV6_SERVER), Reason.PORT)
    require(packet.source[:8] == b"\xfe\x80" + bytes(6), Reason.SOURCE_ADDRESS)
    known = (SERVERS, GATEWAY_LINK_LOCAL.packed)
    require(packet.destination in known, Reason.DESTINATION_ADDRESS)
    require(len(packet.payload) >= 4, Reason.LENGTH)
    kind = packet.payload[0]
    require(kind in (SOLICIT, INFORMATION_REQUEST), Reason.MESSAGE)
    duid = (3).to_bytes(2) + (1).to_bytes(2) + lease.gateway_mac.to_bytes(6)  # DUID-LL, Ethernet
    options = list(_options(packet.payload[4:]))
    found = dict(options)
    require(found.get(SERVER_ID, duid) == duid, Reason.SERVER)
    client = found.get(CLIENT_ID, b"")
    require(len(client) <= DUID_LEN_MAX, Reason.OPTION)
    told = [(SERVER_ID, duid), (SOL_MAX_RT, DAY_S.to_bytes(4))]
    if client:
        told.insert(0, (CLIENT_ID, client))
    if kind == SOLICIT:
        require(client != b"" and SERVER_ID not in found, Reason.CLIENT)
        told += _refusals(options)
    else:
        require(found.keys().isdisjoint(_HEADS_LEN), Reason.OPTION)
    if lease.resolvers6:
        told.append((DNS, b"".join(address.packed for address in lease.resolvers6[:RESOLVERS_MAX])))
    if names := wire_names(lease.domains):
        told.append((DOMAINS, names))
    message = bytes([ADVERTISE if kind == SOLICIT else REPLY]) + packet.payload[1:4]
    return udp(
        Packet(
            source_mac=lease.service_mac,
            destination_mac=lease.mac,
            source=GATEWAY_LINK_LOCAL.packed,
            destination=packet.source,
            protocol=IPPROTO_UDP,
            hop_limit=64,
            payload=message + b"".join(_option(code, value) for code, value in told),
            ports=(DHCPV6_SERVER, DHCPV6_CLIENT),
        )
    )


def _refusals(options: list[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """No addresses: for the whole, as old clients read it, and for each that was asked for."""
    yield STATUS, NO_ADDRS.to_bytes(2)
    wanted = [(code, value) for code, value in options if code in _HEADS_LEN]
    for code, value in wanted[:IAS_MAX]:
        head_len = _HEADS_LEN[code]
        require(len(value) >= head_len, Reason.OPTION)
        status = NO_PREFIX if code == IA_PD else NO_ADDRS
        yield code, value[:4] + bytes(head_len - 4) + _option(STATUS, status.to_bytes(2))


def _options(area: bytes) -> Iterator[tuple[int, bytes]]:
    off = 0
    while off < len(area):
        end = off + 4 + int.from_bytes(area[off + 2 : off + 4])
        require(end <= len(area), Reason.OPTION)
        yield int.from_bytes(area[off : off + 2]), area[off + 4 : end]
        off = end


def _option(code: int, value: bytes) -> bytes:
    return code.to_bytes(2) + len(value).to_bytes(2) + value
