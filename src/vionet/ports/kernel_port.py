"""What a tap and an interface have in common on the fabric: the host's kernel is behind both.

How it works: the kernel is looked at as a driver: HOST_* is what it may send, GUEST_* what it takes
whole.  `_apply`, which differs, tells the kernel and the engine what may pass.
"""

from abc import ABC, abstractmethod

from vionet.engine.layout import Port
from vionet.engine.status import GSO_ALL, Accepts, Policy, PortKind
from vionet.ports.interface import Interface
from vionet.ports.offload import takes_gso
from vionet.ports.slot import Plugged, PortOptions, Slot
from vionet.ports.tap import Tap
from vionet.spec.virtio_net import VIRTIO_NET_F_GUEST_CSUM

_TAKES_PARTIAL = 1 << VIRTIO_NET_F_GUEST_CSUM


class KernelPort(Plugged, ABC):
    """One tap or interface; owns it."""

    state = "attached"
    pairs = 1

    def __init__(
        self, kind: PortKind, slot: Slot, options: PortOptions, held: Tap | Interface
    ) -> None:
        self.name = options.name
        self.features = 0  # in effect
        self.warnings = held.findings.warnings
        self._slot = slot
        self._options = options
        self._held = held
        with slot.hold():
            slot.set_up(kind, options)
            record = slot.record
            record.fd = held.fd
            record.offers_partial = 1
            record.offers_gso = GSO_ALL  # what was sent before a change may still come
            self._begin(record)
            self._apply()
            record.up = 1
            record.readable = 1
            slot.watch.add_tap(held.fd, slot.index)

    @abstractmethod
    def _begin(self, record: Port) -> None:
        """What is written once.  *requires* hold."""

    @abstractmethod
    def _apply(self) -> None:
        """Tell the kernel and the engine what may pass.  *requires* hold."""

    def _allowed(self) -> int:
        """The options' features, without partial sums where its kernel does not take them."""
        if self._held.findings.takes_partial and self._options.policy is not Policy.COMPLETE:
            return self._options.features
        return self._options.features & ~_TAKES_PARTIAL

    def _take(self, word: int, effective: int) -> None:
        """What may be delivered by the features in `word`; `effective` is what people see."""
        record = self._slot.record
        record.features = self.features = effective
        record.accepts = int(Accepts.KERNEL if word & _TAKES_PARTIAL else Accepts.STREAM)
        record.takes_gso = takes_gso(word)

    @property
    def netdev(self) -> str:
        """The name of the tap or the interface."""
        return self._held.name

    @property
    def offered(self) -> int:
        """What a person lets the kernel do."""
        return self._options.features

    def change(self, options: PortOptions) -> None:
        """Follow a person's new choice of policy, offloads, VLANs and link."""
        self._options = options
        with self._slot.hold():
            self._slot.apply(options)
            self._apply()

    def filter_destination(self, mac: int) -> None:
        """The other end of the wire is locked to `mac`: the kernel keeps back what is not its."""
        self._held.filter_destination(mac)

    def close(self) -> None:
        """Leave the fabric and close what is held."""
        with self._slot.hold():
            self._slot.record.up = self._slot.record.readable = 0
            self._slot.watch.remove(self._held.fd)
            self._slot.record.fd = -1
        self._held.close()
