"""The forwarding table: which port an address was last seen on.

How it works: open addressing over `FDB_SIZE` slots; an address may stand in `FDB_PROBES` slots
from its hash.  An entry older than `ageing_ns` counts as empty.  A port holds at most
`FDB_PORT_MAX` addresses, so that one guest that invents addresses cannot push out the others;
where no slot is free nothing is learnt, the frame still goes its way, and `fdb_full` counts it.

A key is the address, on a switch that knows VLANs with the frame's VLAN above bit 48: each VLAN
learns for itself.

Invariants: a locked port's own address is `fixed`: it never ages and never moves.  It is kept
without a VLAN, and holds in every VLAN that may pass its port.

Threads: workers look addresses up without a lock and change the table under one (`engine.share`).
An entry is emptied before another address is put there, and its port is read between two looks at
its key: nobody sees one address with the port of another.

Trust: source addresses are whatever guests write.
"""

from vionet.engine.layout import (
    FDB_PORT_MAX,
    FDB_PROBES,
    FDB_SIZE,
    PORTS_MAX,
    STATE,
    WORK,
    State,
    Work,
)
from vionet.engine.share import let_tables_go, take_tables
from vionet.engine.status import FDB_FULL, OK, SOURCE_MAC_LOCKED
from vionet.engine.vlan import VLAN_SHIFT, member
from vionet.jit.kernel import INT, kernel
from vionet.jit.raw import fence_acquire, fence_release

REFRESH_NS = 1_000_000_000  # an entry's time is written at most once a second
ADDRESS = (1 << VLAN_SHIFT) - 1


@kernel(INT, STATE, INT, inline=True)
def slot_of(state: State, key: int) -> int:
    """The first slot of an address.

    The multipliers are random 31-bit numbers of this fabric, so that nobody can choose addresses
    that collide; the products stay below 2^56.
    """
    low = key & 0xFFFFFF
    high = key >> 24 & 0xFFFFFF
    vlan = (key >> VLAN_SHIFT) * (state.hash_low ^ state.hash_high >> 1)
    return ((low * state.hash_low + high * state.hash_high + vlan) >> 17) & (FDB_SIZE - 1)


@kernel(INT, STATE, INT, INT)
def find(state: State, key: int, now_ns: int) -> int:
    """The slot of a live entry for `key`, or -1; 0 is no address, it marks empty slots."""
    if key == 0:
        return -1
    slot = slot_of(state, key)
    for i in range(FDB_PROBES):
        entry = state.fdb[(slot + i) & (FDB_SIZE - 1)]
        if entry.key == key:
            if entry.fixed or now_ns - entry.seen_ns < state.ageing_ns:
                return (slot + i) & (FDB_SIZE - 1)
            return -1
    return -1


@kernel(INT, STATE, INT, INT)
def port_at(state: State, slot: int, key: int) -> int:
    """The port of the entry in a slot, or -1 where it has just been given to another address."""
    fence_acquire()
    port = state.fdb[slot].port
    fence_acquire()
    return port if state.fdb[slot].key == key else -1


@kernel(INT, STATE, INT, INT, inline=True)
def lookup(state: State, key: int, now_ns: int) -> int:
    """The port of address `key`, or -1 where it is not known; mostly in its first slot."""
    slot = slot_of(state, key)
    entry = state.fdb[slot]
    if key and entry.key == key and now_ns - entry.seen_ns < state.ageing_ns:
        fence_acquire()
        port = entry.port
        fence_acquire()
        if entry.key == key:
            return port
    slot = find(state, key, now_ns)
    return port_at(state, slot, key) if slot >= 0 else -1


@kernel(INT, STATE, INT, INT)
def owner(state: State, key: int, now_ns: int) -> int:
    """The locked port that has this address in this VLAN, or -1."""
    slot = find(state, key & ADDRESS, now_ns)
    if slot < 0 or not state.fdb[slot].fixed:
        return -1
    port = port_at(state, slot, key & ADDRESS)
    if port < 0:
        return -1
    return port if member(state.ports[port], key >> VLAN_SHIFT) else -1


@kernel(INT, STATE, INT, INT)
def sweep(state: State, port: int, now_ns: int) -> int:
    """Free the aged entries of `port`, at most once a second.

    *returns* how many."""
    if now_ns - state.ports[port].swept_ns < REFRESH_NS:
        return 0
    state.ports[port].swept_ns = now_ns
    freed = 0
    for i in range(FDB_SIZE):
        entry = state.fdb[i]
        if (
            entry.key
            and entry.port == port
            and not entry.fixed
            and now_ns - entry.seen_ns >= state.ageing_ns
        ):
            entry.key = 0
            freed += 1
    state.ports[port].fdb_count -= freed
    return freed


@kernel(INT, STATE, INT, INT, INT, INT)
def insert(state: State, key: int, port: int, fixed: int, now_ns: int) -> int:
    """Put a new entry into a free or aged slot, a fixed one into any that is not.

    *returns* OK or FDB_FULL.
    """
    if state.ports[port].fdb_count >= FDB_PORT_MAX:
        sweep(state, port, now_ns)
        if state.ports[port].fdb_count >= FDB_PORT_MAX:
            return FDB_FULL
    slot = slot_of(state, key)
    free = -1
    for i in range(FDB_PROBES):
        at = (slot + i) & (FDB_SIZE - 1)
        entry = state.fdb[at]
        if entry.key == key:
            free = at
            break
        if free < 0 and (
            entry.key == 0
            or (not entry.fixed and (fixed or now_ns - entry.seen_ns >= state.ageing_ns))
        ):
            free = at
    if free < 0:
        return FDB_FULL
    entry = state.fdb[free]
    if entry.key:
        state.ports[entry.port].fdb_count -= 1
    entry.key = 0
    fence_release()
    entry.port = port
    entry.seen_ns = now_ns
    entry.fixed = fixed
    fence_release()
    entry.key = key
    state.ports[port].fdb_count += 1
    state.ports[port].last_src = key
    return OK


@kernel(INT, STATE, INT, INT, INT)
def note(state: State, key: int, port: int, now_ns: int) -> int:
    """`learn` while nobody else does."""
    if key >> VLAN_SHIFT:
        locked = owner(state, key, now_ns)
        if locked >= 0 and locked != port:
            return SOURCE_MAC_LOCKED
    slot = find(state, key, now_ns)
    if slot >= 0:
        entry = state.fdb[slot]
        if entry.port != port:
            if entry.fixed:
                return SOURCE_MAC_LOCKED
            if state.ports[port].fdb_count >= FDB_PORT_MAX:
                return FDB_FULL
            state.ports[entry.port].last_src = 0
            state.ports[entry.port].fdb_count -= 1
            state.ports[port].fdb_count += 1
            entry.port = port
        entry.seen_ns = now_ns
        state.ports[port].last_src = key
        return OK
    return insert(state, key, port, 0, now_ns)


@kernel(INT, STATE, WORK, INT, INT)
def learn(state: State, work: Work, key: int, port: int) -> int:
    """Note that `key` was seen on `port`.

    *returns* OK, FDB_FULL (forward anyway) or SOURCE_MAC_LOCKED (another port owns the address).
    """
    take_tables(state, work)
    status = note(state, key, port, work.now_ns)
    let_tables_go(state)
    return status


@kernel(INT, STATE, INT)
def forget_port(state: State, port: int) -> int:
    """Drop everything learnt from `port`, its fixed address too (its session ended)."""
    for i in range(FDB_SIZE):
        if state.fdb[i].key and state.fdb[i].port == port:
            state.fdb[i].key = 0
            state.fdb[i].fixed = 0
    state.ports[port].fdb_count = 0
    for i in range(PORTS_MAX):
        state.ports[i].last_src = 0
    return 0


@kernel(INT, STATE, INT, INT, INT)
def pin(state: State, key: int, port: int, now_ns: int) -> int:
    """Give a locked port its own address for good, whatever others have taught of it in any VLAN.

    *returns* OK or FDB_FULL.
    """
    for i in range(FDB_SIZE):
        entry = state.fdb[i]
        if entry.key and entry.key & ADDRESS == key:
            state.ports[entry.port].fdb_count -= 1
            entry.key = 0
    for i in range(PORTS_MAX):
        state.ports[i].last_src = 0
    return insert(state, key, port, 1, now_ns)
