"""A fabric from its configuration to its end: everything is put together here.

How it works: taps are opened and the control socket is taken first, because what can be refused
should be refused before the engine is compiled; then the engine is loaded, ports are plugged in,
guests' sockets are opened, and `ready` is called.  SIGTERM or SIGINT ends it: sessions first (the
worker has let go of each ring when its session ends, every finished frame published), then the
worker, taps and sockets.  A second signal kills as usual.  A thread that dies of an error ends
the fabric with status 1 instead of leaving it half alive.

Invariants: whatever was made is undone in reverse order, also when a later step fails.
Threads: everything here is one thread; the fabric's worker is its own.
"""

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from vionet.config import FabricConfig, Kind, PortConfig
from vionet.daemon import place
from vionet.daemon.control import Control
from vionet.daemon.status import LivePort, status_document
from vionet.engine.status import FabricKind
from vionet.ports import link
from vionet.ports.tap import Tap, TapError, open_tap
from vionet.vhost_user.listener import Listener, SocketError

if TYPE_CHECKING:
    from vionet.fabric import Fabric
    from vionet.ports.guest import GuestPort
    from vionet.vhost_user.backend import Backend

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_RINGS: Final = ("receiveq", "transmitq")
_WATCH_S: Final = 1.0  # how long a front-end may keep the worker waiting, at least
_NOTICES_MAX: Final = 100  # log lines; a guest that breaks rings all day must not fill a disk


class RunError(Exception):
    """Why a fabric cannot run, and how to mend it; one line."""


def run(
    config: FabricConfig,
    *,
    control: Path | None,
    named: bool,
    loading: Callable[[], AbstractContextManager[None]],
    ready: Callable[[], None],
) -> None:
    """Run a fabric until a signal.

    `named` keeps its name as it is; `loading` surrounds the import of the engine; `ready` is
    called when all sockets accept connections.
    """
    before = {number: signal.signal(number, _leave) for number in _SIGNALS}
    try:
        with ExitStack() as stack:
            taps = {
                port.name: stack.enter_context(_until_owned(_open(port)))
                for port in config.ports
                if port.kind is Kind.TAP
            }
            config, listener = _take_control(config, control, named)
            stack.callback(listener.close)
            with loading():
                from vionet.engine.layout import PORTS_MAX
                from vionet.fabric import Fabric
            if len(config.ports) > PORTS_MAX:
                problem = f"{len(config.ports)} ports; a fabric has at most {PORTS_MAX}, use two"
                raise RunError(f"{config.name}: {problem}")
            fabric = Fabric(config.kind, config.name)
            stack.callback(fabric.close)
            asyncio.run(_serve(config, fabric, taps, listener, ready))
    except (SocketError, TapError) as error:
        raise RunError(str(error)) from error
    except OSError as error:
        raise RunError(f"{config.name}: {error.strerror or error}") from error
    finally:
        for number, action in before.items():
            signal.signal(number, action)


def _leave(number: int, frame: object) -> None:
    """A signal before the loop runs: leave by way of all that has to be undone."""
    raise SystemExit(0)


class _Unowned:
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


def _until_owned(tap: Tap) -> AbstractContextManager[_Unowned]:
    return contextlib.closing(_Unowned(tap))


def _open(port: PortConfig) -> Tap:
    return open_tap(
        port.where,
        fd=port.fd,
        mac=port.mac,
        mtu=port.mtu,
        address=port.address,
        partial=port.gives_partial,
    )


def _take_control(
    config: FabricConfig, control: Path | None, named: bool
) -> tuple[FabricConfig, Listener]:
    """The control socket, and the configuration with the name that the fabric really has."""
    if control is not None:
        return config, place.listen_at(control)
    name, listener = place.listen_as(config.name, exact=named)
    return FabricConfig(name=name, kind=config.kind, ports=config.ports), listener


async def _serve(
    config: FabricConfig,
    fabric: "Fabric",
    taps: Mapping[str, _Unowned],
    listener: Listener,
    ready: Callable[[], None],
) -> None:
    from vionet.vhost_user.backend import Backend

    log = structlog.get_logger("vionet.daemon").bind(fabric=config.name)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end() -> None:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        ended.set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, end)
    deaths: list[str] = []

    def died(args: threading.ExceptHookArgs) -> None:
        deaths.append(f"{args.exc_type.__name__}: {args.exc_value}")
        threading.__excepthook__(args)
        loop.call_soon_threadsafe(ended.set)

    threading.excepthook = died
    live, guests = _plug(config, fabric, taps, log)
    backends: dict[str, Backend] = {}
    async with AsyncExitStack() as stack:
        for port in config.ports:
            if port.kind is Kind.GUEST:
                backend = Backend(
                    guests[port.name],
                    port.where,
                    connect=port.client,
                    mode=port.mode,
                    group=port.group,
                    name=port.name,
                )
                backend.start()
                stack.push_async_callback(backend.close)
                backends[port.name] = backend
        fabric.start()
        watch = loop.create_task(_watch(fabric, backends))
        stack.callback(watch.cancel)
        control = Control(listener, lambda: status_document([(config, live)]))
        stack.push_async_callback(control.close)
        await control.open()
        loop.add_reader(fabric.notice_fd, _Notices(log, fabric.notice_fd, guests).tell)
        stack.callback(loop.remove_reader, fabric.notice_fd)
        log.info("ready", ports=len(live), control=str(listener.path))
        ready()
        await ended.wait()
        threading.excepthook = threading.__excepthook__
        log.info("ending")
    if deaths:
        raise RunError(f"{config.name}: the worker died, please report it: {deaths[0]}")


async def _watch(fabric: "Fabric", backends: Mapping[str, "Backend"]) -> None:
    """End the session of a front-end in whose call descriptor the worker hangs."""
    while True:
        await asyncio.sleep(_WATCH_S)
        name = fabric.stuck()
        if name is not None:
            backends[name].drop("writing its call descriptor blocks")


def _plug(
    config: FabricConfig,
    fabric: "Fabric",
    taps: Mapping[str, _Unowned],
    log: structlog.stdlib.BoundLogger,
) -> tuple[dict[str, LivePort], dict[str, "GuestPort"]]:
    """Plug every port in; all of them by name, and the guests among them."""
    live: dict[str, LivePort] = {}
    guests: dict[str, GuestPort] = {}
    for port in config.ports:
        if port.kind is Kind.TAP:
            tap = taps[port.name].give()
            live[port.name] = fabric.add_tap(port, tap)
            _report_tap(log, port, tap)
        else:
            live[port.name] = guests[port.name] = fabric.add_guest(port)
    _filter_taps(config, fabric)
    return live, guests


def _filter_taps(config: FabricConfig, fabric: "Fabric") -> None:
    """On a wire, the kernel keeps back what the locked guest at the other end must not see."""
    from vionet.ports.tap_port import TapPort

    if config.kind is not FabricKind.WIRE:
        return
    for port, other in zip(fabric.ports, reversed(config.ports), strict=True):
        if isinstance(port, TapPort) and other.locked and other.mac is not None:
            port.filter_destination(other.mac)


def _report_tap(log: structlog.stdlib.BoundLogger, port: PortConfig, tap: Tap) -> None:
    log.info("tap open", port=port.name, interface=tap.name, made=tap.made, mtu=tap.mtu)
    if not link.link_up(tap.name):
        log.warning("the tap is down", port=port.name, mend=f"ip link set {tap.name} up")
    if not tap.takes_partial or tap.gives_partial < port.gives_partial:
        log.warning("the tap takes no checksum offload, so every sum is finished", port=port.name)


class _Notices:
    """What the worker wants people to know: rings that their driver broke, each said once."""

    def __init__(
        self, log: structlog.stdlib.BoundLogger, notice_fd: int, guests: Mapping[str, "GuestPort"]
    ) -> None:
        self._log = log
        self._notice_fd = notice_fd
        self._guests = guests
        self._known: set[tuple[str, int]] = set()
        self._lines = _NOTICES_MAX

    def tell(self) -> None:
        """Log what is new."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._notice_fd)
        broken = {
            (name, ring) for name, guest in self._guests.items() for ring in guest.broken_rings
        }
        for name, ring in sorted(broken - self._known):
            if self._lines > 0:
                self._lines -= 1
                self._log.warning("the driver broke its ring", port=name, ring=_RINGS[ring])
        self._known = broken
