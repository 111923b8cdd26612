"""What a frame's headers say: Ethernet with tags, IPv4, IPv6 and its extension headers, TCP, UDP.

How it works: `parse` reads the private head copy only and fills `Frame`.  It never decides
anything; `judge` does.  Where the headers go on beyond the copy it returns how many bytes it
needs, the caller copies more and calls again (only IPv6 extension headers and deep tag stacks do).

Invariants: nothing past `head_len` is read; every loop advances or ends.  Deviation: an IPv6
datagram whose headers do not fit into `HEAD_MAX` bytes counts as one without a known L4 header.

Trust: the bytes are a guest's or the wire's, and may be anything.
"""

from vionet.engine.layout import FRAME, HEAD_MAX, WORK, Frame, Work
from vionet.engine.status import Csum
from vionet.jit.kernel import INT, kernel
from vionet.jit.raw import load_u16, load_u32
from vionet.spec.packet import (
    ETH_HLEN,
    ETH_P_8021AD,
    ETH_P_8021Q,
    ETH_P_IP,
    ETH_P_IPV6,
    ETH_P_QINQ1,
    IPOPT_END,
    IPOPT_LSRR,
    IPOPT_NOOP,
    IPOPT_SSRR,
    IPPROTO_AH,
    IPPROTO_DSTOPTS,
    IPPROTO_FRAGMENT,
    IPPROTO_HOPOPTS,
    IPPROTO_ROUTING,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPV6_TLV_HAO,
    IPV6_TLV_PAD1,
    TCP_CSUM_OFF,
    TCP_HLEN,
    UDP_CSUM_OFF,
    UDP_HLEN,
)

NONE = int(Csum.NONE)
UNKNOWN = int(Csum.UNKNOWN)
# As a little-endian load sees them.
IPV4_LE = (ETH_P_IP & 0xFF) << 8 | ETH_P_IP >> 8
IPV6_LE = (ETH_P_IPV6 & 0xFF) << 8 | ETH_P_IPV6 >> 8


@kernel(INT, INT, inline=True)
def swap16(value: int) -> int:
    """The two bytes of a 16-bit word exchanged."""
    return ((value & 0xFF) << 8) | (value >> 8 & 0xFF)


@kernel(INT, WORK, INT, inline=True)
def be16(work: Work, off: int) -> int:
    """The big-endian 16-bit word at `off` of the frame's head copy."""
    return swap16(load_u16(work.head_hva + off))


@kernel(INT, FRAME, INT, inline=True)
def more(frame: Frame, needed: int) -> int:
    """Ask for `needed` bytes of head if the frame has them and they may be copied, else 0."""
    if needed <= frame.length and frame.head_len < HEAD_MAX and needed <= HEAD_MAX:
        return needed
    return 0


@kernel(INT, INT, inline=True)
def dhcp_port(port: int) -> int:
    """Whether a UDP port is one of DHCP's or DHCPv6's."""
    return 1 if port == 67 or port == 68 or port == 546 or port == 547 else 0


@kernel(INT, WORK, FRAME, INT, inline=True)
def parse_l4(work: Work, frame: Frame, off: int) -> int:
    """TCP and UDP: whether there is an outermost checksum that somebody could verify."""
    if frame.fragment:
        return 0
    if frame.l4 == IPPROTO_UDP:
        if frame.l4_len < UDP_HLEN:
            return 0
        if off + UDP_HLEN > frame.head_len:
            return more(frame, off + UDP_HLEN)
        frame.l4_off = off
        ports = load_u32(work.head_hva + off)
        frame.dhcp = dhcp_port(swap16(ports)) | dhcp_port(swap16(ports >> 16))
        zero = load_u16(work.head_hva + off + UDP_CSUM_OFF) == 0
        # IPv4 UDP with 0 carries none (W54); a length that is not the datagram's is not ours
        # to judge.
        if (
            not (zero and frame.l3 == ETH_P_IP)
            and be16(work, off + 4) == frame.l4_len
            and not frame.routed
        ):
            frame.outer = UNKNOWN
    elif frame.l4 == IPPROTO_TCP:
        if frame.l4_len < TCP_HLEN:
            return 0
        if off + TCP_CSUM_OFF + 2 > frame.head_len:
            return more(frame, off + TCP_CSUM_OFF + 2)
        frame.l4_off = off
        if not frame.routed:
            frame.outer = UNKNOWN
    return 0


@kernel(INT, WORK, INT, INT)
def has_source_route(work: Work, off: int, end: int) -> int:
    """Whether IPv4 options hold a source route: the sum is over the final address, which the
    header's destination may not be yet (RFC 791, RFC 1122 4.2.3.8)."""
    while off + 2 <= end:
        word = load_u16(work.head_hva + off)
        kind = word & 0xFF
        if kind == IPOPT_END:
            return 0
        if kind == IPOPT_NOOP:
            off += 1
            continue
        if kind == IPOPT_LSRR or kind == IPOPT_SSRR:
            return 1
        off += max(2, word >> 8)
    return 0


@kernel(INT, WORK, FRAME, INT, inline=True)
def parse_ipv4(work: Work, frame: Frame, off: int) -> int:
    """IPv4: options, fragments, total length (spec SG-04, SG-12)."""
    if off + 20 > frame.head_len:
        return more(frame, off + 20)
    first = load_u16(work.head_hva + off) & 0xFF
    header_len = 4 * (first & 15)
    if first >> 4 != 4 or header_len < 20:
        return 0
    frame.reached = off + header_len
    total = be16(work, off + 2)
    if total < header_len or off + total > frame.length:
        frame.bad_len = 1
        return 0
    frame.fragment = 1 if be16(work, off + 6) & 0x3FFF else 0
    frame.l4 = load_u16(work.head_hva + off + 8) >> 8
    frame.l4_len = total - header_len
    if header_len > 20:
        if off + header_len > frame.head_len:
            return more(frame, off + header_len)
        frame.routed = has_source_route(work, off + 20, off + header_len)
    return parse_l4(work, frame, off + header_len)


@kernel(INT, WORK, INT, INT)
def has_home_address(work: Work, off: int, end: int) -> int:
    """Whether destination options hold a Home Address, which replaces the source address in the
    pseudo-header (RFC 6275), so that the header's own address must not be summed."""
    while off + 2 <= end:
        word = load_u16(work.head_hva + off)
        if word & 0xFF == IPV6_TLV_PAD1:
            off += 1
            continue
        if word & 0xFF == IPV6_TLV_HAO:
            return 1
        off += 2 + (word >> 8)
    return 0


@kernel(INT, WORK, FRAME, INT)
def parse_ipv6(work: Work, frame: Frame, off: int) -> int:
    """IPv6: the chain of extension headers up to the upper-layer header (spec SG-12, W49)."""
    if off + 40 > frame.head_len:
        return more(frame, off + 40)
    if load_u16(work.head_hva + off) >> 4 & 15 != 6:
        return 0
    frame.reached = off + 40
    end = off + 40 + be16(work, off + 4)
    if end > frame.length:
        frame.bad_len = 1
        return 0
    kind = load_u16(work.head_hva + off + 6) & 0xFF
    off += 40
    while (
        kind == IPPROTO_HOPOPTS
        or kind == IPPROTO_ROUTING
        or kind == IPPROTO_DSTOPTS
        or kind == IPPROTO_AH
        or kind == IPPROTO_FRAGMENT
    ):
        if off + 8 > end:
            frame.bad_len = 1
            return 0
        if off + 8 > frame.head_len:
            return more(frame, off + 8)
        word = load_u16(work.head_hva + off)
        if kind == IPPROTO_FRAGMENT:
            header_len = 8
            if be16(work, off + 2) & 0xFFF9:
                frame.fragment = 1
        elif kind == IPPROTO_AH:
            header_len = 4 * ((word >> 8) + 2)
        else:
            header_len = 8 * ((word >> 8) + 1)
        if off + header_len > end:
            frame.bad_len = 1
            return 0
        if kind == IPPROTO_ROUTING and load_u16(work.head_hva + off + 2) >> 8:
            frame.routed = 1
        if kind == IPPROTO_DSTOPTS:
            if off + header_len > frame.head_len:
                return more(frame, off + header_len)
            if has_home_address(work, off + 2, off + header_len):
                frame.routed = 1
        kind = word & 0xFF
        off += header_len
        frame.reached = off
        if frame.fragment:
            break
    frame.l4 = kind
    frame.l4_len = end - off
    return parse_l4(work, frame, off)


@kernel(INT, WORK, FRAME)
def parse(work: Work, frame: Frame) -> int:
    """Fill the header fields of `frame` from the head copy.

    *requires* 14 <= head_len <= HEAD_MAX.  *returns* 0, or how many bytes of head are needed.
    """
    frame.l3_off = 0
    frame.l3 = 0
    frame.l4_off = 0
    frame.l4 = -1
    frame.l4_len = 0
    frame.fragment = 0
    frame.routed = 0
    frame.dhcp = 0
    frame.bad_len = 0
    frame.outer = NONE
    off = ETH_HLEN
    kind = be16(work, 12)
    while kind == ETH_P_8021Q or kind == ETH_P_8021AD or kind == ETH_P_QINQ1:
        frame.reached = off
        if off + 4 > frame.head_len:
            return more(frame, off + 4)
        kind = be16(work, off + 2)
        off += 4
    frame.l3_off = off
    frame.l3 = kind
    frame.reached = off
    if kind == ETH_P_IP:
        return parse_ipv4(work, frame, off)
    if kind == ETH_P_IPV6:
        return parse_ipv6(work, frame, off)
    return 0


@kernel(INT, WORK, FRAME, inline=True)
def parse_plain(work: Work, frame: Frame) -> int:
    """`parse` for the usual frame: untagged, IPv4 without options or IPv6 without extension
    headers, not a fragment, TCP or UDP, whole headers in the head copy.

    *returns* 1 with the same fields as `parse` would set, or 0 and nothing is set.
    Inlined into the path of every frame: 5 ns instead of 16.
    """
    base = work.head_hva
    kind = load_u16(base + 12)
    if kind == IPV4_LE:
        l4_off = ETH_HLEN + 20
        if (
            frame.head_len < l4_off + TCP_HLEN
            or load_u16(base + 14) & 0xFF != 0x45
            or load_u16(base + 20) & 0xFF3F
        ):
            return 0
        l4 = load_u16(base + 22) >> 8
        l4_len = swap16(load_u16(base + 16)) - 20
    elif kind == IPV6_LE:
        l4_off = ETH_HLEN + 40
        if frame.head_len < l4_off + TCP_HLEN or load_u16(base + 14) & 0xF0 != 0x60:
            return 0
        l4 = load_u16(base + 20) & 0xFF
        l4_len = swap16(load_u16(base + 18))
    else:
        return 0
    if l4_off + l4_len > frame.length:
        return 0
    outer = UNKNOWN
    dhcp = 0
    if l4 == IPPROTO_UDP:
        if l4_len < UDP_HLEN:
            return 0
        ports = load_u32(base + l4_off)
        dhcp = dhcp_port(swap16(ports)) | dhcp_port(swap16(ports >> 16))
        rest = load_u32(base + l4_off + 4)
        if (rest >> 16 == 0 and kind == IPV4_LE) or swap16(rest) != l4_len:
            outer = NONE
    elif l4 != IPPROTO_TCP or l4_len < TCP_HLEN:
        return 0
    frame.l3_off = ETH_HLEN
    frame.l3 = swap16(kind)
    frame.l4_off = l4_off
    frame.reached = l4_off
    frame.l4 = l4
    frame.l4_len = l4_len
    frame.fragment = 0
    frame.routed = 0
    frame.dhcp = dhcp
    frame.bad_len = 0
    frame.outer = outer
    return 1
