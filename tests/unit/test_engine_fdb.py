"""The forwarding table: learning, ageing, moving, its bounds, and addresses that are pinned."""

from typing import Any

import numpy as np
import pytest

from vionet.engine.fdb import find, forget_port, lookup, note, pin, slot_of
from vionet.engine.layout import FDB_PORT_MAX, FDB_PROBES, State
from vionet.engine.status import FDB_FULL, OK, SOURCE_MAC_LOCKED, FabricKind
from vionet.fabric.fabric import prepare_state
from vionet.jit.record import allocate

SECOND = 1_000_000_000
NOW = 1_000 * SECOND
A, B = 0x020000000001, 0x020000000002


class Table:
    """A forwarding table, empty, and its time; addresses spread as they do in life."""

    def __init__(self) -> None:
        self.state = allocate(State)
        prepare_state(self.state, FabricKind.SWITCH)
        self.state.hash_low, self.state.hash_high = 0x40000001 | 0x1234560, 0x40000001 | 0x7654320
        self.ports = self.state.ports
        self.ageing_ns = self.state.ageing_ns
        self.now_ns = NOW

    def learn(self, key: int, port: int) -> int:
        """`key` is seen on `port` now."""
        return note(self.state, key, port, self.now_ns)

    def pin(self, key: int, port: int) -> int:
        """`key` belongs to `port`."""
        return pin(self.state, key, port, self.now_ns)

    def lookup(self, key: int) -> int:
        """The port where `key` is found now."""
        return lookup(self.state, key, self.now_ns)


@pytest.fixture
def table() -> Table:
    """A new one for each test."""
    return Table()


def colliding(table: Table, count: int, start: int = 1) -> list[int]:
    """Addresses that share a first slot."""
    found: dict[int, list[int]] = {}
    for i in range(1, 1 << 22):
        key = start + i * 0x10001
        same = found.setdefault(int(slot_of(table.state, key)), [])
        same.append(key)
        if len(same) == count:
            return same
    raise AssertionError("the hash spreads too well")


def counts(table: Table) -> dict[int, int]:
    """Entries by port, counted in the table and compared with the ports' own counts."""
    entries: Any = np.asarray(table.state.fdb)
    found: dict[int, int] = {}
    for port in entries[entries["key"] != 0]["port"].tolist():
        found[port] = found.get(port, 0) + 1
    assert found == {i: int(p.fdb_count) for i, p in enumerate(table.ports) if p.fdb_count}
    return found


def test_learns_and_finds(table: Table) -> None:
    """An address is found on the port where it was seen last."""
    assert -1 == table.lookup(A)
    assert OK == table.learn(A, 3)
    assert (3, -1) == (table.lookup(A), table.lookup(B))
    assert {3: 1} == counts(table)


def test_moves(table: Table) -> None:
    """A guest that moves is found at its new port at once."""
    table.learn(A, 1)
    table.ports[1].last_src = A
    assert OK == table.learn(A, 2)
    assert 2 == table.lookup(A)
    assert 0 == table.ports[1].last_src, "the old port learns it anew when it sees it"
    assert {2: 1} == counts(table)


def test_ages(table: Table) -> None:
    """An entry counts for the ageing time after it was last seen, and no longer."""
    table.learn(A, 1)
    table.now_ns = NOW + table.ageing_ns - 1
    assert 1 == table.lookup(A)
    table.learn(A, 1)
    table.now_ns += table.ageing_ns - 1
    assert 1 == table.lookup(A)
    table.now_ns += 1
    assert -1 == table.lookup(A)
    assert OK == table.learn(A, 2)
    assert 2 == table.lookup(A)
    assert {2: 1} == counts(table)


@pytest.mark.parametrize("now", [NOW, 1])
def test_zero_address(table: Table, now: int) -> None:
    """The address 0 is nobody's: it is not found in empty slots, and changes nobody's count."""
    table.now_ns = now
    assert -1 == table.lookup(0)
    table.learn(A, 1)
    forget_port(table.state, 1)
    assert -1 == find(table.state, 0, table.now_ns)
    assert -1 == table.lookup(0)
    assert {} == counts(table)


def test_probes_are_bounded(table: Table) -> None:
    """Of addresses that share a slot as many are kept as are probed; the next is not learnt."""
    keys = colliding(table, FDB_PROBES + 1)
    assert [OK] * FDB_PROBES == [table.learn(key, 1) for key in keys[:-1]]
    assert FDB_FULL == table.learn(keys[-1], 2)
    assert [1] * FDB_PROBES + [-1] == [table.lookup(key) for key in keys]
    table.now_ns += table.ageing_ns
    assert OK == table.learn(keys[-1], 2), "an aged entry's slot is free"
    assert 2 == table.lookup(keys[-1])
    assert {1: FDB_PROBES - 1, 2: 1} == counts(table)


def test_aged_entry_is_renewed_in_place(table: Table) -> None:
    """An address that comes back after ageing has one entry, though an earlier slot is free."""
    first, second = colliding(table, 2)
    table.learn(first, 1)
    table.learn(second, 1)
    table.now_ns += table.ageing_ns
    assert OK == table.learn(second, 2)
    assert OK == table.learn(first, 2)
    assert (2, 2) == (table.lookup(first), table.lookup(second))
    assert {2: 2} == counts(table)


def test_one_port_cannot_fill_the_table(table: Table) -> None:
    """A port holds so many addresses; others still learn, and ageing makes room again."""
    table.ports[1].fdb_count = FDB_PORT_MAX - 1
    assert OK == table.learn(A, 1)
    assert FDB_FULL == table.learn(B, 1)
    assert OK == table.learn(B, 2)
    assert FDB_FULL == table.learn(B, 1), "nor can it take over what another has"
    assert 2 == table.lookup(B)
    assert OK == table.learn(A, 1), "what it has it may keep"


def test_aged_entries_make_room(table: Table) -> None:
    """A port at its bound learns again once its old addresses have aged."""
    keys = [0x020000000000 + i for i in range(1, 9)]
    for key in keys:
        table.learn(key, 1)
    table.ports[1].fdb_count += FDB_PORT_MAX - len(keys)
    table.now_ns += table.ageing_ns
    assert OK == table.learn(A + 0x100, 1)
    assert FDB_PORT_MAX - len(keys) + 1 == table.ports[1].fdb_count


def test_pinned_address(table: Table) -> None:
    """A locked port's own address neither moves nor ages nor is learnt elsewhere."""
    table.learn(A, 2)
    assert OK == table.pin(A, 1)
    assert {1: 1} == counts(table)
    assert SOURCE_MAC_LOCKED == table.learn(A, 2)
    assert 0 == table.ports[2].last_src
    table.now_ns += 10 * table.ageing_ns
    assert 1 == table.lookup(A)
    assert SOURCE_MAC_LOCKED == table.learn(A, 2)
    assert 1 == table.lookup(A)


def test_pinned_address_finds_room(table: Table) -> None:
    """Guests that fill the table with addresses cannot keep a locked port's own out of it: one of
    theirs makes room, but no other port's pinned one."""
    *keys, mine = colliding(table, FDB_PROBES + 1)
    assert OK == table.pin(keys[0], 3)
    assert {OK} == {table.learn(key, 2) for key in keys[1:]}
    assert OK == table.pin(mine, 1)
    assert SOURCE_MAC_LOCKED == table.learn(mine, 2)
    assert (3, 1) == (table.lookup(keys[0]), table.lookup(mine))
    assert {1: 1, 2: FDB_PROBES - 2, 3: 1} == counts(table)


def test_forgets_a_port(table: Table) -> None:
    """What was learnt from a port goes with its session; the others' stays."""
    for i in range(1, 20):
        table.learn(A + i, 1 + i % 2)
    table.pin(A, 1)
    assert {1: 10, 2: 10} == counts(table)
    forget_port(table.state, 1)
    assert {2: 10} == counts(table)
    assert -1 == table.lookup(A)
    assert OK == table.learn(A, 2)


def test_neighbouring_addresses_fit(table: Table) -> None:
    """Guests of one rack have consecutive addresses; all of them are learnt."""
    keys = [0x525400000000 + i for i in range(1000)]
    assert {OK} == {table.learn(key, key % 7) for key in keys}
    assert [key % 7 for key in keys] == [table.lookup(key) for key in keys]
