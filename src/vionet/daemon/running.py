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
from typing import Any, Final, Protocol

import structlog

from vionet.config import ConfigError, FabricConfig, can_follow, changed_port
from vionet.config.option import suggest
from vionet.daemon.capture import Capturing, capture
from vionet.daemon.control import Attached, RequestError, Requests
from vionet.daemon.status import LiveFabric, port_document, status_document
from vionet.ports.interface import InterfaceError
from vionet.ports.tap import TapError
from vionet.vhost_user.listener import SocketError

OPENING: Final = (OSError, InterfaceError, SocketError, TapError)  # what the host refuses


class Pluggable(LiveFabric, Capturing, Protocol):
    """What ports are plugged into (`daemon.plug`)."""

    async def add(self, config: FabricConfig) -> None:
        """Plug in the last port of `config`, or raise and leave nothing behind."""

    async def remove(self, name: str) -> None:
        """Unplug a port."""

    def pass_reserved(self, word: int) -> None:
        """Which frames for the next bridge pass from now on."""


class Running:
    """One fabric and its ports."""

    def __init__(self, config: FabricConfig, plugs: Pluggable) -> None:
        self.config = config
        self._plugs = plugs
        self._live = plugs.live
        self._turn = asyncio.Lock()
        self._over = asyncio.Event()
        self._tasks: set[asyncio.Task[dict[str, Any]]] = set()
        self._log = structlog.get_logger("vionet.daemon").bind(fabric=config.name)

    @property
    def requests(self) -> Requests:
        """What the control socket answers."""
        return {
            "status": self._status,
            "set": self._set,
            "capture": self._capture,
            "add": lambda request, peer: self._whole(self._add(request)),
            "remove": lambda request, peer: self._whole(self._remove(request)),
        }

    async def follow(self, config: FabricConfig) -> None:
        """Become `config`, which differs in ports and reserved addresses only; ports that it has
        too do not notice, and of those that differ only the ones that cannot change are replaced.

        Where one cannot be plugged in, that is raised at the end: the others follow all the same.
        """
        wanted, refused = {port.name: port for port in config.ports}, []
        async with self._turn:
            for port in self.config.ports:
                new = wanted.get(port.name)
                if new == port:
                    continue
                if new is not None and can_follow(port, new):
                    try:
                        self._live[port.name].change(new)
                        self._log.info("port changed", port=port.name)
                    except OSError as error:
                        refused.append(f"{port.name}: {error.strerror or error}; as it was")
                        wanted[port.name] = port
                        with contextlib.suppress(OSError):
                            self._live[port.name].change(port)
                else:
                    await self._plugs.remove(port.name)
                    self._log.info("port removed", port=port.name)
            kept = [wanted[name] for name in self._live]
            for port in config.ports:
                if port.name not in self._live:
                    try:
                        await self._plugs.add(replace(config, ports=(*kept, port)))
                        self._log.info("port added", port=port.name)
                    except (*OPENING, ValueError) as error:
                        refused.append(f"{port.name}: {error}")
            if config.reserved != self.config.reserved:
                self._plugs.pass_reserved(config.reserved)
            ports = tuple(wanted[port.name] for port in config.ports if port.name in self._live)
            self.config = replace(config, ports=ports)
        if refused:
            raise RequestError("; ".join(refused))

    async def close(self) -> None:
        """Wait for what was begun, and end what lasts."""
        self._over.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _status(self, request: Mapping[str, Any], _: Any = None) -> dict[str, Any]:
        return {"status": status_document([(self.config, self._plugs)])}

    def _set(self, request: Mapping[str, Any], _: Any = None) -> dict[str, Any]:
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

    def _capture(self, request: Mapping[str, Any], _: Any = None) -> Attached:
        return capture(request, self.config.name, self._plugs, self._over)

    def _whole(self, change: Coroutine[Any, Any, dict[str, Any]]) -> Awaitable[dict[str, Any]]:
        task = asyncio.get_running_loop().create_task(change)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return asyncio.shield(task)

    async def _add(self, request: Mapping[str, Any], _: Any = None) -> dict[str, Any]:
        text = request.get("port")
        if not isinstance(text, str):
            raise RequestError('add needs "port":"NAME=PORT"')
        async with self._turn:
            try:
                config = self.config.with_port(text)
                await self._plugs.add(config)
            except ConfigError as error:
                raise RequestError(str(error)) from None
            except (*OPENING, ValueError) as error:
                problem = (isinstance(error, OSError) and error.strerror) or str(error)
                raise RequestError(f"{problem}; nothing changed") from None
            port = config.ports[-1]
            self.config = replace(self.config, ports=(*self.config.ports, port))
        self._log.info("port added", port=port.name, options=text)
        return {"port": port_document(port, self._live[port.name])}

    async def _remove(self, request: Mapping[str, Any], _: Any = None) -> dict[str, Any]:
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
