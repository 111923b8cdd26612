"""The filter of a capture runs as in Linux: compared with the kernel's own, attached to a socket,
and with libpcap's, which also compiles the expressions.
"""

import ctypes
import socket
import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.property.strategies import examples
from tests.reference.frame import BROADCAST, Layers
from vionet.engine.bpf import run
from vionet.engine.layout import CODE_MAX, HEAD_LEN, Capture, State
from vionet.fabric.capture import KNOWN, FilterError, judged
from vionet.fabric.fabric import prepared_work
from vionet.jit.record import address_of, allocate

SO_ATTACH_FILTER: Final = 26
DLT_EN10MB: Final = 1
PAYLOAD = bytes(i * 11 & 0xFF for i in range(1400))
Instruction = tuple[int, int, int, int]
FRAMES = {
    "tcp4": Layers().tcp(PAYLOAD).data,
    "udp4": Layers().udp(PAYLOAD, (53, 4001)).data,
    "tcp6": Layers(6).tcp(PAYLOAD).data,
    "options": Layers(options=b"\1\1\1\0" * 3).tcp(b"GET /index.html HTTP/1.0").data,
    "fragment": Layers(fragment=0x2003).udp(PAYLOAD[:100]).data,
    "tagged": Layers(tags=((0x8100, 7),)).udp(PAYLOAD[:200]).data,
    "arp": Layers(dst=BROADCAST).ethernet(b"\0\1\x08\0\6\4\0\1" + bytes(20), 0x806),
    "short": Layers().ethernet(b"", 0x800),
    "long": Layers().tcp(PAYLOAD * 40).data,
}
EXPRESSIONS = [
    "ip", "ip6", "arp", "tcp", "udp port 53", "host 192.0.2.1", "src host 192.0.2.1 and udp",
    "tcp[13] & 8 != 0", "net 192.0.2.0/24 and not tcp", "ether broadcast", "vlan 7",
    "vlan 7 and udp", "greater 500", "less 60", "tcp[((tcp[12:1] & 0xf0) >> 2):4] = 0x47455420",
    "ip[6:2] & 0x1fff != 0", "ip6 and tcp dst port 4001", "ether[600:4] != 0",
    "ether[1399:2] = 0 or udp", "udp[1000:2] % 7 = 3 or arp", "tcp[900:4] / 256 > 65536",
    "len = 1454", "ether[127:4] > 77 and ip", "host 2001:db8::1 or icmp", "portrange 1-100",
    "not (tcp or udp)",
]  # fmt: skip


class BpfProgram(ctypes.Structure):
    """What libpcap compiles to."""

    _fields_ = (("count", ctypes.c_uint), ("code", ctypes.c_void_p))


class PacketHeader(ctypes.Structure):
    """What libpcap wants to know of a packet."""

    _fields_ = (
        ("time", ctypes.c_long * 2),
        ("captured", ctypes.c_uint32),
        ("length", ctypes.c_uint32),
    )


class Libpcap:
    """The library, for Ethernet."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL("libpcap.so.0.8")
        self.library.pcap_open_dead.restype = ctypes.c_void_p
        self.library.pcap_geterr.restype = ctypes.c_char_p
        self.handle = ctypes.c_void_p(self.library.pcap_open_dead(DLT_EN10MB, 65535))

    def compile(self, expression: str) -> BpfProgram:
        """The program for an expression."""
        program = BpfProgram()
        status = self.library.pcap_compile(
            self.handle, ctypes.byref(program), expression.encode(), 1, ctypes.c_uint32(0xFFFFFFFF)
        )
        assert status == 0, self.library.pcap_geterr(self.handle)
        return program

    def accepts(self, program: BpfProgram, data: bytes) -> bool:
        """Its own verdict."""
        header = PacketHeader((0, 0), len(data), len(data))
        return bool(
            self.library.pcap_offline_filter(ctypes.byref(program), ctypes.byref(header), data)
        )


class Linux:
    """The kernel's filters: what comes through a socket that one is attached to."""

    def __init__(self) -> None:
        self.source, self.sink = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in (self.source, self.sink):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)

    def attach(self, code: bytes) -> bool:
        """Whether the kernel takes the program."""
        held = ctypes.create_string_buffer(code, len(code))
        program = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(held))
        try:
            self.sink.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
        except OSError:
            return False
        return True

    def takes(self, data: bytes) -> int:
        """How many bytes of a datagram come through; 0: it does not."""
        self.source.send(data)
        try:
            return len(self.sink.recv(1 << 17))
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """Close both ends."""
        self.source.close()
        self.sink.close()


@pytest.fixture(scope="module")
def linux() -> Iterator[Linux]:
    """A pair of sockets."""
    made = Linux()
    yield made
    made.close()


@pytest.fixture(scope="module")
def libpcap() -> Libpcap:
    """The library."""
    return Libpcap()


WORK: Final = prepared_work(allocate(State))


class Ours:
    """Our own, on a frame whose head was copied and whose rest lies in pieces."""

    def __init__(self, code: bytes) -> None:
        self.capture = allocate(Capture)
        words = judged(code)
        self.capture.code_len = len(words)
        self.capture.code[: len(words)] = words

    def takes(self, data: bytes, cuts: Sequence[int] = ()) -> int:
        """How many bytes of the frame it would let through."""
        work, frame = WORK, WORK.frame[0]
        head_len = frame.head_len = min(len(data), HEAD_LEN)
        frame.length, frame.first_seg = len(data), 2
        head = np.frombuffer(data[:head_len], np.uint8)
        start = work.heads_hva - address_of(work.heads)
        work.heads[start : start + head_len] = head
        work.head_hva = work.heads_hva
        edges = [head_len, *sorted({cut for cut in cuts if head_len < cut < len(data)}), len(data)]
        kept = []
        for n, (low, high) in enumerate(pairwise(edges)):
            kept.append(np.frombuffer(data[low:high] + b"\xee" * 8, np.uint8))
            work.seg_hva[2 + 2 * n], work.seg_len[2 + 2 * n] = 0, 0  # pieces may be empty
            work.seg_hva[3 + 2 * n], work.seg_len[3 + 2 * n] = address_of(kept[-1]), high - low
        return min(run(self.capture, work, frame), len(data))


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expressions(expression: str, linux: Linux, libpcap: Libpcap) -> None:
    """What libpcap compiles is taken, and gives the verdicts of libpcap and of Linux, wherever in
    the frame it looks."""
    program = libpcap.compile(expression)
    code = ctypes.string_at(program.code, 8 * program.count)
    assert linux.attach(code)
    ours = Ours(code)
    verdicts = {}
    for name, data in FRAMES.items():
        verdicts[name] = bool(ours.takes(data, (200, 201, 999)))
        assert libpcap.accepts(program, data) == verdicts[name]
        assert (linux.takes(data) > 0) == verdicts[name]
    assert {True, False} == {*verdicts.values()}, "an expression that tells nothing apart"


words = st.one_of(st.integers(0, 40), st.integers(0, 1500), st.integers(0, (1 << 32) - 1))
offsets = st.one_of(st.integers(0, 20), st.integers(100, 140), st.integers(0, 1600))
BEFORE = [(0x87, 0, 0, 0), (0x54, 0, 0, 0x3FF), (0x07, 0, 0, 0)]  # txa; and #0x3ff; tax


@st.composite
def programs(draw: st.DrawFn) -> bytes:
    """Any program that is well formed, in steps of one instruction or few."""
    steps: list[list[Instruction]] = [[(0x02, 0, 0, n)] for n in range(4)]  # st M[n]
    jumps: list[tuple[int, int, int, int]] = []
    for _ in range(draw(st.integers(1, 12))):
        opcode = draw(st.sampled_from(sorted(KNOWN)))
        kind = opcode & 7
        k = draw(words)
        if kind == 5:
            jumps.append((len(steps), opcode, draw(st.integers(0, 3)), draw(st.integers(0, 3))))
        if kind in (2, 3) or opcode in (0x60, 0x61):
            k &= 3
        elif kind in (0, 1) and opcode & 0xE0 in (0x20, 0x40, 0xA0):
            k = draw(offsets)
        elif kind == 4 and not opcode & 8:
            k = k & 31 if opcode & 0xF0 in (0x60, 0x70) else k or 1
        before = BEFORE if kind == 0 and opcode & 0xE0 == 0x40 else []
        steps.append([*before, (opcode, 0, 0, k)])
    steps.append([draw(st.sampled_from([(0x16, 0, 0, 0), (0x06, 0, 0, 700)]))])
    starts = np.cumsum([0, *map(len, steps)]).tolist()
    for at, opcode, *far in jumps:
        here = starts[at] + 1
        to = [starts[min(at + 1 + n, len(steps) - 1)] - here for n in far]
        k = to[0] if opcode == 5 else steps[at][-1][3]
        steps[at] = [(opcode, *(to if opcode != 5 else (0, 0)), k)]  # type: ignore[list-item]
    return b"".join(struct.pack("<HBBI", *one) for step in steps for one in step)


@given(
    programs(),
    st.lists(st.tuples(st.integers(14, 1500), st.integers(0, 255)), min_size=1, max_size=3),
    st.lists(st.integers(100, 1500), max_size=3),
)
@examples(compiled=500, interpreted=60)
def test_any_program(
    linux: Linux, code: bytes, frames: list[tuple[int, int]], cuts: list[int]
) -> None:
    """Every well-formed program gives on every frame what it gives in the kernel."""
    assert linux.attach(code)
    ours = Ours(code)
    for length, seed in frames:
        data = bytes((i * 7 + seed ^ i >> 3) & 0xFF for i in range(length))
        assert linux.takes(data) == ours.takes(data, cuts)


instructions = st.tuples(
    st.one_of(st.sampled_from(sorted(KNOWN)), st.integers(0, 0x1FF)),
    st.integers(0, 4), st.integers(0, 4), st.one_of(st.integers(0, 33), words),
)  # fmt: skip


@given(st.lists(instructions, min_size=1, max_size=6), st.booleans())
@examples(compiled=500, interpreted=200)
def test_what_is_a_program(linux: Linux, found: list[Instruction], returns: bool) -> None:
    """Taken is what the kernel takes; but nothing that it knows of a packet besides its bytes."""
    ends = [(0x06, 0, 0, 1)] if returns else []
    code = b"".join(struct.pack("<HBBI", *one) for one in [*found, *ends])
    besides = any(one[0] in (0x20, 0x28, 0x30) and one[3] >> 31 for one in found)
    try:
        judged(code)
    except FilterError as error:
        assert besides or not linux.attach(code), error
        assert "\n" not in str(error)
    else:
        assert not besides
        assert linux.attach(code)


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (b"\0" * 7, "instructions of 8 bytes"),
        (struct.pack("<HBBI", 6, 0, 0, 1) * (CODE_MAX + 1), "at most 4096 instructions"),
        (struct.pack("<HBBI", 0x20, 0, 0, 0xFFFFF004) * 2, "instruction 0 .* is not known here"),
        (struct.pack("<HBBI", 0x02, 0, 0, 0xFFFFFFFF), "16 words"),
        (struct.pack("<HBBI", 0x34, 0, 0, 0), "division by 0"),
        (struct.pack("<HBBI", 0x05, 0, 0, 0xFFFFFFFF), "leads out"),
        (struct.pack("<HBBI", 0xFFFF, 0, 0, 0), "no such opcode"),
    ],
)
def test_what_is_said_of_others(code: bytes, fault: str) -> None:
    """One line, with the place."""
    with pytest.raises(FilterError, match=fault) as raised:
        judged(code)
    assert "\n" not in str(raised.value)


def test_the_longest_program() -> None:
    """As many instructions as the kernel takes, each executed once."""
    step = struct.pack("<HBBI", 0x04, 0, 0, 1)  # add #1
    ours = Ours(step * (CODE_MAX - 1) + struct.pack("<HBBI", 0x16, 0, 0, 0))
    assert CODE_MAX - 1 == ours.takes(bytes(5000))
