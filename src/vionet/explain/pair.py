"""What happens between two ports: `vionet explain web db`.

How it works: of both ports what was offered, acknowledged and refused, and what limits it, as the
status document has it; then sample frames of every kind are sent both ways through a twin of the
fabric (`explain.twin`), and what the engine decided about each is told with its rules.  A receiver
that nobody knows yet is learnt first, if a flood reaches it.

The result is a document for programs; `explain.text` writes it for people.
"""

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any, Final

from vionet.config.feature import choice_names
from vionet.engine.layout import FACT_FLOODED
from vionet.explain import reason
from vionet.explain.outcome import decided, listed, reasons, seen_by
from vionet.explain.reason import Why, why
from vionet.explain.sample import Sample, samples
from vionet.explain.twin import Played, Twin, negotiated, options_of
from vionet.ports.offload import GUEST_OFFLOADS, takes_gso
from vionet.spec import virtio_net as net

_LARGE: Final = {
    net.VIRTIO_NET_F_HOST_TSO4: ("HOST_TSO4", "TCP over IPv4", "TD-03"),
    net.VIRTIO_NET_F_HOST_TSO6: ("HOST_TSO6", "TCP over IPv6", "TD-04"),
    net.VIRTIO_NET_F_HOST_USO: ("HOST_USO", "UDP", "TD-06"),
}
_STREAMS: Final = ("stream", "service")
_POLICIES: Final = {
    "uniform": why("every good TCP and UDP frame is partial for it", "RX-15"),
    "natural": why("frames are partial or finished for it as they come", "RX-14 RX-22"),
    "complete": why("everything reaches it finished and segmented", "RX-06 RX-07 W5 W6 W15"),
}


def pair(document: Mapping[str, Any], first: str, second: str) -> dict[str, Any]:
    """The explanation for two ports of a fabric in the status document."""
    ports = {port["name"]: port for port in document["ports"]}
    with Twin(document) as twin:
        return {
            "fabric": document["name"],
            "kind": document["kind"],
            "ports": [_port(ports[name]) for name in (first, second)],
            "notes": listed(_between(ports[first], ports[second])),
            "directions": [
                _direction(twin, ports[one], ports[other])
                for one, other in ((first, second), (second, first))
            ],
        }


def _port(port: Mapping[str, Any]) -> dict[str, Any]:
    shown = ("name", "kind", "state", "policy", "offload", "offered", "features", "refused")
    return {key: port[key] for key in shown} | {"limits": listed(_limits(port))}


def _limits(port: Mapping[str, Any]) -> Iterator[Why]:
    """What is between a port and all that there could be."""
    kind, found = port["kind"], negotiated(port)
    if port["state"] == "waiting":
        said = "nobody is attached; what follows is with a driver that takes all that is offered"
        yield why(said if kind == "guest" else "nobody is attached; what follows is with a peer")
    if kind in _STREAMS:
        yield why("a stream carries finished frames and no header", "AP-09")
        return
    if port["offload"] != "full":
        yield why(f"offload {port['offload']}: a person limits what may be used", "SG-18")
    taken = found & options_of(port).features
    if port["features"] and (off := choice_names(found & GUEST_OFFLOADS & ~taken)):
        yield why(f"acknowledged, but not in use: {' '.join(off)}", "CV-30 SG-18 W31")
    if not found >> net.VIRTIO_NET_F_CSUM & 1:
        yield why("without CSUM it sends finished frames of ordinary size", "TD-02 TD-10")
    takes_partial = taken >> net.VIRTIO_NET_F_GUEST_CSUM & 1
    if not takes_partial:
        yield why(
            "without GUEST_CSUM it gets finished frames of ordinary size", "RX-06 RX-07 RX-12"
        )
    elif not takes_gso(taken):
        yield why("without a GUEST_TSO or GUEST_USO it gets ordinary frames only", "RX-12")
    policy = _POLICIES[port["policy"]]
    if port["policy"] == "complete" or (kind == "guest" and takes_partial):
        yield why(f"policy {port['policy']}: {policy.text}", " ".join(policy.rules))
    yield from (why(str(warning)) for warning in port["warnings"])


def _between(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[Why]:
    """What people have to know about the two besides."""
    for port in (one, other):
        name = port["name"]
        if port["link"] == "down":
            yield why(f"{name}: its link is set down, and nothing passes (link_down)", "FE-09")
        if port["locked"]:
            what = ", ".join([port["mac"], *port["ip"]])
            yield why(f"{name} is locked to {what}: it sends from there only", "CF-18 W41")
        if port["vlan"] is not None or port["trunk"] is not None:
            untagged = f"VLAN {port['vlan']} untagged" if port["vlan"] else "no VLAN untagged"
            tagged = f", {port['trunk']} tagged" if port["trunk"] else ""
            yield why(f"{name} is in {untagged}{tagged}", "SG-12 SG-13")
    if one["isolated"] and other["isolated"]:
        yield why("both are isolated, so neither reaches the other (isolated)")
    mtus = [port.get("mtu") for port in (one, other)]
    if any(mtus) and mtus[0] != mtus[1]:
        said = [f"{port['name']} {port.get('mtu') or 'without a limit'}" for port in (one, other)]
        yield why(f"MTU: {', '.join(said)}; larger packets are dropped", "CF-09 W27")
    if "guest" in (one["kind"], other["kind"]):
        yield why("DHCP reaches a guest finished, always: its clients read raw frames", "SG-17 W1")


def _direction(
    twin: Twin, sender: Mapping[str, Any], receiver: Mapping[str, Any]
) -> dict[str, Any]:
    features, name = negotiated(sender), sender["name"]
    notes = [
        why(f"without {feature} {name} segments large {what} itself", rule)
        for bit, (feature, what, rule) in _LARGE.items()
        if sender["kind"] not in _STREAMS and not features >> bit & 1
    ]
    frames = [
        _sample(twin, name, receiver["name"], sample)
        for sample in samples(options_of(sender), features, options_of(receiver))
    ]
    return {
        "from": name, "to": receiver["name"], "notes": listed(notes), "frames": frames,
    }  # fmt: skip


def _sample(twin: Twin, sender: str, receiver: str, sample: Sample) -> dict[str, Any]:
    played = twin.play(sender, sample.data, sample.header)
    serial = twin.record(receiver).serial
    if (sent := _flooded(played)) and any(one.out_serial == serial for one in played.records):
        twin.teach(receiver, int.from_bytes(sample.data[:6], "big"), sent.vid)
        played = twin.play(sender, sample.data, sample.header)
    for one in played.records:
        if one.out_serial in (0, serial):
            record = one
    said = decided(record)
    found = reasons(record, twin.record(receiver), played.needs_gso)
    received = played.received.get(receiver, ())
    if not received and not record.drop:
        found = [reason.NOT_REACHED]
    return {
        "kind": sample.kind, "form": sample.form, "bytes": len(sample.data), **said,
        "received": seen_by(received), "why": listed(found),
    }  # fmt: skip


def _flooded(played: Played) -> SimpleNamespace | None:
    return next((one for one in played.records if one.facts & FACT_FLOODED), None)
