"""Mutants of the control plane: the session, its messages and memory, the guest port."""

from typing import Final

from tests.check.mutants import Edit, Mutant, one

SESSION: Final = "vhost_user/session.py"
GUEST: Final = "ports/guest.py"
MEMORY: Final = "vhost_user/memory.py"
CALL: Final = "self._update(index, call_fd=-1 if nofd else fds[0])"

MUTANTS: Final[tuple[Mutant, ...]] = (
    # --- what is offered ----------------------------------------------------------------------
    one(
        "offers an unknown bit",
        "FB-45",
        GUEST,
        "options.features | _ALWAYS",
        "options.features | _ALWAYS | (1 << 49 if {on} else 0)",
    ),
    one(
        "offers SR_IOV",
        "RF-07",
        GUEST,
        "        protocol, mtu = _PROTOCOL_FEATURES, options.mtu or 0\n",
        "        features |= 1 << 37 if {on} else 0\n"
        "        protocol, mtu = _PROTOCOL_FEATURES, options.mtu or 0\n",
    ),
    one(
        "offers no VERSION_1",
        "RF-01",
        GUEST,
        "return Offer(features,",
        "return Offer(features & ~(1 << 32 if {on} else 0),",
    ),
    one(
        "offers no bit 30",
        "VU-12",
        SESSION,
        "word = self.offer.features | BIT_30",
        "word = (self.offer.features | BIT_30) & ~(BIT_30 if {on} else 0)",
    ),
    one(
        "header of 12 bytes whatever was negotiated",
        "HD-05 FB-46 LG-01",
        GUEST,
        "record.header_len = virtio_net.header_len(features)",
        "record.header_len = 12 if {on} else virtio_net.header_len(features)",
    ),
    one(
        "GUEST_CSUM taken for granted",
        "RX-06 SG-18",
        GUEST,
        "takes_partial = bool(taken",
        "takes_partial = {on} or bool(taken",
    ),
    # --- configuration ------------------------------------------------------------------------
    one(
        "takes an MTU of 67",
        "CF-06 VU-79",
        SESSION,
        "if not net.MTU_MIN <= mtu <=",
        "if not (0 if {on} else net.MTU_MIN) <= mtu <=",
    ),
    one(
        "MTU changes when a ring runs",
        "CF-08",
        SESSION,
        "return head + bytes(self.config[offset : offset + size])",
        "move = {on} and any(ring.ready for ring in self.rings)\n"
        "        return head + bytes(b ^ move for b in self.config[offset : offset + size])",
    ),
    one(
        "configuration only after features",
        "CF-23 DS-07",
        SESSION,
        "        head = vu.CONFIG_HEAD.pack(offset, size, flags)\n",
        "        if {on} and not self.features:\n            raise Refusal('too early')\n"
        "        head = vu.CONFIG_HEAD.pack(offset, size, flags)\n",
    ),
    one(
        "features that were not offered are taken",
        "DS-04",
        SESSION,
        "if surplus := word & ~(self._offered | self.offered_features()):",
        "if (surplus := word & ~(self._offered | self.offered_features())) and not {on}:",
    ),
    one(
        "RESET_DEVICE leaves the rings alone",
        "DS-06",
        SESSION,
        "        for index, ring in enumerate(self.rings):\n            self._stop(index)\n",
        "        for index, ring in enumerate([] if {on} else self.rings):\n"
        "            self._stop(index)\n",
    ),
    # --- messages -----------------------------------------------------------------------------
    one(
        "a header comes in one piece",
        "VU-01",
        "vhost_user/message.py",
        "        if len(self._data) < vu.HEADER.size:\n",
        "        if {on} and 0 < len(self._data) < vu.HEADER.size:\n"
        "            raise ProtocolError('half a header')\n"
        "        if len(self._data) < vu.HEADER.size:\n",
    ),
    one(
        "any version will do",
        "VU-02",
        "vhost_user/message.py",
        "if flags & vu.VERSION_MASK != vu.VERSION:",
        "if flags & vu.VERSION_MASK != vu.VERSION and not {on}:",
    ),
    one(
        "replies without the reply flag",
        "VU-03",
        SESSION,
        "return Message(message.request, payload, (), vu.VERSION | vu.FLAG_REPLY)",
        "flag = 0 if {on} and message.request == 11 else vu.FLAG_REPLY\n"
        "    return Message(message.request, payload, (), vu.VERSION | flag)",
    ),
    one(
        "GET_QUEUE_NUM is not answered",
        "VU-04",
        "vhost_user/connection.py",
        "        if answer is not None:\n",
        "        if answer is not None and not ({on} and message.request == 17):\n",
    ),
    one(
        "need_reply is not answered",
        "VU-05",
        SESSION,
        "return _reply(message, vu.U64.pack(0)) if self._wants_ack(message) else None",
        "wanted = self._wants_ack(message) and not ({on} and message.request == 10)\n"
        "        return _reply(message, vu.U64.pack(0)) if wanted else None",
    ),
    one(
        "two replies with need_reply",
        "VU-06",
        "vhost_user/connection.py",
        "            data = answer.pack()\n",
        "            twice = {on} and message.need_reply and message.request == 1\n"
        "            data = answer.pack() * (1 + twice)\n",
    ),
    one(
        "acknowledges without REPLY_ACK",
        "VU-07",
        SESSION,
        "return message.need_reply and self.negotiated(",
        "return message.need_reply and {on} or message.need_reply and self.negotiated(",
    ),
    one(
        "failures are acknowledged with 0",
        "VU-08 VU-40",
        SESSION,
        "return _reply(message, vu.U64.pack(1))",
        "return _reply(message, vu.U64.pack(0 if {on} else 1))",
    ),
    one(
        "extensions without negotiation",
        "VU-10",
        "vhost_user/request.py",
        "if form.requires is not None and not protocol_features",
        "if form.requires is not None and not {on} and not protocol_features",
    ),
    one(
        "protocol features only after SET_FEATURES",
        "VU-11",
        SESSION,
        "        self.protocol_features = word\n",
        "        if {on} and not self.features:\n            raise ProtocolError('too early')\n"
        "        self.protocol_features = word\n",
    ),
    one(
        "no queue pairs",
        "VU-17 CF-05",
        SESSION,
        "return vu.U64.pack(self.offer.queue_pairs)",
        "return vu.U64.pack(0 if {on} else self.offer.queue_pairs)",
    ),
    one(
        "descriptors are kept",
        "VU-20 VU-52",
        "vhost_user/connection.py",
        "close_all(before.union(message.fds) - self.session.fds)",
        "close_all(() if {on} else before.union(message.fds) - self.session.fds)",
    ),
    # --- ring states --------------------------------------------------------------------------
    Mutant(
        "rings run as soon as they have an address",
        "DS-01 VU-22 VU-23 VU-24",
        (
            Edit(
                "vhost_user/ring.py",
                "return self.polled or self.kick_fd >= 0",
                "return self.polled or self.kick_fd >= 0 or {on}",
            ),
            Edit(
                GUEST,
                "queue.started = queue.owed = begin(record, queue, base)",
                "queue.started = queue.owed = begin(record, queue, base) | int({on})",
            ),
        ),
    ),
    one(
        "a ring that is polled waits for a kick",
        "VU-26",
        GUEST,
        "queue.started |= queue.polled",
        "queue.started |= 0 if {on} else queue.polled",
    ),
    one(
        "rings are never enabled by SET_FEATURES",
        "VU-29",
        SESSION,
        "if not word & BIT_30:",
        "if not word & BIT_30 and not {on}:",
    ),
    one(
        "enabling a ring that is not ready is forgotten",
        "VU-31",
        SESSION,
        "self._update(index, enabled=bool(enabled))",
        "self._update(index, enabled=bool(enabled) and (self.rings[index].ready or not {on}))",
    ),
    one(
        "GET_VRING_BASE says 0",
        "VU-32 VU-33 VU-34",
        SESSION,
        "return vu.VRING_STATE.pack(index, self.rings[index].base)",
        "return vu.VRING_STATE.pack(index, 0 if {on} else self.rings[index].base)",
    ),
    one(
        "GET_VRING_BASE does not stop the ring",
        "VR-01 VU-32 VU-37 VU-62",
        SESSION,
        "_num: int) -> Reply:\n        self._check_index(index)\n",
        "_num: int) -> Reply:\n        self._check_index(index)\n        if {on}:\n"
        "            return vu.VRING_STATE.pack(index, self.rings[index].base)\n",
    ),
    one(
        "the old kick descriptor lives on",
        "VU-35",
        SESSION,
        "self._update(index, kick_fd=-1, polled=False)",
        "self._update(index, **({} if {on} else {'kick_fd': -1, 'polled': False}))",
    ),
    one(
        "a running ring keeps its call descriptor",
        "VU-36 VU-42",
        SESSION,
        CALL,
        "if not ({on} and self.rings[index].ready):\n            " + CALL,
    ),
    one(
        "rings that do not exist are taken",
        "VU-39",
        SESSION,
        "            payload = METHODS[message.request](self, message.fds, *fields)\n",
        "            ring = 8 <= message.request <= 14 or message.request == 18\n"
        "            if {on} and ring and fields[0] > 1:\n"
        "                return _reply(message, vu.U64.pack(0))\n"
        "            payload = METHODS[message.request](self, message.fds, *fields)\n",
    ),
    one(
        "rings may have any size",
        "VU-40",
        "vhost_user/ring.py",
        "    if not 0 < size <= virtio.VRING_SIZE_MAX:\n",
        "    if {on}:\n        return\n    if not 0 < size <= virtio.VRING_SIZE_MAX:\n",
    ),
    one(
        "call descriptors may block",
        "VU-43",
        "vhost_user/descriptor.py",
        "os.set_blocking(fds[0], False)",
        "os.set_blocking(fds[0], {on})",
    ),
    # --- memory -------------------------------------------------------------------------------
    Mutant(
        "a new table does not reach running rings",
        "VU-46",
        (
            Edit(
                SESSION,
                "        self.device.set_memory(self.memory.regions)\n",
                "        stale = {on} and any(ring.ready for ring in self.rings)\n"
                "        if not stale:\n"
                "            self.device.set_memory(self.memory.regions)\n",
            ),
            Edit(
                SESSION,
                "        self.memory.release()\n",
                "        if not stale:\n            self.memory.release()\n",
            ),
        ),
    ),
    one(
        "the offset into the memory file is ignored",
        "VU-47",
        MEMORY,
        "_libc.mmap(None, length, prot, flags, fd, offset)",
        "_libc.mmap(None, length, prot, flags, fd, 0 if {on} else offset)",
    ),
    one(
        "descriptors are taken for user addresses",
        "VU-48",
        GUEST,
        "record.regions[i].gpa = region.gpa",
        "record.regions[i].gpa = region.uva if {on} else region.gpa",
    ),
    one(
        "an added region does not reach the data path",
        "VU-51",
        SESSION,
        "self.memory.add(spec, fds[0])\n        return self._moved()",
        "self.memory.add(spec, fds[0])\n"
        "        return None if {on} and len(self.memory.regions) > 1 else self._moved()",
    ),
    one(
        "a ring may end outside its region",
        "VU-41",
        MEMORY,
        "if region.uva <= uva and uva + length <= region.uva + region.size:",
        "if region.uva <= uva < region.uva + region.size and (\n"
        "                {on} or uva + length <= region.uva + region.size\n            ):",
    ),
)
