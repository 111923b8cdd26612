"""What the property tests draw from: frames, sums, scatter lists, features, and plain noise.

How it works: a test draws a few small numbers and the bytes follow from them, so that thousands
of bytes cost no more choices than ten.  Runs are the same each time; with VIONET_EXAMPLES=1000 in
the environment they are random, as many, and a failure is made as small as can be (which may take
longer than the time limit: `--timeout 0`).
"""

import os
import random
from typing import Final

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from tests.reference.frame import (
    BROADCAST,
    HOME_ADDRESS,
    Frame,
    Layers,
    authentication,
    fragment6,
    options,
    routing,
)
from tests.reference.plug import (
    CSUM,
    EVENT_IDX,
    GUEST_CSUM,
    GUEST_ECN,
    GUEST_TSO4,
    GUEST_TSO6,
    GUEST_USO4,
    GUEST_USO6,
    HOST_ECN,
    HOST_TSO4,
    HOST_TSO6,
    HOST_USO,
    INDIRECT_DESC,
    MRG_RXBUF,
    RING_PACKED,
    VERSION_1,
)
from vionet.engine.status import Policy
from vionet.jit import LANE, Lane
from vionet.spec.virtio_net import NetHeader

_WANTED: Final = os.environ.get("VIONET_EXAMPLES", "")


def examples(compiled: int, interpreted: int) -> settings:
    """How many examples each lane can do in a few seconds."""
    count = interpreted if LANE is Lane.INTERPRETED else compiled
    return settings(
        max_examples=int(_WANTED) if _WANTED else count,
        derandomize=not _WANTED,
        database=None,
        deadline=None,
        # Shrinking a failure takes longer than a test may.
        phases=list(Phase) if _WANTED else [Phase.explicit, Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def noise(seed: int, length: int) -> bytes:
    """Bytes that follow from two numbers."""
    return random.Random(seed).randbytes(length)


seeds = st.integers(0, 1 << 32)
lengths = st.one_of(st.integers(0, 200), st.integers(0, 2000), st.integers(0, 9000))
tags = st.lists(
    st.tuples(st.sampled_from([0x8100, 0x88A8, 0x9100]), st.integers(0, 0xFFFF)), max_size=3
).map(tuple)
extension = st.one_of(
    st.tuples(st.sampled_from([0, 60]), st.builds(options, st.binary(max_size=0))),
    st.tuples(st.just(43), st.builds(routing, st.integers(0, 2), st.integers(0, 2))),
    st.tuples(st.just(51), st.builds(authentication, st.sampled_from([2, 4, 10]))),
    st.tuples(st.just(44), st.just(fragment6(0, False))),
    st.just((60, options(HOME_ADDRESS))),
    st.just((60, options(b"\1\4abcd"))),
    st.just((0, options(bytes(100)))),
)
layers = st.one_of(
    st.builds(
        Layers,
        version=st.just(4),
        dst=st.just(BROADCAST),
        tags=tags,
        options=st.integers(0, 10).map(lambda words: b"\1" * (4 * words))
        | st.just(b"\x83\x07\x04\x0a\0\0\1\0"),
        fragment=st.sampled_from([0, 0, 0, 0x4000, 0x2000, 0x0003]),
    ),
    st.builds(
        Layers,
        version=st.just(6),
        dst=st.just(BROADCAST),
        tags=tags,
        extensions=st.lists(extension, max_size=3).map(tuple),
    ),
)
ports = st.sampled_from([(4000, 4001), (67, 68), (546, 547), (0, 0)])


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    """A complete frame with a TCP or UDP checksum, alone or in a tunnel."""
    around = draw(layers)
    payload = noise(draw(seeds), draw(lengths))
    kind = draw(st.sampled_from(["udp", "tcp", "vxlan"]))
    if kind == "vxlan":
        inner = Layers(draw(st.sampled_from([4, 6])))
        inside = inner.udp(payload[:8000]) if draw(st.booleans()) else inner.tcp(payload[:8000])
        return around.vxlan(inside, draw(st.booleans()))
    if kind == "udp":
        return around.udp(payload, draw(ports))
    return around.tcp(payload, b"\1" * (4 * draw(st.integers(0, 10))))


@st.composite
def sendings(draw: st.DrawFn) -> tuple[bytes, NetHeader]:
    """A frame as a driver, or a hostile one, sends it: partial, complete, wrong, or nonsense."""
    frame = draw(frames())
    trailer = draw(st.sampled_from([b"", b"", b"", b"\0" * 6, b"junk", b"trailer" * 30]))
    kind = draw(st.sampled_from(["partial", "partial", "complete", "bad", "seed", "garbage"]))
    if kind == "partial":
        return frame.partial + trailer, frame.header
    if kind == "complete":
        return frame.data + trailer, NetHeader(flags=draw(st.sampled_from([0, 0, 2, 0xF0])))
    if kind == "bad":
        return frame.bad + trailer, NetHeader()
    if kind == "seed":
        return frame.bad + trailer, frame.header
    return frame.partial + trailer, draw(headers)


@st.composite
def large_frames(draw: st.DrawFn) -> tuple[Frame, NetHeader]:
    """A partial frame that is to be cut up, and what a good driver says of it."""
    around = draw(layers.filter(lambda found: not found.fragment & 0x3FFF))
    payload = noise(draw(seeds), draw(st.one_of(lengths, st.integers(0, 60_000))))
    flags = draw(st.sampled_from([0x10, 0x18, 0x11, 0x90, 0xFF]))
    if draw(st.booleans()):
        frame = around.udp(payload, draw(ports))
    else:
        words = draw(st.integers(0, 10))
        seq = draw(st.sampled_from([0, 1, 0xFFFFFF00]))
        frame = around.tcp(payload, b"\1" * (4 * words), flags=flags, seq=seq, urgent=flags)
    least = max(1, len(payload) // 60)
    size = draw(
        st.one_of(
            st.integers(least, least + 3000),
            st.integers(least, 65534),
            st.sampled_from([max(1, len(payload) + d) for d in (-1, 0, 1)]),
        )
    )
    ecn = bool(flags & 0x80) and frame.csum_offset == 16 and draw(st.booleans())
    return frame, frame.gso(size, ecn=ecn, hdr_len=draw(st.sampled_from([0, 1, 54, 0xFFFF])))


@st.composite
def large_sendings(draw: st.DrawFn) -> tuple[bytes, NetHeader]:
    """A frame to be cut up, now and then with one thing about it that is wrong."""
    frame, header = draw(large_frames())
    trailer = draw(st.sampled_from([b"", b"", b"junk", b"trailer" * 30]))
    wrong = draw(
        st.sampled_from(
            [{}] * 8
            + [{"gso_type": kind} for kind in (1, 2, 3, 4, 5, 6, 0x21, 0x41, 0x81, 0x85)]
            + [{"gso_size": size} for size in (0, 1, 2, 0xFFFF)]
            + [{"flags": flags} for flags in (0, 2, 3, 0xFF)]
            + [{"csum_start": header.csum_start + d} for d in (-1, 1)]
            + [{"csum_offset": offset} for offset in (6, 16)]
        )
    )
    return frame.partial + trailer, header._replace(**wrong)


headers = st.builds(
    NetHeader,
    flags=st.sampled_from([0, 1, 1, 1, 2, 3, 0xFF]),
    gso_type=st.sampled_from([0, 0, 0, 0, 0, 1, 3, 4, 5, 0x80, 0xFF]),
    hdr_len=st.integers(0, 0xFFFF),
    gso_size=st.integers(0, 0xFFFF),
    csum_start=st.one_of(st.integers(0, 150), st.integers(0, 0xFFFF)),
    csum_offset=st.one_of(st.sampled_from([6, 16]), st.integers(0, 40), st.integers(0, 0xFFFF)),
    num_buffers=st.integers(0, 0xFFFF),
)


_optional = (CSUM, GUEST_CSUM, MRG_RXBUF, EVENT_IDX, VERSION_1, RING_PACKED)
_sends = (HOST_TSO4, HOST_TSO6, HOST_ECN, HOST_USO)
_takes = (GUEST_TSO4, GUEST_TSO6, GUEST_ECN, GUEST_USO4, GUEST_USO6)


def _closed(words: tuple[int, int, int]) -> int:
    """A set of features that a driver may agree to (spec FB-06 to FB-29)."""
    chosen = INDIRECT_DESC
    for bits, word in zip((_optional, _sends, _takes), words, strict=True):
        chosen |= sum(bit for i, bit in enumerate(bits) if word >> i & 1)
    if not chosen & VERSION_1:
        chosen &= ~RING_PACKED
    if not chosen & CSUM:
        chosen &= ~sum(_sends)
    if not chosen & GUEST_CSUM:
        chosen &= ~sum(_takes)
    if not chosen & (HOST_TSO4 | HOST_TSO6):
        chosen &= ~HOST_ECN
    if not chosen & (GUEST_TSO4 | GUEST_TSO6):
        chosen &= ~GUEST_ECN
    return chosen


features = st.tuples(
    st.integers(0, (1 << len(_optional)) - 1),
    st.sampled_from([0, 15]) | st.integers(0, 15),
    st.sampled_from([0, 31]) | st.integers(0, 31),
).map(_closed)
policies = st.sampled_from(list(Policy))


@st.composite
def cuts(draw: st.DrawFn, length: int) -> list[int]:
    """Where a frame with its header is cut apart; sometimes at every byte of the header."""
    if draw(st.integers(0, 9)) == 0:
        return list(range(1, min(length, 30)))
    return sorted(draw(st.sets(st.integers(1, length - 1), max_size=8)))


@st.composite
def large_chains(
    draw: st.DrawFn, whole: int, segment: int, count: int, merge: bool
) -> list[list[int]]:
    """Receive chains for `count` segments, or for the frame uncut where the first has room.

    Merged, several make room for one segment; else the first may have room for the `whole`.
    """
    if merge:
        parts = draw(st.integers(1, 4 if count <= 130 else 1))
        size = -(-segment // parts) + draw(st.integers(0, 100))
        sizes = [size] * (count * parts)
    else:
        room = segment + draw(st.integers(0, 100))
        first = draw(st.sampled_from([room, whole, whole + 1, max(room, whole - 1)]))
        sizes = [first] + [room] * (count - 1)
    split = draw(st.integers(0, min(sizes) - 1))
    return [[split, size - split] if i % 2 and split else [size] for i, size in enumerate(sizes)]


@st.composite
def chains(draw: st.DrawFn, need: int, merge: bool) -> list[list[int]]:
    """Receive chains with room for `need` bytes: one, or several where they are merged."""
    if not merge:
        sizes = [draw(st.integers(1, need)) for _ in range(draw(st.integers(0, 5)))]
        return [[*sizes, max(1, need - sum(sizes)) + draw(st.integers(0, 50))]]
    size = draw(st.integers(max(1, need // 40), need))
    count = -(-need // size) + 1
    split = draw(st.integers(0, size - 1))
    return [[split, size - split] if i % 2 and split else [size] for i in range(count)]
