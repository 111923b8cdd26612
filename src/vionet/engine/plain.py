"""The straight path: the usual frame from a guest, without a `Frame`.

How it works: most frames are untagged IPv4 or IPv6 with TCP or UDP and nothing unusual about
their header, their ports or the buffer that they go to.  `pass_run` looks at each staged head
copy with local variables only and delivers by `pass_on`; who the last frame went to is kept,
because most frames follow their predecessor.  It stops in front of the first frame that is not
plain in every respect, which then goes the long way (`forward`), where alone frames are refused,
learnt from, flooded, tagged, cut and captured.

Invariants: it decides nothing.  What it passes, `forward` would have delivered with the same bytes
(the tests compare the two on the same frames).  Each fact is from a copy, as there.
"""

from vionet.engine.capture import wanted_plain
from vionet.engine.checksum import seed_of
from vionet.engine.fdb import REFRESH_NS, find, lookup, owner, slot_of
from vionet.engine.forward import claim
from vionet.engine.guest import U16, U32
from vionet.engine.layout import HEAD_LEN, SLOT_LEN, STATE, WORK, State, Work
from vionet.engine.parse import IPV4_LE, IPV6_LE, dhcp_port, swap16
from vionet.engine.pass_on import pass_on
from vionet.engine.plan import plan
from vionet.engine.share import CAPTURED, GUARDED, SHARED
from vionet.engine.status import (
    FILTER_NO_UNICAST,
    HEADER_BYTES,
    PAYLOAD_BYTES_COPIED,
    RX_BYTES,
    RX_FRAMES,
    Csum,
    FabricKind,
    PortKind,
)
from vionet.engine.talk import mark
from vionet.engine.vlan import VLAN_SHIFT
from vionet.jit.kernel import INT, kernel
from vionet.jit.raw import load_i64, load_u16, load_u32
from vionet.spec.packet import (
    ETH_HLEN,
    IPPROTO_TCP,
    IPPROTO_UDP,
    TCP_CSUM_OFF,
    TCP_HLEN,
    UDP_CSUM_OFF,
    UDP_HLEN,
)
from vionet.spec.virtio_net import VIRTIO_NET_HDR_F_NEEDS_CSUM

GROUP = 1 << 40
GUEST = int(PortKind.GUEST)
STREAM = int(PortKind.STREAM)
SWITCH = int(FabricKind.SWITCH)
NONE = int(Csum.NONE)
PARTIAL = int(Csum.PARTIAL)
UNKNOWN = int(Csum.UNKNOWN)
NOT_PLAIN = -1
NEEDS_CSUM = VIRTIO_NET_HDR_F_NEEDS_CSUM


@kernel(INT, INT, INT, INT, inline=True)
def state_of(head: int, header_len: int, length: int) -> int:
    """The Csum of a frame whose head copy is at `head`, or NOT_PLAIN.

    PARTIAL is a whole TCP or UDP datagram, nothing behind it, the right seed in its field.
    """
    kind = load_u16(head + 12)
    if kind == IPV4_LE:
        l4_off = ETH_HLEN + 20
        if load_u16(head + 14) & 0xFF != 0x45 or load_u16(head + 20) & 0xFF3F:
            return NOT_PLAIN
        l4 = load_u16(head + 22) >> 8
        l4_len = swap16(load_u16(head + 16)) - 20
    elif kind == IPV6_LE:
        l4_off = ETH_HLEN + 40
        if load_u16(head + 14) & 0xF0 != 0x60:
            return NOT_PLAIN
        l4 = load_u16(head + 20) & 0xFF
        l4_len = swap16(load_u16(head + 18))
    else:
        return NOT_PLAIN
    if min(length, HEAD_LEN) < l4_off + TCP_HLEN or l4_off + l4_len > length:
        return NOT_PLAIN
    state = UNKNOWN
    offset = TCP_CSUM_OFF
    if l4 == IPPROTO_UDP:
        if l4_len < UDP_HLEN:
            return NOT_PLAIN
        ports = load_u32(head + l4_off)
        if dhcp_port(swap16(ports)) | dhcp_port(swap16(ports >> 16)):
            return NOT_PLAIN
        rest = load_u32(head + l4_off + 4)
        if (rest >> 16 == 0 and kind == IPV4_LE) or swap16(rest) != l4_len:
            state = NONE
        offset = UDP_CSUM_OFF
    elif l4 != IPPROTO_TCP or l4_len < TCP_HLEN:
        return NOT_PLAIN
    word = load_i64(head - header_len)
    if word & NEEDS_CSUM:
        if (
            word >> 48 & U16 != l4_off
            or load_u16(head - header_len + 8) != offset
            or l4_off + l4_len != length
            or load_u16(head + l4_off + offset) != seed_of(head, kind, l4, l4_len)
        ):
            return NOT_PLAIN
        state = PARTIAL
    elif l4_off + l4_len != length:
        if length <= HEAD_LEN:
            return NOT_PLAIN  # trailing bytes, which go if it is unfilled
        state = NONE
    return state if word & 0xFF00 == 0 else NOT_PLAIN


@kernel(INT, STATE, WORK, INT, INT)
def receiver(state: State, work: Work, in_port: int, head: int) -> int:
    """The port that a frame may go to at once, from a sender that is known; or NOT_PLAIN."""
    port = state.ports[in_port]
    low = load_u32(head + 2)
    dst = swap16(load_u16(head)) << 32 | swap16(low & U16) << 16 | swap16(low >> 16)
    low = load_u32(head + 8)
    src = swap16(load_u16(head + 6)) << 32 | swap16(low & U16) << 16 | swap16(low >> 16)
    if src & GROUP or src == 0 or (port.locked and src != port.mac):
        return NOT_PLAIN
    out = 1 - in_port
    if state.kind == SWITCH:
        vlan = port.vlan << VLAN_SHIFT
        slot = slot_of(state, src | vlan)
        if state.fdb[slot].key != src | vlan:
            slot = find(state, src | vlan, work.now_ns)
        if (
            dst & GROUP
            or slot < 0
            or state.fdb[slot].port != in_port
            or work.now_ns - state.fdb[slot].seen_ns > REFRESH_NS
        ):
            return NOT_PLAIN
        out = lookup(state, dst | vlan, work.now_ns)
        if out < 0 and vlan:
            out = owner(state, dst | vlan, work.now_ns)
        if out < 0 or out == in_port:
            return NOT_PLAIN
    port_out = state.ports[out]
    if (
        port_out.kind == STREAM
        or not port_out.up
        or port_out.link_down
        or port_out.steers
        or port_out.trunk
        or port_out.vlan != port.vlan
        or (port_out.isolated and port.isolated)
        or ((port_out.locked or port_out.filter) and dst != port_out.mac)
        or port_out.filter & FILTER_NO_UNICAST
    ):
        return NOT_PLAIN
    if port_out.special & SHARED and not work.holds[out]:
        claim(state, work, out)
    return out if port_out.kind != GUEST or port_out.queues[0].live else NOT_PLAIN


@kernel(INT, STATE, WORK, INT, INT, INT, INT)
def count_passed(
    state: State, work: Work, out: int, frames: int, octets: int, header_octets: int
) -> int:
    """Count deliveries to one port."""
    work.ledger[out, RX_FRAMES] += frames
    work.ledger[out, RX_BYTES] += octets
    work.ledger[out, HEADER_BYTES] += header_octets
    if state.ports[out].kind == GUEST:
        work.ledger[out, PAYLOAD_BYTES_COPIED] += octets - header_octets
    work.passed_bytes += octets
    mark(work, out)
    return 0


@kernel(INT, STATE, WORK, INT, INT, INT, INT, inline=True)
def pass_run(state: State, work: Work, in_port: int, first: int, count: int, seen: int) -> int:
    """`pass_staged`, twice compiled: where nothing is captured (`seen` 0) no filter is asked."""
    sender = state.ports[in_port]
    if sender.steers or sender.trunk or sender.special & GUARDED:
        return first
    header_len = sender.header_len
    offers = sender.offers_partial
    limit = sender.mtu + ETH_HLEN if sender.mtu else U32
    most = limit
    accepts = captured = 0
    out = NOT_PLAIN
    low = high = 0
    passed = octets = header_octets = 0
    i = first
    while i < count:
        length = work.slot_len[i]
        head = work.heads_hva + SLOT_LEN * i
        csum = state_of(head, header_len, length)
        if csum < 0 or (csum == PARTIAL and not offers):
            break
        if out < 0 or load_i64(head) != low or load_u32(head + 8) != high:
            if passed:
                count_passed(state, work, out, passed, octets, header_octets)
            passed = octets = header_octets = 0
            out = receiver(state, work, in_port, head)
            if out < 0:
                break
            low = load_i64(head)
            high = load_u32(head + 8)
            accepts = state.ports[out].accepts
            most = min(limit, state.ports[out].mtu + ETH_HLEN if state.ports[out].mtu else U32)
            captured = (sender.special | state.ports[out].special) & CAPTURED if seen else 0
        if length > most:
            break
        if seen and captured and wanted_plain(state, work, in_port, out, i):
            break
        done = pass_on(state, work, out, i, header_len, plan(csum, accepts))
        if done == 0:
            break
        i += 1
        if done > 0:
            passed += 1
            octets += length
            header_octets += min(length, HEAD_LEN)
    if passed:
        count_passed(state, work, out, passed, octets, header_octets)
    return i


@kernel(INT, STATE, WORK, INT, INT, INT)
def pass_plain(state: State, work: Work, in_port: int, first: int, count: int) -> int:
    """`pass_staged` where nothing is captured."""
    return pass_run(state, work, in_port, first, count, 0)


@kernel(INT, STATE, WORK, INT, INT, INT)
def pass_unwanted(state: State, work: Work, in_port: int, first: int, count: int) -> int:
    """`pass_staged` while something is captured: frames that are wanted stop it."""
    return pass_run(state, work, in_port, first, count, 1)


@kernel(INT, STATE, WORK, INT, INT, INT)
def pass_staged(state: State, work: Work, in_port: int, first: int, count: int) -> int:
    """Pass staged frames from `first` on.  *returns* the first that is not plain, or `count`.

    Their bytes are added to `work.passed_bytes`.
    """
    if state.n_captures:
        return pass_unwanted(state, work, in_port, first, count)
    return pass_plain(state, work, in_port, first, count)
