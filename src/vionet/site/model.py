"""Everything that one file describes, whichever format it was written in.

`toml` and `vmconf` read a file into a `Site`; `layout` makes of a site the fabrics and machines
that run (sockets, taps, addresses, numbers filled in).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

from vionet.config.fabric import FabricConfig
from vionet.config.port import PortConfig
from vionet.vm.model import Vm

LOCAL_PREFIX: Final = IPv4Network("100.64.0.0/10")  # as vmd has it


class Uplink(StrEnum):
    """What is at the host side of a local interface."""

    AUTO = "auto"  # a tap where that is permitted, else a tap in a namespace of our own
    TAP = "tap"
    NAMESPACE = "namespace"
    PASST = "passt"  # the Internet, without privileges
    NONE = "none"  # addresses only


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Who may see, start, stop and attach to a machine besides who runs vionet."""

    user: str | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """What all local interfaces have in common."""

    prefix: IPv4Network = LOCAL_PREFIX
    prefix6: IPv6Network | None = None
    random6: bool = False  # a random fd00::/8 prefix of /48, made once and kept
    uplink: Uplink = Uplink.AUTO
    isolated: bool = True  # local interfaces do not reach each other by way of the host
    resolvers: tuple[IPv4Address | IPv6Address, ...] | None = None  # None: the host's
    domains: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """One NIC of a machine.

    `port` is the PORT that it becomes, named MACHINE.NUMBER, whose `where` (the socket) and, where
    the file says none, `mac` are filled in by `layout`.
    """

    port: PortConfig
    switch: str | None = None  # plugged in there; None with `local` False: nowhere, link down
    local: bool = False
    uplink: Uplink | None = None  # of a local interface; None: as `Local` says
    tap: str | None = None  # name of a local interface's tap; None: made from the port's name
    rdomain: str | None = None  # network namespace of a local interface's tap
    group: str | None = None  # interface group of that tap
    device: tuple[str, ...] = ()  # more properties of the QEMU device


@dataclass(frozen=True, slots=True, kw_only=True)
class VmEntry:
    """One machine and who may do what with it."""

    vm: Vm  # without `nics`
    interfaces: tuple[Interface, ...] = ()
    enabled: bool = True  # started by `up`
    owner: Owner | None = None
    # What instances made of it by its owner may choose: boot, disk, memory, cpus, cdrom,
    # interface, name, owner; None: nobody makes instances of it but who runs vionet.
    allow_instance: frozenset[str] | None = None
    instance_owner: Owner | None = None  # who may make instances, where it is not the owner


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """One switch; `fabric.ports` are the file's own `[port.NAME]`, machines' come on top."""

    fabric: FabricConfig
    enabled: bool = True  # down: its ports have no link
    locked: bool = False  # every machine's NIC here is locked to its address
    rdomain: str | None = None  # network namespace of its taps and interfaces
    group: str | None = None  # interface group of its taps


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One file, read."""

    name: str
    switches: tuple[Switch, ...] = ()
    vms: tuple[VmEntry, ...] = ()
    local: Local = field(default_factory=Local)
    warnings: tuple[str, ...] = ()  # `file:line: what; how to mend it`


class SiteError(Exception):
    """All mistakes of a file, each `file:line: what; how to mend it`, in their order."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)
