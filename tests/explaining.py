"""Ports of a status document as tests of explanations want them."""

from collections.abc import Sequence
from typing import Any

from vionet.config.feature import ALL_OFFLOADS, GUEST_BASE
from vionet.spec import virtio

FULL = virtio.names(GUEST_BASE | ALL_OFFLOADS)
KERNEL = virtio.names(ALL_OFFLOADS)
OFFERED = {"guest": FULL, "tap": KERNEL, "interface": KERNEL, "stream": []}


def port(name: str, kind: str = "guest", *without: str, **more: Any) -> dict[str, Any]:
    """An attached port with all offloads in use, but those named (`GUEST_CSUM`)."""
    lacking = {f"VIRTIO_NET_F_{feature}" for feature in without}
    features = [feature for feature in OFFERED[kind] if feature not in lacking]
    return {
        "name": name, "kind": kind, "serial": sum(name.encode()), "state": "attached",
        "mac": None, "mtu": None, "locked": False, "ip": [], "isolated": False,
        "policy": "uniform", "offload": "full", "offered": OFFERED[kind], "features": features,
        "refused": sorted(lacking), "vlan": None, "trunk": None, "link": "up", "warnings": [],
    } | more  # fmt: skip


def fabric(*ports: dict[str, Any], kind: str = "switch") -> dict[str, Any]:
    """A fabric of the status document."""
    return {"name": "lan", "kind": kind, "ports": list(ports)}


def found(way: dict[str, Any], form: str, kind: str = "TCP over IPv4") -> dict[str, Any]:
    """The frame of a kind and form in one direction of an explanation."""
    (one,) = (f for f in way["frames"] if (f["kind"], f["form"]) == (kind, form))
    assert isinstance(one, dict)
    return one


def ids(frame: dict[str, Any]) -> set[str]:
    """The rules that an explanation cites."""
    return {rule for why in frame["why"] for rule in why["rules"]}


def kinds(way: dict[str, Any], form: str) -> Sequence[str]:
    """The kinds of frames of one form."""
    return [frame["kind"] for frame in way["frames"] if frame["form"] == form]
