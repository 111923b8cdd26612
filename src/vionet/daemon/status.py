"""The status document: what is attached, what was negotiated, and the ledger.

Its shape is stable (docs/status.md): keys are added, never renamed or removed, while `version`
stays the same.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from vionet.config import FabricConfig, PortConfig
from vionet.spec import virtio

VERSION: Final = 1


class LivePort(Protocol):
    """What the document wants to know of a port of the fabric."""

    @property
    def state(self) -> str:
        """In one word: waiting, attached …"""

    @property
    def features(self) -> int:
        """Negotiated; 0 while nobody is attached."""

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
                "ports": [_port(port, live[port.name]) for port in config.ports],
            }
            for config, live in fabrics
        ],
    }


def _port(config: PortConfig, live: LivePort) -> dict[str, Any]:
    return {
        "name": config.name,
        "kind": str(config.kind),
        "state": live.state,
        "mac": config.mac_text,
        "locked": config.locked,
        "policy": config.policy.name.lower(),
        "features": virtio.names(live.features),
        "queues": 1,
        "ledger": live.ledger(),
        "drops": {reason: count for reason, count in live.drops().items() if count},
    }
