"""What `vionet demo` shows: a switch, three guests, and a judgement of every frame.

How it works: `vionet switch` runs as a process of its own, as everybody would start it.  Three
drivers of the tester (`check.driver`) attach as guests, each with memory and rings of its own;
two agreed to leave checksums unfinished and frames large between them, the third declined
everything.  Between each pair frames of several kinds go both ways.  Each frame that arrives is
compared, byte for byte and flag for flag, with what the rules say that this receiver must see.

Invariants: what is expected is computed from the frame and from who its receiver is, with the
tester's own packets and sums; nothing is imported from the engine.  Every wait has an end.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from vionet.check import judge, segment
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
        net.VIRTIO_NET_F_HOST_TSO4,
        net.VIRTIO_NET_F_HOST_TSO6,
        net.VIRTIO_NET_F_GUEST_TSO4,
        net.VIRTIO_NET_F_GUEST_TSO6,
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
_COUNTED: Final = (
    "csum_elided", "csum_filled", "csum_verified", "csum_unfilled", "csum_bad",
    "gso_passed", "gso_segmented", "segments",
)  # fmt: skip
BURST: Final = 32  # buffers that the frames on their way at once may take
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
    large: segment.Kind | None = None  # to be cut where somebody has not agreed to it
    every: int = 1  # rounds

    def flow(self, sender: bytes, receiver: bytes) -> Flow:
        """Its two ends."""
        return Flow(sender, receiver, version=self.version)

    def payload(self, number: int) -> bytes:
        """What says which frame it is."""
        text = f"vionet demo, frame {number} ".encode()
        return text + bytes((number + i) & 0xFF for i in range(self.payload_len - len(text)))

    def frame(self, sender: bytes, receiver: bytes, number: int) -> Frame:
        """The frame with that number, complete."""
        flow, payload = self.flow(sender, receiver), self.payload(number)
        if self.l4 == "dhcp":
            return flow.dhcp()
        return flow.tcp(payload) if self.l4 == "tcp" else flow.udp(payload)


SEGMENT_LEN: Final = 1428  # bytes of payload of a large frame's segments
_LARGE: Final = 4 * SEGMENT_LEN + 100
_RARE: Final = 1 << 30  # once
KINDS: Final = (
    Kind("TCP over IPv4", 4, 1448, "tcp"),
    Kind("TCP over IPv6", 6, 1428, "tcp"),
    Kind("UDP over IPv4", 4, 777, "udp"),
    Kind("UDP over IPv6", 6, 64, "udp"),
    Kind("large TCP over IPv4", 4, _LARGE, "tcp", large=segment.KINDS[0], every=5),
    Kind("large TCP over IPv6", 6, _LARGE, "tcp", large=segment.KINDS[1], every=5),
    Kind("DHCP offer", 4, 300, "dhcp", every=_RARE),
    Kind("TCP with a bad checksum", 4, 512, "tcp", is_bad=True, every=_RARE),
)


@dataclass(slots=True)
class Guest:
    """One driver on the switch."""

    name: str
    mac: bytes
    port: Port

    def agreed(self, bit: int) -> bool:
        """Whether this feature was negotiated."""
        return bool(self.port.features >> bit & 1)


class Want(NamedTuple):
    """One frame as its receiver must see it."""

    header: net.NetHeader
    data: bytes
    meant: bytes | None  # the finished frame; None if its sender broke the checksum


@dataclass(frozen=True, slots=True)
class Sent:
    """One frame on its way: what was handed to the device, and what its receiver must see."""

    label: str
    header: net.NetHeader
    data: bytes
    wants: tuple[Want, ...]
    work: tuple[str, ...]  # the ledger keys that this frame must move at its receiver

    @property
    def buffers(self) -> int:
        """How many of the receiver's it may take."""
        return sum(_buffers(want) for want in self.wants)


@dataclass(slots=True)
class Flowed:
    """Frames of all kinds from one guest to another."""

    source: str
    target: str
    sent: int = 0
    frames: int = 0  # that arrived
    sent_unfinished: int = 0
    got_unfinished: int = 0
    sent_large: int = 0
    got_large: int = 0
    length: int = 0  # bytes of all that were sent
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
                for want in sent.wants:
                    _compare(sent.label, want, self._next(target, sent.label))
                    flowed.got_unfinished += want.header.flags & NEEDS_CSUM
                    flowed.got_large += want.header.gso_type != 0
                flowed.sent += 1
                flowed.frames += len(sent.wants)
                flowed.sent_unfinished += sent.header.flags & NEEDS_CSUM
                flowed.sent_large += sent.header.gso_type != 0
                flowed.length += len(sent.data)
                flowed.work.update(sent.work)
            source.port.sent(PATIENCE_S)

    def _plan(self, source: Guest, target: Guest) -> Iterator[Sent]:
        for turn in range(self.rounds):
            for kind in KINDS:
                if turn % kind.every == 0:
                    for sent in _sent(self.frames + 1, kind, source, target):
                        self.frames += len(sent.wants)
                        yield sent

    def _next(self, guest: Guest, label: str) -> Delivery:
        got = self._next_but_hello(guest, time.monotonic() + PATIENCE_S)
        if got is None:
            raise Wrong(f"{label}: did not arrive within {PATIENCE_S:.0f} s")
        return got

    def _next_but_hello(self, guest: Guest, deadline: float) -> Delivery | None:
        """The next frame; one broadcast too many may have been sent in the beginning."""
        while (got := guest.port.next_frame(deadline)) is not None:
            guest.port.fill(len(got.buffers), (_BUFFER_LEN,))
            if got.frame not in self._hellos:
                return got
        return None


def _buffers(want: Want) -> int:
    return -(-(net.VIRTIO_NET_HDR_LEN + len(want.data)) // _BUFFER_LEN)


def _bursts(frames: Iterator[Sent]) -> Iterator[Sequence[Sent]]:
    """As many frames at once as the receiver has buffers for."""
    burst: list[Sent] = []
    room = BURST
    for frame in frames:
        if frame.buffers > room:
            yield burst
            burst, room = [], BURST
        burst.append(frame)
        room -= frame.buffers
    yield burst


def _sent(number: int, kind: Kind, source: Guest, target: Guest) -> list[Sent]:
    """The frames as their sender hands them over, and as this receiver must get them."""
    label = f"frame {number} ({kind.name}, {source.name} to {target.name})"
    if kind.large is not None:
        return _sent_large(label, kind, number, source, target)
    frame = kind.frame(source.mac, target.mac, number)
    if kind.is_bad:
        data, header = frame.corrupted(), net.NetHeader()
        verifies = target.agreed(net.VIRTIO_NET_F_GUEST_CSUM)
        found = ("csum_verified", "csum_bad") if verifies else ()
        return [Sent(label, header, data, (Want(header, data, None),), found)]
    return [_sent_ordinary(label, frame, source, target, is_dhcp=kind.l4 == "dhcp")]


def _sent_ordinary(
    label: str, frame: Frame, source: Guest, target: Guest, *, is_dhcp: bool = False
) -> Sent:
    whole, partial = (net.NetHeader(), frame.data), frame.partial()
    handed = partial if source.agreed(net.VIRTIO_NET_F_CSUM) else whole
    # DHCP clients read raw frames, so theirs are always finished.
    takes = target.agreed(net.VIRTIO_NET_F_GUEST_CSUM) and not is_dhcp
    want = Want(*(partial if takes else whole), frame.data)
    work = _WORK[bool(handed[0].flags), bool(want.header.flags)]
    return Sent(label, *handed, (want,), work)


def _sent_large(label: str, kind: Kind, number: int, source: Guest, target: Guest) -> list[Sent]:
    """Whole from and to those who agreed; the others send and get what it would be cut into."""
    assert kind.large is not None
    large = segment.large(
        kind.flow(source.mac, target.mac), kind.large, kind.payload(number), SEGMENT_LEN
    )
    place = large.frame.csum_start, large.frame.csum_offset
    pieces = large.segments()
    if not source.agreed(kind.large.host):
        return [_sent_ordinary(label, Frame(piece, *place), source, target) for piece in pieces]
    handed = large.sent()
    if target.agreed(kind.large.guest):
        want = Want(*handed, large.frame.data)
        return [Sent(label, *handed, (want,), ("gso_passed", "csum_elided"))]
    wants = tuple(Want(net.NetHeader(), piece, piece) for piece in pieces)
    return [
        Sent(label, *handed, wants, ("gso_segmented", *("segments", "csum_filled") * len(pieces)))
    ]


def _compare(label: str, want: Want, got: Delivery) -> None:
    """Raise `Wrong` unless the delivery is exactly what it must be."""
    asked = want.header
    for name in ("flags", "gso_type", "gso_size"):
        held, expected = getattr(got.header, name), getattr(asked, name)
        if held != expected:
            raise Wrong(f"{label}: {name} is {held}, expected {expected}")
    if asked.flags and (got.header.csum_start, got.header.csum_offset) != (
        asked.csum_start,
        asked.csum_offset,
    ):
        raise Wrong(
            f"{label}: checksum at {got.header.csum_start} + {got.header.csum_offset},"
            f" expected {asked.csum_start} + {asked.csum_offset}"
        )
    if got.header.num_buffers != _buffers(want):
        raise Wrong(f"{label}: num_buffers is {got.header.num_buffers}, expected {_buffers(want)}")
    if len(got.frame) != len(want.data):
        raise Wrong(f"{label}: {len(got.frame)} bytes, expected {len(want.data)}")
    for off, (held, expected) in enumerate(zip(got.frame, want.data, strict=True)):
        if held != expected:
            raise Wrong(f"{label}: byte {off} is {held:#04x}, expected {expected:#04x}")
    if want.meant is None:
        return
    for objection in judge.objections(got.header, got.frame):
        raise Wrong(f"{label}: {objection}")
    if judge.finish(got.header, got.frame) != want.meant:
        raise Wrong(f"{label}: what its receiver finishes is not what was sent")


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
