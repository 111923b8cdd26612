"""A running fabric as the control socket sees it: what it is asked, and what may be changed.

How it works: `Running` keeps the configuration as it is now beside the live ports.  A change is
judged completely before anything is touched; then the port takes it, and only then it becomes the
configuration.  A port that could not take it is given its former options again.

Ports are added and removed one at a time, each to its end, whatever becomes of who asked.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, Protocol

import structlog

from vionet.config import ConfigError, FabricConfig, changed_port
from vionet.config.option import suggest
from vionet.daemon.control import RequestError, Requests
from vionet.daemon.status import LivePort, port_document, status_document
from vionet.ports.interface import InterfaceError
from vionet.ports.tap import TapError
from vionet.vhost_user.listener import SocketError


class Pluggable(Protocol):
    """What ports are plugged into (`daemon.plug`)."""

    @property
    def live(self) -> Mapping[str, LivePort]:
        """The ports by name."""

    async def add(self, config: FabricConfig) -> None:
        """Plug in the last port of `config`, or raise and leave nothing behind."""

    async def remove(self, name: str) -> None:
        """Unplug a port."""


class Running:
    """One fabric and its ports."""

    def __init__(self, config: FabricConfig, plugs: Pluggable) -> None:
        self.config = config
        self._plugs = plugs
        self._live = plugs.live
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[dict[str, Any]]] = set()
        self._log = structlog.get_logger("vionet.daemon").bind(fabric=config.name)

    @property
    def requests(self) -> Requests:
        """What the control socket answers."""
        return {
            "status": self._status,
            "set": self._set,
            "add": lambda request: self._whole(self._add(request)),
            "remove": lambda request: self._whole(self._remove(request)),
        }

    async def close(self) -> None:
        """Wait for what was begun."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _status(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return {"status": status_document([(self.config, self._live)])}

    def _set(self, request: Mapping[str, Any]) -> dict[str, Any]:
        name, options = request.get("port"), request.get("options")
        if not isinstance(name, str) or not isinstance(options, list) or not options:
            raise RequestError('set needs "port":NAME and "options":["option=value", …]')
        if not all(isinstance(option, str) for option in options):
            raise RequestError('each of "options" is a text as on the command line')
        before = {port.name: port for port in self.config.ports}
        if name not in before:
            raise RequestError(f"{name}: no such port; {suggest(name, before)}")
        try:
            port = changed_port(before[name], options)
            self.config.check_vlans(port)
        except ConfigError as error:
            raise RequestError(str(error)) from None
        live = self._live[name]
        try:
            live.change(port)
        except OSError as error:
            with contextlib.suppress(OSError):
                live.change(before[name])
            raise RequestError(f"{name}: {error.strerror or error}; nothing changed") from None
        ports = tuple(port if port.name == one.name else one for one in self.config.ports)
        self.config = replace(self.config, ports=ports)
        self._log.info("port changed", port=name, options=" ".join(options))
        return {"port": port_document(port, live)}

    def _whole(self, change: Coroutine[Any, Any, dict[str, Any]]) -> Awaitable[dict[str, Any]]:
        task = asyncio.get_running_loop().create_task(change)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return asyncio.shield(task)

    async def _add(self, request: Mapping[str, Any]) -> dict[str, Any]:
        text = request.get("port")
        if not isinstance(text, str):
            raise RequestError('add needs "port":"NAME=PORT"')
        async with self._turn:
            try:
                config = self.config.with_port(text)
                await self._plugs.add(config)
            except ConfigError as error:
                raise RequestError(str(error)) from None
            except (OSError, InterfaceError, SocketError, TapError, ValueError) as error:
                problem = (isinstance(error, OSError) and error.strerror) or str(error)
                raise RequestError(f"{problem}; nothing changed") from None
            port = config.ports[-1]
            self.config = replace(self.config, ports=(*self.config.ports, port))
        self._log.info("port added", port=port.name, options=text)
        return {"port": port_document(port, self._live[port.name])}

    async def _remove(self, request: Mapping[str, Any]) -> dict[str, Any]:
        name = request.get("port")
        if not isinstance(name, str):
            raise RequestError('remove needs "port":NAME')
        async with self._turn:
            before = {port.name: port for port in self.config.ports}
            if name not in before:
                raise RequestError(f"{name}: no such port; {suggest(name, before)}")
            try:
                self.config = self.config.without_port(name)
            except ConfigError as error:
                raise RequestError(str(error)) from None
            document = port_document(before[name], self._live[name])
            await self._plugs.remove(name)
        self._log.info("port removed", port=name)
        return {"port": document}
