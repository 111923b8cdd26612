"""The forwarding table: learning, ageing, moving, its bounds, and addresses that are pinned."""

from typing import Any

import numpy as np
import pytest

from vionet.engine.fdb import find, forget_port, learn, lookup, pin, slot_of
from vionet.engine.layout import FDB_PORT_MAX, FDB_PROBES, State
from vionet.engine.status import FDB_FULL, OK, SOURCE_MAC_LOCKED, FabricKind
from vionet.fabric.fabric import prepare_state
from vionet.jit.record import allocate

SECOND = 1_000_000_000
NOW = 1_000 * SECOND
A, B = 0x020000000001, 0x020000000002


@pytest.fixture
def state() -> State:
    """An empty table; addresses spread as they do in life."""
    found = allocate(State)
    prepare_state(found, FabricKind.SWITCH)
    found.now_ns = NOW
    found.hash_low, found.hash_high = 0x40000001 | 0x1234560, 0x40000001 | 0x7654320
    return found


def colliding(state: State, count: int, start: int = 1) -> list[int]:
    """Addresses that share a first slot."""
    found: dict[int, list[int]] = {}
    for i in range(1, 1 << 22):
        key = start + i * 0x10001
        same = found.setdefault(int(slot_of(state, key)), [])
        same.append(key)
        if len(same) == count:
            return same
    raise AssertionError("the hash spreads too well")


def counts(state: State) -> dict[int, int]:
    """Entries by port, counted in the table and compared with the ports' own counts."""
    entries: Any = np.asarray(state.fdb)
    found: dict[int, int] = {}
    for port in entries[entries["key"] != 0]["port"].tolist():
        found[port] = found.get(port, 0) + 1
    assert found == {i: int(p.fdb_count) for i, p in enumerate(state.ports) if p.fdb_count}
    return found


def test_learns_and_finds(state: State) -> None:
    """An address is found on the port where it was seen last."""
    assert -1 == lookup(state, A)
    assert OK == learn(state, A, 3)
    assert (3, -1) == (lookup(state, A), lookup(state, B))
    assert {3: 1} == counts(state)


def test_moves(state: State) -> None:
    """A guest that moves is found at its new port at once."""
    learn(state, A, 1)
    state.ports[1].last_src = A
    assert OK == learn(state, A, 2)
    assert 2 == lookup(state, A)
    assert 0 == state.ports[1].last_src, "the old port learns it anew when it sees it"
    assert {2: 1} == counts(state)


def test_ages(state: State) -> None:
    """An entry counts for the ageing time after it was last seen, and no longer."""
    learn(state, A, 1)
    state.now_ns = NOW + state.ageing_ns - 1
    assert 1 == lookup(state, A)
    learn(state, A, 1)
    state.now_ns += state.ageing_ns - 1
    assert 1 == lookup(state, A)
    state.now_ns += 1
    assert -1 == lookup(state, A)
    assert OK == learn(state, A, 2)
    assert 2 == lookup(state, A)
    assert {2: 1} == counts(state)


@pytest.mark.parametrize("now", [NOW, 1])
def test_zero_address(state: State, now: int) -> None:
    """The address 0 is nobody's: it is not found in empty slots, and changes nobody's count."""
    state.now_ns = now
    assert -1 == lookup(state, 0)
    learn(state, A, 1)
    forget_port(state, 1)
    assert -1 == find(state, 0)
    assert -1 == lookup(state, 0)
    assert {} == counts(state)


def test_probes_are_bounded(state: State) -> None:
    """Of addresses that share a slot as many are kept as are probed; the next is not learnt."""
    keys = colliding(state, FDB_PROBES + 1)
    assert [OK] * FDB_PROBES == [learn(state, key, 1) for key in keys[:-1]]
    assert FDB_FULL == learn(state, keys[-1], 2)
    assert [1] * FDB_PROBES + [-1] == [lookup(state, key) for key in keys]
    state.now_ns += state.ageing_ns
    assert OK == learn(state, keys[-1], 2), "an aged entry's slot is free"
    assert 2 == lookup(state, keys[-1])
    assert {1: FDB_PROBES - 1, 2: 1} == counts(state)


def test_aged_entry_is_renewed_in_place(state: State) -> None:
    """An address that comes back after ageing has one entry, though an earlier slot is free."""
    first, second = colliding(state, 2)
    learn(state, first, 1)
    learn(state, second, 1)
    state.now_ns += state.ageing_ns
    assert OK == learn(state, second, 2)
    assert OK == learn(state, first, 2)
    assert (2, 2) == (lookup(state, first), lookup(state, second))
    assert {2: 2} == counts(state)


def test_one_port_cannot_fill_the_table(state: State) -> None:
    """A port holds so many addresses; others still learn, and ageing makes room again."""
    state.ports[1].fdb_count = FDB_PORT_MAX - 1
    assert OK == learn(state, A, 1)
    assert FDB_FULL == learn(state, B, 1)
    assert OK == learn(state, B, 2)
    assert FDB_FULL == learn(state, B, 1), "nor can it take over what another has"
    assert 2 == lookup(state, B)
    assert OK == learn(state, A, 1), "what it has it may keep"


def test_aged_entries_make_room(state: State) -> None:
    """A port at its bound learns again once its old addresses have aged."""
    keys = [0x020000000000 + i for i in range(1, 9)]
    for key in keys:
        learn(state, key, 1)
    state.ports[1].fdb_count += FDB_PORT_MAX - len(keys)
    state.now_ns += state.ageing_ns
    assert OK == learn(state, A + 0x100, 1)
    assert FDB_PORT_MAX - len(keys) + 1 == state.ports[1].fdb_count


def test_pinned_address(state: State) -> None:
    """A locked port's own address neither moves nor ages nor is learnt elsewhere."""
    learn(state, A, 2)
    assert OK == pin(state, A, 1)
    assert {1: 1} == counts(state)
    assert SOURCE_MAC_LOCKED == learn(state, A, 2)
    assert 0 == state.ports[2].last_src
    state.now_ns += 10 * state.ageing_ns
    assert 1 == lookup(state, A)
    assert SOURCE_MAC_LOCKED == learn(state, A, 2)
    assert 1 == lookup(state, A)


def test_pinned_address_finds_room(state: State) -> None:
    """Guests that fill the table with addresses cannot keep a locked port's own out of it: one of
    theirs makes room, but no other port's pinned one."""
    *keys, mine = colliding(state, FDB_PROBES + 1)
    assert OK == pin(state, keys[0], 3)
    assert {OK} == {learn(state, key, 2) for key in keys[1:]}
    assert OK == pin(state, mine, 1)
    assert SOURCE_MAC_LOCKED == learn(state, mine, 2)
    assert (3, 1) == (lookup(state, keys[0]), lookup(state, mine))
    assert {1: 1, 2: FDB_PROBES - 2, 3: 1} == counts(state)


def test_forgets_a_port(state: State) -> None:
    """What was learnt from a port goes with its session; the others' stays."""
    for i in range(1, 20):
        learn(state, A + i, 1 + i % 2)
    pin(state, A, 1)
    assert {1: 10, 2: 10} == counts(state)
    forget_port(state, 1)
    assert {2: 10} == counts(state)
    assert -1 == lookup(state, A)
    assert OK == learn(state, A, 2)


def test_neighbouring_addresses_fit(state: State) -> None:
    """Guests of one rack have consecutive addresses; all of them are learnt."""
    keys = [0x525400000000 + i for i in range(1000)]
    assert {OK} == {learn(state, key, key % 7) for key in keys}
    assert [key % 7 for key in keys] == [lookup(state, key) for key in keys]
