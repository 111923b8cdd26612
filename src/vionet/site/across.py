"""What is wrong with a site as a whole: names that nobody has, things that two claim.

A fault has a place, the keys of a TOML file (`[vm.NAME]` is ("vm", NAME)), for which each format
knows the line.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from vionet.config.fabric import parse_name
from vionet.config.option import ConfigError, suggest
from vionet.config.port import IP_MAX, Kind, PortConfig
from vionet.site.model import Interface, Local, Site, Uplink, VmEntry
from vionet.site.toml_line import Place, dotted
from vionet.vm.command import faults as vm_faults
from vionet.vm.model import Nic

PROBLEMS_MAX: Final = 100  # that are told at once
PORTS_MAX: Final = 64  # as in engine.layout, which is not read for a file
Fault = tuple[Place, str]
HOST: Final = "host"  # NAME-host and NAME-dhcp are the other ports of a local interface
SERVICE: Final = "dhcp"
_KERNEL: Final = (Kind.TAP, Kind.INTERFACE)
_KEYS: Final = (
    *("arch", "machine", "accel", "cpus", "memory"),
    "initrd",
    "append",
    "boot",
    "cdrom",
)
_ANY_NIC: Final = Nic(socket=Path(), mac="")


def judge(faults: Iterable[Fault], problems: list[Fault]) -> None:
    """Add faults to the problems found before, save those that may follow from them."""
    broken = {place[:size] for place, _ in problems for size in range(len(place) + 1)}
    for place, problem in faults:
        scope = place if len(place) > 3 else place[:2]  # an interface's key, else all of a table
        if scope not in broken and len(problems) < PROBLEMS_MAX:
            problems.append((place, problem))


def faults(site: Site) -> Iterator[Fault]:
    """Everything that is wrong with a site as a whole."""
    for entry in site.vms:
        yield from machine_faults(entry)
    yield from _switch_faults(site)
    yield from _claims(site)
    yield from _disk_claims(site.vms)
    yield from _local_faults(site)


def local_names(site: Site) -> list[str]:
    """The local interfaces, each of which has a number."""
    return [one.port.name for entry in site.vms for one in entry.interfaces if one.local]


def local_room(local: Local) -> int:
    """How many local interfaces there can be: numbers from 1 to this one."""
    room = (local.prefix.num_addresses - 2) // 2
    length = 48 if local.random6 else local.prefix6 and local.prefix6.prefixlen
    return min(room, 1 << 16, 1 << 64 - length) if length else min(room, 1 << 16)


def machine_faults(entry: VmEntry) -> Iterator[Fault]:
    """What is wrong with one machine by itself."""
    vm = entry.vm
    place: Place = ("vm", vm.name)
    for name, one in ((vm.name, None), *((one.port.name, one) for one in entry.interfaces)):
        longest = f"{name}-{HOST}" if one and one.local else name
        try:
            parse_name(longest, "")
        except ConfigError as error:
            yield place, f"{error.problem}; {longest} is to be a name" if one else error.problem
            break
    nics = tuple(replace(_ANY_NIC, device=one.device) for one in entry.interfaces)
    for text in vm_faults(replace(vm, nics=nics)):
        key, _, problem = text.partition(": ")
        word, _, index = key.partition(" ")
        if index:
            yield (*place, word, int(index)), problem
        else:
            yield ((*place, word), problem) if word in _KEYS else (place, text)


def _switch_faults(site: Site) -> Iterator[Fault]:
    known = [switch.fabric.name for switch in site.switches]
    used = Counter(one.switch for _, one in _interfaces(site))
    for switch in site.switches:
        name = switch.fabric.name
        if (count := len(switch.fabric.ports) + used[name]) > PORTS_MAX:
            yield ("switch", name), f"{count} ports, and {PORTS_MAX} at most; use two switches"
    lock = {switch.fabric.name for switch in site.switches if switch.locked}
    for place, one in _interfaces(site):
        if one.switch is not None and one.switch not in known:
            hint = suggest(one.switch, known) if known else "there is none in this file; add it"
            yield (*place, "switch"), f"{one.switch}: no such switch; {hint}"
        if one.port.ip and not (one.local or one.port.locked or one.switch in lock):
            yield (*place, "ip"), "of a port that is locked; add locked"
        for version in (4, 6):
            own = sum(network.version == version for network in one.port.ip) + one.local
            if own > IP_MAX:
                yield (*place, "ip"), f"more than {IP_MAX} of IPv{version}; use fewer, or larger"


def _interfaces(site: Site) -> Iterator[tuple[Place, Interface]]:
    for entry in site.vms:
        for number, one in enumerate(entry.interfaces):
            yield ("vm", entry.vm.name, "interface", number), one


def _claims(site: Site) -> Iterator[Fault]:
    """Names, addresses, sockets and taps that are there once."""
    owners: dict[tuple[object, ...], Place] = {}
    for place, what, claim in itertools.chain(_switch_claims(site), _nic_claims(site)):
        other = owners.setdefault(claim, place)
        if other != place:
            yield place, f"{what} is taken by {dotted(other)} too; change one of them"


Claim = tuple[Place, str, tuple[object, ...]]  # where, what in words, what it is told by


def _switch_claims(site: Site) -> Iterator[Claim]:
    for switch in site.switches:
        fabric = switch.fabric.name
        yield ("switch", fabric), f"the name {fabric}", ("fabric", fabric)
        for port in switch.fabric.ports:
            place: Place = ("port", port.name)
            netns = port.netns or (switch.rdomain if port.kind in _KERNEL else None)
            claim = (port.kind, port.where, netns)
            yield (*place, str(port.kind)), f"{port.kind}:{port.where}", claim
            yield from _port_claims(place, port, fabric)


def _nic_claims(site: Site) -> Iterator[Claim]:
    for place, one in _interfaces(site):
        fabric = one.switch or one.port.name
        if one.switch is None:
            yield place, f"the name {fabric}", ("fabric", fabric)
        if one.tap is not None:
            yield (*place, "tap"), f"tap:{one.tap}", (Kind.TAP, one.tap, one.rdomain)
        yield from _port_claims(place, one.port, fabric)


def _port_claims(place: Place, port: PortConfig, fabric: str) -> Iterator[Claim]:
    yield place, f"the name {port.name}", ("port", fabric, port.name)
    if port.mac is not None:
        yield (*place, "mac"), f"{port.mac_text}", ("mac", fabric, port.mac)


def _disk_claims(entries: Iterable[VmEntry]) -> Iterator[Fault]:
    """No two machines write to one disk, nor does one read what another writes."""
    taken: dict[Path, tuple[Place, bool]] = {}
    for entry in entries:
        for number, disk in enumerate(entry.vm.disks):
            place: Place = ("vm", entry.vm.name, "disk", number)
            other, read_only = taken.setdefault(disk.path, (place, disk.read_only))
            if other != place and disk.path != Path() and not (read_only and disk.read_only):
                mend = "give each its own, or make it read_only for both"
                yield place, f"{disk.path} is a disk of {dotted(other[:2])} too; {mend}"


def _local_faults(site: Site) -> Iterator[Fault]:
    count, room = len(local_names(site)), local_room(site.local)
    if count > room:
        problem = f"{count} local interfaces, and addresses for {room}; take a larger prefix"
        key = "prefix" if room == local_room(replace(site.local, prefix6=None)) else "inet6"
        yield ("local", key), problem
    for place, one in _interfaces(site):
        uplink = one.uplink or site.local.uplink
        for key, said in (("tap", one.tap), ("netns", one.rdomain), ("group", one.group)):
            if one.local and said is not None and uplink in (Uplink.PASST, Uplink.NONE):
                yield (*place, key), f"with uplink {uplink} there is no tap; leave it out"
