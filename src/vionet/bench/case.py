"""What `bench cost` sends through a pair of ports, how they are set, and what has to come of it.

How it works: each case has the frames sent, the buffers as they must be afterwards, and what the
receiver's ledger must have counted.  Frames, checksums and segments are made here with plain Python
(`frame.ones_sum`), not with anything of the engine's.
"""

import struct
from dataclasses import replace
from typing import Final

from vionet.bench.frame import TCP, Csum, build_frame, lower_layers, ones_sum
from vionet.bench.pair import HDR_LEN, Case
from vionet.engine.status import Accepts, FabricKind
from vionet.spec.virtio_net import VIRTIO_NET_HDR_F_NEEDS_CSUM, NetHeader

MEMCPY: Final = "memcpy"
NEITHER: Final = "neither lock, VLAN nor learning"
NATURAL: Final = "natural, finished sums"
NO_LEARNING: Final = 2  # a State.kind with a table that is looked up and never written
VLAN: Final = 10
SOURCES: Final = 256
TAG: Final = struct.pack("!HH", 0x8100, VLAN)
SEGMENT: Final = 1448
SEGMENTS: Final = 45
HEADERS: Final = 66  # Ethernet, IPv4, TCP with timestamps
COMPLETE: Final = {"accepts": int(Accepts.COMPLETE), "takes_gso": 0}
# ldh [12]; jeq #0x800, next, out; ldb [23]; jeq #6, in, out; in: ret #-1; out: ret #0
TCP_ONLY: Final = bytes.fromhex(
    "280000000c000000 1500000300080000 3000000017000000 1500000106000000"
    "06000000ffffffff 0600000000000000"
)
Table = dict[str, tuple[Case, str]]  # a case, and which one it is compared with


def sent(size: int, csum: Csum, source: int = 0) -> bytes:
    """Header and frame from port 0 to port 1, from one of several addresses."""
    header, frame = build_frame(0, size, csum)
    if source:
        frame = frame[:6] + (0x026600000000 + source).to_bytes(6, "big") + frame[12:]
    return header.pack() + frame


def received(size: int, csum: Csum, buffers: int = 1, source: int = 0) -> bytes:
    """As it has to come, with a virtio-net header of ours."""
    frame = sent(size, csum, source)[HDR_LEN:]
    header = NetHeader(num_buffers=buffers)
    if csum is Csum.PARTIAL:
        header = NetHeader(VIRTIO_NET_HDR_F_NEEDS_CSUM, 0, 0, 0, 34, 6, buffers)
    return header.pack() + frame


def spoilt(data: bytes) -> bytes:
    """The same with a wrong UDP checksum."""
    at = HDR_LEN + 40
    return data[:at] + bytes((data[at] ^ 0x55,)) + data[at + 1 :]


def tagged(data: bytes, start: int) -> bytes:
    """The same frame with a tag, its sum starting at `start`."""
    header = NetHeader.unpack(data[:HDR_LEN])._replace(csum_start=start)
    frame = data[HDR_LEN:]
    return header.pack() + frame[:12] + TAG + frame[12:]


def pieces(data: bytes, length: int) -> list[bytes]:
    """What lies in each of several buffers."""
    return [data[i : i + length] for i in range(0, len(data), length)]


def features(size: int, call_fd: int = -1) -> Table:
    """Every feature by its name: the case, and the name of the one that it is compared with."""
    came = received(size, Csum.PARTIAL)
    chains = 256 if size < 512 else 64
    plain = Case("plain", [sent(size, Csum.PARTIAL)], [came], {"csum_elided": 1}, chains=chains)
    wire = replace(plain, kind=int(FabricKind.WIRE))
    table = {NEITHER: (replace(plain, kind=NO_LEARNING), ""), "plain": (plain, NEITHER)}
    table |= {"a wire": (wire, "plain")} | _ports(plain, size) | _sums(plain, size)
    table |= _rings(plain, size, call_fd)
    table["captured"] = replace(plain, captured=b""), "plain"
    table["captured, filtered out"] = replace(plain, captured=TCP_ONLY), "plain"
    return {
        name: (replace(case, name=f"{size} B: {name}"), to) for name, (case, to) in table.items()
    }


def _ports(plain: Case, size: int) -> Table:
    """What the fabric does with addresses and tags."""
    (partial,), (came,) = plain.sent, plain.received
    many = range(1, SOURCES + 1)
    many_sources = replace(
        plain,
        sent=[sent(size, Csum.PARTIAL, i) for i in many],
        received=[received(size, Csum.PARTIAL, source=i) for i in many],
        chains=SOURCES,
    )
    trunk, access = {"trunk": 1, "vlans": -1}, {"vlan": VLAN}
    pushed = replace(plain, received=[tagged(came, 38)], sender=access, receiver=trunk)
    popped = replace(plain, sent=[tagged(partial, 38)], sender=trunk, receiver=access)
    return {
        f"learning, {SOURCES} addresses in turns": (many_sources, "plain"),
        "locked": (replace(plain, ports={"locked": 1}), "plain"),
        "VLAN": (replace(plain, ports=access), "plain"),
        "locked, VLAN, learning": (replace(plain, ports={"locked": 1, "vlan": VLAN}), NEITHER),
        "VLAN, tag pushed": (pushed, "plain"),
        "VLAN, tag popped": (popped, "plain"),
    }


def _sums(plain: Case, size: int) -> Table:
    """What is done with sums: looked at, undone, found bad, filled in."""
    whole, finished = sent(size, Csum.COMPLETE), received(size, Csum.COMPLETE)
    seen = replace(plain, sent=[whole], counted={"csum_elided": 0, "csum_verified": 0})
    natural = replace(seen, received=[finished], receiver={"accepts": int(Accepts.NATURAL)})
    verified = {"csum_verified": 1, "csum_unfilled": 1, "csum_bad": 0}
    bad = {"csum_verified": 1, "csum_unfilled": 0, "csum_bad": 1}
    wrong = replace(seen, sent=[spoilt(whole)], received=[spoilt(finished)], counted=bad)
    filled = replace(plain, received=[finished], counted={"csum_filled": 1}, receiver=COMPLETE)
    return {
        NATURAL: (natural, "plain"),
        "uniform, finished sums: verified, unfilled": (replace(seen, counted=verified), NATURAL),
        "verified, found bad": (wrong, NATURAL),
        "filled": (filled, "plain"),
    }


def _rings(plain: Case, size: int, call_fd: int) -> Table:
    """Other rings, other chains, and a driver that wants to be interrupted."""
    parts = HDR_LEN, len(plain.sent[0]) - HDR_LEN
    buffer_len = 64 if size < 512 else 1024
    split = pieces(received(size, Csum.PARTIAL, 2), buffer_len)
    called = replace(plain, counted={"calls": 1 / 64}, call_fd=call_fd)
    return {
        "packed rings": (replace(plain, packed=True), "plain"),
        "header in a descriptor of its own": (replace(plain, parts=parts), "plain"),
        "indirect descriptors": (replace(plain, parts=parts, indirect=True), "plain"),
        "into two buffers": (replace(plain, received=split, buffer_len=buffer_len), "plain"),
        "interrupts wanted, one a burst": (called, "plain"),
    }


def fill(size: int, chains: int, working_set: int) -> list[Case]:
    """Frames of one size passed on, and filled: one layout."""
    plain = Case(
        "passed on",
        [sent(size, Csum.PARTIAL)],
        [received(size, Csum.PARTIAL)],
        {"csum_elided": 1},
        chains=chains,
        buffer_len=HDR_LEN + size,
        working_set=working_set,
    )
    counted = {"csum_filled": 1, "payload_bytes_summed": size - 128}
    finished = [received(size, Csum.COMPLETE)]
    return [
        plain,
        replace(plain, name="filled", received=finished, counted=counted, receiver=COMPLETE),
    ]


def _tcp(n: int, payload: bytes, csum: Csum, last: bool) -> bytes:
    """Segment `n` of the large frame, or all of it, with its own headers and sum."""
    length = 20 + 12 + len(payload)
    lower, pseudo = lower_layers(0, TCP, length, 1 + n, 0x4000)
    flags = 0x18 if last else 0x10
    tcp = struct.pack("!HHIIBBHHH", 7000, 7001, 1 + n * SEGMENT, 1, 0x80, flags, 500, 0, 0)
    tcp += bytes(12)
    value = ones_sum(pseudo)
    if csum is Csum.COMPLETE:
        value = ones_sum(struct.pack("!H", value) + tcp + payload) ^ 0xFFFF
    tcp = tcp[:16] + struct.pack("!H", value) + tcp[18:]
    return lower + tcp + payload


def segment(chains: int, working_set: int) -> list[Case]:
    """A TCP frame of 64 KB that passes whole, or in segments, partial or finished: one layout."""
    payload = bytes(i * 7 & 0xFF for i in range(SEGMENTS * SEGMENT))
    whole = _tcp(0, payload, Csum.PARTIAL, True)
    header = NetHeader(VIRTIO_NET_HDR_F_NEEDS_CSUM, 1, HEADERS, SEGMENT, 34, 16)
    buffers = -(-(HDR_LEN + len(whole)) // 2048)
    passed = Case(
        "passed whole",
        [header.pack() + whole],
        pieces(header._replace(num_buffers=buffers).pack() + whole, 2048),
        {"gso_passed": 1},
        chains=chains,
        working_set=working_set,
    )
    table = [passed]
    for csum, receiver in ((Csum.PARTIAL, {"takes_gso": 0}), (Csum.COMPLETE, COMPLETE)):
        own = NetHeader(num_buffers=1)
        if csum is Csum.PARTIAL:
            own = NetHeader(VIRTIO_NET_HDR_F_NEEDS_CSUM, 0, 0, 0, 34, 16, 1)
        parts = pieces(payload, SEGMENT)
        made = [own.pack() + _tcp(n, p, csum, n + 1 == SEGMENTS) for n, p in enumerate(parts)]
        filled = SEGMENTS if csum is Csum.COMPLETE else 0
        counted = {"rx_frames": SEGMENTS, "segments": SEGMENTS, "csum_filled": filled}
        name = f"segmented, {csum}"
        table.append(replace(passed, name=name, received=made, counted=counted, receiver=receiver))
    return table
