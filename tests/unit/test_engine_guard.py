"""What a port locked to IP addresses may send: the engine against a model, on frames of scapy's.

Each way round the lock that was thought of has a case of its own (`tests.reference.locked`);
hypothesis looks for others.
"""

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.property.strategies import examples
from tests.reference.frame import MACS
from tests.reference.guard import GATEWAY, Lock, verdict
from tests.reference.guest import DATA_GPA
from tests.reference.locked import ASKS, DATA, IP6, LOCKED, PASSES, REFUSED, advert, arp, v4, v6
from tests.reference.plug import FULL, GUEST_CSUM, PLAIN, RING_PACKED
from tests.reference.stream import StreamNetwork
from vionet.services.lease import GATEWAY_LINK_LOCAL
from vionet.spec.virtio_net import NetHeader


class Ground:
    """A locked guest, one that hears everything, and perhaps a service."""

    def __init__(self, features: int = FULL, served: bool = False) -> None:
        self.network = StreamNetwork()
        self.source = self.network.guest(features, options=LOCKED)
        self.sink = self.network.guest(FULL & ~GUEST_CSUM)
        self.service = self.network.stream() if served else None
        if self.service is not None:
            self.service.record.service = 1

    def pass_on(
        self, frame: bytes, header: NetHeader = PLAIN, cuts: Sequence[int] = ()
    ) -> tuple[list[bytes], list[str]]:
        """What the other guest, or behind it the service, got; and the reasons counted."""
        before = self.source.port.drops()
        self.source.next_gpa = DATA_GPA
        if not self.sink.posted:
            self.sink.next_gpa = DATA_GPA
            self.sink.post(70_000)
        self.source.send(frame, header, cuts=cuts)
        assert 1 == self.network.run(self.source)
        found = [one.frame for one in self.sink.received()]
        self.source.tx.take_used()
        found += [] if self.service is None else [b"asked " + one for one in self.service.taken()]
        after = self.source.port.drops()
        return found, [reason for reason in after if after[reason] > before[reason]]


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    """Without a service: what a guest asks is flooded as anything else."""
    made = Ground()
    with made.network:
        yield made


@pytest.fixture(scope="module")
def served() -> Iterator[Ground]:
    """With a service."""
    made = Ground(served=True)
    with made.network:
        yield made


def lock() -> Lock:
    """What the model has to know."""
    return Lock(MACS[0], LOCKED.ip, LOCKED.keep_off, LOCKED.reach)


@pytest.mark.parametrize("name", PASSES)
def test_passes(ground: Ground, served: Ground, name: str) -> None:
    """What an honest guest says arrives, byte for byte, and no service hears of it."""
    frame = PASSES[name]
    assert set() == verdict(lock(), frame).reasons
    assert ([frame], []) == ground.pass_on(frame)
    assert ([frame], []) == served.pass_on(frame)


@pytest.mark.parametrize("name", ASKS)
def test_asks(ground: Ground, served: Ground, name: str) -> None:
    """What is asked of DHCP and routers goes to the service alone; without one, to everybody."""
    frame = ASKS[name]
    found = verdict(lock(), frame)
    assert (set(), True) == (found.reasons, found.asks)
    assert ([frame], []) == ground.pass_on(frame)
    assert ([b"asked " + frame], []) == served.pass_on(frame)


@pytest.mark.parametrize(("reason", "name", "frame"), REFUSED, ids=[one[1] for one in REFUSED])
def test_refused(ground: Ground, reason: str, name: str, frame: bytes) -> None:
    """What a guest says for others goes nowhere and is counted by its reason, at the guest."""
    assert ([], [reason]) == ground.pass_on(frame), name
    if len(frame) < 500:  # the model sees all headers
        assert reason in verdict(lock(), frame).reasons


@st.composite
def disguises(draw: st.DrawFn) -> bytes:
    """One of the frames with some bytes changed, tags in front, more or less behind it."""
    known = [*PASSES.values(), *ASKS.values(), *(one[2] for one in REFUSED if len(one[2]) < 400)]
    frame = bytearray(draw(st.sampled_from(known)))
    telling = [0, 1, 2, 4, 6, 17, 43, 44, 51, 58, 60, 67, 68, 0x45, 0x60, 0x81, 0x86, 0x88, 0xFE]
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(12, min(len(frame), 100) - 1))
        frame[at] = draw(st.sampled_from(telling) | st.integers(0, 255))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3]))):
        tag = draw(st.sampled_from([b"\x81\0", b"\x88\xa8", b"\x91\0"]))
        frame[12:12] = tag + bytes([0, draw(st.integers(0, 9))])
    frame = frame[: draw(st.sampled_from([400] * 5 + list(range(14, 100))))]
    return bytes(frame) + draw(st.sampled_from([b"", b"", b"\0" * 8, b"trailer"]))


@examples(compiled=500, interpreted=100)
@given(frame=disguises())
def test_no_disguise_helps(served: Ground, frame: bytes) -> None:
    """Whatever the model refuses is refused for a reason that it has too; all else passes."""
    model = verdict(lock(), frame)
    found, reasons = served.pass_on(frame)
    if model.reasons:
        assert ([], 1) == (found, len(reasons)) and model.reasons >= set(reasons)
    else:
        assert ([b"asked " * model.asks + frame], []) == (found, reasons)


@pytest.mark.parametrize(
    ("frame", "start", "offset"),
    [
        pytest.param(arp(2), 14, 14, id="sender of ARP"),
        pytest.param(arp(2), 14, 12, id="half a sender of ARP"),
        pytest.param(v4(DATA), 34, 0, id="port that it comes from"),
        pytest.param(v4(DATA), 34, 2, id="port that it goes to"),
        pytest.param(v4(DATA), 41, 0, id="last byte of UDP"),
        pytest.param(PASSES["echo"], 34, 0, id="type of ICMP"),
        pytest.param(PASSES["echo6"], 54, 0, id="type of ICMPv6"),
        pytest.param(v6(advert(IP6)), 54, 22, id="target of an answer"),
        pytest.param(v6(advert(IP6)), 60, 22, id="address in an option"),
    ],
)
def test_sums_hide_nothing(ground: Ground, frame: bytes, start: int, offset: int) -> None:
    """A sum that somebody would have to write over what was judged: refused."""
    header = NetHeader(flags=1, csum_start=start, csum_offset=offset)
    assert ([], ["csum_start_in_header"]) == ground.pass_on(frame, header)


def test_sums_of_tunnels_pass(ground: Ground) -> None:
    """Behind the UDP header a guest may leave sums to others; the next one finishes them."""
    header = NetHeader(flags=1, csum_start=42, csum_offset=4)
    found, reasons = ground.pass_on(v4(DATA), header)
    assert ([], 1) == (reasons, len(found))
    assert v4(DATA)[:46] == found[0][:46] != found[0][:48] != v4(DATA)[:48]


@pytest.mark.parametrize("cuts", [(), (20,), (12, 60, 70), range(14, 75)])
def test_however_it_is_cut_up(cuts: Sequence[int]) -> None:
    """Split and packed rings, one descriptor or many: the copy that was put together is judged."""
    for features in (FULL, FULL | RING_PACKED):
        made = Ground(features)
        with made.network:
            for frame, reasons in (
                (v6(advert(IP6)), []),
                (v6(advert("fe80::1")), ["neighbour_locked"]),
                (PASSES["extensions"], []),
                (v4(DATA), []),
                (v4(DATA, "192.0.2.99"), ["source_ip_locked"]),
            ):
                found = made.pass_on(frame, cuts=[cut for cut in cuts if cut < len(frame)])
                assert ([frame] * (not reasons), reasons) == found


def test_gateways_address_is_the_leases() -> None:
    """The link-local address that no guest may use, written down more than once, is the same."""
    assert GATEWAY == GATEWAY_LINK_LOCAL
