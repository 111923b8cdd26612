"""A host's interface on the fabric (`ports.interface` opens it).

How it works: what comes is what the kernel's receive offload has made of it, large frames among it,
and cannot be limited (spec AP-02): whoever does not take them gets segments.
"""

from vionet.engine.layout import FRAME_MAX, Port
from vionet.engine.status import GSO_ALL, PortKind
from vionet.ports.interface import SLOT_LEN, SLOTS, Interface
from vionet.ports.kernel_port import KernelPort
from vionet.ports.offload import limited
from vionet.ports.slot import PortOptions, Slot
from vionet.spec.virtio_net import VIRTIO_NET_HDR_LEN_LEGACY


class InterfacePort(KernelPort):
    """One interface; owns it."""

    def __init__(self, slot: Slot, options: PortOptions, interface: Interface) -> None:
        self._interface = interface
        super().__init__(PortKind.INTERFACE, slot, options, interface)

    def _begin(self, record: Port) -> None:
        mtu = self._interface.mtu
        record.header_len = VIRTIO_NET_HDR_LEN_LEGACY
        record.egress_header_len = self._interface.header_len
        record.max_frame_len = FRAME_MAX
        record.mtu = min(self._options.mtu or mtu, mtu)
        record.ring_hva = self._interface.ring_hva
        record.ring_slots = SLOTS
        record.ring_slot_len = SLOT_LEN
        record.ring_at = 0

    def _apply(self) -> None:
        word = limited(self._allowed(), GSO_ALL, self._interface.findings.takes_gso)
        self._take(word, word)
