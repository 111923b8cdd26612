"""What is tried on a guest of the table: frames that a peer sends it, and frames that it sends.

How it works: a peer with every offload that the back-end offers sends one kind of frame after the
other; each delivery is read as the guest would read it, and its conclusion is compared with what a
guest needs: good frames taken, bad ones thrown away.  A second outcome says what it would have
forwarded.  Then the guest sends in its own way to a plain peer, and to one that takes everything.
Each is a `Check` with a rule of its own, so that it runs and is reported like others.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from vionet.check import judge
from vionet.check.case import CONFIG, CSUM, GUEST_CSUM, VERSION_1, Check, Lab, variety
from vionet.check.driver import PROTOCOL, RX, TX, Broken, Delivery, NotOffered, Port
from vionet.check.judge import NEXT_FRAGMENT, PROTOCOL_UDP
from vionet.check.packet import Frame, fragment_extension
from vionet.check.profile.guest import GUESTS, Guest, read
from vionet.check.rules.segmentation import WHOLE, made
from vionet.check.segment import CWR, KINDS, Large, expanded
from vionet.check.verdict import difference, during, expect
from vionet.spec import virtio
from vionet.spec import virtio_net as net
from vionet.spec.rules import Rule

PLAIN: Final = net.NetHeader()


@dataclass(frozen=True, slots=True)
class Stimulus:
    """One frame that is sent, and what it is worth."""

    name: str
    header: net.NetHeader
    data: bytes
    meant: list[bytes]  # complete frames; what has to arrive in the end
    good: bool = True  # a guest has to take it

    @property
    def mark(self) -> bytes:
        """Its IP addresses, which no other kind of frame has; what it is known by."""
        at = judge.parse(self.data)
        v4 = at.ethertype == judge.ETHERTYPE_IPV4
        start = at.l3_off + (12 if v4 else 8)
        return self.data[start : start + (8 if v4 else 32)]


def _whole(name: str, frame: Frame, **changes: int) -> Stimulus:
    header, data = frame.partial(**changes)
    return Stimulus(name, header, data, [frame.data])


def plain(lab: Lab, back: bool) -> Iterator[Stimulus]:
    """Complete sums in every wrapping, UDP without a sum, SCTP, the largest frame."""
    for name, _, frame in variety(lab, back):
        yield Stimulus(name, PLAIN, frame.data, [frame.data])
    flow = lab.flow(back=back)
    for name, data in (
        ("UDP without a sum", flow.udp(b"no sum").with_field(0)),
        ("SCTP", flow.sctp(bytes(40)).data),
        ("1514 bytes", flow.tcp(bytes(1460)).data),
    ):
        yield Stimulus(name, PLAIN, data, [data])


def unfinished(lab: Lab, back: bool) -> Iterator[Stimulus]:
    """Partial sums in every wrapping."""
    for name, _, frame in variety(lab, back):
        yield _whole(name, frame)


def wrong(lab: Lab, back: bool) -> Iterator[Stimulus]:
    """Sums that are wrong, and said to be good."""
    for version in (4, 6):
        flow = lab.flow(version, back=back)
        for name, frame in (("TCP", flow.tcp(b"wrong")), ("UDP", flow.udp(b"wrong"))):
            for flags in (0, 2):
                what = f"{name} over IPv{version} with a wrong sum, flags {flags}"
                data = frame.corrupted()
                yield Stimulus(what, net.NetHeader(flags), data, [data], False)


def dhcp(lab: Lab, back: bool) -> Iterator[Stimulus]:
    """Leases, from a server that leaves the sum to its device."""
    yield _whole("a DHCP offer", lab.flow(back=back).dhcp())
    six = lab.flow(6, back=back, src_port=547, dst_port=546)
    yield _whole("a DHCPv6 reply", six.udp(bytes(120)))


def pieces(lab: Lab, back: bool) -> Iterator[Stimulus]:
    """Fragments."""
    for offset, more in ((0, True), (64, True), (128, False)):
        v4 = lab.flow(back=back).datagram(bytes(64), PROTOCOL_UDP, offset // 8 | more << 13)
        parts = ((NEXT_FRAGMENT, fragment_extension(offset, more)),)
        v6 = lab.flow(6, back=back, extensions=parts).datagram(bytes(64), PROTOCOL_UDP)
        for version, data in ((4, v4), (6, v6)):
            yield Stimulus(f"a fragment of IPv{version} at {offset}", PLAIN, data, [data])


def tunnel(lab: Lab, back: bool) -> Iterator[Stimulus]:
    """VXLAN whose inner sum is partial, outer sum there or not."""
    for version in (4, 6):
        flow = lab.flow(version, back=back)
        for outer in (True, False) if version == 4 else (True,):
            frame = flow.vxlan(flow.tcp(bytes(100)), outer_sum=outer)
            yield _whole(f"VXLAN over IPv{version}, outer sum {outer}", frame)


def _cut(each: Large, name: str, **changes: int) -> Stimulus:
    header, data = each.sent(**changes)
    return Stimulus(name, header, data, each.segments())


def oversize(lab: Lab, back: bool, features: int = -1, seeds: str = "length") -> Iterator[Stimulus]:
    """Large frames of each kind that is offered, CWR too, tagged too."""
    for kind in KINDS:
        if not lab.offer.features & features & 1 << kind.host:
            continue
        ecn = lab.offer.features & features & 1 << net.VIRTIO_NET_F_HOST_ECN
        for tags in ((), (7,)):
            for flags in (0x18, 0x18 | CWR) if ecn and kind.gso_type != 5 else (0x18,):
                each = made(lab, kind, 1400, 4000, flags, tags=tags, back=back)
                found = _cut(each, f"large {kind.name}, tags {tags}, flags {flags:#x}")
                if seeds == "no length":
                    found = replace(found, data=_unseeded(each, found.data))
                yield found


def _unseeded(each: Large, data: bytes) -> bytes:
    """The frame with a seed that leaves the length out, as NDIS has it (spec SG-07)."""
    at = judge.parse(data)
    seed = judge.ones_sum(at.pseudo[: -4 if len(at.pseudo) == 12 else -8] + bytes((0, at.protocol)))
    field = each.frame.field
    return data[:field] + seed.to_bytes(2, "big") + data[field + 2 :]


RECEIVED: Final[dict[str, tuple[str, Callable[[Lab, bool], Iterator[Stimulus]]]]] = {
    "plain": ("frames with complete sums", plain),
    "partial": ("partial sums", unfinished),
    "large": ("large frames", oversize),
    "tunnel": ("VXLAN with partial inner sums", tunnel),
    "dhcp": ("DHCP with partial sums", dhcp),
    "fragments": ("fragments", pieces),
    "wrong": ("wrong sums", wrong),
}


# --- the guest --------------------------------------------------------------------------------
def start(lab: Lab, guest: Guest, where: int = 0) -> Port:
    """The guest's driver on a socket, with what it acknowledges of the offer."""
    want = guest.features & lab.offer.features_with_config
    while orphans := virtio.mask(bit for bit, _ in virtio.unmet(want)):
        want &= ~orphans
    if guest.features & VERSION_1 & ~want:
        raise NotOffered("VIRTIO_F_VERSION_1")
    shape = guest.shape if sum(guest.shape) > 4096 or not _takes_large(want) else WHOLE
    shape = guest.shape if want >> net.VIRTIO_NET_F_MRG_RXBUF & 1 else shape
    port = lab.open(where, want, size=guest.size, protocol=PROTOCOL | CONFIG)
    port.start(guest.buffers, shape)
    if guest.polls:
        for index in (RX, TX):
            port.rings[index].avail_flags = 1
    return port


def _takes_large(features: int) -> bool:
    return any(features >> kind.guest & 1 for kind in KINDS)


def _allowed(
    frames: Callable[[Lab, bool], Iterator[Stimulus]], lab: Lab, peer: Port
) -> Iterator[Stimulus]:
    """What the peer may send to the guest: partial sums only where it may leave them."""
    for each in frames(lab, True):
        if peer.features & CSUM or not each.header.flags & net.VIRTIO_NET_HDR_F_NEEDS_CSUM:
            yield each


def _delivered(lab: Lab, a: Port, b: Port, each: Stimulus, guest: Guest) -> list[Delivery]:
    """Send one frame; what comes, buffers given back to the ring as they are used."""
    b.fill(guest.refill * 4, guest.shape)
    a.send(each.data, each.header, guest.layout if a.where == 0 else ())
    return list(lab.arrivals(a, b, each.mark))


def _compare(seen: list[bytes], meant: list[bytes]) -> None:
    if not seen:
        raise Broken("nothing arrived")
    for found, due in zip(seen, meant, strict=False):
        expect(found == due, difference(found, due) if found != due else "")
    expect(len(seen) == len(meant), f"{len(seen)} frames instead of {len(meant)}")


def _receive(guest: Guest, frames: Callable[[Lab, bool], Iterator[Stimulus]], lab: Lab) -> str:
    b = start(lab, guest)
    a = lab.port(1, lab.sending())
    lab.joined(a, b)
    told = []
    for each in _allowed(frames, lab, a):
        with during(each.name):
            found = _delivered(lab, a, b, each, guest)
            readings = [read(guest, d.header, d.frame) for d in found]
            if each.good:
                for reading in readings:
                    expect(reading.accepted, f"dropped: {reading.why}")
                _compare([p for d in found for p in expanded(d.header, d.frame)], each.meant)
            else:
                taken = [reading.why for reading in readings if reading.accepted]
                expect(not taken, f"a bad frame was accepted: {taken}")
            whys = " / ".join(sorted({reading.why for reading in readings})) or "it did not come"
            verdict = "accepted" if each.good else "dropped"
        told.append(f"{each.name}: {verdict}, {whys}")
    if not told:
        raise NotOffered("anything of this kind")
    return "; ".join(told)


def _forward(guest: Guest, frames: Callable[[Lab, bool], Iterator[Stimulus]], lab: Lab) -> str:
    b = start(lab, guest)
    a = lab.port(1, lab.sending())
    lab.joined(a, b)
    count = 0
    for each in _allowed(frames, lab, a):
        found = _delivered(lab, a, b, each, guest)
        sent = [p for d in found for p in read(guest, d.header, d.frame).forwarded]
        bad = [
            judge.l4_sum(p).value
            for p in sent
            if judge.l4_sum(p) in (judge.Sum.BAD, judge.Sum.PARTIAL)
        ]
        expect(not bad, f"{each.name}: would have forwarded {', '.join(bad)}")
        count += len(sent)
    if not count:
        raise NotOffered("anything of this kind")
    return f"{count} frames would have been forwarded with right sums"


def _astray(lab: Lab, back: bool) -> Iterator[Stimulus]:
    """csum_start counted from the IP header, without any task offload (GU-16)."""
    frame = lab.flow(back=back).tcp(bytes(200))
    header, data = frame.partial(csum_start=frame.csum_start - 14)
    yield Stimulus("csum_start counted from the IP header", header, data, [], False)


def _valid(lab: Lab, back: bool) -> Iterator[Stimulus]:
    """Frames forwarded with DATA_VALID (GU-12)."""
    for name, _, frame in variety(lab, back):
        yield Stimulus(name, net.NetHeader(flags=2), frame.data, [frame.data])


SENT: Final[dict[str, tuple[str, Callable[[Lab, bool], Iterator[Stimulus]]]]] = {
    "plain": ("frames with complete sums", plain),
    "partial": ("partial sums", unfinished),
    "large": ("large frames", oversize),
    "tunnel": ("VXLAN with partial inner sums", tunnel),
    "valid": ("DATA_VALID", _valid),
    "astray": ("csum_start that is too low", _astray),
}


def _send(guest: Guest, habit: str, lab: Lab) -> str:
    frames = SENT[habit][1]
    takes = GUEST_CSUM | virtio.mask(kind.guest for kind in KINDS)
    count = 0
    for more in (0, takes | 1 << net.VIRTIO_NET_F_GUEST_ECN):
        a = start(lab, guest)
        if habit in ("partial", "large", "tunnel") and not a.features & CSUM:
            raise NotOffered("VIRTIO_NET_F_CSUM")
        peer = replace(GUESTS["linux"], features=VERSION_1 | more, shape=WHOLE if more else (2048,))
        b = lab.port(1, VERSION_1 | more & lab.offer.features, shape=peer.shape, rx_buffers=64)
        lab.joined(a, b)
        if habit == "large":
            frames = partial(oversize, features=a.features, seeds=guest.seeds)
        for each in frames(lab, False):
            with during(f"{each.name} to {'everything' if more else 'a plain peer'}"):
                found = _delivered(lab, a, b, each, peer)
                if each.good:
                    _compare([p for d in found for p in expanded(d.header, d.frame)], each.meant)
                    for d in found:
                        wrong_ = judge.objections(d.header, d.frame)
                        expect(not wrong_, "; ".join(wrong_))
            count += 1
        a.sent(lab.patience)
        lab.joined(a, b)
    if not count:
        raise NotOffered("anything of this kind")
    return f"{count} frames, as they were meant"


def _rule(guest: Guest, what: str, level: str, summary: str) -> Rule:
    return Rule(f"{guest.name}/{what}", "4.6", "", "", level, "DEV", f"{guest.title}: {summary}")


def scenarios(name: str) -> list[tuple[Rule, Check]]:
    """Everything that is tried on one guest."""
    guest, found = GUESTS[name], []

    def add(what: str, level: str, does: str, expects: str, body: Any) -> None:
        rule = _rule(guest, what, level, f"{does}: {expects}")
        found.append((rule, Check((rule.id,), does, expects, 2, body, False)))

    for what, (words, frames) in RECEIVED.items():
        due = "thrown away" if what == "wrong" else "taken, every byte of them"
        add(what, "RULE", f"receive {words}", due, partial(_receive, guest, frames))
    for what in ("partial", "large", "tunnel"):
        words, frames = RECEIVED[what]
        body = partial(_forward, guest, frames)
        add(f"{what}-forwarded", "FACT", f"forward {words}", "right sums", body)
    for habit in guest.sends:
        words = SENT[habit][0]
        due = "the next frame passes" if habit == "astray" else "what was meant arrives"
        add(f"sends-{habit}", "RULE", f"send {words}", due, partial(_send, guest, habit))
    return found
