"""The sums of a fabric's ledger, which are equal once no frame is under way."""

import time
from typing import Any

from tests.interop.peers.vionet import Vionet

Ports = dict[str, dict[str, Any]]


def total(ports: Ports, key: str) -> int:
    """The ledger's `key` over all ports."""
    return sum(int(port["ledger"][key]) for port in ports.values())


def _unbalanced(ports: Ports) -> dict[str, tuple[int, int]]:
    """Where what came in is not what went out or was dropped: each byte is copied once, and each
    frame goes to the other port, whole or in segments."""
    copied = total(ports, "header_bytes") + total(ports, "payload_bytes_copied")
    dropped = sum(sum(port["drops"].values()) for port in ports.values())
    made = total(ports, "segments") - total(ports, "gso_segmented")
    sums = {
        "bytes": (copied, total(ports, "rx_bytes")),
        "frames": (total(ports, "tx_frames"), total(ports, "rx_frames") - made + dropped),
    }
    return {what: pair for what, pair in sums.items() if pair[0] != pair[1]}


def balanced(vionet: Vionet) -> Ports:
    """The ports of two guests, whose sums have to be equal within ten seconds."""
    deadline_s = time.monotonic() + 10
    while True:
        ports = vionet.ports()
        wrong = _unbalanced(ports)
        if not wrong:
            return ports
        assert time.monotonic() < deadline_s, wrong
