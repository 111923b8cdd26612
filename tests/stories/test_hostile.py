"""Metadata that is wrong, or means harm: W42 to W47 of docs/field.md."""

import ast
import random
from collections.abc import Iterator

import pytest

from tests.reference import device
from tests.reference.frame import BROADCAST, Layers
from tests.reference.network import Network
from tests.reference.plug import FULL, GUEST_CSUM
from tests.reference.receiver import obeys, stream
from tests.stories.scene import BODY, EVERYTHING, plug, say, taken
from tests.tools import ROOT
from vionet.jit import LANE, Lane
from vionet.spec.virtio_net import NetHeader

ALL = Layers(dst=BROADCAST)
ALL6 = Layers(6, dst=BROADCAST)
FRAMES = (ALL.tcp(BODY[:900]), ALL6.udp(BODY[:900]), Layers(tags=((0x8100, 3),)).udp(BODY[:200]))
EDGES = (0, 1, 2, 13, 14, 33, 34, 35, 50, 54, 100, 899, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF)
LENGTHS = (0, 1, 13, 14, 15, 20, 33, 34, 42, 54, 60, 62, 63, 128, 129)


def headers(seed: int, count: int) -> Iterator[NetHeader]:
    """Headers with edges in every field, mostly such as say something about a large frame."""
    dice = random.Random(seed)
    for _ in range(count):
        yield NetHeader(
            flags=dice.choice((0, 1, 1, 1, 1, 2, 3, 0xFF)),
            gso_type=dice.choice((0, 1, 1, 3, 4, 4, 5, 5, 0x81, 0x84, 0x21, 0x80, 2, 0xFF)),
            hdr_len=dice.choice(EDGES),
            gso_size=dice.choice(EDGES),
            csum_start=dice.choice((*EDGES, 34, 54, 38)),
            csum_offset=dice.choice((*EDGES, 6, 16)),
            num_buffers=dice.choice(EDGES),
        )


@pytest.mark.parametrize("receiver", [EVERYTHING, FULL, FULL & ~GUEST_CSUM])
@pytest.mark.parametrize("number", range(len(FRAMES)))
def test_w42_any_header_before_any_length(number: int, receiver: int) -> None:
    """Fields and frame lengths at their edges: each frame is delivered obeying the rules, or
    dropped and counted once at its sender; and the next good one passes."""
    frame, good = FRAMES[number], ALL.tcp(b"good")
    lengths = (*LENGTHS, len(frame.data) - 1, len(frame.data))
    count = 60 if LANE is Lane.COMPILED else 5
    with Network() as network:
        source = plug(network)
        sink = network.guest(receiver, size=4096, data_len=1 << 22)
        for _ in range(1000):
            sink.post(2048)
        delivered = passed = 0
        for length in lengths:
            for header in headers(length + number, count):
                before = sum(source.drops.values())
                say(network, source, frame.partial[:length], header)
                found = taken(sink)
                refused = sum(source.drops.values()) - before
                assert refused == (not found)
                delivered += bool(found)
        assert len(lengths) * count == delivered + sum(source.drops.values())
        say(network, source, good.partial, good.header)
        passed = len(stream(taken(sink)))
        assert 1 == passed
        assert {} == sink.drops


@pytest.mark.parametrize("start", [33, 34, 35, 36, 37, 40, 41, 42, 43, 100, 131, 132, 133, 134])
@pytest.mark.parametrize("offset", [0, 1, 5, 6, 7, 8, 15, 16, 17])
def test_w43_a_sum_at_any_place(start: int, offset: int) -> None:
    """Inside the IP header, over the UDP header, odd, at the last byte, beyond: what the model
    says, to a guest with and to one without the offload; and the sender goes on."""
    frame = ALL.udp(BODY[:92])
    assert 134 == len(frame.data)
    header = NetHeader(flags=1, csum_start=start, csum_offset=offset)
    claim = device.judge(frame.data, flags=1, csum_start=start, csum_offset=offset)
    with Network() as network:
        source = plug(network)
        sinks = plug(network), plug(network, FULL & ~GUEST_CSUM)
        say(network, source, frame.data, header)
        for sink, column in zip(sinks, ("uniform", "complete"), strict=True):
            found = taken(sink)
            if isinstance(claim, str):
                assert ([], {claim: 1}) == (found, source.drops)
                continue
            ((got, data),) = found
            seen = device.Delivery(got.flags, got.csum_start, got.csum_offset, data)
            assert seen in device.deliver(claim, column)
        say(network, source, frame.partial, frame.header)
        assert [[frame.data]] * 2 == [stream(taken(sink)) for sink in sinks]


@pytest.mark.parametrize("name", ["checksum", "header", "segment", "receiver", "device", "frame"])
def test_w47_the_oracles_share_no_code_with_the_engine(name: str) -> None:
    """Models import nothing of vionet but the names of the specification."""
    tree = ast.parse((ROOT / "tests" / "reference" / f"{name}.py").read_text())
    imported = {
        module
        for node in ast.walk(tree)
        for module in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    ours = {module for module in imported if module.startswith("vionet")}
    assert ours <= {"vionet.spec.virtio_net"}


@pytest.mark.parametrize("version", [4, 6])
def test_w47_both_ends_wrong_is_seen(version: int) -> None:
    """The oracle objects to a frame whose sum leaves the pseudo-header out, at both ends alike."""
    frame = Layers(version).tcp(BODY[:300])
    alone = (~frame.seed & 0xFFFF) or 0xFFFF
    header = NetHeader(flags=1, csum_start=frame.csum_start, csum_offset=16, num_buffers=1)
    obeys(EVERYTHING, header, frame.partial)
    data = bytearray(frame.partial)
    for wrong in (0, alone):
        data[frame.field : frame.field + 2] = wrong.to_bytes(2, "big")
        with pytest.raises(AssertionError):
            obeys(EVERYTHING, header, bytes(data))
