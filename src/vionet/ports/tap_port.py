"""A tap on the fabric: the host's kernel behind a virtio-net header (`ports.tap` opens it)."""

from vionet.engine.status import Accepts, Policy, PortKind
from vionet.ports.slot import PortOptions, Slot
from vionet.ports.tap import Tap
from vionet.spec import virtio_net
from vionet.spec.packet import ETH_HLEN


class TapPort:
    """One tap; owns it."""

    state = "attached"

    def __init__(self, slot: Slot, options: PortOptions, tap: Tap) -> None:
        self.name = options.name
        self.features = 0
        self._slot = slot
        self._tap = tap
        takes_partial = (
            tap.takes_partial
            and bool(options.features >> virtio_net.VIRTIO_NET_F_GUEST_CSUM & 1)
            and options.policy is not Policy.COMPLETE
        )
        if takes_partial:
            self.features |= 1 << virtio_net.VIRTIO_NET_F_GUEST_CSUM
        if tap.gives_partial:
            self.features |= 1 << virtio_net.VIRTIO_NET_F_CSUM
        with slot.hold():
            slot.set_up(PortKind.TAP, options)
            record = slot.record
            record.fd = tap.fd
            record.header_len = tap.header_len
            record.features = self.features
            record.offers_partial = 1
            record.accepts = int(Accepts.KERNEL if takes_partial else Accepts.STREAM)
            record.max_frame_len = tap.mtu + ETH_HLEN
            record.up = 1
            record.readable = 1
            slot.watch.add_tap(tap.fd, slot.index)

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
