"""One large frame from a guest to another, with everything about both to be chosen; and a kernel
that sends and takes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tests.reference.frame import Frame
from tests.reference.guest import Guest
from tests.reference.network import Network
from tests.reference.plug import (
    CSUM,
    FULL,
    GUEST_CSUM,
    GUEST_GSO,
    HOST_GSO,
    NO_OPTIONS,
    Options,
)
from tests.reference.receiver import obeys, stream
from tests.reference.tap import SocketTap
from vionet.engine.status import FabricKind, Policy
from vionet.spec.virtio_net import NetHeader

SENDER = FULL | HOST_GSO
FAST = FULL | GUEST_GSO
PARTIAL_ONLY = FULL
PLAIN_GUEST = FULL & ~GUEST_CSUM
BODY = bytes((i * 7 + (i >> 8)) & 0xFF for i in range(70_000))
Chains = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Exchange:
    """What arrived, each delivery found to obey the rules; and the two guests."""

    found: list[tuple[NetHeader, bytes]]
    source: Guest
    sink: Guest

    @property
    def wire(self) -> list[bytes]:
        """What a network card would send for all that arrived."""
        return stream(self.found)


def exchange(
    frame: Frame,
    header: NetHeader,
    features: int = FAST,
    *,
    data: bytes | None = None,
    policy: Policy = Policy.UNIFORM,
    sender: int = SENDER,
    sender_mtu: int | None = None,
    mtu: int | None = None,
    cuts: Sequence[int] = (),
    chains: Chains = (),
    kind: FabricKind = FabricKind.SWITCH,
) -> Exchange:
    """Send `frame` (or `data` in its place) to a receiver with `features` and `chains`."""
    with Network(kind) as network:
        source = network.guest(sender, size=256, options=Options(mtu=sender_mtu))
        sink = network.guest(
            features, policy=policy, size=256, data_len=1 << 20, options=Options(mtu=mtu)
        )
        for chain in chains or [[2048]] * 200:
            sink.post(*chain)
        source.send(frame.partial if data is None else data, header, cuts=cuts)
        assert 1 == network.run(source)
        assert [0] == [used.length for used in source.tx.take_used()], "TX-15"
        found = [(one.header, one.frame) for one in sink.received()]
        for one in found:
            obeys(features, *one)
        return Exchange(found, source, sink)


def kernel(network: Network) -> SocketTap:
    """A tap whose kernel may send and take everything."""
    tap = network.tap()
    tap.port.change(replace(NO_OPTIONS, features=CSUM | GUEST_CSUM | HOST_GSO | GUEST_GSO))
    return tap
