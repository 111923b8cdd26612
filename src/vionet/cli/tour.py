"""What `vionet demo` shows: a switch, three guests, and a judgement of every frame.

How it works: `vionet switch` runs as a process of its own, as everybody would start it.  Three
drivers of the tester (`check.driver`) attach as guests, each with memory and rings of its own;
two agreed to leave checksums unfinished between them, the third declined everything.  Between
each pair frames of several kinds go both ways.  Each frame that arrives is compared, byte for byte
and flag for flag, with what the rules say that this receiver must see.

Invariants: what is expected is computed from the frame and from who its receiver is, with the
tester's own packets and sums; nothing is imported from the engine.  Every wait has an end.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from vionet.check import judge
from vionet.check.driver import Delivery, Port
from vionet.check.packet import BROADCAST, Flow, Frame
from vionet.spec import virtio
from vionet.spec import virtio_net as net

NEEDS_CSUM: Final = net.VIRTIO_NET_HDR_F_NEEDS_CSUM
PLAIN: Final = virtio.mask([virtio.VIRTIO_F_VERSION_1])
OFFLOADS: Final = virtio.mask(
    [
        virtio.VIRTIO_F_VERSION_1,
        virtio.VIRTIO_F_INDIRECT_DESC,
        net.VIRTIO_NET_F_MRG_RXBUF,
        net.VIRTIO_NET_F_CSUM,
        net.VIRTIO_NET_F_GUEST_CSUM,
    ]
)
GUESTS: Final = {"alice": OFFLOADS, "bob": OFFLOADS, "carol": PLAIN}
# (sent unfinished, must arrive unfinished) -> what vionet has to do and count.
_WORK: Final[dict[tuple[bool, bool], tuple[str, ...]]] = {
    (True, True): ("csum_elided",),
    (True, False): ("csum_filled",),
    (False, True): ("csum_verified", "csum_unfilled"),
    (False, False): (),
}
_COUNTED: Final = ("csum_elided", "csum_filled", "csum_verified", "csum_unfilled", "csum_bad")
BURST: Final = 32  # frames on their way at once
PATIENCE_S: Final = 5.0
_HELLO_S: Final = 0.1
_BUFFERS: Final = 64
_BUFFER_LEN: Final = 2048


class Wrong(Exception):
    """A frame, or its absence, that is not what the rules say."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of frame and what is said of it."""

    name: str
    version: int
    payload_len: int
    l4: str
    is_bad: bool = False  # its sender got the checksum wrong

    def frame(self, sender: bytes, receiver: bytes, number: int) -> Frame:
        """The frame with that number, complete; its payload says which it is."""
        flow = Flow(sender, receiver, version=self.version)
        payload = f"vionet demo, frame {number} ".encode()
        payload += bytes((number + i) & 0xFF for i in range(self.payload_len - len(payload)))
        if self.l4 == "dhcp":
            return flow.dhcp()
        return flow.tcp(payload) if self.l4 == "tcp" else flow.udp(payload)


KINDS: Final = (
    Kind("TCP over IPv4", 4, 1448, "tcp"),
    Kind("TCP over IPv6", 6, 1428, "tcp"),
    Kind("UDP over IPv4", 4, 777, "udp"),
    Kind("UDP over IPv6", 6, 64, "udp"),
    Kind("DHCP offer", 4, 300, "dhcp"),
    Kind("TCP with a bad checksum", 4, 512, "tcp", is_bad=True),
)
# Rare in real life, so shown once each.
ONCE: Final = ("DHCP offer", "TCP with a bad checksum")


@dataclass(slots=True)
class Guest:
    """One driver on the switch."""

    name: str
    mac: bytes
    port: Port

    @property
    def leaves_unfinished(self) -> bool:
        """It may send partial checksums."""
        return bool(self.port.features >> net.VIRTIO_NET_F_CSUM & 1)

    @property
    def takes_unfinished(self) -> bool:
        """It may be given partial checksums."""
        return bool(self.port.features >> net.VIRTIO_NET_F_GUEST_CSUM & 1)


@dataclass(frozen=True, slots=True)
class Sent:
    """One frame on its way: what was handed to the device, and what its receiver must see."""

    label: str
    header: net.NetHeader
    data: bytes
    want_header: net.NetHeader
    want_data: bytes
    meant: bytes | None  # the finished frame; None if its sender broke the checksum
    work: tuple[str, ...]  # the ledger keys that this frame must move at its receiver


@dataclass(slots=True)
class Flowed:
    """Frames of all kinds from one guest to another."""

    source: str
    target: str
    frames: int = 0
    sent_unfinished: int = 0
    got_unfinished: int = 0
    length: int = 0  # bytes of all frames
    work: Counter[str] = field(default_factory=Counter)  # by ledger key, what the rules ask for


@dataclass(slots=True)
class Tour:
    """The guests of one run, and what happened."""

    folder: Path
    rounds: int
    guests: list[Guest] = field(default_factory=list)
    flows: list[Flowed] = field(default_factory=list)
    frames: int = 0
    _hellos: set[bytes] = field(default_factory=set)

    def ports(self) -> list[str]:
        """The switch's arguments."""
        return [f"{name}=guest:{self.folder}/{name}.sock" for name in GUESTS]

    def attach(self) -> None:
        """Connect the three drivers, and let the switch learn where they are."""
        for number, (name, features) in enumerate(GUESTS.items(), 1):
            port = Port.open(self.folder / f"{name}.sock", features, size=256)
            self.guests.append(Guest(name, bytes([0x52, 0x54, 0, 0, 0, number]), port))
            port.start(_BUFFERS, (_BUFFER_LEN,))
        for guest in self.guests:
            self._introduce(guest)

    def _introduce(self, guest: Guest) -> None:
        """Broadcast until everybody has heard it.

        A ring starts when its driver's first kick is noticed; what comes before that is lost, as
        with a card whose driver is not up yet.
        """
        hello = Flow(guest.mac, BROADCAST).arp()
        self._hellos.add(hello)
        deaf = [other for other in self.guests if other is not guest]
        deadline = time.monotonic() + PATIENCE_S
        while deaf:
            if time.monotonic() > deadline:
                raise Wrong(f"{guest.name}'s broadcast never reached {deaf[0].name}")
            guest.port.send(hello)
            deaf = [other for other in deaf if not self._hears(other, hello)]
        guest.port.sent(PATIENCE_S)

    def _hears(self, guest: Guest, hello: bytes) -> bool:
        deadline = time.monotonic() + _HELLO_S
        while (got := guest.port.next_frame(deadline)) is not None:
            guest.port.fill(1, (_BUFFER_LEN,))
            if got.frame not in self._hellos or got.header.flags:
                raise Wrong(f"a broadcast reached {guest.name} changed: {got}")
            if got.frame == hello:
                return True
        return False

    def exchange(self) -> None:
        """Every kind of frame, both ways between each pair."""
        for source in self.guests:
            for target in self.guests:
                if source is not target:
                    self._flow(source, target)
        for guest in self.guests:
            stray = self._next_but_hello(guest, time.monotonic() + 0.01)
            if stray is not None:
                raise Wrong(f"{guest.name} received a frame of {len(stray.frame)} bytes too many")

    def close(self) -> None:
        """Hang up."""
        for guest in self.guests:
            guest.port.close()

    def _flow(self, source: Guest, target: Guest) -> None:
        flowed = Flowed(source.name, target.name)
        self.flows.append(flowed)
        for burst in _bursts(self._plan(source, target)):
            for sent in burst:
                source.port.queue(sent.data, sent.header)
            source.port.publish()
            for sent in burst:
                _compare(sent, self._next(target, sent.label))
                flowed.frames += 1
                flowed.sent_unfinished += sent.header.flags & NEEDS_CSUM
                flowed.got_unfinished += sent.want_header.flags & NEEDS_CSUM
                flowed.length += len(sent.data)
                flowed.work.update(sent.work)
            source.port.sent(PATIENCE_S)

    def _plan(self, source: Guest, target: Guest) -> Iterator[Sent]:
        for turn in range(self.rounds):
            for kind in KINDS:
                if turn and kind.name in ONCE:
                    continue
                self.frames += 1
                yield _sent(self.frames, kind, source, target)

    def _next(self, guest: Guest, label: str) -> Delivery:
        got = self._next_but_hello(guest, time.monotonic() + PATIENCE_S)
        if got is None:
            raise Wrong(f"{label}: did not arrive within {PATIENCE_S:.0f} s")
        return got

    def _next_but_hello(self, guest: Guest, deadline: float) -> Delivery | None:
        """The next frame; one broadcast too many may have been sent in the beginning."""
        while (got := guest.port.next_frame(deadline)) is not None:
            guest.port.fill(1, (_BUFFER_LEN,))
            if got.frame not in self._hellos:
                return got
        return None


def _bursts(frames: Iterator[Sent]) -> Iterator[Sequence[Sent]]:
    burst: list[Sent] = []
    for frame in frames:
        burst.append(frame)
        if len(burst) == BURST:
            yield burst
            burst = []
    if burst:
        yield burst


def _sent(number: int, kind: Kind, source: Guest, target: Guest) -> Sent:
    """The frame as its sender hands it over, and as this receiver must get it."""
    label = f"frame {number} ({kind.name}, {source.name} to {target.name})"
    frame = kind.frame(source.mac, target.mac, number)
    if kind.is_bad:
        data = frame.corrupted()
        found = ("csum_verified", "csum_bad") if target.takes_unfinished else ()
        return Sent(label, net.NetHeader(), data, net.NetHeader(), data, None, found)
    partial_header, partial = frame.partial()
    header, data = net.NetHeader(), frame.data
    if source.leaves_unfinished:
        header, data = partial_header, partial
    want_header, want = net.NetHeader(), frame.data
    # DHCP clients read raw frames, so theirs are always finished.
    if target.takes_unfinished and kind.l4 != "dhcp":
        want_header, want = partial_header, partial
    work = _WORK[bool(header.flags), bool(want_header.flags)]
    return Sent(label, header, data, want_header, want, frame.data, work)


def _compare(sent: Sent, got: Delivery) -> None:
    """Raise `Wrong` unless the delivery is exactly what it must be."""
    want = sent.want_header
    for name in ("flags", "gso_type", "gso_size"):
        held, expected = getattr(got.header, name), getattr(want, name)
        if held != expected:
            raise Wrong(f"{sent.label}: {name} is {held}, expected {expected}")
    if want.flags and (got.header.csum_start, got.header.csum_offset) != (
        want.csum_start,
        want.csum_offset,
    ):
        raise Wrong(
            f"{sent.label}: checksum at {got.header.csum_start} + {got.header.csum_offset},"
            f" expected {want.csum_start} + {want.csum_offset}"
        )
    if got.header.num_buffers != 1:
        raise Wrong(f"{sent.label}: num_buffers is {got.header.num_buffers}, expected 1")
    if len(got.frame) != len(sent.want_data):
        raise Wrong(f"{sent.label}: {len(got.frame)} bytes, expected {len(sent.want_data)}")
    for off, (held, expected) in enumerate(zip(got.frame, sent.want_data, strict=True)):
        if held != expected:
            raise Wrong(f"{sent.label}: byte {off} is {held:#04x}, expected {expected:#04x}")
    if sent.meant is None:
        return
    for objection in judge.objections(got.header, got.frame):
        raise Wrong(f"{sent.label}: {objection}")
    if judge.finish(got.header, got.frame) != sent.meant:
        raise Wrong(f"{sent.label}: what its receiver finishes is not what was sent")


def settled_ports(ask: Callable[[], Any], tour: Tour) -> list[dict[str, Any]]:
    """The ports of the status document when every frame is in the ledger; and that is judged."""
    broadcasts = len(GUESTS) * (len(GUESTS) - 1)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        ports: list[dict[str, Any]] = ask()["fabrics"][0]["ports"]
        received = sum(port["ledger"]["rx_frames"] for port in ports)
        if received >= tour.frames + broadcasts:
            break
        if time.monotonic() > deadline:
            raise Wrong(f"the ledger has {received} frames, {tour.frames + broadcasts} arrived")
        time.sleep(0.01)
    for port in ports:
        asked = sum(
            (flow.work for flow in tour.flows if flow.target == port["name"]), Counter[str]()
        )
        for key in _COUNTED:
            if port["ledger"][key] != asked[key]:
                raise Wrong(
                    f"the ledger of {port['name']} has {key} {port['ledger'][key]},"
                    f" expected {asked[key]}"
                )
    return ports
