"""One fabric from its configuration to its end: `vionet switch`, `vionet wire`.

How it works: taps and interfaces are opened and the control socket is taken first, because what can
be refused should be refused before the engine is compiled; then the engine is loaded, the fabric is
opened (`daemon.live`), and `ready` is called.  SIGTERM or SIGINT ends it (`daemon.foreground`).

Invariants: whatever was made is undone in reverse order, also when a later step fails.
Threads: everything here is one thread; the fabric's workers are its own.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from vionet.config import FabricConfig
from vionet.daemon import place
from vionet.daemon.control import Control
from vionet.daemon.endpoint import Address, AnyListener, listening
from vionet.daemon.foreground import Ending, RunError, foreground
from vionet.daemon.live import FabricError, Live
from vionet.daemon.notify import Notify
from vionet.daemon.plug import Unowned, open_port, opened
from vionet.daemon.scrape import Scrapes
from vionet.daemon.status import status_document
from vionet.ports.interface import InterfaceError
from vionet.ports.tap import TapError
from vionet.vhost_user.listener import Listener, SocketError


def run(
    config: FabricConfig,
    *,
    control: Path | None,
    metrics: Address | None = None,
    named: bool,
    loading: Callable[[], AbstractContextManager[None]],
    ready: Callable[[], None],
) -> None:
    """Run a fabric until a signal.

    `named` keeps its name as it is; `loading` surrounds the import of the engine; `ready` is
    called when all sockets accept connections.
    """
    systemd = Notify.from_environment()
    with foreground({}):
        try:
            with ExitStack() as stack:
                found = stack.enter_context(opened(config, open_port))
                config, listener = _take_control(config, control, named)
                stack.callback(listener.close)
                scraped = stack.enter_context(listening(metrics))
                with loading():
                    import vionet.fabric  # noqa: F401 - and with it the engine
                asyncio.run(_serve(config, found, listener, scraped, systemd, ready))
        except (FabricError, InterfaceError, SocketError, TapError) as error:
            raise RunError(str(error)) from error
        except OSError as error:
            raise RunError(f"{config.name}: {error.strerror or error}") from error


def _take_control(
    config: FabricConfig, control: Path | None, named: bool
) -> tuple[FabricConfig, Listener]:
    """The control socket, and the configuration with the name that the fabric really has."""
    if control is not None:
        return config, place.listen_at(control)
    name, listener = place.listen_as(config.name, exact=named)
    return replace(config, name=name), listener


def _status(live: Live) -> Any:
    return status_document([(live.running.config, live.plugs)])


async def _serve(
    config: FabricConfig,
    found: Mapping[str, Unowned],
    listener: Listener,
    scraped: AnyListener | None,
    systemd: Notify,
    ready: Callable[[], None],
) -> None:
    log = structlog.get_logger("vionet.daemon").bind(fabric=config.name)
    async with Ending(config.name) as ending, AsyncExitStack() as stack:
        live = Live(config, listener.path.with_suffix(".rings"))
        await live.open(found)
        stack.push_async_callback(live.close)
        control = Control(listener, live.running.requests)
        stack.push_async_callback(control.close)
        await control.open()
        if scraped:
            await stack.enter_async_context(Scrapes(scraped, partial(_status, live)))
        log.info("ready", ports=len(config.ports), control=str(listener.path))
        systemd.watchdog(lambda: live.alive)
        stack.callback(systemd.close)
        systemd.ready()
        ready()
        await ending.wait()
        systemd.stopping()
        log.info("ending")
