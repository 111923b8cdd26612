"""The guard: what a port that is locked to IP addresses (`ip=`) may send, judged at ingress.

How it works: `guard` is asked for every frame of a port that has rules, and for no other
(`forward.enter`); the straight path (`plain`) leaves such a port's frames alone.  `standing` says
what an address is to the port: its own, kept off, or reachable all the same.  IPv4, ARP and IPv6
are understood, nothing else passes.  A frame passes if its source is the port's own, ARP and
neighbour discovery speak of the port's own addresses only, no host behind it plays router or DHCP
server, and the destination is not kept off.  Requests to such services (DHCP, DHCPv6, router
solicitations) are told apart: where the fabric has a service port, they go there and nowhere else.

Before an address is known a host may ask for one: 0.0.0.0 sends DHCP requests and ARP probes for
its own address, `::` asks for routers, for duplicates of its own address, and joins groups.  Any
link-local IPv6 address is the port's own but fe80::1, which is the gateway's.

Invariants: only the head copy is judged, and nothing in it is written afterwards that was judged:
the field of a partial sum must lie behind.  What cannot be read to the end is refused: truncated or
over-long headers, an unknown way (source routes, routing headers) or sender (home address), first
fragments without the whole L4 header in sight, neighbour discovery in fragments (RFC 6980).  Later
fragments bear no more than addresses; what they continue was judged with the first.

Trust: everything is a guest's.
"""

from vionet.engine.ingress import lengthen_head
from vionet.engine.layout import FRAME, PORT, WORK, Frame, Port, Work
from vionet.engine.parse import be16
from vionet.engine.status import (
    CSUM_START_IN_HEADER,
    KEPT_OFF,
    NEIGHBOUR_LOCKED,
    OK,
    PROTOCOL_LOCKED,
    SERVICE_FORGED,
    SOURCE_IP_LOCKED,
    SOURCE_MAC_LOCKED,
    Csum,
    Standing,
)
from vionet.jit.kernel import INT, kernel
from vionet.jit.raw import load_i64, load_u16, load_u32
from vionet.spec.packet import (
    DHCP_CLIENT,
    DHCP_SERVER,
    DHCPV6_CLIENT,
    DHCPV6_SERVER,
    ETH_P_ARP,
    ETH_P_IP,
    ETH_P_IPV6,
    ICMP_REDIRECT,
    ICMP_ROUTER_ADVERT,
    ICMPV6_MLD2_REPORT,
    ICMPV6_MLD_DONE,
    ICMPV6_MLD_REPORT,
    ICMPV6_NEIGHBOUR_ADVERT,
    ICMPV6_REDIRECT,
    ICMPV6_ROUTER_ADVERT,
    ICMPV6_ROUTER_SOLICIT,
    IPPROTO_AH,
    IPPROTO_DSTOPTS,
    IPPROTO_FRAGMENT,
    IPPROTO_HOPOPTS,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_ROUTING,
    IPPROTO_UDP,
    ND_OPT_SOURCE_LL,
    ND_OPT_TARGET_LL,
    UDP_HLEN,
)

INNER_PARTIAL = int(Csum.INNER_PARTIAL)
OWN = int(Standing.OWN)
KEPT = int(Standing.KEPT)
ASKS = -1  # besides OK and drop reasons: it passes, to who answers such requests
# As little-endian loads see them: the beginning of an ARP packet (Ethernet, IPv4), fe80::1.
ARP_FORMAT = 0x00080100
ARP_REQUEST = 0x01000406
ARP_REPLY = 0x02000406
ARP_LEN = 28
LINK_LOCAL = 0x80FE
LINK_LOCAL_MASK = 0xC0FF
GATEWAY_LOW = 1 << 56
ICMP_HLEN = 8  # all messages have as much


@kernel(INT, PORT, INT, INT)
def standing(port: Port, hva: int, version: int) -> int:
    """What the IP address at `hva` is to a port: bits of `Standing`."""
    first = load_u32(hva) if version == 4 else load_i64(hva)
    second = 0 if version == 4 else load_i64(hva + 8)
    found = 0
    for i in range(port.n_rules):
        rule = port.rules[i]
        if (
            rule.version == version
            and first & rule.first_mask == rule.first
            and second & rule.second_mask == rule.second
        ):
            found |= rule.standing
    if version == 4 or first & LINK_LOCAL_MASK != LINK_LOCAL:
        return found
    return found | OWN if first != LINK_LOCAL or second != GATEWAY_LOW else found


@kernel(INT, PORT, WORK, FRAME)
def judge_arp(port: Port, work: Work, frame: Frame) -> int:
    """ARP: Ethernet and IPv4 only, by and of the port's own addresses.  *returns* as `guard`."""
    if not lengthen_head(work, frame, frame.l3_off + ARP_LEN):
        return PROTOCOL_LOCKED
    base = work.head_hva + frame.l3_off
    operation = load_u32(base + 4)
    if load_u32(base) != ARP_FORMAT or (operation != ARP_REQUEST and operation != ARP_REPLY):
        return PROTOCOL_LOCKED
    if frame.state == INNER_PARTIAL:
        return CSUM_START_IN_HEADER
    if load_u32(base + 8) != load_u32(work.head_hva + 6) or load_u16(base + 12) != load_u16(
        work.head_hva + 10
    ):
        return NEIGHBOUR_LOCKED
    target = standing(port, base + 24, 4)
    sender = standing(port, base + 14, 4)
    if load_u32(base + 14) == 0 and operation == ARP_REQUEST:
        sender = target  # a probe: does anybody have my address?
    if not sender & OWN:
        return NEIGHBOUR_LOCKED
    return KEPT_OFF if target == KEPT else OK


@kernel(INT, PORT, WORK, FRAME, INT, INT)
def judge_neighbour(port: Port, work: Work, frame: Frame, kind: int, nobody: int) -> int:
    """Neighbour discovery (RFC 4861) from `::` where `nobody`.  *returns* as `guard`."""
    off = frame.reached + (8 if kind == ICMPV6_ROUTER_SOLICIT else 24)
    end = frame.reached + frame.l4_len
    if frame.fragment or end < off or not lengthen_head(work, frame, end):
        return NEIGHBOUR_LOCKED
    if kind != ICMPV6_ROUTER_SOLICIT:
        target = standing(port, work.head_hva + frame.reached + 8, 6)
        if target == KEPT:
            return KEPT_OFF
        if not target & OWN and (nobody or kind == ICMPV6_NEIGHBOUR_ADVERT):
            return NEIGHBOUR_LOCKED
    while off < end:
        base = work.head_hva + off
        if off + 8 > end:
            return NEIGHBOUR_LOCKED
        option = load_u16(base) & 0xFF
        size = 8 * (load_u16(base) >> 8)
        if size == 0 or off + size > end:
            return NEIGHBOUR_LOCKED
        if (option == ND_OPT_SOURCE_LL or option == ND_OPT_TARGET_LL) and (
            nobody
            or size != 8
            or load_u16(base + 2) != load_u16(work.head_hva + 6)
            or load_u32(base + 4) != load_u32(work.head_hva + 8)
        ):
            return NEIGHBOUR_LOCKED
        off += size
    return ASKS if kind == ICMPV6_ROUTER_SOLICIT else OK


@kernel(INT, PORT, WORK, FRAME, INT, INT)
def judge_l4(port: Port, work: Work, frame: Frame, version: int, nobody: int) -> int:
    """What speaks above IP; not of later fragments.  *returns* as `guard`."""
    off = frame.reached
    icmp = IPPROTO_ICMP if version == 4 else IPPROTO_ICMPV6
    if frame.l4 != IPPROTO_UDP and frame.l4 != icmp:
        return SOURCE_IP_LOCKED if nobody else OK
    if frame.l4_len < UDP_HLEN or not lengthen_head(work, frame, off + UDP_HLEN):
        return PROTOCOL_LOCKED  # ICMP has as many bytes
    if frame.state == INNER_PARTIAL and (frame.l4 == icmp or frame.csum_start < off + UDP_HLEN):
        return CSUM_START_IN_HEADER
    if frame.l4 == IPPROTO_UDP:
        server = DHCP_SERVER if version == 4 else DHCPV6_SERVER
        client = DHCP_CLIENT if version == 4 else DHCPV6_CLIENT
        source = be16(work, off)
        target = be16(work, off + 2)
        if source == server or target == client:
            return SERVICE_FORGED
        if nobody and not (version == 4 and source == client and target == server):
            return SOURCE_IP_LOCKED
        if target != server:
            return OK
        return PROTOCOL_LOCKED if frame.fragment else ASKS
    kind = load_u16(work.head_hva + off) & 0xFF
    if version == 4:
        if kind == ICMP_REDIRECT or kind == ICMP_ROUTER_ADVERT:
            return SERVICE_FORGED
        return SOURCE_IP_LOCKED if nobody else OK
    if kind == ICMPV6_ROUTER_ADVERT or kind == ICMPV6_REDIRECT:
        return SERVICE_FORGED
    if ICMPV6_ROUTER_SOLICIT <= kind <= ICMPV6_NEIGHBOUR_ADVERT:
        return judge_neighbour(port, work, frame, kind, nobody)
    joins = kind == ICMPV6_MLD_REPORT or kind == ICMPV6_MLD_DONE or kind == ICMPV6_MLD2_REPORT
    return SOURCE_IP_LOCKED if nobody and not joins else OK


@kernel(INT, PORT, WORK, FRAME)
def guard(port: Port, work: Work, frame: Frame) -> int:
    """Judge the frame in hand.  *requires* it judged as a frame, and its addresses read.

    *returns* OK, ASKS, or a drop reason.
    """
    if frame.src != port.mac:
        return SOURCE_MAC_LOCKED
    if frame.l3 == ETH_P_ARP:
        return judge_arp(port, work, frame)
    off = frame.reached
    if (
        (frame.l3 != ETH_P_IP and frame.l3 != ETH_P_IPV6)
        or frame.l4 < 0
        or frame.routed
        or off > frame.head_len
    ):
        return PROTOCOL_LOCKED
    base = work.head_hva + frame.l3_off
    later = 0  # not the first fragment
    if frame.l3 == ETH_P_IP:
        version = 4
        source = base + 12
        target = base + 16
        nobody = 1 if load_u32(source) == 0 else 0
        later = be16(work, frame.l3_off + 6) & 0x1FFF
    else:
        version = 6
        source = base + 8
        target = base + 24
        nobody = 1 if load_i64(source) == 0 and load_i64(source + 8) == 0 else 0
        if frame.fragment:
            later = be16(work, off - 6) & 0xFFF8
            if later == 0 and (
                frame.l4 == IPPROTO_HOPOPTS
                or frame.l4 == IPPROTO_ROUTING
                or frame.l4 == IPPROTO_DSTOPTS
                or frame.l4 == IPPROTO_FRAGMENT
                or frame.l4 == IPPROTO_AH
            ):
                return PROTOCOL_LOCKED
    if not nobody and not standing(port, source, version) & OWN:
        return SOURCE_IP_LOCKED
    if standing(port, target, version) == KEPT:
        return KEPT_OFF
    if later:
        return SOURCE_IP_LOCKED if nobody else OK
    return judge_l4(port, work, frame, version, nobody)
