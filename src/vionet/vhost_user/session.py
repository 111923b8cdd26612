"""One front-end's session: what each request means, without a socket.

How it works: `Session.receive` takes a message, judges it by its row in `request.FORMS`, and calls
the method that has its name.  The method checks everything that can be wrong, then
changes the state and tells the device, and may return the payload of a reply.  `receive` makes
that into the message to send, or into an acknowledgement, or into nothing (spec VU-04 to VU-08).

Ring states (spec 3.2): a `Ring` is ready when messages have said enough; the data path starts it
at its first kick.  GET_VRING_BASE takes its kick away, and a new SET_VRING_KICK has to come.
Enabled is remembered apart, in any order, and acknowledging bit 30 does not clear it (QEMU enables
rings before SET_FEATURES); SET_FEATURES without bit 30 enables all rings (spec VU-29).

Invariants: a refused request has changed nothing.  The session closes no descriptor: those in
`fds` are in use, all others that came with messages may be closed.

Trust: the front-end may send anything in any order; the worst outcome is `ProtocolError`, the end
of its session.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from vionet.spec import vhost_user as vu
from vionet.spec import virtio
from vionet.spec import virtio_net as net
from vionet.spec.vhost_user import Request
from vionet.vhost_user.device import Device, Offer
from vionet.vhost_user.memory import REGIONS_MAX, MemoryMap
from vionet.vhost_user.message import Message, ProtocolError
from vionet.vhost_user.request import FORMS, Refusal, RegionSpec, arguments, form_of
from vionet.vhost_user.ring import Ring, check_base, check_place, check_size, located

BIT_30: Final = 1 << virtio.VHOST_USER_F_PROTOCOL_FEATURES
# Virtio features that are of use only to a driver whose configuration is read from us.
CONFIG_FEATURES: Final = virtio.mask(
    (
        net.VIRTIO_NET_F_MAC,
        net.VIRTIO_NET_F_MTU,
        net.VIRTIO_NET_F_STATUS,
        net.VIRTIO_NET_F_SPEED_DUPLEX,
    )
)
_INBAND: Final = 1 << vu.VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS
_INBAND_NEEDS: Final = (
    1 << vu.VHOST_USER_PROTOCOL_F_REPLY_ACK | 1 << vu.VHOST_USER_PROTOCOL_F_BACKEND_REQ
)

Reply = bytes | None


class TurnedAway(Exception):
    """The session ends, though its front-end did nothing wrong."""


class Session:
    """The state of one connection from its opening to its end."""

    def __init__(self, offer: Offer, memory: MemoryMap, device: Device) -> None:
        self.offer = offer
        self.memory = memory
        self.device = device
        self.features = 0
        self.protocol_features: int | None = None  # None: not negotiated yet
        self.rings = [Ring() for _ in range(2 * offer.queue_pairs + 1)]  # and a control queue
        self.mtu = 0
        self.sent_away = False  # for want of a link, once before
        self.refused: tuple[str, str] | None = None  # a request and why, until it has been told
        self.config = bytearray(offer.config.ljust(vu.CONFIG_SIZE_MAX, b"\0"))
        self.backend_fd = -1
        # Disabled while they were ready.  A base for one means that its driver starts over, as User
        # Mode Linux does without GET_VRING_BASE: what was the ring is the guest's memory again, and
        # is not touched before a new kick has come.
        self._retired: set[int] = set()
        self._offered = 0  # all feature bits that GET_FEATURES ever gave this front-end

    @property
    def fds(self) -> set[int]:
        """The descriptors in use."""
        own = {self.backend_fd} - {-1}
        return own.union(*(ring.fds for ring in self.rings))

    @property
    def queue_pairs(self) -> int:
        """As many as the driver may use."""
        return self.offer.queue_pairs if self.features >> net.VIRTIO_NET_F_MQ & 1 else 1

    def negotiated(self, protocol_feature: int) -> bool:
        """The protocol feature (a bit number) is agreed on."""
        return bool((self.protocol_features or 0) >> protocol_feature & 1)

    def receive(self, message: Message) -> Message | None:
        """Do what `message` asks; return what is to be sent back.

        Raises `ProtocolError` when the session has to end.
        """
        if message.is_reply:
            raise ProtocolError(f"{message.name}: a reply that nobody asked for")
        try:
            form = form_of(message, self.protocol_features or 0)
            fields = arguments(message, form)
            payload = METHODS[message.request](self, message.fds, *fields)
        except Refusal as refusal:
            return self.refuse(message, str(refusal))
        if payload is not None:
            return _reply(message, payload)
        return _reply(message, vu.U64.pack(0)) if self._wants_ack(message) else None

    def refuse(self, message: Message, reason: str) -> Message:
        """The answer to a request that cannot be fulfilled; the session's end if there is none."""
        self.refused = message.name, reason
        if message.request == Request.GET_CONFIG and self.negotiated(
            vu.VHOST_USER_PROTOCOL_F_CONFIG
        ):
            return _reply(message, b"")  # spec VU-75
        if not self._wants_ack(message):
            raise ProtocolError(f"{message.name}: {reason}")
        return _reply(message, vu.U64.pack(1))

    def _wants_ack(self, message: Message) -> bool:
        return message.need_reply and self.negotiated(vu.VHOST_USER_PROTOCOL_F_REPLY_ACK)

    # --- features -----------------------------------------------------------------------------
    def offered_features(self) -> int:
        """The answer to GET_FEATURES as things stand.

        User Mode Linux reads it once, before protocol features are negotiated; so the features
        that need CONFIG are taken back only when the front-end has declined CONFIG.
        """
        word = self.offer.features | BIT_30
        agreed = self.protocol_features
        could_read = self.offer.protocol_features if agreed is None else agreed
        if not could_read >> vu.VHOST_USER_PROTOCOL_F_CONFIG & 1:
            word &= ~CONFIG_FEATURES
        return word

    def _get_features(self, _: Any) -> Reply:
        word = self.offered_features()
        self._offered |= word
        return vu.U64.pack(word)

    def _set_features(self, _: Any, word: int) -> Reply:
        if surplus := word & ~(self._offered | self.offered_features()):
            raise Refusal(f"not offered: {', '.join(virtio.names(surplus))}")
        self._need_link()
        packed = bool(word >> virtio.VIRTIO_F_RING_PACKED & 1)
        for index, ring in enumerate(self.rings):
            if ring.packed != packed:
                self._stop(index)  # its parts are others now
        self.features = word
        self.device.set_features(word)
        for index, ring in enumerate(self.rings):
            if ring.packed != packed:
                self._update(index, packed=packed, base=ring.base if packed else 0)
        if not word & BIT_30:
            self._retired.clear()
            for index in range(len(self.rings)):
                self._update(index, enabled=True)
        return None

    def _get_protocol_features(self, _: Any) -> Reply:
        return vu.U64.pack(self.offer.protocol_features)

    def _set_protocol_features(self, _: Any, word: int) -> Reply:
        if word & _INBAND and word & _INBAND_NEEDS != _INBAND_NEEDS:  # spec VU-15
            raise ProtocolError(
                "SET_PROTOCOL_FEATURES: in-band notifications without REPLY_ACK and BACKEND_REQ"
            )
        if surplus := word & ~self.offer.protocol_features:
            raise Refusal(f"not offered: {', '.join(vu.protocol_names(surplus))}")
        self.protocol_features = word
        if self.sent_away:  # so it need not even try, and its guest sees no link meanwhile
            self._need_link()
        return None

    def _need_link(self) -> None:
        """A front-end to which a link is up as long as it is connected has to go.

        Not before its driver starts, the first time: QEMU does not come up without one handshake.
        """
        if self.device.link_down and not self.negotiated(vu.VHOST_USER_PROTOCOL_F_CONFIG):
            raise TurnedAway("the port's link is down")

    # --- the session --------------------------------------------------------------------------
    def _accept(self, *_: Any) -> Reply:
        """SET_OWNER; RESET_OWNER, which is to be ignored (spec VU-19); SET_LOG_FD, never used."""
        return None

    _set_owner = _reset_owner = _set_log_fd = _accept

    def _reset_device(self, *_: Any) -> Reply:
        """Spec VU-81: rings stopped and disabled, features forgotten."""
        for index, ring in enumerate(self.rings):
            self._stop(index)
            self.rings[index] = fresh = Ring(call_fd=ring.call_fd, err_fd=ring.err_fd)
            self.device.set_ring(index, fresh)
        self.features = 0
        self.device.set_features(0)
        return None

    def _get_queue_num(self, _: Any) -> Reply:
        return vu.U64.pack(self.offer.queue_pairs)  # pairs: spec FE-13

    def _net_set_mtu(self, _: Any, mtu: int) -> Reply:
        if not net.MTU_MIN <= mtu <= (self.offer.mtu or net.MTU_MAX):
            raise Refusal(f"MTU {mtu}, expected {net.MTU_MIN} to {self.offer.mtu or net.MTU_MAX}")
        if self.mtu not in (0, mtu):  # spec CF-08
            raise Refusal(f"MTU {mtu}, it is {self.mtu} already")
        self.mtu = mtu
        self.device.set_mtu(mtu)
        return None

    def _set_backend_req_fd(self, fds: tuple[int, ...]) -> Reply:
        self.backend_fd = fds[0]
        return None

    def _get_config(self, _: Any, offset: int, size: int, flags: int, data: bytes) -> Reply:
        if offset + size > vu.CONFIG_SIZE_MAX:
            raise Refusal(f"configuration ends at {vu.CONFIG_SIZE_MAX}")
        head = vu.CONFIG_HEAD.pack(offset, size, flags)
        return head + bytes(self.config[offset : offset + size])

    def _set_config(self, _: Any, offset: int, size: int, flags: int, data: bytes) -> Reply:
        if flags != vu.CONFIG_FLAG_MIGRATION:  # all fields are read-only: spec VU-77
            raise Refusal(f"configuration is read-only (flags {flags})")
        if offset + size > vu.CONFIG_SIZE_MAX:
            raise Refusal(f"configuration ends at {vu.CONFIG_SIZE_MAX}")
        self.config[offset : offset + size] = data
        return None

    # --- memory -------------------------------------------------------------------------------
    def _set_mem_table(self, fds: tuple[int, ...], *specs: RegionSpec) -> Reply:
        self.memory.replace(specs, fds)
        return self._moved()

    def _add_mem_reg(self, fds: tuple[int, ...], spec: RegionSpec) -> Reply:
        self.memory.add(spec, fds[0])
        return self._moved()

    def _rem_mem_reg(self, _: Any, spec: RegionSpec) -> Reply:
        self.memory.remove(spec)
        return self._moved()

    def _get_max_mem_slots(self, _: Any) -> Reply:
        return vu.U64.pack(REGIONS_MAX)

    def _moved(self) -> Reply:
        """The memory map has changed: stop rings that lost theirs, then move the data path."""
        for index, ring in enumerate(self.rings):
            if ring.ready and not located(ring, self.memory).ready:
                self._update(index)
        self.device.set_memory(self.memory.regions)
        for index in range(len(self.rings)):
            self._update(index)
        self.memory.release()
        return None

    # --- rings --------------------------------------------------------------------------------
    def _check_index(self, index: int) -> None:
        if index >= len(self.rings):
            raise Refusal(f"ring {index}, there are {len(self.rings)}")

    def _may_be_packed(self, index: int) -> bool:
        """It is, or SET_FEATURES is still to come."""
        undecided = not self.features and self.offer.features >> virtio.VIRTIO_F_RING_PACKED & 1
        return self.rings[index].packed or bool(undecided)

    def _stop(self, index: int) -> None:
        """Make the data path let go of the ring, if it may have it, and note its base."""
        if self.rings[index].ready:
            base = self.device.stop_ring(index)
            self.rings[index] = replace(
                self.rings[index], base=base, desc_hva=0, avail_hva=0, used_hva=0
            )

    def _update(self, index: int, **changes: Any) -> None:
        """Change the ring and tell the device, if there is anything to tell."""
        former = self.rings[index]
        ring = located(replace(former, **changes), self.memory)
        if former.ready and not ring.ready:
            self._stop(index)
            ring = replace(ring, base=self.rings[index].base)
        if ring != self.rings[index]:
            self.rings[index] = ring
            self.device.set_ring(index, ring)

    def _set_vring_num(self, _: Any, index: int, size: int) -> Reply:
        self._check_index(index)
        check_size(size, packed=self._may_be_packed(index))
        if size != self.rings[index].size:
            self._stop(index)
            self._update(index, size=size)
        return None

    def _set_vring_addr(
        self, _: Any, index: int, flags: int, desc: int, used: int, avail: int, log: int
    ) -> Reply:
        self._check_index(index)
        former = self.rings[index]
        ring = replace(former, desc_uva=desc, avail_uva=avail, used_uva=used)
        if ring == former:
            return None  # only the flags changed, which nobody needs: no logging is offered
        if ring.packed or not self._may_be_packed(index):
            check_place(ring, self.memory)
        self._stop(index)  # the used index is in the new place (spec VU-38)
        self._update(index, desc_uva=desc, avail_uva=avail, used_uva=used)
        return None

    def _set_vring_base(self, _: Any, index: int, base: int) -> Reply:
        self._check_index(index)
        check_base(base, packed=self._may_be_packed(index))
        self._stop(index)
        if index in self._retired:
            self._update(index, base=base, kick_fd=-1, polled=False)
        else:
            self._update(index, base=base)
        return None

    def _get_vring_base(self, _: Any, index: int, _num: int) -> Reply:
        self._check_index(index)
        self._stop(index)
        self._update(index, kick_fd=-1, polled=False)  # until a new SET_VRING_KICK (spec VU-35)
        return vu.VRING_STATE.pack(index, self.rings[index].base)

    def _set_vring_kick(self, fds: tuple[int, ...], index: int, nofd: bool) -> Reply:
        self._check_index(index)
        self._retired.discard(index)
        self._update(index, kick_fd=-1 if nofd else fds[0], polled=nofd)
        return None

    def _set_vring_call(self, fds: tuple[int, ...], index: int, nofd: bool) -> Reply:
        self._check_index(index)
        self._update(index, call_fd=-1 if nofd else fds[0])
        return None

    def _set_vring_err(self, fds: tuple[int, ...], index: int, nofd: bool) -> Reply:
        self._check_index(index)
        self._update(index, err_fd=-1 if nofd else fds[0])
        return None

    def _set_vring_enable(self, _: Any, index: int, enabled: int) -> Reply:
        self._check_index(index)
        if enabled > 1:
            raise Refusal(f"enable {enabled}, expected 0 or 1")
        if enabled:
            self._retired.discard(index)
        elif self.rings[index].ready:
            self._retired.add(index)
        self._update(index, enabled=bool(enabled))
        return None

    def _set_vring_endian(self, _: Any, index: int, big: int) -> Reply:
        self._check_index(index)
        if big:  # CROSS_ENDIAN is not offered (spec VU-87)
            raise Refusal(f"ring {index} is big-endian, which needs a driver with VERSION_1 here")
        return None


METHODS: Final[dict[int, Callable[..., Reply]]] = {
    request: getattr(Session, f"_{Request(request).name.lower()}") for request in FORMS
}


def _reply(message: Message, payload: bytes) -> Message:
    return Message(message.request, payload, (), vu.VERSION | vu.FLAG_REPLY)
