"""From what a file says to what runs: fabrics, machines, passts, all that the file leaves open.

How it works: a pure function.  A switch is a fabric, its ports those of the file and then the NICs
of machines, NAME.NUMBER.  A local interface is a fabric of its own: the guest, locked to its
addresses; the host's side (a tap, or passt), which has the gateway's; and a service that answers
DHCP and router solicitations.  A NIC that is plugged in nowhere has a fabric without link.

Invariants: every path, name and address is within what the kernel takes, or it is a `SiteError`;
machines that are not enabled are laid out, too.
"""

import os
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Final

from vionet.config.fabric import FabricConfig
from vionet.config.port import Kind, PortConfig, parse_port
from vionet.engine.status import FabricKind
from vionet.services.lease import Lease
from vionet.site.across import HOST, SERVICE, local_room
from vionet.site.address import gateway_addresses, guest_mac, local_lease, tap_name
from vionet.site.model import Interface, Site, SiteError, Switch, Uplink, VmEntry
from vionet.site.slots import Slots
from vionet.spec.virtio import VIRTIO_F_RING_PACKED
from vionet.vm.model import Disk, Nic, Vm, VmPlaces

SOCKET_PATH_MAX: Final = 107  # bytes; sockaddr_un.sun_path is 108 with its zero


@dataclass(frozen=True, slots=True, kw_only=True)
class SitePlaces:
    """The folders of one site."""

    runtime: Path
    state: Path
    passt: Path | None = None  # of passt's sockets, where it is not the runtime folder

    def machine(self, name: str) -> VmPlaces:
        """Where the files of one machine are."""
        return VmPlaces(
            monitor=self.runtime / f"{name}.qmp",
            console=self.runtime / f"{name}.console",
            agent=self.runtime / f"{name}.agent",
            log=self.state / f"{name}.log",
            stderr=self.state / f"{name}.stderr",
            seed=self.state / f"{name}-seed.iso",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What this host is, as far as a layout depends on it."""

    taps: bool  # may be made here
    resolvers: tuple[IPv4Address | IPv6Address, ...] = ()  # that guests can reach, too
    domains: tuple[str, ...] = ()
    namespace: str | None = None  # path of the one that is held for us, once it is


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineLayout:
    """One machine, ready to run."""

    entry: VmEntry
    vm: Vm
    places: VmPlaces


@dataclass(frozen=True, slots=True, kw_only=True)
class PasstLayout:
    """One passt, for the local interface of this name."""

    name: str
    socket: Path
    lease: Lease


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """All of a site."""

    fabrics: tuple[FabricConfig, ...]
    machines: tuple[MachineLayout, ...]
    passts: tuple[PasstLayout, ...]
    wants_namespace: bool  # make one, then lay out again with its path in `Host`


def lay_out(site: Site, places: SitePlaces, slots: Slots, host: Host) -> Layout:
    """What is to run; *raises* `SiteError` with all that does not fit."""
    work = _Work(site, places, slots, host)
    machines = tuple(work.machine(entry) for entry in site.vms)
    switches = tuple(work.switch(switch) for switch in site.switches)
    work.check_taps(switches)
    if work.problems:
        raise SiteError(work.problems)
    return Layout(
        fabrics=switches + tuple(work.small),
        machines=machines,
        passts=tuple(work.passts),
        wants_namespace=work.wants_namespace,
    )


@dataclass
class _Work:
    """A layout while it is made."""

    site: Site
    places: SitePlaces
    slots: Slots
    host: Host
    problems: list[str] = field(default_factory=list)
    small: list[FabricConfig] = field(default_factory=list)  # those of single interfaces
    passts: list[PasstLayout] = field(default_factory=list)
    plugged: dict[str, list[PortConfig]] = field(default_factory=dict)  # NICs by switch
    wants_namespace: bool = False

    def __post_init__(self) -> None:
        self.switches = {switch.fabric.name: switch for switch in self.site.switches}
        self.room = local_room(self.site.local)
        self.macs = {
            one.port.mac for entry in self.site.vms for one in entry.interfaces if one.port.mac
        }
        self.macs |= {p.mac for s in self.site.switches for p in s.fabric.ports if p.mac}

    def machine(self, entry: VmEntry) -> MachineLayout:
        vm, places = entry.vm, self.places.machine(entry.vm.name)
        for path in (places.monitor, places.console, places.agent):
            self.socket(vm.name, path)
        nics = tuple(self.nic(entry, number, one) for number, one in enumerate(entry.interfaces))
        disks = tuple(self.disk(vm.name, *one) for one in enumerate(vm.disks))
        return MachineLayout(entry=entry, vm=replace(vm, nics=nics, disks=disks), places=places)

    def disk(self, name: str, number: int, disk: Disk) -> Disk:
        """One that has no path is made in the state folder."""
        if disk.path != Path():
            return disk
        kind = disk.format or "qcow2"
        return replace(disk, path=self.places.state / f"{name}-{number}.{kind}", format=kind)

    def nic(self, entry: VmEntry, number: int, one: Interface) -> Nic:
        name = one.port.name
        path = self.socket(name, self.places.runtime / f"{name}.sock")
        mac = one.port.mac or guest_mac(self.site.name, entry.vm.name, number, self.macs)
        switch = self.switches.get(one.switch or "")
        port = replace(one.port, where=str(path), mac=mac)
        if one.local:
            self.local(entry, number, one, port)
        elif switch:
            port = replace(port, locked=port.locked or switch.locked)
            self.plugged.setdefault(switch.fabric.name, []).append(port)
        else:
            self.fabric(name, replace(port, link_up=False))
        return Nic(
            socket=path,
            mac=port.mac_text or "",
            queues=port.queues,
            mtu=port.mtu,
            packed=bool(port.features >> VIRTIO_F_RING_PACKED & 1),
            device=one.device,
            optional=not one.local,
        )

    def fabric(self, name: str, *ports: PortConfig) -> None:
        self.small.append(FabricConfig(name=name, kind=FabricKind.SWITCH, ports=ports))

    def local(self, entry: VmEntry, number: int, one: Interface, port: PortConfig) -> None:
        """The fabric of a local interface."""
        uplink = one.uplink or self.site.local.uplink
        if uplink is Uplink.AUTO:
            uplink = Uplink.TAP if self.host.taps or one.rdomain else Uplink.NAMESPACE
        lease = self.lease(entry, number, port, uplink)
        if lease is None:
            return
        local, name = self.site.local, port.name
        own: list[IPv4Network | IPv6Network] = [IPv4Network(lease.address.ip)]
        off: list[IPv4Network | IPv6Network] = [local.prefix]
        if lease.address6:
            own.append(lease.address6.network)
            off.append(self.prefix6 or lease.address6.network)
        guest = replace(port, locked=True, ip=(*own, *port.ip))
        if local.isolated:
            guest = replace(guest, keep_off=tuple(off), reach=(IPv4Network(lease.gateway),))
        service = PortConfig(name=f"{name}-{SERVICE}", kind=Kind.SERVICE, where="", lease=lease)
        self.fabric(name, guest, *self.host_side(entry, number, one, lease, uplink), service)

    @property
    def prefix6(self) -> IPv6Network | None:
        return self.slots.prefix6 if self.site.local.random6 else self.site.local.prefix6

    def lease(self, entry: VmEntry, number: int, port: PortConfig, uplink: Uplink) -> Lease | None:
        local, k = self.site.local, self.slots.numbers.get(port.name)
        if k is None or not 1 <= k <= self.room:
            several = f"number {k} of {self.room} that there are addresses for"
            self.problems.append(f"{port.name}: {several}; take a larger prefix in [local]")
            return None
        lease = local_lease(self.site.name, local, entry.vm, number, port, k, self.prefix6)
        told = self.host.resolvers if local.resolvers is None else local.resolvers
        if uplink is Uplink.PASST and local.resolvers is None:
            told = (lease.gateway,)  # where passt asks the host's own, one on its loopback too
        return replace(
            lease,
            resolvers=tuple(one for one in told if isinstance(one, IPv4Address)),
            resolvers6=tuple(one for one in told if isinstance(one, IPv6Address)),
            domains=local.domains or self.host.domains,
        )

    def host_side(
        self, entry: VmEntry, number: int, one: Interface, lease: Lease, uplink: Uplink
    ) -> list[PortConfig]:
        """The other end of a local interface, if it has one."""
        name = f"{one.port.name}-{HOST}"
        if uplink is Uplink.NONE:
            return []
        if uplink is Uplink.PASST:
            folder = self.places.passt or self.places.runtime
            path = self.socket(name, folder / f"{one.port.name}.passt")
            self.passts.append(PasstLayout(name=one.port.name, socket=path, lease=lease))
            return [PortConfig(name=name, kind=Kind.STREAM, where=str(path), client=True)]
        netns = one.rdomain
        if uplink is Uplink.NAMESPACE and netns is None:
            netns, self.wants_namespace = self.host.namespace, True
        tap = one.tap or tap_name(self.site.name, entry.vm.name, number)
        return [
            replace(
                parse_port(name, f"tap:{tap}"),
                mac=lease.gateway_mac,
                mtu=one.port.mtu,
                address=gateway_addresses(lease),
                netns=netns,
                ifgroup=one.group,
            )
        ]

    def switch(self, switch: Switch) -> FabricConfig:
        """A switch of the file with what is plugged into it."""
        fabric = switch.fabric
        ports = [_in_domain(port, switch) for port in fabric.ports]
        ports += self.plugged.get(fabric.name, [])
        if not switch.enabled:
            ports = [replace(port, link_up=False) for port in ports]
        return replace(fabric, ports=tuple(ports))

    def socket(self, name: str, path: Path) -> Path:
        """A path that a socket can have."""
        size = len(os.fsencode(path))
        if size > SOCKET_PATH_MAX:
            problem = f"{path}: {size} bytes, and a socket's path has {SOCKET_PATH_MAX} at most"
            mend = "give it or the site a shorter name, or set XDG_RUNTIME_DIR to a shorter path"
            self.problems.append(f"{name}: {problem}; {mend}")
        return path

    def check_taps(self, switches: tuple[FabricConfig, ...]) -> None:
        """One tap of a name in each namespace."""
        taken: dict[tuple[str, str | None], str] = {}
        for port in (port for fabric in (*switches, *self.small) for port in fabric.ports):
            if port.kind is Kind.TAP:
                other = taken.setdefault((port.where, port.netns), port.name)
                if other != port.name:
                    problem = f"tap {port.where} is {other}'s too; give one of them tap="
                    self.problems.append(f"{port.name}: {problem}")


def _in_domain(port: PortConfig, switch: Switch) -> PortConfig:
    """A port of the file where its switch says that its taps and interfaces are."""
    if port.kind in (Kind.TAP, Kind.INTERFACE):
        port = replace(port, netns=port.netns or switch.rdomain)
    if port.kind is Kind.TAP:
        port = replace(port, ifgroup=port.ifgroup or switch.group)
    return port
