"""Taps that outlive this process: duplicates of their descriptors, held by others.

How it works: a tap that vionet made is gone with its last descriptor, and with it the host's
addresses, routes and whatever talks through them.  So the keeper holds a duplicate of each, and
systemd's descriptor store another where there is one.  A successor takes them back (`open_port`)
if it wants the very same tap and nobody has deleted it; the others are let go of first (`release`),
and with the last descriptor the tap is gone: one of that name can be made anew.  What a descriptor
cannot say is written beside it (`taps.json`).

Invariants: after `keep` the holders hold the taps that it was given, as far as they have room.
Trust: the runtime folder and both holders are ours alone.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import structlog

from vionet.config import Kind, PortConfig
from vionet.daemon.notify import Notify
from vionet.daemon.plug import open_port
from vionet.ports.interface import Interface
from vionet.ports.tap import Tap, TapError, tap_from
from vionet.vm.keeping import Keeper, KeeperError

Held = tuple[PortConfig, Tap]


class KeptTaps:
    """The taps of a site by the names of their ports."""

    def __init__(
        self, path: Path, keeper: Keeper, systemd: Notify, inherited: Mapping[str, int]
    ) -> None:
        """`inherited` descriptors are owned from now on; what they are is written at `path`."""
        self._path, self._keeper, self._systemd = path, keeper, systemd
        self._log = structlog.get_logger("vionet.daemon")
        self._fds = dict(inherited)
        self._known: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            self._known = dict(json.loads(path.read_text()))
        self._held: dict[str, list[str]] = {}  # by the holders: which tap it is
        for name in {*inherited, *keeper.descriptors}:
            self._held[name] = self._known.get(name, {}).get("port", [])

    def open_port(self, port: PortConfig) -> Tap | Interface:
        """Open a port's tap or interface, or go on with the tap that a predecessor had."""
        fd = self._fds.pop(port.name, None)
        if fd is not None:
            try:
                return tap_from(fd, self._known[port.name]["tap"])
            except TapError:  # somebody deleted it meanwhile
                self._held[port.name] = []  # what is held is of no use
        return open_port(port)

    async def release(self, wanted: Iterable[PortConfig]) -> None:
        """Let go of all but these."""
        same = {port.name: _identity(port) for port in wanted if port.kind is Kind.TAP}
        for name, which in list(self._held.items()):
            if same.get(name) != which:
                await self._drop(name)

    async def keep(self, taps: Mapping[str, Held]) -> None:
        """Have these held, and no others."""
        made = {name: both for name, both in taps.items() if both[1].made}
        await self.release(port for port, _ in made.values())
        for name, (port, tap) in made.items():
            if name not in self._held:
                try:
                    await self._keeper.put(name, tap.fd)
                except KeeperError as error:  # it has too many
                    self._log.warning("tap not kept for a successor", port=name, reason=str(error))
                    continue
                self._systemd.store(name, tap.fd)
                self._held[name] = _identity(port)
        known = {
            name: {"port": _identity(port), "tap": tap.described()}
            for name, (port, tap) in made.items()
        }
        temporary = self._path.with_suffix(".new")
        temporary.write_text(json.dumps(known))
        temporary.replace(self._path)

    async def _drop(self, name: str) -> None:
        if name in self._fds:
            os.close(self._fds.pop(name))
        if name in self._keeper.descriptors:
            await self._keeper.drop(name)
        self._systemd.discard(name)
        del self._held[name]

    def close(self) -> None:
        """Close what was inherited and nobody has opened."""
        while self._fds:
            os.close(self._fds.popitem()[1])


def _identity(port: PortConfig) -> list[str]:
    """What must be the same for a tap to be the same."""
    parts = (port.where, port.netns, port.mac_text, port.mtu, port.address, port.ifgroup)
    return [str(part) for part in parts]
