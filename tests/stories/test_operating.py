"""Seeing and operating: W65 to W71 of docs/field.md."""

import re

import pytest

from tests.reference.frame import BROADCAST, MACS, Layers
from tests.reference.network import Network
from tests.reference.plug import FULL, GUEST_CSUM, Options
from tests.reference.receiver import stream
from tests.reference.stream import StreamNetwork, packed
from tests.stories.scene import BODY, EVERYTHING, plug, say, taken
from tests.tools import ROOT
from tests.unit.test_engine_gso import REFUSED as REFUSED_LARGE
from tests.unit.test_engine_judge import REFUSED
from vionet.engine.status import DROP_REASONS, FabricKind
from vionet.spec.virtio_net import NetHeader

IDLE = 16


def test_w69_idle_guests_cost_nothing() -> None:
    """Sixteen guests that say nothing, two that talk: once their addresses are known no frame,
    no interrupt and no byte of theirs touches the others, and the work is that of two guests."""
    costs = []
    for idle in (0, IDLE):
        with Network() as network:
            pair = [plug(network), plug(network)]
            others = [network.guest() for _ in range(idle)]
            for guest in others:
                for _ in range(8):
                    guest.post(2048)
            frames = [Layers(src=MACS[i], dst=MACS[1 - i]).tcp(BODY[:9000]) for i in (0, 1)]
            for guest, frame in zip(pair, frames, strict=True):
                say(network, guest, frame.data[:60])
                taken(pair[0]), taken(pair[1])
            before = [dict(guest.ledger) for guest in others]
            copied = network.total("payload_bytes_copied")
            for _ in range(8):
                for i, (guest, frame) in enumerate(zip(pair, frames, strict=True)):
                    say(network, guest, frame.partial, frame.gso(1400))
                    assert frame.segments(1400) == stream(taken(pair[1 - i]))
            assert before == [guest.ledger for guest in others]
            costs.append(network.total("payload_bytes_copied") - copied)
            assert 8 == pair[0].ledger["gso_passed"] == pair[1].ledger["gso_passed"]
    assert costs[0] == costs[1]


@pytest.mark.parametrize("origin", ["guest", "stream"])
def test_w70_a_wire_waits(origin: str) -> None:
    """More frames than the receiver has buffers for: the rest stays where it is, nothing is lost
    and nothing is out of order; a switch drops instead, and counts each."""
    frames = [Layers(dst=BROADCAST).udp(bytes([i]) * 99).data for i in range(8)]
    for kind in FabricKind:
        with StreamNetwork(kind) as network:
            sink = plug(network, FULL & ~GUEST_CSUM, buffers=3)
            source = plug(network) if origin == "guest" else None
            peer = network.stream() if source is None else None
            if source is not None:
                for data in frames:
                    source.send(data)
            elif peer is not None:
                peer.give(packed(*frames))

            found: list[bytes] = []
            for _ in range(8):
                if source is not None:
                    network.run(source)
                elif peer is not None:
                    peer.record.readable = 1
                    network.run_stream(peer)
                found += stream(taken(sink))
            dropped = sink.drops.get("rx_ring_full", 0)
            assert len(frames) == len(found) + dropped
            assert (dropped == 0) is (kind is FabricKind.WIRE)
            order = [frames.index(data) for data in found]
            assert sorted(order) == order


@pytest.mark.parametrize("name", REFUSED)
def test_w71_each_refusal_has_a_name(name: str) -> None:
    """What the judge refuses is counted once, by its name."""
    reason, data, header = REFUSED[name]
    refused(reason, data, header, FULL)


@pytest.mark.parametrize("name", REFUSED_LARGE)
def test_w71_each_refusal_of_a_large_frame_has_a_name(name: str) -> None:
    """The same for large frames."""
    reason, frame, header = REFUSED_LARGE[name]
    refused(reason, frame.partial, header, EVERYTHING)


def refused(reason: str, data: bytes, header: NetHeader, features: int) -> None:
    """One frame that must not pass."""
    with Network() as network:
        source, sink = plug(network, features), plug(network)
        say(network, source, data, header)
        assert ([], {reason: 1}) == (taken(sink), source.drops)


def test_w71_each_reason_is_provoked_by_a_test() -> None:
    """No reason is only a word: some test outside this folder expects it by name."""
    texts = [
        path.read_text() for path in (ROOT / "tests").rglob("*.py") if "stories" not in path.parts
    ]
    words = set(re.findall(r'"([a-z0-9_]+)"', "\n".join(texts)))
    assert [] == [reason for reason in DROP_REASONS[1:] if reason not in words]


def test_w71_repairs_are_counted() -> None:
    """What is mended, and what was found wrong and passed, is in the ledger as well."""
    frame = Layers(dst=BROADCAST).tcp(BODY[:300])
    with Network() as network:
        source, sink = plug(network), plug(network, options=Options())
        wrong = bytearray(frame.partial)
        wrong[frame.field] ^= 0xFF
        say(network, source, bytes(wrong), frame.header)
        assert 1 == source.ledger["pseudo_header_repaired"]
        say(network, source, frame.bad)
        assert 1 == sink.ledger["csum_bad"]
        assert [frame.data, frame.bad] == stream(taken(sink))
