"""`vionet bench tap`: a wire between a guest and a tap, against a bare `writev` or `readv` loop.

How it works: a network namespace of its own, a real tap in it, and one simulated guest (`pair`) in
this thread.  Outwards, the engine takes frames from the guest's ring and writes them; the bare loop
is a compiled kernel that does one `writev` after another on the same tap, with the same bytes in as
many pieces, and nothing else.  Inwards, the tap's queue is filled first through a packet socket,
untimed, and then emptied: by the engine into the guest's posted buffers, or by a bare loop of
`readv` into the same buffers.  So nothing depends on how fast somebody can send.

What is written goes into the kernel's stack and ends there early, for the engine's frames as for
the loop's: the interface is up, has no address, and the frames are for nobody here.

Invariants: each frame that comes out of the tap, and into the guest, is compared with one made in
Python; the ledger shows that payload was not copied; the kernel's own count of frames is right.
"""

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from vionet.bench import case as cases
from vionet.bench.clock import now_ns
from vionet.bench.command import Common, bench_command, progress
from vionet.bench.frame import Csum
from vionet.bench.pair import HDR_LEN, LAP, RX, TX, Case, Lap, Pair, post, pump
from vionet.bench.place import placed
from vionet.bench.result import Figure, Result
from vionet.bench.turns import take_turns
from vionet.engine.burst import from_tap
from vionet.engine.layout import FRAME_MAX, HEAD_LEN, STATE, WORK, State, Work
from vionet.engine.status import GSO_ALL, Accepts, FabricKind, PortKind
from vionet.jit.kernel import INT, kernel
from vionet.jit.libc import readv, write, writev
from vionet.ports.tap import Tap, TapError, open_tap

NAME: Final = "vionetbench"
MTU: Final = 1500
PLAIN_MAX: Final = MTU + 18  # with Ethernet header and tag
CLONE_NEWNET: Final = 0x40000000
SOL_PACKET: Final = 263
PACKET_VNET_HDR: Final = 15
PACKET_QDISC_BYPASS: Final = 20
PACKET_HEADER: Final = 10  # of a packet socket's virtio-net header
FRAMES: Final = 512  # that wait in the tap at once: below its queue's 1000
LARGE: Final = 16  # the same, of 64 KB
PIECES_MAX: Final = 40  # receive buffers for one large frame, and some
STAY_NS: Final = 20_000_000
OUT: Final = "guest to tap"
IN: Final = "tap to guest"
BARE_WRITE: Final = "bare writev"
BARE_READ: Final = "bare readv"


@kernel(INT, STATE, WORK, LAP, INT, INT)
def write_bare(state: State, work: Work, lap: Lap, laps: int, length: int) -> int:
    """One `writev` a frame, header and head in one piece, the rest in another; *returns*
    nanoseconds."""
    tx = lap.sides[TX]
    fd = state.ports[1].fd
    elapsed = 0
    for _ in range(laps):
        start = now_ns(lap.clock_hva)
        for _ in range(tx.chains):
            hva = tx.pool_hva + tx.stride * tx.buffer
            tx.buffer = tx.buffer + 1 if tx.buffer + 1 < tx.buffers else 0
            head = min(length, HDR_LEN + HEAD_LEN)
            work.iov[0] = hva
            work.iov[1] = head
            work.iov[2] = hva + head
            work.iov[3] = length - head
            if writev(fd, work.iov_hva, 2 if head < length else 1) != length:
                return -1
        elapsed += now_ns(lap.clock_hva) - start
    return elapsed


@kernel(INT, STATE, WORK, INT, INT, INT, INT)
def fill(state: State, work: Work, source_fd: int, frame_hva: int, length: int, n: int) -> int:
    """Empty the tap's queue, then have the kernel put `n` frames into it.  *returns* 0, or -1."""
    work.iov[0] = work.packet_hva
    work.iov[1] = FRAME_MAX
    while readv(state.ports[0].fd, work.iov_hva, 1) > 0:
        pass
    for _ in range(n):
        if write(source_fd, frame_hva, length) != length:
            return -1
    return 0


@kernel(INT, STATE, WORK, LAP, INT, INT, INT, INT)
def read_engine(
    state: State, work: Work, lap: Lap, laps: int, source_fd: int, frame_hva: int, length: int
) -> int:
    """The engine takes a full queue into the guest's buffers.  *returns* nanoseconds, -1, -2."""
    rx = lap.sides[RX]
    elapsed = 0
    for _ in range(laps):
        left = lap.sides[TX].chains
        if fill(state, work, source_fd, frame_hva, length, left) < 0:
            return -2
        post(rx)
        start = now_ns(lap.clock_hva)
        state.ports[0].readable = 1
        while left > 0:
            taken = from_tap(state, work, 0)
            if taken <= 0:
                return -1
            left -= taken
        elapsed += now_ns(lap.clock_hva) - start
    return elapsed


@kernel(INT, STATE, WORK, LAP, INT, INT, INT, INT, INT)
def read_bare(
    state: State,
    work: Work,
    lap: Lap,
    laps: int,
    source_fd: int,
    frame_hva: int,
    length: int,
    pieces: int,
) -> int:
    """One `readv` a frame into the next buffers of the same pool.  *returns* as `read_engine`."""
    rx = lap.sides[RX]
    fd = state.ports[0].fd
    n = lap.sides[TX].chains
    used = rx.chains // n
    elapsed = 0
    for _ in range(laps):
        if fill(state, work, source_fd, frame_hva, length, n) < 0:
            return -2
        start = now_ns(lap.clock_hva)
        for _ in range(n):
            for i in range(pieces):
                buffer = rx.buffer + i if rx.buffer + i < rx.buffers else rx.buffer + i - rx.buffers
                work.iov[2 * i] = rx.pool_hva + rx.stride * buffer
                work.iov[2 * i + 1] = rx.part_len[0]
            rx.buffer += used
            if rx.buffer >= rx.buffers:
                rx.buffer -= rx.buffers
            if readv(fd, work.iov_hva, pieces) <= 0:
                return -1
        elapsed += now_ns(lap.clock_hva) - start
    return elapsed


@contextmanager
def namespace() -> Iterator[None]:
    """A network namespace for this thread alone; PermissionError where that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.unshare(CLONE_NEWNET):
            raise PermissionError(ctypes.get_errno(), "no network namespace may be made here")
        try:
            with suppress(OSError):  # nothing of the kernel's own may come out of the tap
                Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
            yield
        finally:
            libc.setns(home, CLONE_NEWNET)
    finally:
        os.close(home)


def written_to_kernel() -> int:
    """Frames that the kernel says it took from the tap's descriptor."""
    for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == NAME:
            return int(counts.split()[1])
    return 0


@dataclass(frozen=True)
class Size:
    """One size of frame, both ways."""

    name: str
    outwards: Case  # as the tap gives it to a packet socket: header and frame
    inwards: Case
    large: bool  # the guest takes large frames


def sizes() -> list[Size]:
    """Plain frames, to a guest without and with TSO, and large ones."""
    found = []
    for size in (64, 1500):
        partial = cases.sent(size, Csum.PARTIAL)
        counted = {"csum_elided": 1, "payload_bytes_copied": 0}
        case = Case("", [partial], [], counted, kind=int(FabricKind.WIRE))
        came = replace(case, received=[cases.received(size, Csum.PARTIAL)], chains=FRAMES)
        found += [
            Size(f"{size} B", case, came, False),
            Size(f"{size} B, guest takes 64 KB", case, came, True),
        ]
    (whole, *_) = cases.segment(LARGE, 0)
    counted = {"gso_passed": 1, "csum_elided": 1, "payload_bytes_copied": 0}
    whole = replace(whole, counted=counted, kind=int(FabricKind.WIRE))
    found.append(Size("64 KB", replace(whole, received=[]), whole, True))
    return found


def with_tap(pair: Pair, index: int, tap: Tap, large: bool) -> None:
    """Make port `index` of a pair this tap."""
    port: Any = pair.state.ports[index]
    port.kind, port.fd, port.accepts = int(PortKind.TAP), tap.fd, int(Accepts.KERNEL)
    port.egress_header_len, port.takes_gso = tap.header_len, GSO_ALL
    port.max_frame_len = FRAME_MAX if large else PLAIN_MAX
    tap.give(partial=True, gso=GSO_ALL if large else 0)


def laps_for(quick: bool, large: bool) -> int:
    """How often a queue is filled in one round."""
    return 1 if quick else 10 if large else 20


def outwards(result: Result, common: Common, size: Size, tap: Tap) -> None:
    """From the guest's ring to the tap."""
    case = replace(size.outwards, name=f"{size.name}, {OUT}")
    pair = Pair(case)
    with_tap(pair, 1, tap, size.large)
    result.faults += look_at_written(pair, case)
    laps, length = laps_for(common.quick, size.large), len(case.sent[0])
    before, frames = written_to_kernel(), 2 * common.rounds * laps * case.chains
    runs = {
        BARE_WRITE: (partial(pair.run_bare, laps, write_bare, length), ""),
        OUT: (partial(pair.run, laps, pump), BARE_WRITE),
    }
    take_turns(result, common.rounds, size.name, runs, {f"{size.name}: {OUT}": "tap"})
    found = written_to_kernel() - before
    if found != frames:
        pair.faults.append(f"{case.name}: the kernel took {found} frames, not {frames}")
    copied = float(pair.counter("payload_bytes_copied"))
    figure = Figure(f"{size.name}: payload copied", "vionet", "bytes", (copied,), goal="tap-copies")
    result.figures.append(figure)
    result.faults += pair.faults


def look_at_written(pair: Pair, case: Case) -> list[str]:
    """Send a few frames and see what comes out of the tap; *returns* what is wrong."""
    header_len = PACKET_HEADER
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC) as kernel:
        kernel.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        kernel.bind((NAME, 3))  # ETH_P_ALL
        kernel.settimeout(5)
        chains, pair.lap.sides[TX].chains = case.chains, 2
        pair.case = replace(case, chains=2)
        pair.run(1)
        pair.case, pair.lap.sides[TX].chains = case, chains
        for _ in range(2):
            data = kernel.recv(1 << 17)
            if data[header_len:] != case.sent[0][HDR_LEN:]:
                return [f"{case.name}: a frame came out of the tap changed"]
            if data[:1] != case.sent[0][:1]:
                return [f"{case.name}: a frame lost the state of its checksum"]
    return []


def inwards(result: Result, common: Common, size: Size, tap: Tap) -> None:
    """From the tap's queue into the guest's buffers."""
    case = replace(size.inwards, name=f"{size.name}, {IN}")
    pair = Pair(case, 2 * len(case.received))  # more buffers than are posted at once
    with_tap(pair, 0, tap, size.large)
    pieces = pair.post_more(PIECES_MAX) if size.large else 1
    frame = case.sent[0][:PACKET_HEADER] + case.sent[0][HDR_LEN:]
    buffer = ctypes.create_string_buffer(frame, len(frame))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as kernel:
        kernel.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        kernel.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        kernel.bind((NAME, 0))
        source = kernel.fileno(), ctypes.addressof(buffer), len(frame)
        pair.check(1, read_engine, *source)
        laps = laps_for(common.quick, size.large)
        runs = {
            BARE_READ: (partial(pair.run_bare, laps, read_bare, *source, pieces), ""),
            IN: (partial(pair.run, laps, read_engine, *source), BARE_READ),
        }
        take_turns(result, common.rounds, f"{size.name}", runs, {})
    result.faults += pair.faults


def measure(common: Common) -> Result:
    """A wire between a guest and a tap, against bare system calls."""
    result = Result("tap")
    try:
        with namespace(), placed(common.core, common.real_time):
            tap = open_tap(NAME, mtu=MTU)
            try:
                for size in sizes():
                    progress(size.name)
                    if size.large is (size.name == "64 KB"):
                        outwards(result, common, size, tap)
                    inwards(result, common, size, tap)
            finally:
                tap.close()
    except (PermissionError, TapError) as error:
        result.left_out["tap"] = f"{error}; run it as root"
    result.notes.append("one thread, simulated guest, real tap; ratios are of rates")
    return result


command = bench_command("tap", rounds=25)(measure)
