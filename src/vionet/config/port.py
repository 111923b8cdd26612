"""A PORT: `KIND:WHERE[,option[=value]…]` as a frozen object.

How it works: the text is cut at commas; the first piece says what is plugged in and where, each
other piece is one option.  A table says which option takes a value, for which kinds it makes
sense, whether it may change while the port is in use (`changed_port`), and how its text is read.

Trust: the text comes from the person who starts vionet and is judged completely here; whether
sockets, groups and interfaces exist is seen later, by those who open them.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from typing import Any, Final, NamedTuple

from vionet.config import feature, option
from vionet.config.option import ConfigError, mac_text, suggest
from vionet.engine.status import Policy
from vionet.ports.tap import name_fault
from vionet.services.lease import Lease
from vionet.spec.virtio_net import VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM

_SOCKET_PATH_MAX: Final = 107  # bytes; sockaddr_un.sun_path is 108 with its zero
IP_MAX: Final = 4  # networks of either version that a port is locked to


class Kind(StrEnum):
    """What is plugged in."""

    GUEST = "guest"
    TAP = "tap"
    INTERFACE = "interface"
    STREAM = "stream"
    SERVICE = "service"  # the control plane; made by the program, never written by people


@dataclass(frozen=True, slots=True, kw_only=True)
class PortConfig:
    """One port as a person asked for it."""

    name: str
    kind: Kind
    where: str  # path of a socket, name of a tap ("" where fd= says which) or an interface
    features: int = 0  # offered; MAC, MTU and STATUS come on top where the front-end asks for them
    mac: int | None = None
    locked: bool = False
    isolated: bool = False
    policy: Policy = Policy.UNIFORM
    mtu: int | None = None
    queues: int = 1  # queue pairs, at most
    speed: int | None = None  # Mbit/s
    vlan: int | None = None  # of untagged frames
    trunk: int | None = None  # a bit for each VLAN that passes tagged; None: an access port
    link_up: bool = True
    client: bool = False  # vionet connects to the socket
    mode: int | None = None  # permission bits of the socket
    group: str | None = None  # group of the socket
    address: tuple[IPv4Interface | IPv6Interface, ...] = ()
    fd: int | None = None
    ip: tuple[IPv4Network | IPv6Network, ...] = ()  # what it may send from; none: anything
    keep_off: tuple[IPv4Network | IPv6Network, ...] = ()  # where it may not send to, but
    reach: tuple[IPv4Network | IPv6Network, ...] = ()  # to here and to `ip` all the same
    netns: str | None = None  # network namespace of a tap or an interface: a name or a path
    ifgroup: str | None = None  # interface group of a tap that vionet makes
    lease: Lease | None = None  # of a service: whom it answers, and what

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


_WRITTEN: Final = (Kind.GUEST, Kind.TAP, Kind.INTERFACE, Kind.STREAM)


class _Option(NamedTuple):
    read: Callable[[str], Any] | None  # None: a flag
    kinds: tuple[Kind, ...] = _WRITTEN
    fixed: str = ""  # why it cannot change while the port is in use
    field: str = ""  # of PortConfig, where it is not the option's name


_GUEST: Final = (Kind.GUEST,)
_TAP: Final = (Kind.TAP,)
_KERNEL: Final = (Kind.TAP, Kind.INTERFACE)
_OFFLOADING: Final = (Kind.GUEST, *_KERNEL)
_SOCKETS: Final = (Kind.GUEST, Kind.STREAM)
_TOLD: Final = "the driver has been told already"
_MADE: Final = "the port was made with it"


def _offload(text: str) -> str:
    if text not in feature.OFFLOADS:
        raise ValueError(f"no such preset; {suggest(text, feature.OFFLOADS)}")
    return text


_OPTIONS: Final = {
    "mac": _Option(option.mac, fixed=_TOLD),
    "locked": _Option(None, fixed=_MADE),
    "ip": _Option(option.ip),
    "isolated": _Option(None),
    "policy": _Option(option.policy, _OFFLOADING),
    "mtu": _Option(option.mtu, fixed=_TOLD),
    "offload": _Option(_offload, _OFFLOADING),
    "vlan": _Option(option.vlan),
    "trunk": _Option(option.trunk),
    "link": _Option(option.link, field="link_up"),
    "queues": _Option(option.queues, _GUEST, fixed=_TOLD),
    "speed": _Option(option.speed, _GUEST, fixed=_TOLD),
    "client": _Option(None, _SOCKETS, fixed=_MADE),
    "mode": _Option(option.mode, _SOCKETS, fixed=_MADE),
    "group": _Option(option.group, _SOCKETS, fixed=_MADE),
    "address": _Option(option.address, _TAP, fixed=_MADE),
    "fd": _Option(option.fd, _TAP, fixed=_MADE),
    "netns": _Option(option.netns, _KERNEL, fixed=_MADE),
}
_REPEATABLE: Final = ("address", "ip")
_FOLLOWING: Final = {"features", "keep_off", "reach"}  # no options, and may change in use
_SWITCHES: Final = {"on": True, "off": False}  # values of a flag that is changed
_EXAMPLES: Final = {
    Kind.GUEST: "guest:/run/a.sock",
    Kind.TAP: "tap:vio0",
    Kind.INTERFACE: "interface:eth1",
    Kind.STREAM: "stream:/run/p.sock",
}
_CHOICES: Final = {
    Kind.GUEST: feature.GUEST_CHOICES,
    Kind.TAP: feature.KERNEL_CHOICES,
    Kind.INTERFACE: feature.KERNEL_CHOICES,
    Kind.STREAM: 0,
}


def parse_port(name: str, text: str) -> PortConfig:
    """Read a PORT; a ConfigError names the piece that is wrong."""
    head, *pieces = text.split(",")
    kind, where = _read_head(text, head)
    config = _read_port(name, text, kind, where, pieces)
    _check_together(config, text)
    return config


def guest_port(name: str, pieces: Sequence[str]) -> PortConfig:
    """The port of a machine's NIC from its options; socket and address are still to be chosen."""
    return _read_port(name, name, Kind.GUEST, "", pieces)


def _read_port(name: str, text: str, kind: Kind, where: str, pieces: Sequence[str]) -> PortConfig:
    values, switched = _read_pieces(text, kind, pieces)
    preset = values.pop("offload", "full")
    word = feature.OFFLOADS[preset] if kind in _OFFLOADING else 0
    word |= feature.GUEST_BASE if kind is Kind.GUEST else 0
    features = feature.switched_word(word, switched, text)
    return PortConfig(name=name, kind=kind, where=where, features=features, **values)


def changed_port(config: PortConfig, pieces: Sequence[str]) -> PortConfig:
    """The port with options changed while it is in use; a ConfigError where one cannot be."""
    values, switched = _read_pieces(config.name, config.kind, pieces, in_use=True)
    for bit in switched:
        if not feature.ALL_OFFLOADS >> bit & 1:
            problem = f"{feature.short_name(bit)}: cannot change while in use: {_TOLD}"
            raise ConfigError(config.name, f"{problem}; restart vionet with it")
    word = config.features
    if "offload" in values:
        word = word & ~feature.ALL_OFFLOADS | feature.OFFLOADS[values.pop("offload")]
    features = feature.switched_word(word, switched, config.name)
    changed = replace(config, features=features, **values)
    _check_ip(changed, config.name)
    return changed


def can_follow(before: PortConfig, after: PortConfig) -> bool:
    """Whether a port can become `after` while it is in use."""
    free = {entry.field or key for key, entry in _OPTIONS.items() if not entry.fixed}
    changed = {name: getattr(after, name) for name in free - {"offload"} | _FOLLOWING}
    lasting = (before.features ^ after.features) & ~feature.ALL_OFFLOADS
    return replace(before, **changed) == after and not lasting


def _read_pieces(
    text: str, kind: Kind, pieces: Iterable[str], in_use: bool = False
) -> tuple[dict[str, Any], dict[int, bool]]:
    """Options by the field of `PortConfig`, and single features switched on or off."""
    values: dict[str, Any] = {}
    switched: dict[int, bool] = {}
    for piece in pieces:
        if piece[:1] in ("+", "-"):
            if not _CHOICES[kind]:
                raise ConfigError(text, f"{piece}: a {kind} has no features; leave it out")
            bit = feature.feature_bit(piece, text, _CHOICES[kind])
            if bit in switched:
                raise ConfigError(text, f"{piece}: the feature is named twice; keep one of them")
            switched[bit] = piece[0] == "+"
        else:
            _read_option(text, kind, piece, values, in_use)
    return {_OPTIONS[key].field or key: value for key, value in values.items()}, switched


def _read_head(text: str, head: str) -> tuple[Kind, str]:
    kind, colon, where = head.partition(":")
    if kind not in _WRITTEN:
        example = f"write KIND:WHERE, as in {_EXAMPLES[Kind.GUEST]}"
        hint = suggest(kind, _WRITTEN) if colon else example
        raise ConfigError(text or "''", f"{kind or 'empty'}: no kind of port; {hint}")
    if not colon:
        raise ConfigError(text, f"{head}: says not where; write {_EXAMPLES[Kind(kind)]}")
    return Kind(kind), where


def _read_option(text: str, kind: Kind, piece: str, values: dict[str, Any], in_use: bool) -> None:
    key, _, value = piece.partition("=")
    if key not in _OPTIONS:
        known = [name for name, entry in _OPTIONS.items() if kind in entry.kinds]
        known = [name for name in known if not (in_use and _OPTIONS[name].fixed)]
        raise ConfigError(text, f"{piece or 'empty'}: no such option; {suggest(key, known)}")
    entry = _OPTIONS[key]
    if kind not in entry.kinds:
        *others, last = (f"{owner}:" for owner in entry.kinds)
        owners = f"{', '.join(others)} and {last}" if others else last
        raise ConfigError(text, f"{piece}: an option of {owners} ports; leave it out")
    if in_use and entry.fixed:
        problem = f"{key} cannot change while in use: {entry.fixed}; restart vionet with it"
        raise ConfigError(text, f"{piece}: {problem}")
    if key in values and key not in _REPEATABLE:
        raise ConfigError(text, f"{piece}: {key} is given twice; keep one of them")
    if entry.read is None:
        values[key] = _read_flag(text, piece, in_use)
        return
    if not value:
        raise ConfigError(text, f"{piece}: {key} needs a value; write {key}=…")
    try:
        read = entry.read(value)
    except ValueError as error:
        raise ConfigError(text, f"{piece}: {error}") from None
    if key in _REPEATABLE:
        read = values.get(key, ()) if read is None else (*values.get(key, ()), read)
    values[key] = read


def _read_flag(text: str, piece: str, in_use: bool) -> bool:
    key, equals, value = piece.partition("=")
    if not equals:
        return True
    if not in_use:
        raise ConfigError(text, f"{piece}: {key} takes no value; write {key} alone")
    if value not in _SWITCHES:
        raise ConfigError(text, f"{piece}: neither; use {key}=on or {key}=off")
    return _SWITCHES[value]


def _check_together(config: PortConfig, text: str) -> None:
    """What no option can judge alone."""
    if config.locked and config.mac is None:
        raise ConfigError(text, "locked: to which address? add mac=52:54:00:…")
    _check_ip(config, text)
    if config.kind in _KERNEL:
        _check_interface(config, text)
    else:
        _check_socket(config, text)


def _check_ip(config: PortConfig, text: str) -> None:
    if config.ip and not config.locked:
        raise ConfigError(text, "ip: the port is not locked; add locked and mac=52:54:00:…")
    if config.keep_off and not config.ip:
        raise ConfigError(text, "ip=none: a local interface keeps its lock; leave it out")
    for version in (4, 6):
        if sum(network.version == version for network in config.ip) > IP_MAX:
            raise ConfigError(text, f"ip: more than {IP_MAX} of IPv{version}; use fewer, or larger")


def _check_socket(config: PortConfig, text: str) -> None:
    size = len(os.fsencode(config.where))
    if not size:
        raise ConfigError(text, f"no socket; write {_EXAMPLES[config.kind]}")
    if size > _SOCKET_PATH_MAX:
        raise ConfigError(
            text, f"the path has {size} bytes, a socket's at most {_SOCKET_PATH_MAX}; shorten it"
        )
    if "\0" in config.where:
        raise ConfigError(text, "the path has a zero byte; leave it out")
    for key in ("mode", "group"):
        if config.client and getattr(config, key) is not None:
            raise ConfigError(text, f"{key}: with client vionet makes no socket; leave it out")


def _check_interface(config: PortConfig, text: str) -> None:
    if config.where or config.fd is None:
        fault = name_fault(config.where)
        if fault:
            raise ConfigError(text, f"{fault}; write {_EXAMPLES[config.kind]}")
    for key in ("address", "netns"):
        if config.fd is not None and getattr(config, key):
            raise ConfigError(text, f"{key}: whoever opened fd sets the tap up; leave it out")
