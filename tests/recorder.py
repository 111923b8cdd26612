"""A device that only writes down what its back-end asks of it, and two ways to drive it.

`Recorder` implements `vionet.vhost_user.device.Device`.  `Peer` is a front-end without a socket: it
puts messages into a session of a recorder.  `serving` runs a `Backend` on an asyncio
loop in a thread, so that a test can be a blocking front-end in front of it.
"""

import asyncio
import contextlib
import mmap
import os
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from vionet.spec import vhost_user as vu
from vionet.spec import virtio, virtio_net
from vionet.spec.vhost_user import Request
from vionet.vhost_user.backend import Backend
from vionet.vhost_user.device import FrontEnd, Offer
from vionet.vhost_user.frontend import pack_region
from vionet.vhost_user.guest_memory import GuestMemory, GuestRegion
from vionet.vhost_user.memory import MappedRegion, MemoryMap
from vionet.vhost_user.message import Message
from vionet.vhost_user.ring import Ring
from vionet.vhost_user.session import Session

T = TypeVar("T")
FEATURES = virtio.mask(
    (
        virtio.VIRTIO_F_VERSION_1,
        virtio.VIRTIO_F_EVENT_IDX,
        virtio_net.VIRTIO_NET_F_MRG_RXBUF,
        virtio_net.VIRTIO_NET_F_CSUM,
        virtio_net.VIRTIO_NET_F_MAC,
        virtio_net.VIRTIO_NET_F_STATUS,
    )
)
PROTOCOL_FEATURES = virtio.mask((0, 3, 4, 5, 9, 13, 15))
CONFIG = virtio_net.CONFIG_LAYOUT.pack(b"\x52\x54\0\1\2\3", 1, 1, 1500, 0, 0, 0, 0, 0, 0)
TIMEOUT = 60.0
NEED = vu.VERSION | vu.FLAG_NEED_REPLY


class Recorder:
    """Notes every call; each ring has consumed `consumed[index]` entries when it is stopped."""

    def __init__(self, offer: Offer | None = None, *, real: bool = False) -> None:
        self.real = real  # descriptors are more than numbers
        self.offered = offer or Offer(FEATURES, PROTOCOL_FEATURES, 1, CONFIG)
        self.calls: list[tuple[Any, ...]] = []
        self.consumed: dict[int, int] = {}
        self.rings: dict[int, Ring] = {}
        self.regions: tuple[MappedRegion, ...] = ()
        self.features = 0
        self.link_down = False
        self.sent_away = 0
        self.control_kicked = False
        self.front_end: FrontEnd | None = None
        self.events: queue.Queue[tuple[str, str]] = queue.Queue()  # opened and closed

    def offer(self) -> Offer:
        return self.offered

    def opened(self, front_end: FrontEnd) -> None:
        self.front_end = front_end
        self.calls.append(("opened",))
        self.events.put(("opened", ""))

    def set_features(self, features: int) -> None:
        self.features = features
        self.calls.append(("set_features", features))

    def set_mtu(self, mtu: int) -> None:
        self.calls.append(("set_mtu", mtu))

    def set_memory(self, regions: Sequence[MappedRegion]) -> None:
        self.regions = tuple(regions)
        self.calls.append(("set_memory", self.regions))

    def set_ring(self, index: int, ring: Ring) -> None:
        for fd in ring.fds if self.real else ():
            os.fstat(fd)  # each is open while the device may use it
        self.rings[index] = ring
        self.calls.append(("set_ring", index, ring))

    def stop_ring(self, index: int) -> int:
        assert self.rings[index].ready, "a ring is stopped only when the device may have it"
        base = self.rings[index].base + self.consumed.get(index, 0)
        self.rings[index] = replace(self.rings[index], desc_hva=0)  # let go
        self.calls.append(("stop_ring", index))
        return base & 0xFFFF

    def serve_control(self) -> bool:
        self.calls.append(("serve_control",))
        return False

    def closed(self, reason: str) -> None:
        self.calls.append(("closed", reason))
        self.events.put(("closed", reason))

    def await_event(self, name: str) -> str:
        """Wait for the next `opened` or `closed`, which has to be `name`; return the reason."""
        found, reason = self.events.get(timeout=TIMEOUT)
        assert name == found, f"{found}: {reason}"
        return reason


KICK, CALL, ERR = 90, 91, 92  # numbers only: a session does not look into descriptors


class Peer:
    """A session with a recorder, and shorthand for what a front-end sends."""

    def __init__(self, offer: Offer | None = None, protocol: int = PROTOCOL_FEATURES) -> None:
        self.device = Recorder(offer)
        self.memory = MemoryMap()
        self.session = Session(self.device.offer(), self.memory, self.device)
        self.guest = GuestMemory((16 * mmap.PAGESIZE, 16 * mmap.PAGESIZE))
        if protocol:
            self.tell(Request.SET_PROTOCOL_FEATURES, vu.U64.pack(protocol))

    def send(
        self, request: int, payload: bytes = b"", *fds: int, flags: int = vu.VERSION
    ) -> Message | None:
        return self.session.receive(Message(request, payload, fds, flags))

    def tell(self, request: int, payload: bytes = b"", *fds: int) -> None:
        """Send a request that has no reply and must succeed."""
        assert self.send(request, payload, *fds) is None

    def ask(self, request: int, payload: bytes = b"") -> bytes:
        reply = self.send(request, payload)
        assert reply is not None
        assert (request, vu.VERSION | vu.FLAG_REPLY) == (reply.request, reply.flags)
        return reply.payload

    def acknowledged(self, request: int, payload: bytes = b"", *fds: int) -> bool:
        """The request, sent with need_reply, is acknowledged with 0."""
        reply = self.send(request, payload, *fds, flags=NEED)
        assert reply is not None
        assert (request, vu.VERSION | vu.FLAG_REPLY) == (reply.request, reply.flags)
        return vu.U64.unpack(reply.payload) == (0,)

    def state(self, request: int, index: int, number: int) -> None:
        self.tell(request, vu.VRING_STATE.pack(index, number))

    def set_memory(self, *regions: GuestRegion) -> None:
        chosen = regions or tuple(self.guest.regions)
        payload = vu.MEM_TABLE_HEAD.pack(len(chosen), 0) + b"".join(map(pack_region, chosen))
        self.tell(Request.SET_MEM_TABLE, payload, *(region.fd for region in chosen))

    def place(self, index: int, size: int = 8) -> bytes:
        """The payload of SET_VRING_ADDR for a ring in the first region."""
        base = self.guest.regions[0].uva + index * 4 * mmap.PAGESIZE
        return vu.VRING_ADDR.pack(index, 0, base, base + 2 * mmap.PAGESIZE, base + mmap.PAGESIZE, 0)

    def set_up(self, index: int = 0, size: int = 8, base: int = 0) -> None:
        """Make a ring ready."""
        self.state(Request.SET_VRING_NUM, index, size)
        self.state(Request.SET_VRING_BASE, index, base)
        self.tell(Request.SET_VRING_ADDR, self.place(index, size))
        self.tell(Request.SET_VRING_KICK, vu.U64.pack(index), KICK)

    def base(self, index: int = 0) -> int:
        answer = self.ask(Request.GET_VRING_BASE, vu.VRING_STATE.pack(index, 0))
        echoed, base = vu.VRING_STATE.unpack(answer)
        assert index == echoed
        return int(base)

    def close(self) -> None:
        self.memory.close()
        self.guest.close()


class Loop:
    """An asyncio loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(TIMEOUT)

    def call(self, function: Callable[[], T]) -> T:
        """Call a function on the loop's thread."""

        async def work() -> T:
            return function()

        return self.run(work())

    def close(self) -> None:
        """End the loop and its thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT)
        self._loop.close()


@contextlib.contextmanager
def serving(path: Path, device: Recorder, **options: Any) -> Iterator[tuple[Loop, Backend]]:
    """A back-end for `device` at `path`, on a loop of its own, closed at the end."""
    loop = Loop()
    backend = Backend(device, path, **options)
    try:
        loop.call(backend.start)
        try:
            yield loop, backend
        finally:
            loop.run(backend.close())
    finally:
        loop.close()


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - only names


def mappings() -> int:
    """How many memory files of guests this process has mapped."""
    return Path("/proc/self/maps").read_text().count("/memfd:guest")
