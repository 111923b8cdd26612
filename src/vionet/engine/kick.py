"""What the worker hears: drivers' kicks, taps and streams with something to read.

How it works: each eventfd, tap and stream is in one epoll instance, whose events say what they
mean (`engine.event`).  `take_events` notes them in the records.  A ring starts with its first kick
(spec VU-25); while a receive ring waits for it (`State.unstarted`), events are looked at before
each burst that brings frames, so that none is dropped for a kick that came before it.  Where
there are several workers, each looks after its own ports, and all of them at one more instance with
the kick descriptors of receive rings (`State.first_fd`): a frame for another's port is not dropped
for a kick that only that one has heard.

Invariants: the control queue is the control plane's: its kick is passed on, never served here.
"""

from vionet.engine.deliver_stream import stream_writable
from vionet.engine.event import EVENT_DATA_OFF, EVENT_LEN, EVENT_TAP, EVENT_WAKE
from vionet.engine.layout import (
    EVENTS_MAX,
    PAIRS_MAX,
    QUEUES_PER_PORT,
    STATE,
    WORK,
    State,
    Work,
)
from vionet.engine.ring import refresh
from vionet.engine.share import (
    ASKED,
    CAPTURED,
    GUARDED,
    SHARED,
    let_go,
    let_tables_go,
    take_tables,
    wait_port,
)
from vionet.engine.status import KICKS, WAKEUPS, FabricKind, PortKind
from vionet.jit.kernel import INT, kernel
from vionet.jit.libc import epoll_wait, write
from vionet.jit.raw import load_i64

GUEST = int(PortKind.GUEST)
SWITCH = int(FabricKind.SWITCH)
STREAM = int(PortKind.STREAM)


@kernel(INT, STATE)
def count_rings(state: State) -> int:
    """Recompute what follows from the states of all rings; *returns* `state.unstarted`."""
    unstarted = 0
    for index in range(state.n_ports):
        port = state.ports[index]
        if port.kind != GUEST:
            continue
        tx_pairs = 1
        for pair in range(port.control_ring >> 1 if port.control_ring else PAIRS_MAX):
            if port.queues[2 * pair + 1].ready:
                tx_pairs = pair + 1
            queue = port.queues[2 * pair]
            if pair < port.n_pairs and queue.ready and queue.enabled and not queue.started:
                unstarted += 1
        port.tx_pairs = tx_pairs
    state.unstarted = unstarted
    return unstarted


@kernel(INT, STATE)
def settle(state: State) -> int:
    """Recompute what follows from what the control plane wrote, each time before it lets go."""
    state.vlan_aware = state.service = 0
    for index in range(state.n_ports):
        port = state.ports[index]
        if port.service:
            state.service = index + 1
        if state.kind == SWITCH and (port.vlan or port.trunk):
            state.vlan_aware = 1
    captured = 0
    for c in range(state.n_captures):
        if state.captures[c].on:
            captured |= state.captures[c].tx_ports | state.captures[c].rx_ports
    for index in range(state.n_ports):
        port = state.ports[index]
        told = port.link_down | port.isolated | port.locked | port.filter | port.steers
        shared = state.n_workers > 1 and (port.kind == GUEST or port.kind == STREAM)
        port.special = (ASKED if state.vlan_aware | told else 0) | (SHARED if shared else 0)
        if port.n_rules:
            port.special |= ASKED | GUARDED
        if captured >> index & 1:
            port.special |= CAPTURED
    return count_rings(state)


@kernel(INT, STATE, INT)
def review(state: State, index: int) -> int:
    """Recompute what follows from the rings of port `index`; *requires* hold.

    The port is up while a ring is usable; a ring that nobody kicks must be polled.
    """
    port = state.ports[index]
    port.up = port.polled = port.steers = 0
    for ring in range(QUEUES_PER_PORT):
        queue = port.queues[ring]
        if queue.ready:
            port.up = 1
            port.polled |= queue.polled
            if ring & 1 == 0 and 0 < ring < 2 * port.n_pairs:
                port.steers |= queue.enabled
    state.sleep_ms = -1
    for i in range(state.n_ports):
        if state.ports[i].polled:
            state.sleep_ms = 1
    return count_rings(state)


@kernel(INT, STATE, INT)
def drop_rings(state: State, index: int) -> int:
    """Let go of every ring of port `index`; *requires* hold, and that no kick is watched."""
    for ring in range(QUEUES_PER_PORT):
        queue = state.ports[index].queues[ring]
        queue.ready = queue.started = queue.enabled = queue.broken = 0
        queue.call_fd = queue.err_fd = -1
        queue.desc_hva = queue.avail_hva = queue.used_hva = 0
        refresh(queue)
    return 0


@kernel(INT, STATE, WORK, INT, INT)
def start_ring(state: State, work: Work, index: int, ring: int) -> int:
    """The first kick of a ring (spec VU-25)."""
    queue = state.ports[index].queues[ring]
    wait_port(state, work, index)
    queue.started = queue.ready
    refresh(queue)
    take_tables(state, work)
    count_rings(state)
    let_tables_go(state)
    return let_go(state, work)


@kernel(INT, STATE, WORK, INT, INT)
def kicked(state: State, work: Work, index: int, ring: int) -> int:
    """The driver of port `index` has kicked."""
    port = state.ports[index]
    queue = port.queues[ring]
    if port.control_ring and ring == port.control_ring:
        port.control_kicked = 1
        write(state.notice_fd, work.one_hva, 8)
    queue.starved = 0  # what it waited for may be there; if not, it is set again
    if not queue.started:
        start_ring(state, work, index, ring)
    return 0


@kernel(INT, STATE, WORK)
def take_first(state: State, work: Work) -> int:
    """Note first kicks of receive rings, whoever serves them."""
    for i in range(epoll_wait(state.first_fd, work.events_hva, EVENTS_MAX, 0)):
        data = load_i64(work.events_hva + EVENT_LEN * i + EVENT_DATA_OFF)
        port = state.ports[data >> 8]
        ring = data & 0xFF
        if (ring == 0 or ring != port.control_ring) and not port.queues[ring].started:
            start_ring(state, work, data >> 8, ring)
    return 0


@kernel(INT, STATE, WORK, INT)
def take_events(state: State, work: Work, timeout_ms: int) -> int:
    """Wait for events and note them.  *returns* their number (0 on EINTR)."""
    count = epoll_wait(state.epoll_fds[work.number], work.events_hva, EVENTS_MAX, timeout_ms)
    for i in range(count):
        data = load_i64(work.events_hva + EVENT_LEN * i + EVENT_DATA_OFF)
        what = data & 0xFF
        index = data >> 8
        if what == EVENT_TAP:
            state.ports[index].readable = 1
            if state.ports[index].kind == STREAM:
                wait_port(state, work, index)
                stream_writable(state, work, index)
                let_go(state, work)
        elif what != EVENT_WAKE:
            kicked(state, work, index, what)
            work.ledger[index, KICKS] += 1
            work.ledger[index, WAKEUPS] += 1 if timeout_ms else 0
    if state.unstarted and state.n_workers > 1:
        take_first(state, work)
    return max(count, 0)
