"""A driver's commands: every class and command, what is refused, and what it all comes to.

The commands are written out as bytes, from the specification and not from the code.
"""

import struct
from dataclasses import replace

import pytest

from vionet.engine.layout import FILTER_MAX
from vionet.engine.status import (
    FILTER_MULTICAST,
    FILTER_NO_BROADCAST,
    FILTER_NO_MULTICAST,
    FILTER_NO_UNICAST,
    FILTER_UNICAST,
    FILTER_VLAN,
)
from vionet.ports.control_queue import ControlState, Terms, answer, filters
from vionet.ports.offload import sends_gso, takes_gso, usable

OK, ERR = 0, 1
CSUM, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, GUEST_ECN = 0, 1, 7, 8, 9
CTRL_GUEST_OFFLOADS, HOST_TSO4, HOST_ECN, HOST_USO = 2, 11, 13, 56
CTRL_VQ, CTRL_RX, CTRL_VLAN, CTRL_RX_EXTRA, GUEST_ANNOUNCE, MQ, CTRL_MAC_ADDR = range(17, 24)
GUEST_USO4, GUEST_USO6 = 54, 55
ALL = sum(1 << bit for bit in (*range(17, 24), CSUM, GUEST_CSUM, CTRL_GUEST_OFFLOADS, GUEST_TSO4))
TERMS = Terms(ALL, pairs_max=4)
MAC = bytes.fromhex("525400123456")
FRESH = ControlState(mac=int.from_bytes(MAC, "big"))


def ask(
    command: bytes, state: ControlState = FRESH, terms: Terms = TERMS
) -> tuple[int, ControlState]:
    """One command that was copied whole."""
    return answer(state, terms, command, len(command))


def table(unicast: list[bytes], multicast: list[bytes]) -> bytes:
    """MAC_TABLE_SET."""
    halves = (struct.pack("<I", len(half)) + b"".join(half) for half in (unicast, multicast))
    return b"\1\0" + b"".join(halves)


GOOD = {
    "promiscuous": (CTRL_RX, b"\0\0\1"),
    "all multicast": (CTRL_RX, b"\0\1\1"),
    "all unicast": (CTRL_RX_EXTRA, b"\0\2\1"),
    "no multicast": (CTRL_RX_EXTRA, b"\0\3\1"),
    "no unicast": (CTRL_RX_EXTRA, b"\0\4\1"),
    "no broadcast": (CTRL_RX_EXTRA, b"\0\5\1"),
    "table": (CTRL_RX, table([MAC], [b"\x01\x00\x5e\0\0\1"])),
    "address": (CTRL_MAC_ADDR, b"\1\1" + bytes.fromhex("525400123457")),
    "VLAN": (CTRL_VLAN, b"\2\0" + struct.pack("<H", 10)),
    "no VLAN": (CTRL_VLAN, b"\2\1" + struct.pack("<H", 0)),
    "pairs": (MQ, b"\4\0" + struct.pack("<H", 2)),
    "offloads": (CTRL_GUEST_OFFLOADS, b"\5\0" + struct.pack("<Q", 1 << GUEST_CSUM)),
}


@pytest.mark.parametrize("name", GOOD)
def test_each_command_changes_something_and_needs_its_feature(name: str) -> None:
    """spec CV-04, CV-07, CV-10, CV-16, CV-20, CV-29, CV-30: OK with the feature, ERR without."""
    feature, command = GOOD[name]
    ack, state = ask(command)
    assert OK == ack
    assert FRESH != state
    assert (ERR, FRESH) == ask(command, terms=replace(TERMS, features=ALL & ~(1 << feature)))


@pytest.mark.parametrize("name", GOOD)
def test_a_command_of_another_length_is_refused(name: str) -> None:
    """One byte less or more changes nothing (spec CV-15)."""
    _, command = GOOD[name]
    for wrong in (command[:-1], command + b"\0", command[:2]):
        assert (ERR, FRESH) == ask(wrong)


@pytest.mark.parametrize(
    "command", [b"", b"\0", b"\xc8\0", b"\0\6\0", b"\1\2", b"\2\2\0\0", b"\3\1", b"\4\1\0", b"\6\0"]
)
def test_w29_unknown_commands_are_refused(command: bytes) -> None:
    """spec CV-02, W29: every one has its answer."""
    assert (ERR, FRESH) == ask(command)


@pytest.mark.parametrize(
    "command",
    [
        b"\0\0\2",  # neither on nor off
        b"\1\0\xff\xff\xff\xff" + bytes(8),  # a count beyond everything
        b"\1\0\2\0\0\0" + MAC + b"\0\0\0\0",  # more counted than there are
        table([MAC], []) + b"junk",
        b"\1\1" + bytes(6),  # no address
        b"\1\1\1" + MAC[1:],  # a group's
        b"\2\0\x00\x10",  # VLAN 4096
        b"\2\0\xff\xff",
        b"\4\0\0\0",  # no pair at all
        b"\4\0\5\0",  # more than there are
        b"\5\0" + struct.pack("<Q", 1 << GUEST_TSO6),  # not negotiated
        b"\5\0" + struct.pack("<Q", 1 << CSUM),  # not the driver's to switch
    ],
)
def test_values_out_of_bounds_are_refused(command: bytes) -> None:
    """spec CV-15, CV-20, CV-29, CV-32: ERR, and nothing has changed."""
    assert (ERR, FRESH) == ask(command)


def test_modes_are_switched_on_and_off() -> None:
    """Each mode is a state of its own."""
    _, on = ask(b"\0\1\1")
    _, both = ask(b"\0\0\1", on)
    _, left = ask(b"\0\1\0", both)
    assert [2, 3, 1] == [on.modes, both.modes, left.modes]


def test_a_locked_port_keeps_its_address() -> None:
    """Another address is refused, its own is not."""
    locked = replace(TERMS, locked=True)
    assert (ERR, FRESH) == ask(b"\1\1" + bytes.fromhex("525400123457"), terms=locked)
    assert (OK, FRESH) == ask(b"\1\1" + MAC, terms=locked)


def test_a_table_that_is_too_long_filters_nothing_of_its_kind() -> None:
    """As QEMU's overflow: that half counts as unfiltered, the other is kept."""
    many = [bytes((2, 0, 0, 0, 0, i)) for i in range(FILTER_MAX + 1)]
    group = b"\x01\x00\x5e\0\0\1"
    ack, state = ask(table(many, [group]))
    assert (OK, None, (int.from_bytes(group, "big"),)) == (ack, state.unicast, state.multicast)
    assert FILTER_MULTICAST | FILTER_VLAN == filters(state, ALL)
    ack, state = ask(table(many[:-1], many))
    assert (OK, FILTER_MAX, None) == (ack, len(state.unicast or ()), state.multicast)


def test_a_command_longer_than_is_copied() -> None:
    """A table of very many addresses filters nothing; anything else so long is refused."""
    start = struct.pack("<I", 1000) + bytes(2042)
    ack, state = answer(FRESH, TERMS, b"\1\0" + start, 6008)
    assert (OK, None, None) == (ack, state.unicast, state.multicast)
    assert (ERR, FRESH) == answer(FRESH, TERMS, b"\1\1" + start, 6008)


def test_announcement_is_acknowledged() -> None:
    """spec CV-21."""
    assert (OK, FRESH) == ask(b"\3\0", replace(FRESH, announce=True))
    assert (ERR, replace(FRESH, announce=True)) == ask(b"\3\0\0", replace(FRESH, announce=True))


def test_vlans_are_a_set() -> None:
    """spec CV-17, CV-19: empty at first but for priority tags; ADD and DEL."""
    assert 1 == FRESH.vlans
    state = FRESH
    for vid in (10, 4095, 10):
        ack, state = ask(b"\2\0" + struct.pack("<H", vid), state)
        assert OK == ack
    assert 1 | 1 << 10 | 1 << 4095 == state.vlans
    _, state = ask(b"\2\1" + struct.pack("<H", 10), state)
    assert 1 | 1 << 4095 == state.vlans


# --- what it comes to -------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("commands", "expected"),
    [
        ([], FILTER_VLAN),  # nothing asked for yet
        ([b"\0\0\0"], FILTER_UNICAST | FILTER_MULTICAST | FILTER_VLAN),
        ([b"\0\0\1"], 0),
        ([b"\0\3\1", b"\0\0\1"], 0),  # promiscuous overrides all
        ([b"\0\1\1"], FILTER_UNICAST | FILTER_VLAN),
        ([b"\0\2\1"], FILTER_MULTICAST | FILTER_VLAN),
        ([b"\0\1\1", b"\0\3\1"], FILTER_UNICAST | FILTER_VLAN | FILTER_NO_MULTICAST),
        ([b"\0\2\1", b"\0\4\1"], FILTER_MULTICAST | FILTER_VLAN | FILTER_NO_UNICAST),
        ([b"\0\5\1"], FILTER_UNICAST | FILTER_MULTICAST | FILTER_VLAN | FILTER_NO_BROADCAST),
    ],
)
def test_filters_of_modes(commands: list[bytes], expected: int) -> None:
    """spec CV-05, CV-06, CV-08, CV-14, CV-19."""
    state = FRESH
    for command in commands:
        ack, state = ask(command, state)
        assert OK == ack
    assert expected == filters(state, ALL)
    assert expected & ~FILTER_VLAN == filters(state, ALL & ~(1 << CTRL_VLAN))


def test_no_unicast_is_kept_back_while_the_address_is_unknown() -> None:
    """A driver that invented its address would hear nothing; telling it makes the filter work."""
    ack, state = ask(b"\0\0\0", ControlState())
    assert (OK, FILTER_MULTICAST | FILTER_VLAN) == (ack, filters(state, ALL))
    ack, state = ask(b"\1\1" + MAC, state)
    assert (OK, FILTER_UNICAST) == (ack, filters(state, ALL) & FILTER_UNICAST)


def test_segmentation_needs_what_is_under_it() -> None:
    """spec FB-06 to FB-12, FB-27 to FB-29: never used without; each bit has its meaning."""
    tso4, ecn, uso4, uso6 = 1 << GUEST_TSO4, 1 << GUEST_ECN, 1 << GUEST_USO4, 1 << GUEST_USO6
    csum = 1 << GUEST_CSUM
    assert 0 == takes_gso(tso4 | ecn | uso4)
    assert 0 == takes_gso(csum | ecn)
    assert [1, 2, 5, 8, 16] == [
        takes_gso(csum | word) for word in (tso4, 1 << GUEST_TSO6, tso4 | ecn, uso4, uso6)
    ]
    assert 0 == sends_gso(1 << HOST_TSO4 | 1 << HOST_USO)
    assert [1, 5, 24] == [
        sends_gso(1 << CSUM | word)
        for word in (1 << HOST_TSO4, 1 << HOST_TSO4 | 1 << HOST_ECN, 1 << HOST_USO)
    ]
    assert csum == usable(csum | ecn)
    assert 1 << MQ == usable(1 << MQ)  # its control queue may be the front-end's (spec FE-16)
