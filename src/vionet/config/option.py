"""The values of single options: text in, value or one clear line out.

Each reader takes the value's text and returns it converted, or raises ValueError with what is
wrong and how to mend it; `port` adds where it was.
"""

import difflib
import os
import re
from collections.abc import Iterable
from ipaddress import (
    IPv4Interface,
    IPv4Network,
    IPv6Interface,
    IPv6Network,
    ip_interface,
    ip_network,
)
from typing import Final

from vionet.engine.status import Policy
from vionet.spec.virtio_net import MTU_MAX, MTU_MIN

_MAC: Final = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.IGNORECASE)
_GROUP: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\$?")
_MULTICAST: Final = 1 << 40
_BROADCAST: Final = (1 << 48) - 1
_FD_MAX: Final = 1 << 20
_SPEED_MAX: Final = (1 << 31) - 1  # Mbit/s; all ones would be "unknown" (spec CF-03)
PAIRS_MAX: Final = 8  # as in engine.layout, which is not read for a command line
WORKERS_MAX: Final = 16  # likewise
VLAN_MAX: Final = 4094
ALL_VLANS: Final = (1 << VLAN_MAX + 1) - 2
# The last octet of 01:80:c2:00:00:00 and what lives there (IEEE 802.1Q table 8-1).
RESERVED_NAMES: Final = {"stp": 0, "pause": 1, "lacp": 2, "dot1x": 3, "lldp": 14}
RESERVED_USUAL: Final = "stp+lacp+dot1x+lldp"


class ConfigError(ValueError):
    """A mistake in what a person wrote: `where: what; how to mend it`, one line."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}".replace("\n", "\\n"))
        self.problem = problem.replace("\n", "\\n")  # for who has a better place


def suggest(word: str, known: Iterable[str]) -> str:
    """`did you mean …?` when one of `known` is near, else the list of them."""
    choices = list(known)
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else f"use one of {', '.join(choices)}"


def mac(text: str) -> int:
    """A unicast Ethernet address as 48 bits, the first octet highest."""
    if not _MAC.fullmatch(text):
        raise ValueError("not an Ethernet address; write six octets as 52:54:00:12:34:56")
    value = int(text.replace(":", ""), 16)
    if value == _BROADCAST:
        raise ValueError("the broadcast address; a port needs an address of its own")
    if value & _MULTICAST:
        raise ValueError(
            "a multicast address; the first octet must be even, as in 52:54:00:12:34:56"
        )
    if value == 0:
        raise ValueError("no address at all; write one as 52:54:00:12:34:56")
    return value


def mac_text(value: int) -> str:
    """An address of 48 bits the way people write it."""
    return value.to_bytes(6, "big").hex(":")


def policy(text: str) -> Policy:
    """uniform, natural or complete."""
    names = {policy.name.lower(): policy for policy in Policy}
    if text not in names:
        raise ValueError(f"no such policy; {suggest(text, names)}")
    return names[text]


def mtu(text: str) -> int:
    """The largest layer 3 packet."""
    return _number(text, MTU_MIN, MTU_MAX)


def queues(text: str) -> int:
    """How many queue pairs a guest may use."""
    return _number(text, 1, PAIRS_MAX)


def workers(text: str) -> int:
    """How many threads forward."""
    return _number(text, 1, WORKERS_MAX)


def cores(text: str) -> tuple[int, ...]:
    """Processors by their numbers, each one of those that this process may use."""
    usable = sorted(os.sched_getaffinity(0))
    found = []
    for word in text.split(","):
        if not word.isdecimal() or int(word) not in usable:
            ours = trunk_text(sum(1 << core for core in usable)).replace("+", ",")
            raise ValueError(f"{word or 'empty'}: no core that we may use, which are {ours}")
        if int(word) in found:
            raise ValueError(f"core {word} is named twice; each worker needs one of its own")
        found.append(int(word))
    return tuple(found)


def speed(text: str) -> int:
    """The link's speed in Mbit/s, as a driver is told."""
    return _number(text, 1, _SPEED_MAX)


def link(text: str) -> bool:
    """up or down."""
    if text not in ("up", "down"):
        raise ValueError("neither; use up or down")
    return text == "up"


def vlan(text: str) -> int | None:
    """The VLAN of untagged frames, or `none`."""
    return None if text == "none" else _number(text, 1, VLAN_MAX)


def trunk(text: str) -> int | None:
    """A bit for each VLAN that passes tagged: `10+20+30-40`, `all`, or `none` for no trunk."""
    if text in ("none", "all"):
        return ALL_VLANS if text == "all" else None
    word = 0
    for piece in text.split("+"):
        first, dash, last = piece.partition("-")
        try:
            low = _number(first, 1, VLAN_MAX)
            high = _number(last, low, VLAN_MAX) if dash else low
        except ValueError as error:
            problem = f"{piece or 'empty'}: {error}; or write VLANs as 10+20+30-40, or all"
            raise ValueError(problem) from None
        word |= (1 << high + 1) - (1 << low)
    return word


def trunk_text(word: int) -> str:
    """A trunk's VLANs the way people write them."""
    if word == ALL_VLANS:
        return "all"
    pieces, vid = [], 0
    while word >> vid:
        vid += (word >> vid & -(word >> vid)).bit_length() - 1  # to the next bit that is set
        first = vid
        while word >> vid & 1:
            vid += 1
        pieces.append(f"{first}-{vid - 1}" if vid - first > 1 else f"{first}")
    return "+".join(pieces)


def reserved(text: str) -> int:
    """A bit for each reserved multicast address that a switch lets pass."""
    if text in ("all", "none"):
        return 0xFFFF if text == "all" else 0
    word = 0
    for piece in text.split("+"):
        if piece in RESERVED_NAMES:
            word |= 1 << RESERVED_NAMES[piece]
        elif piece.isascii() and piece.isdecimal() and len(piece) < 3 and int(piece) < 16:
            word |= 1 << int(piece)
        else:
            known = (*RESERVED_NAMES, "all", "none")
            hint = f"{suggest(piece, known)}, or the last octet of 01:80:c2:00:00:00, 0 to 15"
            raise ValueError(f"{piece or 'empty'}: no reserved address; {hint}")
    return word


def fd(text: str) -> int:
    """The number of a descriptor that vionet was started with."""
    return _number(text, 0, _FD_MAX)


def _number(text: str, low: int, high: int) -> int:
    # isdecimal alone accepts the digits of every script.
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ValueError(f"not a number; use one from {low} to {high}")
    if not low <= int(text) <= high:
        raise ValueError(f"out of range; use a number from {low} to {high}")
    return int(text)


def mode(text: str) -> int:
    """The permission bits of a socket, octal."""
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise ValueError("not permission bits; write them in octal, as in 0660")
    return int(text, 8)


def group(text: str) -> str:
    """The name of a group; whether it exists is seen when the socket is made."""
    if not _GROUP.fullmatch(text):
        raise ValueError("not the name of a group; write one as in group=kvm")
    return text


def address(text: str) -> IPv4Interface | IPv6Interface:
    """An IP address with its prefix length."""
    if "/" not in text:
        raise ValueError("without prefix length; write it as 192.0.2.1/24 or fd00::1/64")
    try:
        value = ip_interface(text)
    except ValueError:
        raise ValueError(
            "not an address with prefix length; write it as 192.0.2.1/24 or fd00::1/64"
        ) from None
    if "%" in text or value.ip.is_multicast or value.ip.is_unspecified:
        raise ValueError("not an address that an interface can have; use a unicast address")
    return value


def ip(text: str) -> IPv4Network | IPv6Network | None:
    """An IP address, or a network that a port may send from; or `none`."""
    if text == "none":
        return None
    try:
        value = ip_network(text)
    except ValueError as error:
        if "host bits" in str(error):
            mended = ip_network(text, strict=False)
            raise ValueError(f"not where the network begins; write {mended}") from None
        problem = "not an address; write it as 192.0.2.1 or fd00::1, a network with its length"
        raise ValueError(problem) from None
    if "%" in text or value.is_multicast or value.network_address.is_unspecified:
        raise ValueError("not an address that a guest can have; use a unicast address")
    return value


def netns(text: str) -> str:
    """A network namespace: its name in /run/netns, or a path."""
    if text[0] != "/" and ("/" in text or text in (".", "..") or len(os.fsencode(text)) > 255):
        raise ValueError("no name of a network namespace; write one as in netns=web, or a path")
    if "\0" in text:
        raise ValueError("it has a zero byte; leave it out")
    return text
