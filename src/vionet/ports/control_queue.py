"""A driver's control queue: what each command means, without a ring.

How it works: `answer` takes the state, the terms that this device works under and one command's
bytes, and gives back the acknowledgement and the new state.  `COMMANDS` has a row for each class
and command: the feature that it needs, and the function that makes the new state or refuses.
`filters` says which FILTER_* bits the state comes to.

Invariants: every command is answered, unknown ones with ERR (spec CV-02, W29); a refused command
has changed nothing.  State is a value; who holds it decides when it takes effect.

Filtering is best effort (spec CV-09).  As in QEMU, nothing is kept away from a driver that has not
asked for it yet by a first receive mode or table, nor from one whose own address is not known here;
tags are filtered as soon as CTRL_VLAN is negotiated, except VLAN 0, which is only a priority.

Trust: the bytes are the driver's; lengths are compared before anything is read.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from vionet.engine.layout import FILTER_MAX
from vionet.engine.status import (
    FILTER_MULTICAST,
    FILTER_NO_BROADCAST,
    FILTER_NO_MULTICAST,
    FILTER_NO_UNICAST,
    FILTER_UNICAST,
    FILTER_VLAN,
)
from vionet.ports.offload import GUEST_OFFLOADS
from vionet.spec import virtio_net as net

# Everything is little-endian: legacy drivers of our own byte order included (spec LG-05).
_U16: Final = struct.Struct("<H")
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
_MAC_LEN: Final = 6
_MULTICAST: Final = 1 << 40
_PROMISC: Final = 1 << net.VIRTIO_NET_CTRL_RX_PROMISC
_ALLMULTI: Final = 1 << net.VIRTIO_NET_CTRL_RX_ALLMULTI
_ALLUNI: Final = 1 << net.VIRTIO_NET_CTRL_RX_ALLUNI
_SUPPRESSES: Final = {
    1 << net.VIRTIO_NET_CTRL_RX_NOMULTI: FILTER_NO_MULTICAST,
    1 << net.VIRTIO_NET_CTRL_RX_NOUNI: FILTER_NO_UNICAST,
    1 << net.VIRTIO_NET_CTRL_RX_NOBCAST: FILTER_NO_BROADCAST,
}


class _Refused(Exception):
    """The command is answered with ERR."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a driver's commands are measured by."""

    features: int  # negotiated
    pairs_max: int = 1
    locked: bool = False  # its address is fixed


@dataclass(frozen=True, slots=True)
class ControlState:
    """What a driver has set; a fresh one is what it finds after a reset."""

    mac: int = 0  # 0: not known here
    asked: bool = False  # for any receive mode or table
    modes: int = 0  # 1 << command of class RX
    unicast: tuple[int, ...] | None = ()  # None: more than the table holds, so unfiltered
    multicast: tuple[int, ...] | None = ()
    vlans: int = 1  # a bit for each
    pairs: int = 1
    offloads: int = GUEST_OFFLOADS  # of those negotiated
    announce: bool = False  # asked of the driver, not yet acknowledged


_Command = Callable[[ControlState, Terms, bytes], ControlState]


def answer(
    state: ControlState, terms: Terms, command: bytes, length: int
) -> tuple[int, ControlState]:
    """The acknowledgement byte, and the state afterwards.

    `command` is the first part of a command of `length` bytes, all of it unless it is too long
    for any but a table of very many addresses.
    """
    row = COMMANDS.get((command[0], command[1])) if len(command) >= 2 else None
    if row is None or not terms.features >> row[0] & 1:
        return net.VIRTIO_NET_ERR, state
    if length > len(command):
        table = net.VIRTIO_NET_CTRL_MAC, net.VIRTIO_NET_CTRL_MAC_TABLE_SET
        if command[:2] == bytes(table):
            return net.VIRTIO_NET_OK, replace(state, asked=True, unicast=None, multicast=None)
        return net.VIRTIO_NET_ERR, state
    try:
        return net.VIRTIO_NET_OK, row[1](state, terms, command[2:])
    except (_Refused, struct.error):
        return net.VIRTIO_NET_ERR, state


def _require(condition: bool) -> None:
    if not condition:
        raise _Refused


def _mode(bit: int) -> _Command:
    def apply(state: ControlState, terms: Terms, data: bytes) -> ControlState:
        _require(data in (b"\0", b"\1"))
        modes = state.modes | bit if data[0] else state.modes & ~bit
        return replace(state, asked=True, modes=modes)

    return apply


def _set_mac_table(state: ControlState, terms: Terms, data: bytes) -> ControlState:
    unicast, data = _addresses(data)
    multicast, data = _addresses(data)
    _require(not data)
    return replace(state, asked=True, unicast=unicast, multicast=multicast)


def _addresses(data: bytes) -> tuple[tuple[int, ...] | None, bytes]:
    """One half of a table, None where it is too long to be kept, and the bytes behind it."""
    (count,) = _U32.unpack_from(data)
    end = _U32.size + count * _MAC_LEN
    _require(end <= len(data))
    if count > FILTER_MAX:
        return None, data[end:]
    starts = range(_U32.size, end, _MAC_LEN)
    return tuple(int.from_bytes(data[i : i + _MAC_LEN], "big") for i in starts), data[end:]


def _set_mac(state: ControlState, terms: Terms, data: bytes) -> ControlState:
    mac = int.from_bytes(data, "big")
    _require(len(data) == _MAC_LEN and mac != 0 and not mac & _MULTICAST)
    _require(not terms.locked or mac == state.mac)
    return replace(state, mac=mac)


def _vlan(add: bool) -> _Command:
    def apply(state: ControlState, terms: Terms, data: bytes) -> ControlState:
        (vid,) = _U16.unpack(data)
        _require(vid <= net.VLAN_ID_MAX)
        bit = 1 << vid
        return replace(state, vlans=state.vlans | bit if add else state.vlans & ~bit)

    return apply


def _announced(state: ControlState, terms: Terms, data: bytes) -> ControlState:
    _require(not data)
    return replace(state, announce=False)


def _set_pairs(state: ControlState, terms: Terms, data: bytes) -> ControlState:
    (pairs,) = _U16.unpack(data)
    _require(1 <= pairs <= terms.pairs_max)
    return replace(state, pairs=pairs)


def _set_offloads(state: ControlState, terms: Terms, data: bytes) -> ControlState:
    (offloads,) = _U64.unpack(data)
    _require(not offloads & ~(terms.features & GUEST_OFFLOADS))
    return replace(state, offloads=offloads)


_RX: Final = net.VIRTIO_NET_F_CTRL_RX
_EXTRA: Final = net.VIRTIO_NET_F_CTRL_RX_EXTRA
_MAC_ADDR: Final = net.VIRTIO_NET_F_CTRL_MAC_ADDR
_VLAN: Final = net.VIRTIO_NET_F_CTRL_VLAN
_ANNOUNCE: Final = net.VIRTIO_NET_F_GUEST_ANNOUNCE
_MQ: Final = net.VIRTIO_NET_F_MQ
_RX_FEATURES: Final = (_RX, _RX, _EXTRA, _EXTRA, _EXTRA, _EXTRA)  # of the modes, in their order
COMMANDS: Final[dict[tuple[int, int], tuple[int, _Command]]] = {
    **{
        (net.VIRTIO_NET_CTRL_RX, command): (feature, _mode(1 << command))
        for command, feature in enumerate(_RX_FEATURES)
    },
    (net.VIRTIO_NET_CTRL_MAC, net.VIRTIO_NET_CTRL_MAC_TABLE_SET): (_RX, _set_mac_table),
    (net.VIRTIO_NET_CTRL_MAC, net.VIRTIO_NET_CTRL_MAC_ADDR_SET): (_MAC_ADDR, _set_mac),
    (net.VIRTIO_NET_CTRL_VLAN, net.VIRTIO_NET_CTRL_VLAN_ADD): (_VLAN, _vlan(True)),
    (net.VIRTIO_NET_CTRL_VLAN, net.VIRTIO_NET_CTRL_VLAN_DEL): (_VLAN, _vlan(False)),
    (net.VIRTIO_NET_CTRL_ANNOUNCE, net.VIRTIO_NET_CTRL_ANNOUNCE_ACK): (_ANNOUNCE, _announced),
    (net.VIRTIO_NET_CTRL_MQ, net.VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET): (_MQ, _set_pairs),
    (net.VIRTIO_NET_CTRL_GUEST_OFFLOADS, net.VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET): (
        net.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
        _set_offloads,
    ),
}


def filters(state: ControlState, features: int) -> int:
    """FILTER_* bits for a driver that negotiated `features` and has a control queue with us."""
    if state.modes & _PROMISC:  # overrides the other modes (spec CV-05)
        return 0
    word = FILTER_VLAN if features >> net.VIRTIO_NET_F_CTRL_VLAN & 1 else 0
    if not state.asked:
        return word
    if state.mac and state.unicast is not None and not state.modes & _ALLUNI:
        word |= FILTER_UNICAST
    if state.multicast is not None and not state.modes & _ALLMULTI:
        word |= FILTER_MULTICAST
    for mode, bit in _SUPPRESSES.items():  # even beside ALLUNI and ALLMULTI (spec CV-08)
        if state.modes & mode:
            word |= bit
    return word
