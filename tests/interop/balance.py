"""The sums of a fabric's ledger, which are equal once no frame is under way."""

import time
from collections.abc import Callable
from typing import Any

from tests.interop.peers.vionet import Vionet

Ports = dict[str, dict[str, Any]]


def total(ports: Ports, key: str) -> int:
    """The ledger's `key` over all ports."""
    return sum(int(port["ledger"][key]) for port in ports.values())


def _bytes(ports: Ports) -> tuple[int, int]:
    """Each byte is copied once."""
    copied = total(ports, "header_bytes") + total(ports, "payload_bytes_copied")
    return copied, total(ports, "rx_bytes")


def _frames(ports: Ports) -> tuple[int, int]:
    """Each frame goes to one other port, whole or in segments, or is dropped.

    Of a frame that was delivered in part each missing segment is counted as dropped, and which
    these are is not told: so no more frames may have come than are accounted for, and no fewer
    than without the dropped ones of a fabric that segments.
    """
    dropped = sum(sum(port["drops"].values()) for port in ports.values())
    made = total(ports, "segments") - total(ports, "gso_segmented")
    came, went = total(ports, "tx_frames"), total(ports, "rx_frames") - made
    partly = total(ports, "gso_segmented") > 0 and went <= came <= went + dropped
    return came, came if partly else went + dropped


def _await(vionet: Vionet, *sums: Callable[[Ports], tuple[int, int]]) -> Ports:
    """The ports once each pair of sums is equal, which has to be within a minute."""
    deadline_s = time.monotonic() + 60
    while True:
        ports = vionet.ports()
        wrong = {one.__name__: one(ports) for one in sums if one(ports)[0] != one(ports)[1]}
        if not wrong:
            return ports
        assert time.monotonic() < deadline_s, wrong


def balanced_frames(vionet: Vionet) -> Ports:
    """The ports of a fabric in which no frame goes to two, their sums of frames equal."""
    return _await(vionet, _frames)


def balanced(vionet: Vionet) -> Ports:
    """The ports of two guests, their sums of bytes and of frames equal."""
    return _await(vionet, _bytes, _frames)
