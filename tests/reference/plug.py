"""What the tests plug into a fabric instead of a front-end and a person: features, options, a
place without a worker.
"""

import contextlib
import time
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple, Protocol

from vionet.engine.fdb import pin
from vionet.engine.layout import State, Work
from vionet.engine.status import Policy
from vionet.jit.record import allocate
from vionet.ports.slot import Slot
from vionet.spec import virtio, virtio_net

CSUM = 1 << virtio_net.VIRTIO_NET_F_CSUM
GUEST_CSUM = 1 << virtio_net.VIRTIO_NET_F_GUEST_CSUM
MRG_RXBUF = 1 << virtio_net.VIRTIO_NET_F_MRG_RXBUF
INDIRECT_DESC = 1 << virtio.VIRTIO_F_INDIRECT_DESC
EVENT_IDX = 1 << virtio.VIRTIO_F_EVENT_IDX
VERSION_1 = 1 << virtio.VIRTIO_F_VERSION_1
RING_PACKED = 1 << virtio.VIRTIO_F_RING_PACKED
IN_ORDER = 1 << virtio.VIRTIO_F_IN_ORDER
HOST_TSO4 = 1 << virtio_net.VIRTIO_NET_F_HOST_TSO4
HOST_TSO6 = 1 << virtio_net.VIRTIO_NET_F_HOST_TSO6
HOST_ECN = 1 << virtio_net.VIRTIO_NET_F_HOST_ECN
HOST_USO = 1 << virtio_net.VIRTIO_NET_F_HOST_USO
GUEST_TSO4 = 1 << virtio_net.VIRTIO_NET_F_GUEST_TSO4
GUEST_TSO6 = 1 << virtio_net.VIRTIO_NET_F_GUEST_TSO6
GUEST_ECN = 1 << virtio_net.VIRTIO_NET_F_GUEST_ECN
GUEST_USO4 = 1 << virtio_net.VIRTIO_NET_F_GUEST_USO4
GUEST_USO6 = 1 << virtio_net.VIRTIO_NET_F_GUEST_USO6
HOST_GSO = HOST_TSO4 | HOST_TSO6 | HOST_ECN | HOST_USO
GUEST_GSO = GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | GUEST_USO4 | GUEST_USO6
FULL = CSUM | GUEST_CSUM | MRG_RXBUF | INDIRECT_DESC | VERSION_1


@dataclass(frozen=True)
class Options:
    """What a person would have chosen for a port."""

    name: str = "port"
    features: int = (1 << 64) - 1  # whatever a test's driver negotiates
    mac: int | None = None
    locked: bool = False
    isolated: bool = False
    policy: Policy = Policy.UNIFORM
    mtu: int | None = None
    queues: int = 1
    speed: int | None = None
    vlan: int | None = None
    trunk: int | None = None
    link_up: bool = True
    ip: tuple[IPv4Network | IPv6Network, ...] = ()
    keep_off: tuple[IPv4Network | IPv6Network, ...] = ()
    reach: tuple[IPv4Network | IPv6Network, ...] = ()


NO_OPTIONS = Options()
PLAIN = virtio_net.NetHeader()  # of a frame that asks for nothing


class NoWatch:
    """There is no worker to watch anything."""

    def add_ring(self, fd: int, port: int, ring: int) -> None:
        """Nothing."""

    def add_tap(self, fd: int, port: int) -> None:
        """Nothing."""

    def remove(self, fd: int) -> None:
        """Nothing."""


class FreshSlot(Slot):
    """A place where nobody was before, so that there is nothing to forget: going through the
    whole forwarding table takes an interpreted lane a second."""

    def forget(self) -> None:
        """Only a locked port's own address is put there."""
        if self.record.locked:
            pin(self.state, self.record.mac, self.index, time.monotonic_ns())


class Ground(Protocol):
    """A fabric's state and its only worker's."""

    state: State
    work: Work


@dataclass
class Bare:
    """Ground that nobody has set foot on."""

    state: State
    work: Work = field(default_factory=lambda: allocate(Work))


def slot(ground: Ground, index: int) -> Slot:
    """A place in a fabric that no worker serves."""
    return FreshSlot(ground.state, index, NoWatch(), contextlib.nullcontext, (ground.work,))


class Piece(NamedTuple):
    """A region of guest memory that is already here: what a port needs to know of it."""

    gpa: int
    size: int
    hva: int
