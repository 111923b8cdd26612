"""The status document: what is attached, what was negotiated, and the ledger.

Its shape is stable (docs/status.md): keys are added, never renamed or removed, while `version`
stays the same.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from vionet.config import FabricConfig, PortConfig
from vionet.config.feature import preset_of
from vionet.config.option import trunk_text
from vionet.spec import virtio

VERSION: Final = 1


class LivePort(Protocol):
    """What the daemon wants of a port of the fabric, whatever its kind."""

    @property
    def state(self) -> str:
        """In one word: waiting, attached …"""

    @property
    def features(self) -> int:
        """Negotiated; 0 while nobody is attached."""

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


def status_document(fabrics: Sequence[tuple[FabricConfig, Mapping[str, LivePort]]]) -> Any:
    """The document for fabrics and their live ports by name."""
    return {
        "version": VERSION,
        "fabrics": [
            {
                "name": config.name,
                "kind": config.kind.name.lower(),
                "ports": [port_document(port, live[port.name]) for port in config.ports],
            }
            for config, live in fabrics
        ],
    }


def port_document(config: PortConfig, live: LivePort) -> dict[str, Any]:
    """One port's part of it."""
    features = live.features
    offered = live.offered
    return {
        "name": config.name,
        "kind": str(config.kind),
        "state": live.state,
        "mac": config.mac_text,
        "locked": config.locked,
        "ip": [str(network) for network in config.ip],
        "isolated": config.isolated,
        "policy": config.policy.name.lower(),
        "offload": preset_of(config.features),
        "offered": virtio.names(offered),
        "features": virtio.names(features),
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
