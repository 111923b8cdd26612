"""Plugging the ports of a configuration in: what is opened, by whom it is closed, what is said.

How it works: taps and interfaces are opened first (`opened`), because what can be refused should be
refused before the engine is compiled; each is closed here unless the fabric has taken it.  Then
each port is plugged in (`plug_in`).  On a wire the two ends know of each other: the kernel keeps
back what a locked guest at the other end must not see, and sends through a tap what the guest there
has agreed to, so that it goes into that guest's buffers uncopied.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from vionet.config import FabricConfig, Kind, PortConfig
from vionet.daemon.status import LivePort
from vionet.engine.status import FabricKind
from vionet.ports import link
from vionet.ports.interface import Interface, open_interface
from vionet.ports.tap import Tap, open_tap
from vionet.spec import virtio

if TYPE_CHECKING:
    from vionet.fabric import Fabric
    from vionet.ports.guest import GuestPort
    from vionet.ports.position import Positions
    from vionet.ports.stream_port import StreamPort


@dataclass(slots=True)
class Plugged:
    """The live ports of a fabric by name, and those among them that somebody has to serve."""

    live: dict[str, LivePort] = field(default_factory=dict)
    guests: dict[str, "GuestPort"] = field(default_factory=dict)
    streams: dict[str, "StreamPort"] = field(default_factory=dict)


class Unowned:
    """A tap or an interface that is closed here unless the fabric has taken it."""

    def __init__(self, held: Tap | Interface) -> None:
        self._held: Tap | Interface | None = held

    def give(self) -> Tap | Interface:
        """Hand it to its new owner."""
        held, self._held = self._held, None
        assert held is not None
        return held

    def close(self) -> None:
        """Close it if it is still here."""
        if self._held is not None:
            self._held.close()


@contextmanager
def opened(config: FabricConfig) -> Iterator[Mapping[str, Unowned]]:
    """The taps and interfaces by the names of their ports, until they have an owner."""
    with ExitStack() as stack:
        found = {}
        for port in config.ports:
            if port.kind in (Kind.TAP, Kind.INTERFACE):
                found[port.name] = Unowned(_open(port))
                stack.callback(found[port.name].close)
        yield found


def _open(port: PortConfig) -> Tap | Interface:
    if port.kind is Kind.INTERFACE:
        return open_interface(port.where, header=port.takes_partial or port.gives_partial)
    return open_tap(port.where, fd=port.fd, mac=port.mac, mtu=port.mtu, address=port.address)


def open_positions(
    config: FabricConfig, control: Path, log: structlog.stdlib.BoundLogger
) -> "Positions":
    """The file of packed rings' positions, beside the control socket; it stays there."""
    from vionet.ports.position import NO_POSITIONS, Positions

    if not any(port.features >> virtio.VIRTIO_F_RING_PACKED & 1 for port in config.ports):
        return NO_POSITIONS
    path = control.with_suffix(".rings")
    try:
        return Positions(path)
    except OSError as error:
        cost = "a restart will stop packed rings of front-ends that cannot restore a position"
        log.warning("no file of positions", path=str(path), error=error.strerror, cost=cost)
        return NO_POSITIONS


def plug_in(
    config: FabricConfig,
    fabric: "Fabric",
    found: Mapping[str, Unowned],
    log: structlog.stdlib.BoundLogger,
) -> Plugged:
    """Plug every port in, and say once what a person should know of it."""
    plugged = Plugged()
    for port in config.ports:
        if port.kind is Kind.GUEST:
            plugged.live[port.name] = plugged.guests[port.name] = fabric.add_guest(port)
        elif port.kind is Kind.STREAM:
            plugged.live[port.name] = plugged.streams[port.name] = fabric.add_stream(port)
        else:
            plugged.live[port.name] = _plug_kernel(port, fabric, found[port.name].give(), log)
        for warning in plugged.live[port.name].warnings:
            log.warning(warning, port=port.name)
    fabric.set_reserved(config.reserved)
    if config.kind is FabricKind.WIRE:
        _join(config, fabric)
    return plugged


def _plug_kernel(
    port: PortConfig, fabric: "Fabric", held: Tap | Interface, log: structlog.stdlib.BoundLogger
) -> LivePort:
    fields = {"port": port.name, "interface": held.name, "mtu": held.mtu}
    live: LivePort
    if isinstance(held, Tap):
        log.info("tap open", made=held.made, **fields)
        live = fabric.add_tap(port, held)
    else:
        log.info("interface open", **fields)
        live = fabric.add_interface(port, held)
    if not link.link_up(held.name):
        log.warning("the interface is down", mend=f"ip link set {held.name} up", port=port.name)
    return live


def _join(config: FabricConfig, fabric: "Fabric") -> None:
    """On a wire, each end follows what the other takes and may see."""
    from vionet.ports.guest import GuestPort
    from vionet.ports.kernel_port import KernelPort
    from vionet.ports.tap_port import TapPort

    for port, peer, other in zip(
        fabric.ports, reversed(fabric.ports), reversed(config.ports), strict=True
    ):
        if isinstance(port, KernelPort) and other.locked and other.mac is not None:
            port.filter_destination(other.mac)
        if isinstance(port, TapPort) and isinstance(peer, GuestPort):
            peer.follower = port.peer_takes
