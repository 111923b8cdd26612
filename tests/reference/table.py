"""The decision table of the design, section 3, typed in by hand from the document.

Rows are the state of the checksum, columns what the egress is; a cell says what happens to it.
`tests/unit/test_engine_plan.py` compares the engine's table with it cell by cell.
"""

from collections.abc import Mapping
from typing import Final

from tests.reference.checksum import TCP, UDP
from tests.reference.header import IPV4, IPV6

COLUMNS: Final = ("uniform", "natural", "complete", "kernel", "stream")
TABLE: Final = {
    "partial": ("pass partial", "pass partial", "fill", "pass partial", "fill"),
    "inner partial": (
        "fill inner, then as unknown",
        "fill inner",
        "fill inner",
        "pass partial",
        "fill inner",
    ),
    "valid": ("unfill", "pass valid", "pass", "pass valid", "pass"),
    "unknown": ("verify, then unfill", "pass", "pass", "pass", "pass"),
    "none": ("pass", "pass", "pass", "pass", "pass"),
}

# What a receiver must have agreed to for a large frame, by protocol and ethertype; and what the
# feature bits mean in those words (VIRTIO 1.2 section 5.1.3; one bit for both families where a
# driver sends UDP).
GSO_NEEDS: Final = {
    (TCP, IPV4): "tcp4", (TCP, IPV6): "tcp6", (UDP, IPV4): "udp4", (UDP, IPV6): "udp6",
}  # fmt: skip
TAKES: Final = {7: ("tcp4",), 8: ("tcp6",), 9: ("ecn",), 54: ("udp4",), 55: ("udp6",)}
SENDS: Final = {11: ("tcp4",), 12: ("tcp6",), 13: ("ecn",), 56: ("udp4", "udp6")}


def large(features: int, means: Mapping[int, tuple[str, ...]]) -> frozenset[str]:
    """What of GSO was negotiated, as a receiver (`TAKES`) or as a sender (`SENDS`)."""
    return frozenset(word for bit, words in means.items() if features >> bit & 1 for word in words)


def cell(state: str, column: str) -> str:
    """What the table says."""
    return TABLE[state][COLUMNS.index(column)]
