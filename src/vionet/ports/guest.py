"""A guest's NIC: the device behind a vhost-user session.

How it works: the session (`vhost_user`) says what was negotiated, where memory lies and what each
ring is; every call here writes that into the port's records while the worker is held, so that the
data path never sees half of a change.  `stop_ring` answers after the worker has let go (spec
VU-32), because it was held.

What may be delivered follows from what was negotiated, from what the driver switched off at run
time, and from what a person allows at this moment (`change`); what the driver may send is what was
negotiated.  So a change at run time changes cost and never delivery (W8, W31).

Life cycle: waiting -> attached (a front-end is connected, rings come and go) -> waiting.  What was
learnt from a guest is forgotten when its session ends.

The control queue is ours where CTRL_VQ was acknowledged; QEMU and DPDK keep it to themselves, and
then every pair is in use whose rings the front-end has enabled (spec FE-01, FE-04).  A kick of it
reaches `serve_control` by way of the worker and its notice.

Deviation from spec VU-25: a ring that was used before (its used index is not 0) is started as
soon as it is ready, without a kick, because a front-end that reconnects to a restarted back-end
may have nothing to kick for: its driver waits for us.

Deviation from spec VU-87: CROSS_ENDIAN is not offered, so a legacy driver of the other byte order
does not work, and SET_VRING_ENDIAN for one is refused; those of our own order do (spec LG-01).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from vionet.engine.kick import drop_rings, review
from vionet.engine.layout import Queue
from vionet.engine.ring import begin, position, refresh
from vionet.engine.status import RING_BROKEN, Accepts, PortKind
from vionet.ports.announcement import Announcement
from vionet.ports.control_queue import Terms
from vionet.ports.control_server import ControlServer
from vionet.ports.offload import GUEST_OFFLOADS, sends_gso, takes_gso, usable
from vionet.ports.position import NO_POSITIONS, Positions
from vionet.ports.slot import Plugged, PortOptions, Slot, accepts_of
from vionet.spec import vhost_user as vu
from vionet.spec import virtio, virtio_net
from vionet.spec.virtio_net import CONFIG_LAYOUT
from vionet.vhost_user.device import FrontEnd, Offer
from vionet.vhost_user.memory import MappedRegion
from vionet.vhost_user.ring import Ring

# STATUS is only for front-ends that read the configuration from the back-end, the rest for those
# that leave the control queue to it.
_ALWAYS: Final = virtio.mask(
    [
        virtio_net.VIRTIO_NET_F_STATUS,
        virtio_net.VIRTIO_NET_F_CTRL_VQ,
        virtio_net.VIRTIO_NET_F_CTRL_RX,
        virtio_net.VIRTIO_NET_F_CTRL_RX_EXTRA,
        virtio_net.VIRTIO_NET_F_CTRL_VLAN,
        virtio_net.VIRTIO_NET_F_CTRL_MAC_ADDR,
        virtio_net.VIRTIO_NET_F_GUEST_ANNOUNCE,
    ]
)
_PROTOCOL_FEATURES: Final = virtio.mask(
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
_KINDS: Final = ("receiveq", "transmitq")


class GuestPort(Plugged):
    """One guest on the fabric; implements `vhost_user.device.Device`."""

    def __init__(
        self, slot: Slot, options: PortOptions, positions: Positions = NO_POSITIONS
    ) -> None:
        self.name = options.name
        self._positions = positions
        self.features = 0
        self._slot = slot
        self._options = options
        self._pairs = options.queues
        self._front_end: FrontEnd | None = None
        self.sent_away = 0
        self._attached = False
        self._control = ControlServer(options.mac or 0)
        self._announcement = Announcement(self._ask_to_announce)
        # Told what may be delivered here whole and partial, whenever that has changed.
        self.follower: Callable[[int, bool], None] | None = None
        self._told: tuple[int, bool] | None = None
        with slot.hold():
            slot.set_up(PortKind.GUEST, options)
            slot.record.header_len = virtio_net.VIRTIO_NET_HDR_LEN_LEGACY

    @property
    def state(self) -> str:
        """`waiting` for a front-end, or `attached`."""
        return "attached" if self._attached else "waiting"

    @property
    def offered(self) -> int:
        """The features that the next session offers."""
        return self.offer().features

    @property
    def pairs(self) -> int:
        """Queue pairs in use: those that the driver asked for, or its front-end has enabled."""
        record = self._slot.record
        receivers = [record.queues[2 * pair] for pair in range(record.n_pairs)]
        return max(1, sum(bool(queue.ready and queue.enabled) for queue in receivers))

    @property
    def warnings(self) -> list[str]:
        """What was negotiated and cannot be used."""
        lost = virtio.names(self.features & ~usable(self.features))
        return [
            f"{name}: acknowledged without what it needs; add that to the guest" for name in lost
        ]

    @property
    def broken_rings(self) -> list[str]:
        """The rings that their driver broke, by the specification's names."""
        record = self._slot.record
        return [
            "controlq" if i and i == record.control_ring else f"{_KINDS[i & 1]}{i // 2 + 1}"
            for i, queue in enumerate(record.queues)
            if queue.broken
        ]

    def change(self, options: PortOptions) -> None:
        """Take over other options while frames pass: policy, offload, link, VLANs, isolation.

        The running session keeps what it has negotiated and is only served less; what is offered
        follows from the next session on (spec FE-10).
        """
        was_up, self._options = self._options.link_up, options
        with self._slot.hold():
            self._slot.apply(options)
            self._refresh()
        if was_up == options.link_up or self._front_end is None:
            return
        if not self._front_end.reads_config:
            if not options.link_up:
                self._front_end.end("the port's link was set down")
            return
        self._announcement.stop()
        announces = self._has(virtio_net.VIRTIO_NET_F_GUEST_ANNOUNCE)
        if announces and self._slot.record.control_ring and options.link_up:
            self._announcement.begin()
        else:
            self._control.state = replace(self._control.state, announce=False)
            self._show_config(changed=True)

    def _ask_to_announce(self) -> None:
        self._control.state = replace(self._control.state, announce=True)
        self._show_config(changed=True)

    # --- Device -------------------------------------------------------------------------------

    @property
    def link_down(self) -> bool:
        """A person has taken the link down."""
        return not self._options.link_up

    def offer(self) -> Offer:
        """What the next session offers; the same every time (spec FE-10)."""
        options = self._options
        features = options.features | _ALWAYS
        for bit, present in (
            (virtio_net.VIRTIO_NET_F_MAC, options.mac is not None),
            (virtio_net.VIRTIO_NET_F_MTU, options.mtu is not None),
            (virtio_net.VIRTIO_NET_F_SPEED_DUPLEX, options.speed is not None),
            (virtio_net.VIRTIO_NET_F_MQ, self._pairs > 1),
            (virtio_net.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, options.features & GUEST_OFFLOADS != 0),
        ):
            features |= present << bit
        protocol, mtu = _PROTOCOL_FEATURES, options.mtu or 0
        if self._pairs > 1:  # QEMU before 8.1 adds the same memory again for each pair
            protocol &= ~(1 << vu.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS)
        return Offer(features, protocol, self._pairs, self._config(), mtu)

    def opened(self, front_end: FrontEnd | None = None) -> None:
        """A front-end is connected."""
        self._front_end = front_end
        self._attached = True

    def set_features(self, features: int) -> None:
        """The negotiated features decide header, rings, what may be partial, and what is large.

        A driver that starts over has stopped its control queue first, and finds it as new (spec
        CV-11, CV-26); where it is running, features may change under it (spec VU-36).
        """
        with self._slot.hold():
            record = self._slot.record
            if not (record.control_ring and record.queues[record.control_ring].live):
                self._control.reset()
                self._announcement.stop()
            self.features = features
            record.features = features - (features >> 63 << 64)  # bit 63 is the sign
            record.header_len = virtio_net.header_len(features)
            record.mergeable = self._has(virtio_net.VIRTIO_NET_F_MRG_RXBUF)
            record.event_idx = self._has(virtio.VIRTIO_F_EVENT_IDX)
            record.indirect = self._has(virtio.VIRTIO_F_INDIRECT_DESC)
            record.offers_partial = self._has(virtio_net.VIRTIO_NET_F_CSUM)
            record.offers_gso = sends_gso(features)
            # Index 2 without MQ, 2N with (spec CF-02).
            multiqueue = self._has(virtio_net.VIRTIO_NET_F_MQ)
            record.control_ring = 2 * self._pairs if multiqueue else 2
            record.control_ring *= self._has(virtio_net.VIRTIO_NET_F_CTRL_VQ)
            self._refresh()
            self._show_config()

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
            if ring.call_fd != queue.call_fd:
                queue.owed |= queue.ready  # one may have gone to the former (spec VU-36)
            queue.call_fd = ring.call_fd
            queue.err_fd = ring.err_fd
            queue.enabled = int(ring.enabled)
            queue.desc_hva = ring.desc_hva
            queue.avail_hva = ring.avail_hva
            queue.used_hva = ring.used_hva
            queue.entries = ring.size
            if ring.ready and not queue.ready:
                queue.packed = int(ring.packed)
                queue.broken = queue.starved = queue.held = 0
                queue.posted_max = queue.waits_ns = 0
                base = self._positions.begin(queue, self.name, index, ring)
                queue.started = queue.owed = begin(record, queue, base)
            queue.polled = int(ring.polled)
            queue.started |= queue.polled
            queue.ready = int(ring.ready)
            if not queue.ready:
                queue.started = 0
            refresh(queue)
            self._refresh()
            if index and index == record.control_ring:
                record.control_kicked = queue.live  # the kick may have come before this

    def stop_ring(self, index: int) -> int:
        """Let go of the ring; *returns* its next available index (spec VU-32, VU-33)."""
        with self._slot.hold():
            record = self._slot.record
            queue = record.queues[index]
            self._watch_kick(index, queue, -1)
            queue.ready = queue.started = 0
            refresh(queue)
            self._refresh()
            self._positions.end(queue)
            return int(position(queue))

    def closed(self, reason: str) -> None:
        """Let go of everything; what was learnt from this guest is forgotten."""
        self._front_end = None
        with self._slot.hold():
            record = self._slot.record
            for index, queue in enumerate(record.queues):
                self._watch_kick(index, queue, -1)
            drop_rings(self._slot.state, self._slot.index)
            record.n_regions = record.last_region = 0
            record.regions[0].region_len = 0
            record.mtu = self._options.mtu or 0
            record.flows[:] = 0
            self._slot.forget()
            self.set_features(0)
        self._attached = False

    # --- the control queue --------------------------------------------------------------------

    @property
    def control_kicked(self) -> bool:
        """The driver may have put commands into its control queue."""
        return bool(self._slot.record.control_kicked)

    def serve_control(self) -> bool:
        """Answer the driver's commands (W29).

        *returns* true where it has to be called again in a moment: there were very many, or
        nobody will ever kick.
        """
        with self._slot.hold():
            record = self._slot.record
            terms = Terms(self.features, self._pairs, self._options.locked)
            queue = record.queues[record.control_ring]
            broken = queue.broken
            more = self._control.serve(record, terms, self._refresh)
            record.control_kicked = int(more)
            self._slot.works[0].drops[self._slot.index, RING_BROKEN] += queue.broken - broken
            self._show_config()
            if self._front_end is not None and not self._control.state.announce:
                self._announcement.go_on(self._front_end)
            return more

    def _show_config(self, *, changed: bool = False) -> None:
        if self._front_end is not None:
            self._front_end.show_config(self._config(), changed=changed)

    # --- what follows from all that ---------------------------------------------------------------

    def _has(self, bit: int) -> int:
        return self.features >> bit & 1

    def _config(self) -> bytes:
        """The configuration space (spec CF-03)."""
        options, control = self._options, self._control.state
        status = virtio_net.VIRTIO_NET_S_LINK_UP if options.link_up else 0
        status |= virtio_net.VIRTIO_NET_S_ANNOUNCE if control.announce else 0
        speed, duplex = virtio_net.SPEED_UNKNOWN, virtio_net.DUPLEX_UNKNOWN
        if options.speed is not None:
            speed, duplex = options.speed, virtio_net.DUPLEX_FULL
        mac = control.mac.to_bytes(6, "big")
        mtu = options.mtu or 0
        return CONFIG_LAYOUT.pack(mac, status, self._pairs, mtu, speed, duplex, 0, 0, 0, 0)

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

    @property
    def offloads(self) -> int:
        """What may be delivered to it unfinished just now: agreed, switched on and allowed."""
        return self.features & self._control.state.offloads & self._options.features

    def _refresh(self) -> None:
        """Recompute what follows from features, options, rings and the driver's commands."""
        record, control = self._slot.record, self._control.state
        taken = self.offloads
        takes_partial = bool(taken >> virtio_net.VIRTIO_NET_F_GUEST_CSUM & 1)
        accepts = accepts_of(takes_partial, self._options.policy)
        record.accepts = int(accepts)
        record.takes_gso = 0 if accepts is Accepts.COMPLETE else takes_gso(taken)
        record.n_pairs = control.pairs if record.control_ring else self._pairs
        self._control.write_filters(record, self.features)
        takes = (int(record.takes_gso), accepts is not Accepts.COMPLETE)
        if self.follower is not None and takes != self._told:
            self.follower(*takes)
            self._told = takes
        review(self._slot.state, self._slot.index)
