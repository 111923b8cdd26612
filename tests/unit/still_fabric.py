"""Stand-ins for ports of a fabric and for what they are plugged into: nothing is forwarded."""

import asyncio
import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vionet.config import FabricConfig, PortConfig
from vionet.daemon.status import LivePort
from vionet.engine.status import DROP_REASONS, LEDGER_KEYS


class Plugs:
    """What ports are plugged into; it notes what is asked of it."""

    def __init__(self, live: Mapping[str, LivePort]) -> None:
        self.live = dict(live)
        self.removed: list[str] = []
        self.reserved: list[int] = []
        self.refusal: Exception | None = None

    def cpu_ns(self) -> list[int]:
        """Two workers' times."""
        return [5_000_000, 7]

    def talks(self) -> list[tuple[str, str, int, int, int, int]]:
        """One pair."""
        return [("a", "t", 3, 200, 2, 1)]

    def captures(self) -> list[dict[str, Any]]:
        """None runs."""
        return []

    def capture(self, port: str | None, **settings: Any) -> Any:
        """Nothing here can be captured."""
        raise AssertionError(port)

    def end_capture(self, ring: Any) -> None:
        """None runs."""
        raise AssertionError(ring)

    async def add(self, config: FabricConfig) -> None:
        """Plug in what nobody uses."""
        await asyncio.sleep(0)
        if self.refusal is not None:
            raise self.refusal
        self.live[config.ports[-1].name] = StillPort()

    async def remove(self, name: str) -> None:
        """Unplug it."""
        self.removed.append(name)
        await asyncio.sleep(0)
        del self.live[name]

    def pass_reserved(self, word: int) -> None:
        """Which frames for the next bridge pass."""
        self.reserved.append(word)


@dataclass
class StillPort:
    """A port that nobody uses."""

    serial: int = 1
    last_mac: int = 0
    netdev: str | None = None
    mtu: int | None = None
    state: str = "waiting"
    features: int = 0
    offloads: int = 0
    offered: int = 1 << 32 | 1 << 1 | 1
    pairs: int = 1
    worker: int = 0
    warnings: tuple[str, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)

    changes: list[PortConfig] = field(default_factory=list)
    refuses: bool = False

    def change(self, options: PortConfig) -> None:
        self.changes.append(options)
        if self.refuses:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    def ledger(self) -> dict[str, int]:
        return dict.fromkeys(LEDGER_KEYS, 0) | self.counts

    def drops(self) -> dict[str, int]:
        return dict.fromkeys(DROP_REASONS[1:], 0) | self.lost
