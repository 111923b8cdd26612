"""The worker's loop on a thread: kicks wake it, rings start with their first kick, and it stops.

Real eventfds, the real `Fabric`; each wait has a deadline.
"""

import os
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest

from tests.reference.frame import Layers
from tests.reference.guest import Guest
from tests.reference.plug import EVENT_IDX, FULL, Bare, Options
from tests.reference.ring import DriverRing
from tests.reference.tap import PairTap
from vionet.engine.status import GSO_ALL, FabricKind
from vionet.fabric import Fabric
from vionet.ports.uplink import Findings
from vionet.vhost_user.ring import Ring

FRAME = Layers().tcp(bytes(range(200)))
DEADLINE_S = 100.0


class Wired(Guest):
    """A guest on a running fabric, with a kick eventfd for each ring."""

    def __init__(self, fabric: Fabric, features: int = FULL, *, polled: bool = False) -> None:
        self.fabric = fabric
        self.port = fabric.add_guest(Options())
        self.kicks = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(2)]
        self.polled = polled
        super().__init__(Bare(fabric._state), len(fabric.ports) - 1, features, port=self.port)

    def described(self, ring: DriverRing, base: int) -> Ring:
        """With a kick descriptor, unless nobody will ever kick."""
        found = super().described(ring, base)
        if self.polled:
            return found
        kick_fd = self.kicks[0 if ring is self.rx else 1]
        return replace(found, polled=False, kick_fd=kick_fd)

    def kick(self, number: int) -> None:
        """The driver's doorbell."""
        os.eventfd_write(self.kicks[number], 1)

    def wait(self) -> int:
        """Until the device interrupts; *returns* how often it did."""
        ready, _, _ = select.select([self.call_fd], [], [], DEADLINE_S)
        assert ready, f"no interrupt within {DEADLINE_S} s: {self.ledger} {self.drops}"
        return self.calls()

    def until_kicks(self, count: int) -> None:
        """Until the worker has seen so many kicks."""
        deadline = time.monotonic() + DEADLINE_S
        while self.ledger.get("kicks", 0) < count:
            assert time.monotonic() < deadline, self.ledger
            time.sleep(0.001)

    def unplug(self) -> None:
        """End the session and close what is ours."""
        self.port.closed("the test is over")
        for fd in self.kicks:
            os.close(fd)
        self.close()


@contextmanager
def running(kind: FabricKind, *features: int, polled: bool = False) -> Iterator[list[Wired]]:
    """A fabric whose worker runs, with guests."""
    fabric = Fabric(kind)
    guests = [Wired(fabric, word, polled=polled) for word in features]
    fabric.start()
    try:
        yield guests
    finally:
        for guest in guests:
            guest.unplug()
        fabric.close()


@pytest.mark.parametrize("features", [FULL, FULL | EVENT_IDX])
@pytest.mark.parametrize("kind", list(FabricKind))
def test_frames_flow_both_ways(kind: FabricKind, features: int) -> None:
    """Each kick wakes the worker, and each frame arrives; it sleeps and wakes again."""
    with running(kind, features, features) as guests:
        for guest in guests:
            for _ in range(20):
                guest.post(1000)
            guest.kick(0)
        for turn in range(10):
            source, sink = guests[turn % 2], guests[1 - turn % 2]
            sink.rx.want_event(sink.rx.used_idx)
            sink.calls()  # of its transmit ring, a turn ago
            source.send(FRAME.partial, FRAME.header)
            source.kick(1)
            sink.wait()
            assert [FRAME.partial] == [received.frame for received in sink.received()]
        assert 4 <= sum(guest.ledger["kicks"] for guest in guests) <= 12


def test_ring_starts_with_its_first_kick() -> None:
    """Frames that lie in a ring are not taken before the first kick (VU-25, DS-01)."""
    with running(FabricKind.SWITCH, FULL, FULL) as (source, sink):
        sink.post(1000)
        sink.post(1000)
        source.send(FRAME.partial, FRAME.header)
        sink.kick(1)
        source.kick(0)
        source.tx.want_event(0)
        source.kick(1)
        source.wait()
        assert {"rx_ring_stopped": 1} == sink.drops
        sink.kick(0)
        sink.until_kicks(2)
        source.send(FRAME.data)
        source.kick(1)
        sink.wait()
        assert [FRAME.partial] == [received.frame for received in sink.received()]


def test_polled_rings_need_no_kick() -> None:
    """A ring that nobody will ever kick is looked at all the time (VU-26)."""
    with running(FabricKind.SWITCH, FULL, FULL, polled=True) as (source, sink):
        for _ in range(3):
            sink.post(1000)
            source.send(FRAME.partial, FRAME.header)
            sink.wait()
            assert [FRAME.partial] == [received.frame for received in sink.received()]


def test_held_frame_crosses_when_buffers_come() -> None:
    """A wire's receiver that kicks after posting gets what was waiting for it."""
    with running(FabricKind.WIRE, FULL, FULL) as (source, sink):
        sink.kick(0)
        source.send(FRAME.partial, FRAME.header)
        source.kick(1)
        for _ in range(3):
            sink.post(1000)
            sink.kick(0)
            sink.wait()
            assert [FRAME.partial] == [received.frame for received in sink.received()]
            source.send(FRAME.partial, FRAME.header)
            source.kick(1)
            sink.post(1000)
            sink.kick(0)
            sink.wait()
            assert [FRAME.partial] == [received.frame for received in sink.received()]
            source.send(FRAME.partial, FRAME.header)
            source.kick(1)


def test_stopped_ring_stays_where_it_was() -> None:
    """`stop_ring` answers with the next index to take, and nothing is taken afterwards (VU-32)."""
    with running(FabricKind.SWITCH, FULL, FULL) as (source, sink):
        for _ in range(4):
            sink.post(1000)
        sink.kick(0)
        source.send(FRAME.partial, FRAME.header)
        source.kick(1)
        sink.wait()
        assert 1 == source.port.stop_ring(1)
        source.send(FRAME.partial, FRAME.header)
        source.kick(1)
        assert 1 == sink.port.stop_ring(0)
        assert 1 == source.tx.used_idx


@pytest.mark.parametrize("kind", list(FabricKind))
def test_tap_wakes_the_worker(kind: FabricKind) -> None:
    """What the kernel sends arrives, and what the guest sends is written, while all sleep between;
    a wire's tap waits for buffers and goes on when the guest has posted some."""
    with running(kind, FULL) as (guest,):
        kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        kernel.settimeout(DEADLINE_S)
        tap = PairTap(
            fd=ours.detach(), name="tap", header_len=12, mtu=1500,
            findings=Findings(True, GSO_ALL, True, GSO_ALL), made=True, old_header_len=12,
        )  # fmt: skip
        with kernel:
            guest.fabric.add_tap(Options(features=FULL), tap)
            guest.kick(0)
            guest.until_kicks(1)
            for _ in range(5):
                if kind is FabricKind.WIRE:
                    kernel.send(FRAME.header.pack() + FRAME.partial)
                guest.post(2000)
                guest.kick(0)
                if kind is FabricKind.SWITCH:
                    kernel.send(FRAME.header.pack() + FRAME.partial)
                guest.wait()
                assert [FRAME.partial] == [received.frame for received in guest.received()]
                guest.tx.suppress(1)
                guest.send(FRAME.partial, FRAME.header)
                guest.kick(1)
                assert FRAME.partial == kernel.recv(1 << 16)[12:]


def test_first_kick_is_seen_before_the_frame() -> None:
    """A frame that was sent after its receiver's first kick is not dropped for it, however busy the
    worker is; while a receive ring waits for that kick the worker knows."""
    with running(FabricKind.SWITCH, FULL, FULL, FULL) as (source, busy, sink):
        state = source.state
        assert 3 == state.unstarted
        for guest in (source, busy, sink):
            guest.post(1000)
            guest.post(1000)
        for guest in (source, busy):
            guest.kick(0)
        source.tx.suppress(1)
        source.kick(1)
        source.until_kicks(2)
        busy.until_kicks(1)
        assert 1 == state.unstarted
        sink.kick(0)
        source.send(FRAME.partial, FRAME.header)
        source.kick(1)
        sink.wait()
        assert ([FRAME.partial], {}) == ([one.frame for one in sink.received()], sink.drops)
        assert 0 == state.unstarted


def test_kick_of_the_control_queue_is_passed_on() -> None:
    """The worker serves no control queue: its kick is noted, and the control plane is told."""
    with running(FabricKind.SWITCH, FULL) as (guest,):
        port, fabric = guest.record, guest.fabric
        with fabric._workers.hold():
            port.control_ring = 2
            guest.state.watched = 1
            with suppress(BlockingIOError):
                os.eventfd_read(fabric.notice_fd)  # that it woke, which is another notice
        kick_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        fabric._polls[0].add_ring(kick_fd, 0, 2)
        os.eventfd_write(kick_fd, 1)
        ready, _, _ = select.select([fabric.notice_fd], [], [], DEADLINE_S)
        assert ready
        assert 1 == port.control_kicked
        fabric._polls[0].remove(kick_fd)
        os.close(kick_fd)
        with fabric._workers.hold():
            port.control_ring = 0


def test_a_port_changes_while_frames_pass() -> None:
    """VLANs and a link that a person changes hold from the next frame on."""
    with running(FabricKind.SWITCH, FULL, FULL, polled=True) as (source, sink):
        for _ in range(4):
            sink.post(1000)

        def send() -> None:
            source.send(FRAME.partial, FRAME.header)
            source.wait()

        send()
        sink.wait()
        source.port.change(Options(vlan=10))
        sink.port.change(Options(vlan=20))
        send()
        sink.port.change(Options(vlan=10))
        send()
        sink.wait()
        sink.port.change(Options(link_up=False))
        send()
        source.port.change(Options())
        sink.port.change(Options())
        send()
        sink.wait()
        assert 3 * [FRAME.partial] == [received.frame for received in sink.received()]
        assert {"link_down": 1} == sink.drops
