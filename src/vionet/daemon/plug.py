"""Plugging the ports of a configuration in: what is opened, by whom it is closed, what is said.

How it works: taps and interfaces are opened first (`opened`), because what can be refused should be
refused before the engine is compiled; each is closed here unless the fabric has taken it.  Then
each port is plugged in and its socket opened (`Plugs`), some of them while others are in use.  On a
wire the two ends know of each other: the kernel keeps
back what a locked guest at the other end must not see, and sends through a tap what the guest there
has agreed to, so that it goes into that guest's buffers uncopied.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from vionet.config import FabricConfig, Kind, PortConfig
from vionet.daemon.drops import DropLog
from vionet.daemon.status import LivePort
from vionet.engine.status import FabricKind
from vionet.ports.interface import Interface, open_interface
from vionet.ports.namespace import open_interface_in, open_tap_in
from vionet.ports.tap import Tap, open_tap
from vionet.services.responder import Responder
from vionet.spec import virtio
from vionet.vhost_user.peer import Cause

if TYPE_CHECKING:
    from vionet.fabric import Fabric
    from vionet.fabric.capture import CaptureRing
    from vionet.ports.guest import GuestPort
    from vionet.ports.position import Positions
    from vionet.ports.stream import StreamSocket
    from vionet.vhost_user.backend import Backend

Opener = Callable[[PortConfig], Tap | Interface]


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
def opened(config: FabricConfig, opener: Opener) -> Iterator[Mapping[str, Unowned]]:
    """The taps and interfaces by the names of their ports, until they have an owner."""
    with ExitStack() as stack:
        found = {}
        for port in config.ports:
            if port.kind in (Kind.TAP, Kind.INTERFACE):
                found[port.name] = Unowned(opener(port))
                stack.callback(found[port.name].close)
        yield found


def open_port(port: PortConfig) -> Tap | Interface:
    """Open the tap or the interface of a port."""
    if port.kind is Kind.INTERFACE:
        header = port.takes_partial or port.gives_partial
        if port.netns:
            return open_interface_in(port.netns, port.where, header=header)
        return open_interface(port.where, header=header)
    settings: dict[str, Any] = {
        name: getattr(port, name) for name in ("fd", "mac", "mtu", "address", "ifgroup")
    }
    if port.netns:
        return open_tap_in(port.netns, port.where, **settings)
    return open_tap(port.where, **settings)


def open_positions(
    config: FabricConfig, path: Path, log: structlog.stdlib.BoundLogger
) -> "Positions":
    """The file of packed rings' positions; it stays there."""
    from vionet.ports.position import NO_POSITIONS, Positions

    if not any(port.features >> virtio.VIRTIO_F_RING_PACKED & 1 for port in config.ports):
        return NO_POSITIONS
    try:
        return Positions(path)
    except OSError as error:
        cost = "a restart will stop packed rings of front-ends that cannot restore a position"
        log.warning("no file of positions", path=str(path), reason=error.strerror, cost=cost)
        return NO_POSITIONS


class Plugs:
    """The live ports of a fabric by name, and the sockets of those that have one."""

    def __init__(
        self,
        fabric: "Fabric",
        rings: Path,
        log: structlog.stdlib.BoundLogger,
        opener: Opener,
    ) -> None:
        """None yet; the positions of packed rings lie in the file `rings`."""
        self._fabric, self._rings, self._log, self._opener = fabric, rings, log, opener
        self.live: dict[str, LivePort] = {}
        self.taps: dict[str, Tap] = {}
        self.guests: dict[str, GuestPort] = {}
        self.served: dict[str, Backend | StreamSocket] = {}
        self._responders: dict[str, Responder] = {}
        self.drops = DropLog(log, self.live)

    def plug_in(self, config: FabricConfig, found: Mapping[str, Unowned]) -> None:
        """Plug every port in, and say once what a person should know of it."""
        self._fabric.positions = open_positions(config, self._rings, self._log)
        for port in config.ports:
            self._plug(port, found.get(port.name))
        self._fabric.set_reserved(config.reserved)
        if config.kind is FabricKind.WIRE:
            _join(config, self._fabric)

    def serve(self, port: PortConfig) -> None:
        """Listen, or begin to connect, for a guest or a stream; answer, for a service."""
        from vionet.ports.service_port import ServicePort
        from vionet.ports.stream import StreamSocket
        from vionet.ports.stream_port import StreamPort
        from vionet.vhost_user.backend import Backend

        live = self.live[port.name]
        settings: dict[str, Any] = {"connect": port.client, "mode": port.mode, "group": port.group}
        settings["fabric"] = self._fabric.name
        if port.name in self.guests:
            guest = self.guests[port.name]
            served: Backend | StreamSocket = Backend(guest, port.where, name=port.name, **settings)
        elif isinstance(live, ServicePort):
            assert port.lease is not None
            responder = self._responders[port.name] = Responder(
                live.end, port.lease, port.name, self._fabric.name
            )
            responder.start()
            return
        elif isinstance(live, StreamPort):
            served = StreamSocket(live, port.where, **settings)
        else:
            return
        served.start()
        self.served[port.name] = served

    async def add(self, config: FabricConfig) -> None:
        """Plug the last port of `config` in while the others are in use; where that raises, nothing
        is left of it."""
        from vionet.ports.position import NO_POSITIONS

        port = config.ports[-1]
        held = None
        if port.kind in (Kind.TAP, Kind.INTERFACE):  # whose self-test takes its time
            held = Unowned(await asyncio.to_thread(self._opener, port))
        if self._fabric.positions is NO_POSITIONS:
            self._fabric.positions = open_positions(config, self._rings, self._log)
        self._plug(port, held)
        try:
            self.serve(port)
        except BaseException:
            await self.remove(port.name)
            raise

    async def remove(self, name: str) -> None:
        """End a port's session, close its socket, and unplug it."""
        if name in self.served:
            await self.served.pop(name).close(Cause.REMOVED)
        if name in self._responders:
            await self._responders.pop(name).close()
        self.drops.end(name)
        self.guests.pop(name, None)
        self.taps.pop(name, None)
        self._fabric.remove(self.live.pop(name))  # type: ignore[arg-type]

    def cpu_ns(self) -> list[int]:
        """How long each worker's thread has run."""
        return self._fabric.cpu_ns()

    def talks(self) -> Iterator[tuple[str, str, int, int, int, int]]:
        """What passed from port to port."""
        return self._fabric.talks()

    def captures(self) -> list[dict[str, Any]]:
        """Those that run."""
        keys = "number", "ports", "records", "lost"
        return [dict(zip(keys, one, strict=True)) for one in self._fabric.captures()]

    def capture(self, port: str | None, **settings: Any) -> "CaptureRing":
        """Record what passes a port, or all of them; a ValueError says why not."""
        ports: Any = None if port is None else [self.live[port]]
        return self._fabric.add_capture(ports, **settings)

    def end_capture(self, ring: "CaptureRing") -> None:
        """Record no more."""
        self._fabric.end_capture(ring)

    def pass_reserved(self, word: int) -> None:
        """Which frames for the next bridge pass from now on."""
        self._fabric.set_reserved(word)

    def look(self) -> None:
        """Look at what the workers left for the control plane."""
        for served in list(self.served.values()):
            served.look()

    async def close(self) -> None:
        """End all sessions and close their sockets."""
        for owners in (self.served, self._responders):
            for name in reversed(list(owners)):
                await owners.pop(name).close()
        self.drops.close()

    def _plug(self, port: PortConfig, held: Unowned | None) -> None:
        live: LivePort
        if port.kind is Kind.GUEST:
            live = self.guests[port.name] = self._fabric.add_guest(port)
        elif port.kind is Kind.STREAM:
            live = self._fabric.add_stream(port)
        elif port.kind is Kind.SERVICE:
            live = self._fabric.add_service(port)
        else:
            assert held is not None
            live = self._plug_kernel(port, held.give())
        self.live[port.name] = live
        for warning in live.warnings:
            self._log.warning("port warning", port=port.name, warning=warning)

    def _plug_kernel(self, port: PortConfig, held: Tap | Interface) -> LivePort:
        fields = {"port": port.name, "interface": held.name, "mtu": held.mtu}
        live: LivePort
        try:
            if isinstance(held, Tap):
                live = self._fabric.add_tap(port, held)
                self.taps[port.name] = held
                self._log.info("tap open", made=held.made, **fields)
            else:
                live = self._fabric.add_interface(port, held)
                self._log.info("interface open", **fields)
        except BaseException:
            held.close()
            raise
        if held.down:
            mend = f"ip link set {held.name} up"
            self._log.warning("the interface is down", mend=mend, port=port.name)
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
