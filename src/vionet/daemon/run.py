"""A fabric from its configuration to its end: everything is put together here.

How it works: taps and interfaces are opened and the control socket is taken first, because what can
be refused should be refused before the engine is compiled; then the engine is loaded, ports are
plugged in, sockets of guests and streams are opened, and `ready` is called.  SIGTERM or SIGINT ends
it: sessions first (the worker has let go of each ring when its session ends, every finished frame
published), then the worker, taps and sockets.  A second signal kills as usual.  A thread that dies
of an error ends the fabric with status 1 instead of leaving it half alive.

Invariants: whatever was made is undone in reverse order, also when a later step fails.
Threads: everything here is one thread; the fabric's worker is its own.
"""

import asyncio
import resource
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from vionet.config import FabricConfig
from vionet.daemon import place
from vionet.daemon.control import Control
from vionet.daemon.notice import Notices
from vionet.daemon.plug import Plugs, Unowned, opened
from vionet.daemon.running import Running
from vionet.daemon.watch import Watch
from vionet.ports.interface import InterfaceError
from vionet.ports.tap import TapError
from vionet.vhost_user.listener import Listener, SocketError

if TYPE_CHECKING:
    from vionet.fabric import Fabric

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


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
    # A guest of eight pairs holds some 40 descriptors, and 1024 are usual.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        with ExitStack() as stack:
            found = stack.enter_context(opened(config))
            config, listener = _take_control(config, control, named)
            stack.callback(listener.close)
            with loading():
                from vionet.engine.layout import PORTS_MAX
                from vionet.fabric import Fabric
            if len(config.ports) > PORTS_MAX:
                problem = f"{len(config.ports)} ports; a fabric has at most {PORTS_MAX}, use two"
                raise RunError(f"{config.name}: {problem}")
            fabric = Fabric(config.kind, config.name, config.workers, config.cores)
            stack.callback(lambda: fabric.positions.close())
            stack.callback(fabric.close)
            asyncio.run(_serve(config, fabric, found, listener, ready))
    except (InterfaceError, SocketError, TapError) as error:
        raise RunError(str(error)) from error
    except OSError as error:
        raise RunError(f"{config.name}: {error.strerror or error}") from error
    finally:
        for number, action in before.items():
            signal.signal(number, action)


def _leave(number: int, frame: object) -> None:
    """A signal before the loop runs: leave by way of all that has to be undone."""
    raise SystemExit(0)


def _take_control(
    config: FabricConfig, control: Path | None, named: bool
) -> tuple[FabricConfig, Listener]:
    """The control socket, and the configuration with the name that the fabric really has."""
    if control is not None:
        return config, place.listen_at(control)
    name, listener = place.listen_as(config.name, exact=named)
    return replace(config, name=name), listener


async def _serve(
    config: FabricConfig,
    fabric: "Fabric",
    found: Mapping[str, Unowned],
    listener: Listener,
    ready: Callable[[], None],
) -> None:
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
    plugs = Plugs(fabric, listener.path, log)
    plugs.plug_in(config, found)
    running = Running(config, plugs)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(plugs.close)
        for port in config.ports:
            plugs.serve(port)
        fabric.start()
        watch = Watch(fabric, plugs.served)
        stack.callback(watch.close)
        control = Control(listener, running.requests)
        stack.push_async_callback(running.close)
        stack.push_async_callback(control.close)
        await control.open()
        notices = Notices(log, fabric.notice_fd, plugs.guests, [watch, plugs])
        loop.add_reader(fabric.notice_fd, notices.tell)
        stack.callback(loop.remove_reader, fabric.notice_fd)
        log.info("ready", ports=len(plugs.live), control=str(listener.path))
        ready()
        await ended.wait()
        threading.excepthook = threading.__excepthook__
        log.info("ending")
    if deaths:
        raise RunError(f"{config.name}: the worker died, please report it: {deaths[0]}")
