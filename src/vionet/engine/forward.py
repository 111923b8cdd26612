"""Forwarding: who gets the frame in hand.

How it works: `forward` judges a frame, finds its VLAN where the switch has any, learns its source
address, looks up its destination and offers it to one port or to all others.  `offer` delivers
unless something about the receiver forbids it; where nothing is special about a port that is one
comparison.  A wire gives everything to the other port and, where that one has no buffer, leaves
the frame where it is (HELD).

Frames to 01:80:c2:00:00:00 up to :0f are for the next bridge and pass a switch only where a person
has said so (`State.reserved`, W66); their senders are learnt like others.

What a port locked to IP addresses asks of DHCP and of routers goes to the service port where there
is one (`enter`); nothing else is flooded there, and what it floods only such ports get.

Invariants: every frame that goes nowhere is counted by its reason: refusals at the sender's port,
failed deliveries at the receiver's.  In a flood, ports outside the frame's VLAN are not asked.
What is captured (`capture`) is recorded when a frame's fate is known, and changes nothing of it.
"""

from vionet.engine.capture import begin, look, note_given, note_sent
from vionet.engine.deliver import deliver
from vionet.engine.deliver_guest import flush
from vionet.engine.fdb import REFRESH_NS, learn, lookup, owner
from vionet.engine.filter import filtered
from vionet.engine.guard import ASKS, guard
from vionet.engine.ingress import read_addresses, read_headers
from vionet.engine.judge import judge, read_header
from vionet.engine.layout import FRAME, STATE, WORK, Frame, State, Work
from vionet.engine.parse import parse_plain
from vionet.engine.seal import plant_seed
from vionet.engine.share import ASKED, CAPTURED, GUARDED, SHARED, try_port, wait_port
from vionet.engine.status import (
    CSUM_BAD,
    DESTINATION_MAC_LOCKED,
    FDB_FULL,
    FRAME_TOO_LONG,
    ISOLATED,
    LINK_DOWN,
    MTU_EXCEEDED,
    NO_OTHER_PORT,
    OK,
    PSEUDO_HEADER_REPAIRED,
    RESERVED_MULTICAST,
    RX_RING_FULL,
    SAME_PORT,
    SOURCE_MAC_INVALID,
    SOURCE_MAC_LOCKED,
    STREAM_FULL,
    TAP_TRUNCATED,
    VLAN_NOT_ALLOWED,
    FabricKind,
)
from vionet.engine.steer import learn_flow, steer
from vionet.engine.tell import finish
from vionet.engine.vlan import NOT_A_MEMBER, VLAN_SHIFT, change_for, classify, restore, retag
from vionet.jit.kernel import INT, kernel

GROUP = 1 << 40  # the group bit of an address
SWITCH = int(FabricKind.SWITCH)
WIRE = int(FabricKind.WIRE)
RESERVED = 0x0180C2000000 >> 4
HELD = -1  # a wire's frame stays where it is
SERVED = -1  # of `enter`


@kernel(INT, STATE, WORK, INT)
def claim(state: State, work: Work, out: int) -> int:
    """Lock port `out`, which others deliver to as well; nothing is held while it is waited for."""
    if try_port(state, work, out):
        return 0
    flush(work)
    finish(state, work)
    return wait_port(state, work, out)


@kernel(INT, STATE, WORK, FRAME, INT, INT)
def offer_any(state: State, work: Work, frame: Frame, in_port: int, out: int) -> int:
    """`offer` to any port: VLANs, locks, a link set down, what a driver filters, its queues."""
    port = state.ports[out]
    change = 0
    if state.vlan_aware:
        change = change_for(port, frame)
        if change == NOT_A_MEMBER:
            return VLAN_NOT_ALLOWED
    if port.link_down:
        return LINK_DOWN
    if port.isolated and state.ports[in_port].isolated:
        return ISOLATED
    if port.locked and not frame.dst & GROUP and frame.dst != port.mac:
        return DESTINATION_MAC_LOCKED
    head_hva = work.head_hva
    if change:
        status = retag(work, frame, change)
        if status != OK:
            return status
    status = filtered(port, work, frame) if port.filter else OK
    if status == OK:
        if port.special & SHARED and not work.holds[out]:
            claim(state, work, out)
        work.rx_ring = steer(port, work, frame) if port.steers else 0
        status = deliver(state, work, frame, out)
    if change:
        restore(work, frame, change, head_hva)
    return status


@kernel(INT, STATE, INT, inline=True)
def may_wait(state: State, status: int) -> int:
    """Whether a frame that found no room can be left where it is."""
    return 1 if state.kind == WIRE and (status == RX_RING_FULL or status == STREAM_FULL) else 0


@kernel(INT, STATE, WORK, FRAME, INT, INT)
def offer_seen(state: State, work: Work, frame: Frame, in_port: int, out: int) -> int:
    """`offer` while something of the fabric is captured: what is recorded of the receiver is."""
    look(state, work, frame, out)
    given = work.given
    bad = work.ledger[out, CSUM_BAD]
    work.given = work.made = 0
    status = offer_any(state, work, frame, in_port, out)
    work.planned = 1 if work.given and status != MTU_EXCEEDED else 0
    work.bad = work.ledger[out, CSUM_BAD] - bad
    work.given |= given
    if status == VLAN_NOT_ALLOWED or may_wait(state, status):
        return status  # not asked for it, or to be asked again
    head_hva = work.head_hva
    change = change_for(state.ports[out], frame) if state.vlan_aware else 0
    if change and retag(work, frame, change) != OK:
        change = 0
    note_given(state, work, frame, in_port, out, status)
    if change:
        restore(work, frame, change, head_hva)
    return status


@kernel(INT, STATE, WORK, FRAME, INT, INT, inline=True)
def offer(state: State, work: Work, frame: Frame, in_port: int, out: int) -> int:
    """Deliver to one port unless a rule of that port forbids it.  *returns* a drop reason."""
    special = state.ports[out].special
    if special:
        if special != SHARED:
            return offer_any(state, work, frame, in_port, out)
        if not work.holds[out]:
            claim(state, work, out)
    work.rx_ring = 0
    return deliver(state, work, frame, out)


@kernel(INT, STATE, WORK, FRAME, INT)
def flood(state: State, work: Work, frame: Frame, in_port: int) -> int:
    """Deliver to every other port of the VLAN, each in its own form.  *returns* a drop reason."""
    if frame.dst >> 4 == RESERVED and not state.reserved >> (frame.dst & 15) & 1:
        return RESERVED_MULTICAST
    found = NO_OTHER_PORT
    service = state.service - 1
    for out in range(state.n_ports):
        port = state.ports[out]
        if out == in_port or out == service or not port.up:
            continue
        if in_port == service and not port.special & GUARDED:
            continue
        if state.n_captures:
            status = offer_seen(state, work, frame, in_port, out)
        else:
            status = offer_any(state, work, frame, in_port, out)
        if status != VLAN_NOT_ALLOWED:
            found = OK
            if status != OK:
                work.drops[out, status] += 1
    return found


@kernel(INT, STATE, WORK, INT, INT)
def undelivered(state: State, work: Work, out: int, status: int) -> int:
    """One port did not take the frame: count it there, or HELD where a wire can wait for it."""
    if may_wait(state, status):
        if status == RX_RING_FULL:
            state.ports[out].queues[work.rx_ring].starved = 1
        return HELD
    work.drops[out, status] += 1
    return OK


@kernel(INT, STATE, WORK, FRAME, INT, INT, inline=True)
def check_source(state: State, work: Work, frame: Frame, in_port: int, vlan: int) -> int:
    """The source address: group addresses, locked ports, learning in `vlan` (the key's upper bits).

    *returns* a drop reason.
    """
    port = state.ports[in_port]
    src = frame.src
    if src & GROUP or src == 0:
        return SOURCE_MAC_INVALID
    if port.locked and src != port.mac:
        return SOURCE_MAC_LOCKED
    if state.kind == SWITCH and (
        src | vlan != port.last_src or work.now_ns - port.last_seen_ns > REFRESH_NS
    ):
        status = learn(state, work, src | vlan, in_port)
        if status == FDB_FULL:
            work.drops[in_port, FDB_FULL] += 1  # noted; the frame goes its way
            return OK
        if status == OK:
            port.last_seen_ns = work.now_ns  # of `last_src`, which any other status leaves
        return status
    return OK


@kernel(INT, STATE, WORK, FRAME, INT)
def enter(state: State, work: Work, frame: Frame, in_port: int) -> int:
    """A frame comes in by a special port: whom it may speak for, its flow, its VLAN.

    *returns* OK, a drop reason, or SERVED where the service port had it.
    """
    port = state.ports[in_port]
    frame.vid = 0
    verdict = guard(port, work, frame) if port.special & GUARDED else OK
    if verdict > OK:
        return verdict
    if port.steers:
        learn_flow(state, port, work, frame, work.tx_ring)
    if state.vlan_aware:
        status = classify(port, work, frame)
        if status != OK:
            return status
    if verdict != ASKS or state.service == 0:
        return OK
    out = state.service - 1
    if state.n_captures:
        status = offer_seen(state, work, frame, in_port, out)
    else:
        status = offer_any(state, work, frame, in_port, out)
    work.went = out
    work.outcome = status
    if status != OK:
        work.drops[out, status] += 1
    return SERVED


@kernel(INT, STATE, WORK, FRAME, INT, INT, inline=True)
def pass_through(state: State, work: Work, frame: Frame, in_port: int, seen: int) -> int:
    """`forward`, twice compiled: where nothing is captured (`seen` 0) nothing is noted for it."""
    port = state.ports[in_port]
    if seen:
        begin(work, frame, port.header_len)
    read_header(work, frame, port.header_len)
    if not parse_plain(work, frame):
        read_headers(work, frame)
    if frame.full and frame.bad_len:
        return TAP_TRUNCATED
    if port.mtu and frame.length > port.mtu + frame.l3_off and not frame.gso_type:
        return FRAME_TOO_LONG
    status = judge(port, work, frame)
    if status != OK:
        return status
    repaired = plant_seed(work, frame)
    if seen:
        frame.repaired = repaired
    if repaired:
        work.ledger[in_port, PSEUDO_HEADER_REPAIRED] += 1
    read_addresses(work, frame)
    vlan = 0
    if port.special & ASKED:
        status = enter(state, work, frame, in_port)
        if status != OK:
            return status if status > OK else OK
        vlan = frame.vid << VLAN_SHIFT
    status = check_source(state, work, frame, in_port, vlan)
    if status != OK:
        return status
    if state.kind == WIRE:
        out = 1 - in_port
        if not state.ports[out].up:
            return NO_OTHER_PORT
    elif frame.dst & GROUP:
        return flood(state, work, frame, in_port)
    else:
        out = lookup(state, frame.dst | vlan, work.now_ns)
        if out < 0 and vlan:
            out = owner(state, frame.dst | vlan, work.now_ns)
        if out == in_port:
            return SAME_PORT
        if out < 0 or not state.ports[out].up:
            return flood(state, work, frame, in_port)
    if seen:
        status = offer_seen(state, work, frame, in_port, out)
        work.went = out
        work.outcome = status
        if status == VLAN_NOT_ALLOWED:
            note_given(state, work, frame, in_port, out, status)
    else:
        status = offer(state, work, frame, in_port, out)
    if status == OK:
        return OK
    status = undelivered(state, work, out, status)
    if status == HELD:
        work.ledger[in_port, PSEUDO_HEADER_REPAIRED] -= repaired  # it will come again
    return status


@kernel(INT, STATE, WORK, FRAME, INT)
def forward_seen(state: State, work: Work, frame: Frame, in_port: int) -> int:
    """`forward` while something of the fabric is captured."""
    status = pass_through(state, work, frame, in_port, 1)
    if state.ports[in_port].special & CAPTURED and status != HELD:
        note_sent(state, work, frame, in_port, status)
    return status


@kernel(INT, STATE, WORK, FRAME, INT, inline=True)
def forward(state: State, work: Work, frame: Frame, in_port: int) -> int:
    """Judge the frame in hand and deliver it.  *returns* OK, a drop reason, or HELD."""
    return pass_through(state, work, frame, in_port, 0)


@kernel(INT, STATE, WORK, FRAME, INT, INT)
def turn_away(state: State, work: Work, frame: Frame, in_port: int, why: int) -> int:
    """Refuse a frame that nobody has looked at.  *returns* why."""
    if state.ports[in_port].special & CAPTURED:
        begin(work, frame, state.ports[in_port].header_len)
        read_header(work, frame, state.ports[in_port].header_len)
        note_sent(state, work, frame, in_port, why)
    return why


@kernel(INT, STATE, WORK, FRAME, INT)
def forward_read(state: State, work: Work, frame: Frame, in_port: int) -> int:
    """`forward` for a frame that was read from a tap, an interface or a stream.

    It is written at once, because the next one is read into the same memory.
    """
    if state.ports[in_port].link_down:
        return turn_away(state, work, frame, in_port, LINK_DOWN)
    if state.n_captures:
        status = forward_seen(state, work, frame, in_port)
    else:
        status = forward(state, work, frame, in_port)
    flush(work)
    work.n_alts = 0
    return status
