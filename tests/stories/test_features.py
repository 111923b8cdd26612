"""Features decided wrongly: W22 to W33 of docs/field.md."""

from itertools import chain, combinations, product
from pathlib import Path

import pytest

from tests.interop.end import SUBJECT, End
from tests.reference.frame import BROADCAST, Frame, Layers
from tests.reference.header import parse
from tests.reference.network import Network
from tests.reference.plug import (
    CSUM,
    FULL,
    GUEST_CSUM,
    GUEST_ECN,
    GUEST_GSO,
    GUEST_TSO4,
    GUEST_TSO6,
    GUEST_USO4,
    GUEST_USO6,
    HOST_ECN,
    HOST_GSO,
    HOST_TSO4,
    HOST_TSO6,
    HOST_USO,
    MRG_RXBUF,
    VERSION_1,
    Options,
)
from tests.reference.receiver import stream
from tests.reference.table import GSO_NEEDS, SENDS, TAKES, large
from tests.stories.scene import BODY, EVERYTHING, Actor, plug, say, taken
from tests.tools import ROOT
from vionet.jit import LANE, Lane
from vionet.spec import virtio
from vionet.spec.virtio_net import NetHeader

ALL = Layers(dst=BROADCAST)
ALL6 = Layers(6, dst=BROADCAST)
CWR_ACK = 0x90
SIZE = 500
SAID = {
    "tcp4": ALL.tcp(BODY[:1400]),
    "tcp6": ALL6.tcp(BODY[:1400], flags=CWR_ACK),
    "udp4": ALL.udp(BODY[:1400]),
    "udp6": ALL6.udp(BODY[:1400]),
}
BASE = VERSION_1 | MRG_RXBUF
HOST = (CSUM, HOST_TSO4, HOST_TSO6, HOST_ECN, HOST_USO)
GUEST = (GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, GUEST_ECN, GUEST_USO4, GUEST_USO6)


def subsets(bits: tuple[int, ...]) -> list[int]:
    """Each choice of `bits` that the dependencies of the specification allow."""
    every = chain.from_iterable(combinations(bits, n) for n in range(len(bits) + 1))
    words = [BASE | sum(some) for some in every]
    return [word for word in words if not list(virtio.unmet(word))]


def needed(frame: Frame) -> set[str]:
    """What both ends must have agreed to for a large frame."""
    found = parse(frame.data)
    cwr = found.protocol == 6 and frame.data[found.l4_off + 13] & 0x80
    return {GSO_NEEDS[found.protocol, found.ethertype]} | ({"ecn"} if cwr else set())


def sent(frame: Frame, features: int) -> list[tuple[bytes, NetHeader]]:
    """What a driver with `features` hands over for it."""
    words = needed(frame)
    if words <= large(features, SENDS):
        return [(frame.partial, frame.gso(SIZE, ecn="ecn" in words))]
    partial = bool(features & CSUM)
    header = frame.header if partial else NetHeader()
    return [(one, header) for one in frame.segments(SIZE, partial=partial)]


def test_w22_every_subset_of_features() -> None:
    """Every allowed word of a sender to every allowed word of a receiver: what was not
    acknowledged is not used, what was is; the data is the same."""
    senders, receivers = subsets(HOST), subsets(GUEST)
    assert (15, 29) == (len(senders), len(receivers))
    step = 1 if LANE is Lane.COMPILED else 4
    for number, word in enumerate(senders[:: 1 if step == 1 else 2]):
        with Network() as network:
            source = plug(network, word)
            sinks = [plug(network, features) for features in receivers[number % step :: step]]
            for frame in SAID.values():
                for data, header in sent(frame, word):
                    say(network, source, data, header)
                assert {} == source.drops
                whole = needed(frame) <= large(word, SENDS)
                for sink in sinks:
                    found = taken(sink)
                    assert frame.segments(SIZE) == stream(found)
                    passes = whole and needed(frame) <= large(sink.features, TAKES)
                    assert (1 if passes else 3) == len(found)
                    partial = bool(sink.features & GUEST_CSUM)
                    assert {int(partial)} == {header.flags for header, _ in found}


@pytest.mark.parametrize("word", [CSUM, GUEST_CSUM])
def test_w23_one_of_the_two(word: int) -> None:
    """Only CSUM: may send partial sums and never sees one.  Only GUEST_CSUM: the other way."""
    frame = ALL.udp(BODY[:300])
    with Network() as network:
        one, other = plug(network, BASE | word), plug(network)
        say(network, other, frame.partial, frame.header)
        ((header, data),) = taken(one)
        assert (1, frame.partial) if word == GUEST_CSUM else (0, frame.data) == (header.flags, data)
        say(network, one, frame.partial, frame.header)
        refused = {"csum_not_negotiated": 1} if word == GUEST_CSUM else {}
        assert refused == one.drops
        assert len(refused) != len(taken(other))
        say(network, one, frame.data)
        assert [frame.data] == stream(taken(other))


def test_w25_a_plain_port_costs_only_itself() -> None:
    """Three ports, one of them plain: between the other two every large frame passes whole, known
    address or flood; nothing is cut up or summed on their account.  One of them forwards what it
    got, as a guest with a container inside does, and it is whole still."""
    macs = [bytes([2, 0, 0, 0, 9, i]) for i in range(3)]
    with Network() as network:
        fast, bridge = plug(network), plug(network)
        plain = plug(network, FULL & ~(CSUM | GUEST_CSUM))
        assert {GUEST_GSO} == {guest.record.features & GUEST_GSO for guest in (fast, bridge)}
        assert 0 == plain.record.features & (GUEST_CSUM | GUEST_GSO)
        for guest, mac in zip((fast, bridge, plain), macs, strict=True):
            hello = Layers(src=mac, dst=BROADCAST).ethernet(b"hello", 0x88B5)
            say(network, guest, hello)
        for guest in (fast, bridge, plain):
            taken(guest)
        for dst in (macs[1], BROADCAST):
            for layers in (Layers(src=macs[0], dst=dst), Layers(6, src=macs[0], dst=dst)):
                frame = layers.tcp(BODY[:30_000])
                say(network, fast, frame.partial, frame.gso(1400))
                ((header, data),) = taken(bridge)
                assert frame.partial == data
                say(network, bridge, macs[0] + macs[1] + data[12:], header)
                assert frame.partial[12:] == taken(fast)[0][1][12:]
                got = taken(plain)
                assert (frame.segments(1400) if dst == BROADCAST else []) == stream(got)
        for guest in (fast, bridge):
            assert 4 == guest.ledger["gso_passed"]
            for key in ("gso_segmented", "segments", "csum_filled", "payload_bytes_summed"):
                assert 0 == guest.ledger.get(key, 0), key
            assert {} == {k: n for k, n in guest.drops.items() if k != "same_port"}
        assert 2 == plain.ledger["gso_segmented"]


@pytest.mark.parametrize("name", ["legacy", "firmware", "netkvm", "linux-big"])
def test_w27_a_receiver_of_small_frames_gets_full_ones(name: str) -> None:
    """No collapse: a large frame becomes as few segments as it can, all but the last one full,
    none lost, and no segment is delivered twice."""
    with Network() as network:
        source, sink = plug(network), Actor(network, name)
        frame = ALL.tcp(BODY[: 4 * 1448 - 7])
        say(network, source, frame.partial, frame.gso(1448))
        found = taken(sink.guest)
        whole = bool(sink.guest.features & GUEST_TSO4)
        assert (1 if whole else 4) == len(found)
        assert frame.segments(1448) == stream(found)
        if not whole:
            assert [1502, 1502, 1502, 1495] == [len(data) for _, data in found]
        assert {} == sink.guest.drops


@pytest.mark.parametrize("merge", [0, MRG_RXBUF])
def test_w32_no_flag_that_nobody_asked_for(merge: int) -> None:
    """A guest that negotiated nothing finds a header of zeros (and one buffer) before each frame,
    whatever the sender said of it, and the field finished, not 0."""
    with Network() as network:
        source, tap = plug(network), network.tap()
        tap.port.change(Options(features=CSUM | GUEST_CSUM | HOST_GSO | GUEST_GSO))
        sink = plug(network, VERSION_1 | merge)
        for frame in SAID.values():
            for header, data in (
                (frame.header, frame.partial),
                (frame.gso(SIZE), frame.partial),
                (NetHeader(flags=2), frame.data),
                (NetHeader(flags=0xFC, hdr_len=9, csum_start=9), frame.data),
            ):
                say(network, source, data, header)
                found = taken(sink)
                tap.give(data, header)
                assert 1 == network.run_tap(tap)
                found += taken(sink)
                taken(source)
                assert {NetHeader(num_buffers=1)} == {one for one, _ in found}
                meant = frame.segments(SIZE) if header.gso_type else [frame.data]
                assert meant * 2 == [data for _, data in found]


class Stub:
    """A guest whose kernel says that it agreed to `bits`."""

    def __init__(self, bits: set[int]) -> None:
        self.bits = bits

    def features(self) -> set[int]:
        """As `Shell.features`."""
        return self.bits


@pytest.mark.parametrize("text", ["uml", "uml -guest_csum", "qemu csum=off", "uml offload=off"])
def test_w33_a_test_that_runs_in_another_state_fails(text: str) -> None:
    """What `End.check` is for: any one feature more or less than the text means, in the guest or
    in vionet, and the test does not go on."""
    end = End.read(text)
    names = {SUBJECT[name] for name in end.features}
    bits = {virtio.BITS[name] for name in names}
    end.check(Stub(bits), {"features": sorted(names)})  # type: ignore[arg-type]
    for name in SUBJECT.values():
        for wrong in ((bits ^ {virtio.BITS[name]}, names), (bits, names ^ {name})):
            with pytest.raises(AssertionError):
                end.check(Stub(wrong[0]), {"features": sorted(wrong[1])})  # type: ignore[arg-type]


def test_w33_every_test_with_guests_looks_at_what_was_negotiated() -> None:
    """Each module that boots a guest asks for its features somewhere."""
    folder = ROOT / "tests" / "interop"
    boots = [p for p in folder.glob("test_*.py") if "lab.boot(" in p.read_text()]
    assert len(boots) > 8
    assert [] == [p.name for p in boots if not asks(p)]


def asks(path: Path) -> bool:
    """Whether it compares features."""
    text = path.read_text()
    return '["features"]' in text or ".check(guest" in text or "End.read(" in text


def test_dependencies_of_words() -> None:
    """The subsets above are those of the specification: segmentation needs a checksum, ECN TSO."""
    for word in subsets(HOST):
        assert not word & HOST_GSO or word & CSUM
        assert not word & HOST_ECN or word & (HOST_TSO4 | HOST_TSO6)
    for word in subsets(GUEST):
        assert not word & GUEST_GSO or word & GUEST_CSUM
    assert EVERYTHING == EVERYTHING & ~sum(1 << bit for bit, _ in virtio.unmet(EVERYTHING))
    assert len(list(product(subsets(HOST), subsets(GUEST)))) == 15 * 29
