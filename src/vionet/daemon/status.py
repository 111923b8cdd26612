"""The status document: what is attached, what was negotiated, and the ledger.

Its shape is stable (docs/status.md): keys are added, never renamed or removed, while `version`
stays the same.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from vionet.config import FabricConfig, PortConfig
from vionet.config.feature import preset_of
from vionet.config.option import mac_text, trunk_text
from vionet.spec import virtio

VERSION: Final = 1
_TALK: Final = ("from", "to", "frames", "bytes", "elided", "computed")


class LivePort(Protocol):
    """What the daemon wants of a port of the fabric, whatever its kind."""

    @property
    def serial(self) -> int:
        """Its number among all ports that the fabric ever had."""

    @property
    def last_mac(self) -> int:
        """The address that it last sent from, 0 where none is known."""

    @property
    def netdev(self) -> str | None:
        """What the host calls the network device behind it."""

    @property
    def mtu(self) -> int | None:
        """The largest L3 packet that passes there."""

    @property
    def state(self) -> str:
        """In one word: waiting, attached …"""

    @property
    def features(self) -> int:
        """Negotiated; 0 while nobody is attached."""

    @property
    def offloads(self) -> int:
        """GUEST_* features in effect: a driver and a person may each have switched some off."""

    @property
    def offered(self) -> int:
        """What the other end was, or would be, offered."""

    @property
    def pairs(self) -> int:
        """Queue pairs in use while it is attached."""

    @property
    def warnings(self) -> Sequence[str]:
        """What a person should know, each beginning with its name."""

    @property
    def worker(self) -> int:
        """Which thread takes its frames, from 0."""

    def change(self, options: PortConfig) -> None:
        """Take other options while in use; an OSError if the host refuses."""

    def ledger(self) -> dict[str, int]:
        """By the stable keys."""

    def drops(self) -> dict[str, int]:
        """By reason."""


class LiveFabric(Protocol):
    """What the daemon wants of a running fabric to say what it does; nothing of it stops a worker.

    Every member is read at once and belongs to the moment of asking.
    """

    @property
    def live(self) -> Mapping[str, LivePort]:
        """The ports by name."""

    def cpu_ns(self) -> Sequence[int]:
        """How long each worker's thread has run, by the worker's number."""

    def talks(self) -> Iterable[tuple[str, str, int, int, int, int]]:
        """For each pair of ports with traffic: from, to, frames, bytes, elided, computed."""

    def captures(self) -> list[dict[str, Any]]:
        """Each capture that runs: ports, records lost."""


def status_document(fabrics: Sequence[tuple[FabricConfig, LiveFabric]]) -> Any:
    """The document for fabrics and what runs of them."""
    return {
        "version": VERSION,
        "fabrics": [fabric_document(config, fabric) for config, fabric in fabrics],
    }


def fabric_document(config: FabricConfig, fabric: LiveFabric) -> dict[str, Any]:
    """One fabric's part of it."""
    live, now_ns = fabric.live, time.monotonic_ns()
    return {
        "name": config.name,
        "kind": config.kind.name.lower(),
        "time_ns": now_ns,
        "reserved": config.reserved,
        "workers": [
            {
                "number": number,
                "cpu_ns": cpu_ns,
                "ports": [port.name for port in config.ports if live[port.name].worker == number],
            }
            for number, cpu_ns in enumerate(fabric.cpu_ns())
        ],
        "ports": [port_document(port, live[port.name]) for port in config.ports],
        "talks": [dict(zip(_TALK, talk, strict=True)) for talk in fabric.talks()],
        "captures": fabric.captures(),
    }


def port_document(config: PortConfig, live: LivePort) -> dict[str, Any]:
    """One port's part of it."""
    features = live.features
    offered = live.offered
    return {
        "name": config.name,
        "kind": str(config.kind),
        "serial": live.serial,
        "netdev": live.netdev,
        "state": live.state,
        "mac": config.mac_text,
        "last_mac": mac_text(live.last_mac) if live.last_mac else None,
        "mtu": live.mtu,
        "locked": config.locked,
        **{key: [str(one) for one in getattr(config, key)] for key in ("ip", "keep_off", "reach")},
        "isolated": config.isolated,
        "policy": config.policy.name.lower(),
        "offload": preset_of(config.features),
        "offered": virtio.names(offered),
        "features": virtio.names(features),
        "offloads": virtio.names(live.offloads),
        "refused": virtio.names(offered & ~features if features else 0),
        "queues": live.pairs if live.state == "attached" else 0,
        "queues_offered": config.queues,
        "vlan": config.vlan,
        "trunk": None if config.trunk is None else trunk_text(config.trunk),
        "worker": live.worker,
        "link": "up" if config.link_up else "down",
        "warnings": list(live.warnings),
        "ledger": live.ledger(),
        "drops": {reason: count for reason, count in live.drops().items() if count},
    }
