"""A tap on the fabric: the host's kernel behind a virtio-net header (`ports.tap` opens it).

How it works: the kernel is looked at as a driver: HOST_* is what it may send, GUEST_* what it takes
whole.  On a switch it may send all that the options allow, because frames are finished and
segmented for each receiver (spec TP-11).  On a wire there is one receiver only: what that guest has
not agreed to, the kernel finishes and segments before it is read (`peer_takes`), and the rest goes
into the guest's buffers uncopied.
"""

from vionet.engine.layout import FRAME_MAX
from vionet.engine.status import GSO_ALL, Accepts, Policy, PortKind
from vionet.ports.offload import limited, sends_gso, takes_gso
from vionet.ports.slot import PortOptions, Slot
from vionet.ports.tap import Tap
from vionet.spec.packet import ETH_HLEN, VLAN_HLEN
from vionet.spec.virtio_net import VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM

_GIVES_PARTIAL = 1 << VIRTIO_NET_F_CSUM
_TAKES_PARTIAL = 1 << VIRTIO_NET_F_GUEST_CSUM


class TapPort:
    """One tap; owns it."""

    state = "attached"
    pairs = 1

    def __init__(self, slot: Slot, options: PortOptions, tap: Tap) -> None:
        self.name = options.name
        self.features = 0  # in effect
        self.warnings = tap.findings.warnings
        self._slot = slot
        self._options = options
        self._tap = tap
        self._peer = (GSO_ALL, True)
        with slot.hold():
            slot.set_up(PortKind.TAP, options)
            record = slot.record
            record.fd = tap.fd
            record.header_len = record.egress_header_len = tap.header_len
            record.offers_partial = 1
            record.offers_gso = GSO_ALL  # what was sent before a change may still come
            self._apply()
            record.up = 1
            record.readable = 1
            slot.watch.add_tap(tap.fd, slot.index)

    @property
    def offered(self) -> int:
        """What a person would let the kernel do."""
        return self._options.features

    def change(self, options: PortOptions) -> None:
        """Follow a person's new choice of policy, offloads, VLANs and link."""
        self._options = options
        with self._slot.hold():
            self._slot.apply(options)
            self._apply()

    def peer_takes(self, gso: int, partial: bool) -> None:
        """On a wire: the guest at the other end has agreed to these `GSO_*` bits, and to partial
        checksums or not."""
        self._peer = (gso, partial)
        with self._slot.hold():
            self._apply()

    def _apply(self) -> None:
        """Tell the kernel and the engine what may pass.  *requires* hold."""
        found, record = self._tap.findings, self._slot.record
        gso, partial = self._peer
        word = self._options.features
        if not found.takes_partial or self._options.policy is Policy.COMPLETE:
            word &= ~_TAKES_PARTIAL
        if not found.gives_partial or not partial:
            word &= ~_GIVES_PARTIAL
        word = limited(word, found.gives_gso & gso, found.takes_gso)
        given = self._tap.give(partial=bool(word & _GIVES_PARTIAL), gso=sends_gso(word))
        record.features = self.features = limited(word, given, found.takes_gso)
        record.accepts = int(Accepts.KERNEL if word & _TAKES_PARTIAL else Accepts.STREAM)
        record.takes_gso = takes_gso(word)
        # One tag of the kernel's own may come on top of its MTU.
        record.max_frame_len = FRAME_MAX if given else self._tap.mtu + ETH_HLEN + VLAN_HLEN

    def ledger(self) -> dict[str, int]:
        """The port's counters by their stable keys."""
        return self._slot.ledger()

    def drops(self) -> dict[str, int]:
        """Dropped frames by reason."""
        return self._slot.drops()

    def filter_destination(self, mac: int) -> None:
        """The other end of the wire is locked to `mac`: the kernel keeps back what is not its."""
        self._tap.filter_destination(mac)

    def close(self) -> None:
        """Leave the fabric and close the tap."""
        with self._slot.hold():
            self._slot.record.up = self._slot.record.readable = 0
            self._slot.watch.remove(self._tap.fd)
            self._slot.record.fd = -1
        self._tap.close()
