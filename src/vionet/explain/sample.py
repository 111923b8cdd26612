"""Frames of every kind that one port may send another: what a pair is explained with.

How it works: TCP and UDP over both versions of IP, in each form in which this sender may hand them
over: left partial, finished, vouched for by a kernel, large.  They are the tester's frames
(`check.packet`), with the addresses that the two ports are known or locked to.  Pure.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from vionet.check import segment
from vionet.check.packet import Flow
from vionet.config import PortConfig
from vionet.config.port import Kind
from vionet.ports.offload import sends_gso
from vionet.spec import virtio_net as net
from vionet.spec.virtio_net import NetHeader

PARTIAL, FINISHED, VOUCHED, LARGE, FULL = "partial", "finished", "vouched", "large", "full"
_MTU: Final = 1500
_HEADERS: Final = 60  # of IPv6 and TCP
_USUAL: Final = 1000  # bytes of payload
_DATA_VALID: Final = NetHeader(flags=net.VIRTIO_NET_HDR_F_DATA_VALID)
_SPOKEN: Final = tuple((f"{l4} over IPv{v}", l4, v) for l4 in ("TCP", "UDP") for v in (4, 6))


class Sample(NamedTuple):
    """One frame as its sender hands it over."""

    kind: str  # "TCP over IPv4"
    form: str  # PARTIAL …
    data: bytes
    header: NetHeader


@dataclass(frozen=True, slots=True)
class _Between(Flow):
    """A flow between addresses that the ports have."""

    sender: PortConfig | None = None
    receiver: PortConfig | None = None

    @property
    def src(self) -> bytes:
        """One that the sender may use."""
        return _address(self.sender, self.version) or Flow.src.__get__(self)

    @property
    def dst(self) -> bytes:
        """One that the receiver has."""
        return _address(self.receiver, self.version) or Flow.dst.__get__(self)


def _address(port: PortConfig | None, version: int) -> bytes | None:
    for network in port.ip if port else ():
        if network.version == version:
            return network[min(1, network.num_addresses - 1)].packed
    return None


def mac_of(port: PortConfig) -> bytes:
    """The address of a port, or one for its name."""
    made = bytes((0x02, 0)) + zlib.crc32(port.name.encode()).to_bytes(4, "big")
    return made if port.mac is None else port.mac.to_bytes(6, "big")


def tag_of(sender: PortConfig, receiver: PortConfig) -> tuple[int, ...]:
    """The VLAN tag that the sender has to use, if any: one that leads to the receiver."""
    if sender.trunk is None or sender.vlan is not None:
        return ()
    near = receiver.trunk or 0
    if receiver.vlan is not None:
        near |= 1 << receiver.vlan
    common = sender.trunk & near or sender.trunk
    return ((common & -common).bit_length() - 1,)


def samples(sender: PortConfig, features: int, receiver: PortConfig) -> Iterator[Sample]:
    """All frames of a sender with these negotiated features."""
    path = min(sender.mtu or _MTU, receiver.mtu or _MTU)
    usual = max(8, min(_USUAL, path - _HEADERS))
    gives_partial = features >> net.VIRTIO_NET_F_CSUM & 1
    for name, l4, version in _SPOKEN:
        flow = _Between(
            mac_of(sender), mac_of(receiver), version=version,
            tags=tag_of(sender, receiver), sender=sender, receiver=receiver,
        )  # fmt: skip
        build = flow.tcp if l4 == "TCP" else flow.udp
        made = build(bytes(i & 0xFF for i in range(usual)))
        if gives_partial:
            header, data = made.partial()
            yield Sample(name, PARTIAL, data, header)
        yield Sample(name, FINISHED, made.data, NetHeader())
        if sender.kind in (Kind.TAP, Kind.INTERFACE):
            yield Sample(name, VOUCHED, made.data, _DATA_VALID)
        for kind in segment.KINDS:
            if kind.name == name and sends_gso(features & (1 << kind.host | 1)):
                large = segment.large(flow, kind, bytes(4 * usual + 100), usual)
                header, data = large.sent()
                yield Sample(name, LARGE, data, header)
        if (sender.mtu or _MTU) > (receiver.mtu or _MTU):
            full = (sender.mtu or _MTU) - (40 if version == 6 else 20) - (20 if l4 == "TCP" else 8)
            yield Sample(name, FULL, build(bytes(full)).data, NetHeader())
    dhcp = _Between(mac_of(sender), mac_of(receiver), tags=tag_of(sender, receiver),
                    sender=sender, receiver=receiver).dhcp()  # fmt: skip
    header, data = dhcp.partial() if gives_partial else (NetHeader(), dhcp.data)
    yield Sample("DHCP", PARTIAL if gives_partial else FINISHED, data, header)
