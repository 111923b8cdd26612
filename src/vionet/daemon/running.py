"""A running fabric as the control socket sees it: what it is asked, and what may be changed.

How it works: `Running` keeps the configuration as it is now beside the live ports.  A change is
judged completely before anything is touched; then the port takes it, and only then it becomes the
configuration.  A port that could not take it is given its former options again.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import structlog

from vionet.config import ConfigError, FabricConfig, changed_port
from vionet.config.option import suggest
from vionet.daemon.control import RequestError, Requests
from vionet.daemon.status import LivePort, port_document, status_document


class Running:
    """One fabric and its ports."""

    def __init__(
        self,
        config: FabricConfig,
        live: Mapping[str, LivePort],
    ) -> None:
        self.config = config
        self._live = live
        self._log = structlog.get_logger("vionet.daemon").bind(fabric=config.name)

    @property
    def requests(self) -> Requests:
        """What the control socket answers."""
        return {"status": self._status, "set": self._set}

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
