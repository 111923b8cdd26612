"""A host's interface on the fabric (`ports.interface` opens it).

How it works: as a tap, it is looked at as a driver.  What comes is what the kernel's receive
offload has made of it, large frames among it, and cannot be limited (spec AP-02): whoever does not
take them gets segments.
"""

from vionet.engine.layout import FRAME_MAX
from vionet.engine.status import GSO_ALL, Accepts, Policy, PortKind
from vionet.ports.interface import SLOT_LEN, SLOTS, Interface
from vionet.ports.offload import limited, takes_gso
from vionet.ports.slot import PortOptions, Slot
from vionet.spec.virtio_net import VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_HDR_LEN_LEGACY

_TAKES_PARTIAL = 1 << VIRTIO_NET_F_GUEST_CSUM


class InterfacePort:
    """One interface; owns it."""

    state = "attached"
    pairs = 1

    def __init__(self, slot: Slot, options: PortOptions, interface: Interface) -> None:
        self.name = options.name
        self.features = 0  # in effect
        self.warnings = interface.findings.warnings
        self._slot = slot
        self._options = options
        self._interface = interface
        with slot.hold():
            slot.set_up(PortKind.INTERFACE, options)
            record = slot.record
            record.fd = interface.fd
            record.header_len = VIRTIO_NET_HDR_LEN_LEGACY
            record.egress_header_len = interface.header_len
            record.offers_partial = 1
            record.offers_gso = GSO_ALL
            record.max_frame_len = FRAME_MAX
            record.mtu = min(options.mtu or interface.mtu, interface.mtu)
            record.ring_hva = interface.ring_hva
            record.ring_slots = SLOTS
            record.ring_slot_len = SLOT_LEN
            record.ring_at = 0
            self._apply()
            record.up = 1
            record.readable = 1
            slot.watch.add_tap(interface.fd, slot.index)

    @property
    def offered(self) -> int:
        """What a person lets its kernel do."""
        return self._options.features

    def change(self, options: PortOptions) -> None:
        """Follow a person's new choice of policy, offloads, VLANs and link."""
        self._options = options
        with self._slot.hold():
            self._slot.apply(options)
            self._apply()

    def _apply(self) -> None:
        """Tell the engine what may pass.  *requires* hold."""
        found, record, word = self._interface.findings, self._slot.record, self._options.features
        if not found.takes_partial or self._options.policy is Policy.COMPLETE:
            word &= ~_TAKES_PARTIAL
        word = limited(word, GSO_ALL, found.takes_gso)
        record.features = self.features = word
        record.accepts = int(Accepts.KERNEL if word & _TAKES_PARTIAL else Accepts.STREAM)
        record.takes_gso = takes_gso(word)

    def ledger(self) -> dict[str, int]:
        """The port's counters by their stable keys."""
        return self._slot.ledger()

    def drops(self) -> dict[str, int]:
        """Dropped frames by reason."""
        return self._slot.drops()

    def filter_destination(self, mac: int) -> None:
        """The other end of the wire is locked to `mac`: the kernel keeps back what is not its."""
        self._interface.filter_destination(mac)

    def close(self) -> None:
        """Leave the fabric and close the interface."""
        with self._slot.hold():
            self._slot.record.up = self._slot.record.readable = 0
            self._slot.watch.remove(self._interface.fd)
            self._slot.record.fd = -1
        self._interface.close()
