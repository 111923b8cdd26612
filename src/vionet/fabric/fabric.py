"""A fabric: one block of state, its workers, and the ports that are plugged in.

How it works: `Fabric` allocates `State` and a `Work` for each worker, makes epoll instances and
eventfds, and gives each new port a `Slot`: its index, the worker that serves it (the one with the
fewest) and the right to change state while the workers are held.  A wire has one worker: a frame
that its receiver has no room for waits in the sender's ring, and one thread knows about both.
The ports do the rest (`ports.guest`, `ports.tap_port`).

Threads: all methods are the control plane's, one thread.
"""

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from vionet.engine.fdb import forget_port
from vionet.engine.layout import HEAD_ROOM, PORTS_MAX, TALK_FRAMES, State, Work
from vionet.engine.status import FabricKind
from vionet.fabric.capture import CaptureRing, forget_captured
from vionet.fabric.poll import Poll, Watched
from vionet.fabric.worker import Workers
from vionet.jit.record import address_of, allocate
from vionet.ports.guest import GuestPort
from vionet.ports.interface import Interface
from vionet.ports.interface_port import InterfacePort
from vionet.ports.position import NO_POSITIONS
from vionet.ports.service_port import ServicePort
from vionet.ports.slot import PortOptions, Slot
from vionet.ports.stream_port import StreamPort
from vionet.ports.tap import Tap
from vionet.ports.tap_port import TapPort

AnyPort = GuestPort | InterfacePort | StreamPort | TapPort
AGEING_NS = 300_000_000_000  # 300 s, what IEEE 802.1D recommends
SPIN_NS = 20_000  # an idle worker polls this long before it sleeps


class Fabric:
    """A switch or a wire."""

    def __init__(
        self,
        kind: FabricKind = FabricKind.SWITCH,
        name: str = "",
        workers: int = 1,
        cores: Sequence[int] = (),
    ) -> None:
        """With so many workers, the first ones on `cores`."""
        self.name = name or kind.name.lower()
        self.kind = kind
        self._at: dict[int, AnyPort] = {}  # by the index of its slot
        self._captures: list[CaptureRing] = []
        self.positions = NO_POSITIONS  # where packed rings' positions outlive this process
        self._state = allocate(State)
        self._serials = 0  # of ports that there ever were
        self._rounds = 0  # of all loops, at the last look
        self._works = [prepared_work(self._state, number) for number in range(workers)]
        self._polls = [Poll() for _ in self._works]
        self._first = Poll() if workers > 1 else None
        self._wake_fds = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in self._works]
        self.notice_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        prepare_state(self._state, kind)
        self._state.n_workers = workers
        self._state.notice_fd = self.notice_fd
        self._state.first_fd = -1 if self._first is None else self._first.fd
        for number, (poll, wake_fd) in enumerate(zip(self._polls, self._wake_fds, strict=True)):
            poll.add_wake(wake_fd)
            self._state.epoll_fds[number] = poll.fd
        self._workers = Workers(self._state, self._works, self._wake_fds, cores)

    @property
    def ports(self) -> list[AnyPort]:
        """In the order in which they were plugged in."""
        return list(self._at.values())

    def start(self) -> None:
        """Begin to forward."""
        self._workers.start()

    @property
    def alive(self) -> bool:
        """Whether all workers are."""
        return self._workers.alive

    def stuck(self) -> str | None:
        """The name of the port that kept a worker waiting since the last call, now freed."""
        index = self._workers.stuck()
        return None if index is None else self._at[index].name

    def resting(self) -> bool:
        """Whether all workers slept since the look before the last one; who wakes says so.

        To be asked after `stuck`, until it is true.
        """
        state, before = self._state, self._rounds
        self._rounds = sum(int(work.rounds) for work in self._works)
        awake = before != self._rounds or any(work.telling for work in self._works)
        if not (awake or state.watched):
            return True  # two looks apart, so that one which woke meanwhile is not missed
        state.watched = int(awake)
        return False

    def cpu_ns(self) -> list[int]:
        """How long each worker's thread has run, by the worker's number."""
        return self._workers.cpu_ns()

    def talks(self) -> Iterator[tuple[str, str, int, int, int, int]]:
        """For each pair of ports with traffic: from, to, frames, bytes, elided, computed.

        The workers go on meanwhile.
        """
        talks: Any = sum(work.talks for work in self._works)
        for source, target in np.argwhere(talks[..., TALK_FRAMES]).tolist():
            names = self._at[source].name, self._at[target].name
            yield *names, *talks[source, target].tolist()

    def captures(self) -> Iterator[tuple[int, list[str] | None, int, int]]:
        """Of each capture: number, names of ports (None: all of them), records written, lost."""
        for one in self._captures:
            at = one.indices
            names = None if at is None else [self._at[index].name for index in at]
            yield one.number, names, one.records, one.lost

    def close(self) -> None:
        """Stop forwarding and release what the fabric owns; guests' sessions end before this."""
        for port in self._at.values():
            if not isinstance(port, GuestPort):
                port.close()
        for capture in list(self._captures):
            self.end_capture(capture)
        self._workers.close()
        for poll in (*self._polls, *filter(None, (self._first,))):
            poll.close()
        for fd in (*self._wake_fds, self.notice_fd):
            os.close(fd)

    def add_guest(self, options: PortOptions) -> GuestPort:
        """Plug in a guest's NIC, which then waits for its front-end."""
        with self._new_slot() as slot:
            self._at[slot.index] = port = GuestPort(slot, options, self.positions)
        return port

    def add_tap(self, options: PortOptions, tap: Tap) -> TapPort:
        """Plug in an open tap, which the fabric then owns."""
        with self._new_slot() as slot:
            self._at[slot.index] = port = TapPort(slot, options, tap)
        return port

    def add_interface(self, options: PortOptions, interface: Interface) -> InterfacePort:
        """Plug in an open interface, which the fabric then owns."""
        with self._new_slot() as slot:
            self._at[slot.index] = port = InterfacePort(slot, options, interface)
        return port

    def add_stream(self, options: PortOptions) -> StreamPort:
        """Plug in a stream, which then waits for its peer."""
        with self._new_slot() as slot:
            self._at[slot.index] = port = StreamPort(slot, options)
        return port

    def add_service(self, options: PortOptions) -> ServicePort:
        """Plug in the control plane, which answers what guests ask of DHCP and of routers."""
        with self._new_slot() as slot:
            self._at[slot.index] = port = ServicePort(slot, options)
        return port

    def remove(self, port: AnyPort) -> None:
        """Unplug a port, whose session is over; its slot and counters are a later port's."""
        index = next(index for index, one in self._at.items() if one is port)
        if not isinstance(port, GuestPort):
            port.close()
        del self._at[index]
        with self._workers.hold():
            self._clear(index)
        self.positions.forget(port.name)

    def set_reserved(self, passing: int) -> None:
        """Which frames for the next bridge pass: a bit for each of 01:80:c2:00:00:00 to :0f."""
        with self._workers.hold():
            self._state.reserved = passing

    def add_capture(
        self,
        ports: Sequence[AnyPort] | None,
        *,
        snap_len: int,
        whole: bool,
        code: bytes,
        ring_len: int,
    ) -> CaptureRing:
        """Record what passes these ports, or all that are and will be, until `end_capture`.

        Raises ValueError, or OSError where there is no memory for the ring.
        """
        wanted = None if ports is None else [i for i, port in self._at.items() if port in ports]
        ring = CaptureRing(self._state, self._workers.hold, wanted, ring_len, code)
        self._captures.append(ring)
        ring.start(snap_len, whole)
        return ring

    def end_capture(self, ring: CaptureRing) -> None:
        """Record no more, and let go of the ring, unless the fabric's end has done so."""
        if ring in self._captures:
            self._captures.remove(ring)
            ring.close()

    @contextmanager
    def _new_slot(self) -> Iterator[Slot]:
        """A free place, in one pause with what the port does there; nobody's again if it fails."""
        limit = 2 if self.kind is FabricKind.WIRE else PORTS_MAX
        free = [index for index in range(limit) if index not in self._at]
        if not free:
            raise ValueError(f"{self.name}: a {self.kind.name.lower()} has at most {limit} ports")
        served = [int(self._state.ports[index].worker) for index in self._at]
        number = min(range(len(self._works)), key=served.count)
        watch = Watched(self._polls[number], self._first)
        with self._workers.hold():
            self._serials += 1
            self._state.ports[free[0]].serial = self._serials
            self._state.ports[free[0]].worker = number
            self._state.n_ports = max(int(self._state.n_ports), free[0] + 1)
            try:
                yield Slot(self._state, free[0], watch, self._workers.hold, self._works)
            except BaseException:
                self._clear(free[0])
                raise

    def _clear(self, index: int) -> None:
        """Nothing is left of who was at `index`.  *requires* hold."""
        self._state.n_ports = max(self._at, default=-1) + 1
        forget_port(self._state, index)
        forget_captured(self._state, index)
        array: Any = self._state.ports
        array[index] = np.zeros(1, array.dtype)[0]
        for work in self._works:
            work.ledger[index] = work.drops[index] = 0
            work.talks[index] = work.talks[:, index] = work.talked[index] = 0


def prepare_state(state: State, kind: FabricKind) -> None:
    """The constants of a fresh state block."""
    state.kind = int(kind)
    state.locks_hva = address_of(state.locks) + 63 & ~63
    state.ageing_ns = AGEING_NS
    state.spin_ns = SPIN_NS
    state.sleep_ms = -1
    state.hash_low = secrets.randbits(30) | 1 << 30 | 1
    state.hash_high = secrets.randbits(30) | 1 << 30 | 1


def prepared_work(state: State, number: int = 0) -> Work:
    """Worker `number`'s own, which knows its addresses."""
    work = allocate(Work)
    work.number = number
    work.heads_hva = (address_of(work.heads) + 63 & ~63) + HEAD_ROOM
    work.head_hva = work.heads_hva
    work.alts_hva = (address_of(work.alts) + 63 & ~63) + HEAD_ROOM
    work.segment_hva = (address_of(work.segment) + 63 & ~63) + HEAD_ROOM
    work.scratch_hva = address_of(work.scratch)
    work.packet_hva = address_of(work.packet)
    work.stream_hva = address_of(work.stream)
    work.iov_hva = address_of(work.iov)
    work.events_hva = address_of(work.events)
    work.clock_hva = address_of(work.clock)
    work.one_hva = address_of(work.one)
    work.seen_hva = address_of(work.seen)
    work.wall_hva = address_of(work.wall)
    work.stop_hva = address_of(state)
    work.one[0] = 1
    return work
