"""Capturing changes nothing (W32): what is delivered, counted and dropped is the same with it.

Each case runs on two fabrics alike, of which the second has captures on: of all, so that every
frame goes the long way, or with a filter that takes some, so that frames go both ways in turns.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.property.strategies import examples
from tests.reference.capture import GIVEN, SENT, Capturing, Record
from tests.reference.exchange import BODY, FAST, PARTIAL_ONLY, SENDER
from tests.reference.frame import MACS, Layers
from tests.reference.network import Network
from tests.reference.plug import FULL, GUEST_CSUM, RING_PACKED
from tests.unit.test_engine_plain import (
    COMPLETE,
    LONG,
    PLAIN,
    STRAIGHT,
    UNUSUAL,
    Ends,
    Twin,
)
from vionet.engine.layout import TALK_BYTES, TALK_COMPUTED, TALK_ELIDED, TALK_FRAMES
from vionet.engine.status import LEDGER_KEYS, FabricKind
from vionet.spec.virtio_net import NetHeader

Sent = Sequence[tuple[bytes, NetHeader]]
# ldh [12]; jeq #0x800, next, out; ldb [23]; jeq #6, in, out; in: ret -1; out: ret 0
TCP4_ONLY = bytes.fromhex(
    "280000000c000000" "1500000300080000" "3000000017000000" "1500000106000000"
    "06000000ffffffff" "0600000000000000"
)  # fmt: skip
FILTERS = {"all": b"", "tcp4": TCP4_ONLY}


@contextmanager
def twins(ends: Ends, code: bytes) -> Iterator[tuple[Twin, Twin, Capturing]]:
    """A fabric, and one alike that is captured."""
    with ExitStack() as stack:
        plain, seen = (Twin(stack.enter_context(Network(ends.kind)), ends, False) for _ in range(2))
        yield plain, seen, stack.enter_context(Capturing(seen.network.state, code=code))


def talks_add_up(network: Network) -> None:
    """What ports say to a port is what that port counts."""
    talks, ledger = network.work.talks, network.work.ledger
    computed = ["csum_filled", "csum_verified"]
    for count, keys in (
        (TALK_FRAMES, ["rx_frames"]),
        (TALK_BYTES, ["rx_bytes"]),
        (TALK_ELIDED, ["csum_elided"]),
        (TALK_COMPUTED, computed),
    ):
        expected = ledger[:, [LEDGER_KEYS.index(key) for key in keys]].sum(axis=1)
        assert expected.tolist() == talks[..., count].sum(axis=0).tolist(), keys


def compare(ends: Ends, sent: Sent, code: bytes, times: int = 1) -> tuple[Twin, Twin, list[Record]]:
    """Send all of it by both fabrics.  *returns* them, and what was recorded: what was refused too,
    with its reason, if there is no filter."""
    with twins(ends, code) as (plain, seen, capture):
        plain.straight = seen.straight = 0
        before = Counter(seen.source.port.drops())
        for frame, header in sent:
            expected = plain.exchange(plain.source, plain.sink, frame, header, times)
            assert expected == seen.exchange(seen.source, seen.sink, frame, header, times)
        same_talks(plain, seen)
        assert 0 == capture.ring.lost
        records = capture.taken()
        if not code:
            refused = Counter(seen.source.port.drops()) - before
            assert refused == Counter(one.reason for one in records if one.side == SENT)
        return plain, seen, records


def same_talks(*twins: Twin) -> None:
    """They add up, and are the same on both."""
    plain, seen = (twin.network.work.talks[:2, :2].tolist() for twin in twins)
    assert plain == seen
    for twin in twins:
        talks_add_up(twin.network)


FRAMES = [*zip([*PLAIN.values()] * 6, [*COMPLETE.values(), *UNUSUAL.values()], strict=False)]


@pytest.mark.parametrize(("kind", "code"), [(FabricKind.SWITCH, "all"), (FabricKind.WIRE, "tcp4")])
@pytest.mark.parametrize("sent", FRAMES)
def test_all_kinds_of_frames(sent: Sent, kind: FabricKind, code: str) -> None:
    """Usual, finished and unusual frames in turns: the same bytes and counters.  Each that arrives
    has its record; those that the filter does not want go straight, and have none."""
    plain, seen, records = compare(Ends(kind=kind), sent, FILTERS[code], 2)
    given = [one for one in records if one.side == GIVEN and one.drop == 0]
    if code == "all":
        greeting = 1 if kind == FabricKind.SWITCH else 0
        assert seen.sink.port.ledger()["rx_frames"] - greeting == len(given)
        assert 0 == seen.straight
    else:
        assert seen.straight <= plain.straight
        assert {b"\x08\0\6"} >= {one.data[12:14] + one.data[23:24] for one in records}


@pytest.mark.parametrize("kind", FabricKind)
def test_only_what_the_filter_wants_leaves_the_straight_path(kind: FabricKind) -> None:
    """In whatever order they come."""
    names = ["udp4", "tcp4", "udp6", "tcp6", "short"]
    plain, seen, records = compare(Ends(kind=kind), [PLAIN[n] for n in names], TCP4_ONLY, 2)
    wanted = [PLAIN[name][0] for name in ("tcp4", "tcp4", "short", "short")]
    assert wanted == [one.data for one in records]
    assert plain.straight - sum(map(len, wanted)) == seen.straight


ENDS = [*STRAIGHT.values(), *LONG.values(), Ends(kind=FabricKind.WIRE)]
cases = st.sampled_from(ENDS)
changes = st.lists(st.tuples(st.integers(-12, 60), st.integers(0, 255)), max_size=4)
frames = st.sampled_from([*PLAIN.values(), *COMPLETE.values(), *UNUSUAL.values()])


@given(
    cases,
    st.lists(st.tuples(frames, changes), min_size=1, max_size=6),
    st.sampled_from([*FILTERS.values()]),
)
@examples(compiled=150, interpreted=12)
def test_any_frame(ends: Ends, sent: list[tuple[Any, list[tuple[int, int]]]], code: bytes) -> None:
    """Frames with any of their first bytes, and of their virtio-net header, changed, between ports
    of all kinds."""
    garbled = []
    for (frame, header), edits in sent:
        data = bytearray(header.pack(12) + frame)
        for off, value in edits:
            if 12 + off < len(data):
                data[12 + off] = value
        garbled.append((bytes(data[12:]), NetHeader.unpack(bytes(data[:12]))))
    compare(ends, garbled, code)


LARGE = {
    "tcp4": Layers().tcp(BODY[:7000]),
    "tcp6": Layers(6).tcp(BODY[:7000]),
    "udp4": Layers().udp(BODY[:7000]),
}


@pytest.mark.parametrize(("name", "size"), [("tcp4", 700), ("tcp6", 1400), ("udp4", 1400)])
@pytest.mark.parametrize("ring", [0, RING_PACKED])
@pytest.mark.parametrize("features", [FAST, PARTIAL_ONLY, FULL & ~GUEST_CSUM])
def test_large_frames(features: int, ring: int, name: str, size: int) -> None:
    """Super-frames, whole and in segments."""
    ends, frame = Ends(features=(SENDER | ring, features | ring)), LARGE[name]
    with twins(ends, b"") as (plain, seen, capture):
        found = []
        for twin in (plain, seen):
            for _ in range(12):
                twin.sink.post(2000)
            found.append(twin.exchange(twin.source, twin.sink, frame.partial, frame.gso(size)))
        assert found[0] == found[1]
        same_talks(plain, seen)
        assert [frame.partial] == [one.data for one in capture.taken()]


def test_frames_for_a_kernel() -> None:
    """To a tap, captured and not."""
    seen = []
    for on in (False, True):
        with Network() as network, ExitStack() as stack:
            guest, tap = network.guest(data_len=1 << 19), network.tap()
            captures = [stack.enter_context(Capturing(network.state, {1}))] if on else []
            tap.give(replace(Layers(), src=MACS[1], dst=MACS[0]).udp(b"here I am").data)
            network.run_tap(tap)
            found = []
            for frame, header in [*PLAIN.values(), *COMPLETE.values(), *UNUSUAL.values()]:
                guest.send(frame, header)
                network.run(guest)
                found += tap.taken()
            seen.append((found, guest.ledger, guest.drops, tap.ledger, tap.drops))
            talks_add_up(network)
            records = [one for capture in captures for one in capture.taken()]
    assert seen[0] == seen[1]
    assert len(found) == sum(one.side == GIVEN and one.drop == 0 for one in records)
