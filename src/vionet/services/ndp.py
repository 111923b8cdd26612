"""Router advertisements for one guest (RFC 4861, 4862, 8106; sans-IO).

How it works: a solicitation is answered at once.  `advertisement` is what the guest is told
unasked: that its router is fe80::1 at the gateway's address, that it makes itself an address in the
lease's prefix, and who resolves names.  What can be endless is; a router's lifetime cannot and is
the longest there is (RFC 8319), so it has to be said again now and then.

Invariants: every advertisement goes to the guest's own Ethernet address, to all nodes too
(RFC 6085), so that nobody else on the fabric configures itself.  It comes from the service's
Ethernet address, so that no switch learns the gateway's from it; the gateway's is in an option.

Trust: the frame is a guest's; nothing of it but its source address is used.
"""

import struct
from typing import Final

from vionet.services.frame import Packet, Reason, icmpv6, require, wire_names
from vionet.services.lease import GATEWAY_LINK_LOCAL, RESOLVERS_MAX, Lease
from vionet.spec.packet import (
    ICMPV6_ROUTER_ADVERT,
    ICMPV6_ROUTER_SOLICIT,
    IPPROTO_ICMPV6,
    ND_OPT_SOURCE_LL,
)

PREFIX, MTU, RDNSS, DNSSL = 3, 5, 25, 31
ALL_NODES: Final = bytes.fromhex("ff020000000000000000000000000001")
ALL_ROUTERS: Final = bytes.fromhex("ff020000000000000000000000000002")
HOP_LIMIT: Final = 255  # so it was not forwarded
ROUTER_LIFETIME_S: Final = 65535
ENDLESS_S: Final = 0xFFFFFFFF
OTHER: Final = 0x40  # stateless DHCPv6 has more
ON_LINK_AUTONOMOUS: Final = 0xC0
_NONE: Final = bytes(16)


def answer(packet: Packet, lease: Lease) -> bytes:
    """The frame that answers an ICMPv6 message; *raises* `Ignored`."""
    require(lease.address6 is not None, Reason.NO_IPV6)
    message = packet.payload
    require(len(message) >= 8, Reason.LENGTH)
    require(message[:2] == bytes([ICMPV6_ROUTER_SOLICIT, 0]), Reason.MESSAGE)
    require(packet.hop_limit == HOP_LIMIT, Reason.HOP_LIMIT)
    known = (ALL_ROUTERS, GATEWAY_LINK_LOCAL.packed)
    require(packet.destination in known, Reason.DESTINATION_ADDRESS)
    require(packet.source[0] != 0xFF, Reason.SOURCE_ADDRESS)
    off = 8
    while off < len(message):
        kind, length = message[off], message[off + 1 : off + 2]
        require(length > b"\0" and off + 8 * length[0] <= len(message), Reason.OPTION)
        require(kind != ND_OPT_SOURCE_LL or packet.source != _NONE, Reason.OPTION)
        off += 8 * length[0]
    return advertisement(lease, ALL_NODES if packet.source == _NONE else packet.source)


def advertisement(lease: Lease, destination: bytes = ALL_NODES) -> bytes:
    """What the guest is told.  *requires* that the lease has IPv6."""
    assert lease.address6 is not None
    network = lease.address6.network
    message = struct.pack(
        ">BBHBBHII", ICMPV6_ROUTER_ADVERT, 0, 0, 64, OTHER, ROUTER_LIFETIME_S, 0, 0
    )
    message += _option(ND_OPT_SOURCE_LL, lease.gateway_mac.to_bytes(6))
    if lease.mtu:
        message += _option(MTU, struct.pack(">2xI", lease.mtu))
    prefix = struct.pack(">BBIII", network.prefixlen, ON_LINK_AUTONOMOUS, ENDLESS_S, ENDLESS_S, 0)
    message += _option(PREFIX, prefix + network.network_address.packed)
    lifetime = struct.pack(">2xI", ENDLESS_S)
    if lease.resolvers6:
        servers = b"".join(address.packed for address in lease.resolvers6[:RESOLVERS_MAX])
        message += _option(RDNSS, lifetime + servers)
    if names := wire_names(lease.domains):
        message += _option(DNSSL, lifetime + names)
    return icmpv6(
        Packet(
            source_mac=lease.service_mac,
            destination_mac=lease.mac,
            source=GATEWAY_LINK_LOCAL.packed,
            destination=destination,
            protocol=IPPROTO_ICMPV6,
            hop_limit=HOP_LIMIT,
            payload=message,
        )
    )


def _option(kind: int, value: bytes) -> bytes:
    """One option, padded to a multiple of 8 bytes."""
    units = -(-(2 + len(value)) // 8)
    return (bytes([kind, units]) + value).ljust(8 * units, b"\0")
