"""A tap on the fabric: the host's kernel behind a virtio-net header (`ports.tap` opens it).

How it works: on a switch its kernel may send all that the options allow, because frames are
finished and segmented for each receiver (spec TP-11).  On a wire there is one receiver only: what
that guest has not agreed to, the kernel finishes and segments before it is read (`peer_takes`), and
the rest goes into the guest's buffers uncopied.
"""

from vionet.engine.layout import FRAME_MAX, Port
from vionet.engine.status import GSO_ALL, PortKind
from vionet.ports.kernel_port import KernelPort
from vionet.ports.offload import limited, sends_gso
from vionet.ports.slot import PortOptions, Slot
from vionet.ports.tap import Tap
from vionet.spec.packet import ETH_HLEN, VLAN_HLEN
from vionet.spec.virtio_net import VIRTIO_NET_F_CSUM

_GIVES_PARTIAL = 1 << VIRTIO_NET_F_CSUM


class TapPort(KernelPort):
    """One tap; owns it."""

    def __init__(self, slot: Slot, options: PortOptions, tap: Tap) -> None:
        self._tap = tap
        self._peer = (GSO_ALL, True)
        super().__init__(PortKind.TAP, slot, options, tap)

    def peer_takes(self, gso: int, partial: bool) -> None:
        """On a wire: the guest at the other end has agreed to these `GSO_*` bits, and to partial
        checksums or not."""
        self._peer = (gso, partial)
        with self._slot.hold():
            self._apply()

    def _begin(self, record: Port) -> None:
        record.header_len = record.egress_header_len = self._tap.header_len

    def _apply(self) -> None:
        found, (gso, partial), word = self._tap.findings, self._peer, self._allowed()
        if not found.gives_partial or not partial:
            word &= ~_GIVES_PARTIAL
        word = limited(word, found.gives_gso & gso, found.takes_gso)
        given = self._tap.give(partial=bool(word & _GIVES_PARTIAL), gso=sends_gso(word))
        self._take(word, limited(word, given, found.takes_gso))
        # One tag of the kernel's own may come on top of its MTU.
        self._slot.record.max_frame_len = (
            FRAME_MAX if given else self._tap.mtu + ETH_HLEN + VLAN_HLEN
        )
