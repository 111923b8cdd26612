"""A PORT: `KIND:WHERE[,option[=value]…]` as a frozen object.

How it works: the text is cut at commas; the first piece says what is plugged in and where, each
other piece is one option.  A table says which option takes a value, for which kinds it makes
sense and how its text is read.  What is not built yet is named in a table of its own and refused,
never ignored.

Trust: the text comes from the person who starts vionet and is judged completely here; whether
sockets, groups and interfaces exist is seen later, by those who open them.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Interface, IPv6Interface
from typing import Any, Final, NamedTuple

from vionet.config import feature, option
from vionet.config.option import ConfigError, mac_text, suggest
from vionet.engine.status import Policy
from vionet.ports.tap import name_fault
from vionet.spec.virtio_net import VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM

_SOCKET_PATH_MAX: Final = 107  # bytes; sockaddr_un.sun_path is 108 with its zero


class Kind(StrEnum):
    """What is plugged in."""

    GUEST = "guest"
    TAP = "tap"


@dataclass(frozen=True, slots=True, kw_only=True)
class PortConfig:
    """One port as a person asked for it."""

    name: str
    kind: Kind
    where: str  # path of a socket, name of a tap ("" where fd= says which)
    features: int = 0  # offered; MAC, MTU and STATUS come on top where the front-end asks for them
    mac: int | None = None
    locked: bool = False
    isolated: bool = False
    policy: Policy = Policy.UNIFORM
    mtu: int | None = None
    client: bool = False  # vionet connects to the socket
    mode: int | None = None  # permission bits of the socket
    group: str | None = None  # group of the socket
    address: tuple[IPv4Interface | IPv6Interface, ...] = ()
    fd: int | None = None

    @property
    def mac_text(self) -> str | None:
        """The address as people write it."""
        return None if self.mac is None else mac_text(self.mac)

    @property
    def takes_partial(self) -> bool:
        """Whether partial checksums may be delivered to this port."""
        return bool(self.features >> VIRTIO_NET_F_GUEST_CSUM & 1)

    @property
    def gives_partial(self) -> bool:
        """Whether this port may send partial checksums."""
        return bool(self.features >> VIRTIO_NET_F_CSUM & 1)


class _Option(NamedTuple):
    read: Callable[[str], Any] | None  # None: a flag
    kinds: tuple[Kind, ...] = tuple(Kind)


_GUEST: Final = (Kind.GUEST,)
_TAP: Final = (Kind.TAP,)


def _offload(text: str) -> str:
    if text not in feature.OFFLOADS:
        raise ValueError(f"no such preset; {suggest(text, feature.OFFLOADS)}")
    return text


def _queues(text: str) -> int:
    if text != "1":
        raise ValueError("not built yet; every port has one queue pair, leave the option out")
    return 1


_OPTIONS: Final = {
    "mac": _Option(option.mac),
    "locked": _Option(None),
    "isolated": _Option(None),
    "policy": _Option(option.policy),
    "mtu": _Option(option.mtu),
    "offload": _Option(_offload),
    "queues": _Option(_queues),
    "client": _Option(None, _GUEST),
    "mode": _Option(option.mode, _GUEST),
    "group": _Option(option.group, _GUEST),
    "address": _Option(option.address, _TAP),
    "fd": _Option(option.fd, _TAP),
}
_REPEATABLE: Final = ("address",)
_NOT_BUILT_OPTIONS: Final = ("vlan", "trunk")
_NOT_BUILT_KINDS: Final = ("interface", "stream")
_EXAMPLES: Final = {Kind.GUEST: "guest:/run/a.sock", Kind.TAP: "tap:vio0"}


def parse_port(name: str, text: str) -> PortConfig:
    """Read a PORT; a ConfigError names the piece that is wrong."""
    head, *pieces = text.split(",")
    kind, where = _read_head(text, head)
    values: dict[str, Any] = {}
    switched: dict[int, bool] = {}
    for piece in pieces:
        if piece[:1] in ("+", "-"):
            bit = feature.feature_bit(piece, text, _choices(kind))
            if bit in switched:
                raise ConfigError(text, f"{piece}: the feature is named twice; keep one of them")
            switched[bit] = piece[0] == "+"
        else:
            _read_option(text, kind, piece, values)
    features = _features(kind, values.pop("offload", "full"), switched)
    feature.check_dependencies(features, text)
    values.pop("queues", None)
    config = PortConfig(name=name, kind=kind, where=where, features=features, **values)
    _check_together(config, text)
    return config


def _read_head(text: str, head: str) -> tuple[Kind, str]:
    kind, colon, where = head.partition(":")
    if kind in _NOT_BUILT_KINDS:
        raise ConfigError(text, f"{kind}: not built yet; use {' or '.join(_EXAMPLES.values())}")
    if kind not in list(Kind):
        hint = suggest(kind, Kind) if colon else f"write KIND:WHERE, as in {_EXAMPLES[Kind.GUEST]}"
        raise ConfigError(text or "''", f"{kind or 'empty'}: no kind of port; {hint}")
    if not colon:
        raise ConfigError(text, f"{head}: says not where; write {_EXAMPLES[Kind(kind)]}")
    return Kind(kind), where


def _read_option(text: str, kind: Kind, piece: str, values: dict[str, Any]) -> None:
    key, equals, value = piece.partition("=")
    if key in _NOT_BUILT_OPTIONS:
        raise ConfigError(text, f"{piece}: not built yet; leave it out")
    known = [name for name, entry in _OPTIONS.items() if kind in entry.kinds]
    if key not in _OPTIONS:
        raise ConfigError(text, f"{piece or 'empty'}: no such option; {suggest(key, known)}")
    entry = _OPTIONS[key]
    if kind not in entry.kinds:
        owners = " and ".join(f"{owner}:" for owner in entry.kinds)
        raise ConfigError(text, f"{piece}: an option of {owners} ports; leave it out")
    if key in values and key not in _REPEATABLE:
        raise ConfigError(text, f"{piece}: {key} is given twice; keep one of them")
    if entry.read is None:
        if equals:
            raise ConfigError(text, f"{piece}: {key} takes no value; write {key} alone")
        values[key] = True
        return
    if not value:
        raise ConfigError(text, f"{piece}: {key} needs a value; write {key}=…")
    try:
        read = entry.read(value)
    except ValueError as error:
        raise ConfigError(text, f"{piece}: {error}") from None
    values[key] = (*values.get(key, ()), read) if key in _REPEATABLE else read


def _choices(kind: Kind) -> int:
    return feature.TAP_CHOICES if kind is Kind.TAP else feature.GUEST_CHOICES


def _features(kind: Kind, preset: str, switched: dict[int, bool]) -> int:
    word = feature.OFFLOADS[preset] | (feature.GUEST_BASE if kind is Kind.GUEST else 0)
    for bit, on in switched.items():
        word = word | 1 << bit if on else word & ~(1 << bit)
    return word


def _check_together(config: PortConfig, text: str) -> None:
    """What no option can judge alone."""
    if config.locked and config.mac is None:
        raise ConfigError(text, "locked: to which address? add mac=52:54:00:…")
    if config.kind is Kind.TAP:
        _check_tap(config, text)
        return
    size = len(os.fsencode(config.where))
    if not size:
        raise ConfigError(text, f"no socket; write {_EXAMPLES[Kind.GUEST]}")
    if size > _SOCKET_PATH_MAX:
        raise ConfigError(
            text, f"the path has {size} bytes, a socket's at most {_SOCKET_PATH_MAX}; shorten it"
        )
    if "\0" in config.where:
        raise ConfigError(text, "the path has a zero byte; leave it out")
    for key in ("mode", "group"):
        if config.client and getattr(config, key) is not None:
            raise ConfigError(text, f"{key}: with client vionet makes no socket; leave it out")


def _check_tap(config: PortConfig, text: str) -> None:
    if config.where or config.fd is None:
        fault = name_fault(config.where)
        if fault:
            raise ConfigError(text, f"{fault}; write {_EXAMPLES[Kind.TAP]}")
    if config.fd is not None and config.address:
        raise ConfigError(text, "address: whoever opened fd sets the tap up; leave it out")
