"""A guest's NIC: the device behind a vhost-user session.

How it works: the session (`vhost_user`) says what was negotiated, where memory lies and what each
ring is; every call here writes that into the port's records while the worker is held, so that the
data path never sees half of a change.  `stop_ring` answers after the worker has let go (spec
VU-32), because it was held.

Life cycle: waiting -> attached (a front-end is connected, rings come and go) -> waiting.  What was
learnt from a guest is forgotten when its session ends.

Deviation from spec VU-25: a ring that was used before (its used index is not 0) is started as
soon as it is ready, without a kick, because a front-end that reconnects to a restarted back-end
may have nothing to kick for: its driver waits for us.
"""

from collections.abc import Sequence

from vionet.engine.layout import Port, Queue
from vionet.engine.split import adopt, refresh
from vionet.engine.status import PortKind
from vionet.ports.slot import PortOptions, Slot, accepts_of
from vionet.spec import vhost_user as vu
from vionet.spec import virtio, virtio_net
from vionet.spec.virtio_net import CONFIG_LAYOUT
from vionet.vhost_user.device import Offer
from vionet.vhost_user.memory import MappedRegion
from vionet.vhost_user.ring import Ring

# Only for front-ends that read the configuration from the back-end.
_CONFIG_FEATURES = virtio.mask([virtio_net.VIRTIO_NET_F_STATUS])
_PROTOCOL_FEATURES = virtio.mask(
    [
        vu.VHOST_USER_PROTOCOL_F_MQ,
        vu.VHOST_USER_PROTOCOL_F_REPLY_ACK,
        vu.VHOST_USER_PROTOCOL_F_MTU,
        vu.VHOST_USER_PROTOCOL_F_BACKEND_REQ,
        vu.VHOST_USER_PROTOCOL_F_CONFIG,
        vu.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS,
        vu.VHOST_USER_PROTOCOL_F_RESET_DEVICE,
    ]
)


class GuestPort:
    """One guest on the fabric; implements `vhost_user.device.Device`."""

    def __init__(self, slot: Slot, options: PortOptions) -> None:
        self.name = options.name
        self.features = 0
        self._slot = slot
        self._options = options
        self._attached = False
        with slot.hold():
            slot.set_up(PortKind.GUEST, options)
            slot.record.header_len = virtio_net.VIRTIO_NET_HDR_LEN_LEGACY

    @property
    def state(self) -> str:
        """`waiting` for a front-end, or `attached`."""
        return "attached" if self._attached else "waiting"

    def ledger(self) -> dict[str, int]:
        """The port's counters by their stable keys."""
        return self._slot.ledger()

    def drops(self) -> dict[str, int]:
        """Dropped frames by reason."""
        return self._slot.drops()

    @property
    def broken_rings(self) -> list[int]:
        """The rings that their driver broke."""
        return [i for i, queue in enumerate(self._slot.record.queues) if queue.broken]

    # --- Device -------------------------------------------------------------------------------

    def offer(self) -> Offer:
        """What the next session offers; the same every time (spec FE-10)."""
        options = self._options
        features = options.features | _CONFIG_FEATURES
        if options.mac is not None:
            features |= 1 << virtio_net.VIRTIO_NET_F_MAC
        if options.mtu is not None:
            features |= 1 << virtio_net.VIRTIO_NET_F_MTU
        config = CONFIG_LAYOUT.pack(
            (options.mac or 0).to_bytes(6, "big"),
            virtio_net.VIRTIO_NET_S_LINK_UP,
            1,
            options.mtu or 0,
            0xFFFFFFFF,  # speed and duplex: unknown
            0xFF,
            0,
            0,
            0,
            0,
        )
        return Offer(features, _PROTOCOL_FEATURES, 1, config, options.mtu or 0)

    def opened(self) -> None:
        """A front-end is connected."""
        self._attached = True

    def set_features(self, features: int) -> None:
        """The negotiated features decide header, rings and what may be partial."""
        self.features = features

        def has(bit: int) -> int:
            return features >> bit & 1

        with self._slot.hold():
            record = self._slot.record
            record.features = features
            record.header_len = virtio_net.header_len(features)
            record.mergeable = has(virtio_net.VIRTIO_NET_F_MRG_RXBUF)
            record.event_idx = has(virtio.VIRTIO_F_EVENT_IDX)
            record.indirect = has(virtio.VIRTIO_F_INDIRECT_DESC)
            record.offers_partial = has(virtio_net.VIRTIO_NET_F_CSUM)
            takes_partial = bool(has(virtio_net.VIRTIO_NET_F_GUEST_CSUM))
            record.accepts = int(accepts_of(takes_partial, self._options.policy))

    def set_mtu(self, mtu: int) -> None:
        """The driver's MTU: nothing larger is delivered (spec CF-09)."""
        with self._slot.hold():
            self._slot.record.mtu = min(mtu, self._options.mtu or mtu)

    def set_memory(self, regions: Sequence[MappedRegion]) -> None:
        """Replace the memory map."""
        with self._slot.hold():
            record = self._slot.record
            record.n_regions = len(regions)
            record.last_region = 0
            record.regions[0].region_len = 0
            for i, region in enumerate(regions):
                record.regions[i].gpa = region.gpa
                record.regions[i].region_len = region.size
                record.regions[i].hva = region.hva

    def set_ring(self, index: int, ring: Ring) -> None:
        """Something about a ring changed; it begins at its base when it becomes ready."""
        with self._slot.hold():
            record = self._slot.record
            queue = record.queues[index]
            self._watch_kick(index, queue, ring.kick_fd)
            queue.call_fd = ring.call_fd
            queue.err_fd = ring.err_fd
            queue.enabled = int(ring.enabled)
            queue.desc_hva = ring.desc_hva
            queue.avail_hva = ring.avail_hva
            queue.used_hva = ring.used_hva
            queue.entries = ring.size
            if ring.ready and not queue.ready:
                queue.avail_idx = ring.base
                queue.broken = queue.starved = queue.held = 0
                used_idx = adopt(record, queue)
                queue.started = int(used_idx != 0)
            queue.polled = int(ring.polled)
            queue.started |= queue.polled
            queue.ready = int(ring.ready)
            if not queue.ready:
                queue.started = 0
            refresh(queue)
            self._refresh(record)

    def stop_ring(self, index: int) -> int:
        """Let go of the ring; *returns* its next available index (spec VU-32, VU-33)."""
        with self._slot.hold():
            record = self._slot.record
            queue = record.queues[index]
            self._watch_kick(index, queue, -1)
            queue.ready = queue.started = 0
            refresh(queue)
            self._refresh(record)
            return int(queue.avail_idx)

    def closed(self, reason: str) -> None:
        """Let go of everything; what was learnt from this guest is forgotten."""
        with self._slot.hold():
            record = self._slot.record
            for index, queue in enumerate(record.queues):
                self._watch_kick(index, queue, -1)
                queue.ready = queue.started = queue.enabled = queue.broken = 0
                queue.call_fd = queue.err_fd = -1
                queue.desc_hva = queue.avail_hva = queue.used_hva = 0
                refresh(queue)
            record.n_regions = record.last_region = 0
            record.regions[0].region_len = 0
            record.mtu = self._options.mtu or 0
            self._refresh(record)
            self._slot.forget()
            self.set_features(0)
        self._attached = False

    def _watch_kick(self, index: int, queue: Queue, fd: int) -> None:
        """Move the worker's attention from the ring's former kick descriptor to `fd`."""
        if queue.kick_fd == fd:
            return
        if queue.kick_fd >= 0:
            self._slot.watch.remove(int(queue.kick_fd))
        queue.kick_fd = -1  # also where the new one cannot be watched
        if fd >= 0:
            self._slot.watch.add_ring(fd, self._slot.index, index)
            queue.kick_fd = fd

    def _refresh(self, record: Port) -> None:
        """The port is up while a ring is usable; a ring that nobody kicks must be polled."""
        record.up = int(any(queue.ready for queue in record.queues))
        record.polled = int(any(queue.ready and queue.polled for queue in record.queues))
        ports = self._slot.state.ports
        self._slot.state.sleep_ms = 1 if any(port.polled for port in ports) else -1
