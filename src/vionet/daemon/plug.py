"""Plugging the ports of a configuration in: what is opened, by whom it is closed, what is said.

How it works: taps are opened first (`opened`), because what can be refused should be refused before
the engine is compiled; each is closed here unless the fabric has taken it.  Then each port is
plugged in (`plug_in`).  On a wire the two ends know of each other: the kernel keeps back what a
locked guest at the other end must not see.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from vionet.config import FabricConfig, Kind, PortConfig
from vionet.daemon.status import LivePort
from vionet.engine.status import FabricKind
from vionet.ports import link
from vionet.ports.tap import Tap, open_tap

if TYPE_CHECKING:
    from vionet.fabric import Fabric
    from vionet.ports.guest import GuestPort
    from vionet.ports.stream_port import StreamPort


@dataclass(slots=True)
class Plugged:
    """The live ports of a fabric by name, and those among them that somebody has to serve."""

    live: dict[str, LivePort] = field(default_factory=dict)
    guests: dict[str, "GuestPort"] = field(default_factory=dict)
    streams: dict[str, "StreamPort"] = field(default_factory=dict)


class Unowned:
    """A tap that is closed here unless the fabric has taken it."""

    def __init__(self, tap: Tap) -> None:
        self._tap: Tap | None = tap

    def give(self) -> Tap:
        """Hand the tap to its new owner."""
        tap, self._tap = self._tap, None
        assert tap is not None
        return tap

    def close(self) -> None:
        """Close it if it is still here."""
        if self._tap is not None:
            self._tap.close()


@contextmanager
def opened(config: FabricConfig) -> Iterator[Mapping[str, Unowned]]:
    """The taps of a configuration by the names of their ports, until they have an owner."""
    with ExitStack() as stack:
        found = {}
        for port in config.ports:
            if port.kind is Kind.TAP:
                found[port.name] = Unowned(_open(port))
                stack.callback(found[port.name].close)
        yield found


def _open(port: PortConfig) -> Tap:
    return open_tap(port.where, fd=port.fd, mac=port.mac, mtu=port.mtu, address=port.address)


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
            tap = found[port.name].give()
            plugged.live[port.name] = fabric.add_tap(port, tap)
            log.info("tap open", port=port.name, interface=tap.name, made=tap.made, mtu=tap.mtu)
            if not link.link_up(tap.name):
                mend = f"ip link set {tap.name} up"
                log.warning("the interface is down", port=port.name, mend=mend)
        for warning in getattr(plugged.live[port.name], "warnings", ()):
            log.warning(warning, port=port.name)
    fabric.set_reserved(config.reserved)
    if config.kind is FabricKind.WIRE:
        _join(config, fabric)
    return plugged


def _join(config: FabricConfig, fabric: "Fabric") -> None:
    """On a wire, the kernel keeps back what the locked guest at the other end must not see."""
    from vionet.ports.tap_port import TapPort

    for port, other in zip(fabric.ports, reversed(config.ports), strict=True):
        if isinstance(port, TapPort) and other.locked and other.mac is not None:
            port.filter_destination(other.mac)
