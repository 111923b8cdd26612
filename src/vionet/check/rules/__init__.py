"""The checks, grouped by the areas of the register; importing this package registers them all."""

from vionet.check.rules import (
    checksum,
    config,
    device,
    driver,
    features,
    header,
    hostile,
    linux,
    memory,
    protocol,
    receive,
    ring,
    ringsetup,
    ringstate,
    ringstop,
    transmit,
)

__all__ = [
    "checksum",
    "config",
    "device",
    "driver",
    "features",
    "header",
    "hostile",
    "linux",
    "memory",
    "protocol",
    "receive",
    "ring",
    "ringsetup",
    "ringstate",
    "ringstop",
    "transmit",
]
