"""Two guest ports of one fabric without any guest: the engine alone, on one core.

How it works: rings and buffers are this process's own memory.  `pump` posts a lap of chains to
port 0's transmit ring and buffers to port 1's receive ring, as drivers would, and then times
nothing but the engine's bursts until the lap is through.  The buffers rotate through two pools of
any size, so a working set may lie in the cache or far beyond it whatever the ring's size.

Invariants: nothing else touches these rings, so no cache line ever comes from another core: what
is measured here is what the engine computes, not what cores wait for.  Guest addresses are host
addresses.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Annotated, Any, Final
from weakref import finalize

import numpy as np

from vionet.bench.clock import now_ns
from vionet.bench.frame import mac_of
from vionet.bench.memory import LINE, buffer_stride
from vionet.bench.plug import plug_in, start_ring
from vionet.engine.burst import from_guest
from vionet.engine.fdb import note, pin
from vionet.engine.kick import settle
from vionet.engine.layout import FRAME_MAX, RING_TAIL, STATE, WORK, State, Work
from vionet.engine.status import DROP_REASONS, GSO_ALL, LEDGER_KEYS, Accepts, FabricKind
from vionet.engine.vlan import VLAN_SHIFT
from vionet.engine.worker import read_clock
from vionet.fabric.capture import CaptureRing
from vionet.fabric.fabric import prepare_state, prepared_work
from vionet.jit import raw
from vionet.jit.kernel import INT, kernel
from vionet.jit.record import Bytes, Ints, Record, Records, address_of, allocate, record_type
from vionet.spec import virtio

HDR_LEN: Final = 12
TX: Final = 0  # of `Lap.sides`
RX: Final = 1
ENTRIES: Final = 1024
RING_LEN: Final = 1 << 18  # room for a ring's structures and its indirect tables
PARTS_MAX: Final = 4
CAPTURE_LEN: Final = 16 << 20  # bytes of a capture's ring: what a reader asks for by default
DEFAULTS: Final = {"accepts": int(Accepts.UNIFORM), "takes_gso": GSO_ALL}
NEXT = virtio.VRING_DESC_F_NEXT
WRITE = virtio.VRING_DESC_F_WRITE
INDIRECT = virtio.VRING_DESC_F_INDIRECT
AVAIL_BIT = virtio.VRING_PACKED_DESC_F_AVAIL
USED_BIT = virtio.VRING_PACKED_DESC_F_USED


class Side(Record):
    """One ring, seen by its driver, and the pool that its buffers come from."""

    desc_hva: int
    avail_hva: int
    packed: int
    access: int  # flag of each descriptor: WRITE or none
    table_hva: int  # room for an indirect table per entry; 0: direct
    parts: int  # descriptors of a chain
    part_len: Annotated[Ints, PARTS_MAX]
    chains: int  # posted at once
    at: int  # next entry of the available ring, or slot of a packed one
    lap: int
    pool_hva: int
    stride: int
    buffers: int  # in the pool
    buffer: int  # the next one


class Lap(Record):
    """Both rings."""

    clock_hva: int
    clock: Annotated[Ints, 2]
    sides: Annotated[Records[Side], 2]


SIDE = record_type(Side)
LAP = record_type(Lap)


@kernel(INT, SIDE, INT, INT, INT)
def write_chain(side: Side, table_hva: int, first: int, gpa: int) -> int:
    """A chain's descriptors into a table, from index `first` on."""
    for p in range(side.parts):
        flags = side.access if p + 1 == side.parts else side.access | NEXT
        raw.store_i64(table_hva + 16 * (first + p), gpa)
        word = side.part_len[p] | flags << 32 | (first + p + 1) << 48
        raw.store_i64(table_hva + 16 * (first + p) + 8, word)
        gpa += side.part_len[p]
    return 0


@kernel(INT, SIDE, INT, INT, INT, INT)
def write_slot(side: Side, gpa: int, length: int, identity: int, flags: int) -> int:
    """One descriptor of a packed ring, available in this lap."""
    flags |= side.lap << AVAIL_BIT | (1 - side.lap) << USED_BIT
    raw.store_i64(side.desc_hva + 16 * side.at, gpa)
    raw.store_i64(side.desc_hva + 16 * side.at + 8, length | identity << 32 | flags << 48)
    side.at += 1
    if side.at == ENTRIES:
        side.at = 0
        side.lap = 1 - side.lap
    return 0


@kernel(INT, SIDE)
def post(side: Side) -> int:
    """Make a lap's chains available.  *returns* how many."""
    for i in range(side.chains):
        gpa = side.pool_hva + side.stride * side.buffer
        side.buffer = side.buffer + 1 if side.buffer + 1 < side.buffers else 0
        table_hva = side.table_hva + 16 * PARTS_MAX * i
        if side.table_hva:
            write_chain(side, table_hva, 0, gpa)
        if not side.packed:
            slot = side.at & (ENTRIES - 1)
            head = slot
            if side.table_hva:
                raw.store_i64(side.desc_hva + 16 * head, table_hva)
                raw.store_i64(side.desc_hva + 16 * head + 8, 16 * side.parts | INDIRECT << 32)
            else:
                head = slot * side.parts & (ENTRIES - 1)
                write_chain(side, side.desc_hva, head, gpa)
            raw.store_u16(side.avail_hva + 4 + 2 * slot, head)
            side.at += 1
        elif side.table_hva:
            write_slot(side, table_hva, 16 * side.parts, i, INDIRECT)
        else:
            for p in range(side.parts):
                flags = side.access if p + 1 == side.parts else side.access | NEXT
                write_slot(side, gpa, side.part_len[p], i, flags)
                gpa += side.part_len[p]
    if not side.packed:
        raw.store_release_u16(side.avail_hva + 2, side.at)
    return side.chains


@kernel(INT, STATE)
def read_captures(state: State) -> int:
    """What a reader does who keeps up, and nothing with what it reads."""
    for c in range(state.n_captures):
        capture = state.captures[c]
        raw.store_release_i64(capture.ring_hva + RING_TAIL, capture.head)
    return 0


@kernel(INT, STATE, WORK, LAP, INT)
def pump(state: State, work: Work, lap: Lap, laps: int) -> int:
    """Forward so many laps; *returns* the nanoseconds spent in bursts, -1 if one took nothing."""
    elapsed = 0
    for _ in range(laps):
        left = post(lap.sides[TX])
        post(lap.sides[RX])
        start = now_ns(lap.clock_hva)
        while left > 0:
            taken = from_guest(state, work, 0, 1)
            if taken <= 0:
                return -1
            left -= taken
        elapsed += now_ns(lap.clock_hva) - start
        read_captures(state)
    return elapsed


@kernel(INT, STATE, WORK, LAP, INT, INT, INT)
def copy_frames(state: State, work: Work, lap: Lap, laps: int, length: int, piece: int) -> int:
    """memcpy between the same pools, in pieces of one buffer each; *returns* nanoseconds."""
    tx = lap.sides[TX]
    rx = lap.sides[RX]
    start = now_ns(lap.clock_hva)
    for _ in range(laps * tx.chains):
        source = tx.pool_hva + tx.stride * tx.buffer
        tx.buffer = tx.buffer + 1 if tx.buffer + 1 < tx.buffers else 0
        left = length
        while left > 0:
            raw.copy(rx.pool_hva + rx.stride * rx.buffer, source, min(left, piece))
            rx.buffer = rx.buffer + 1 if rx.buffer + 1 < rx.buffers else 0
            source += piece
            left -= piece
    return now_ns(lap.clock_hva) - start


@dataclass(frozen=True)
class Case:
    """What is sent, how the ports are set, what has to come of it."""

    name: str
    sent: Sequence[bytes]  # virtio-net header and frame, in turns
    received: Sequence[bytes]  # what each of them becomes, header in front, buffer by buffer
    counted: Mapping[str, float]  # ledger of the receiver, per frame sent
    chains: int = 256  # a lap
    kind: int = int(FabricKind.SWITCH)
    ports: Mapping[str, int] = field(default_factory=dict)  # fields of both ports' records
    sender: Mapping[str, int] = field(default_factory=dict)  # of one
    receiver: Mapping[str, int] = field(default_factory=dict)
    packed: bool = False
    indirect: bool = False
    parts: Sequence[int] = ()  # lengths of a transmit chain's descriptors
    buffer_len: int = 2048
    working_set: int = 0  # bytes of both pools together, at least
    call_fd: int = -1  # the receiver's driver wants to be interrupted by this eventfd
    captured: bytes | None = None  # all is, as far as this filter accepts it; none: no capture


class Pair:
    """Memory, rings and state for one case, and for others of the same layout."""

    def __init__(self, case: Case, per_frame_max: int = 0) -> None:
        """Lay everything out, with `per_frame_max` receive buffers for each frame in the pool."""
        self.case = case
        self.faults: list[str] = []  # what was found wrong
        self.ahead = 0  # receive buffers that are posted and not meant for this lap
        self.state, self.lap = allocate(State), allocate(Lap)
        prepare_state(self.state, FabricKind.SWITCH)
        self.work: Work = prepared_work(self.state)
        self.lap.clock_hva = address_of(self.lap.clock)
        per_frame = max(per_frame_max, len(case.received) // len(case.sent))
        strides = buffer_stride(len(case.sent[0])), buffer_stride(case.buffer_len)
        frames = max(case.chains, case.working_set // (strides[0] + per_frame * strides[1]))
        frames += -frames % case.chains  # so that each lap begins with the same frame
        counts = frames, frames * per_frame
        size = 2 * RING_LEN + counts[0] * strides[0] + counts[1] * strides[1] + LINE
        self.memory = np.zeros(size, np.uint8)
        base = (address_of(self.memory) + LINE - 1) & -LINE
        pools = base + 2 * RING_LEN, base + 2 * RING_LEN + counts[0] * strides[0]
        for i, (pool, stride, count) in enumerate(zip(pools, strides, counts, strict=True)):
            side: Any = self.lap.sides[i]
            side.pool_hva, side.stride, side.buffers = pool, stride, count
            self._lay_out(i, base + i * RING_LEN)
        table = self._pool(TX)
        for i, frame in enumerate(case.sent):
            table[i :: len(case.sent), : len(frame)] = np.frombuffer(frame, np.uint8)
        if case.captured is not None:
            ring = CaptureRing(self.state, nullcontext, None, CAPTURE_LEN, case.captured)
            ring.start(FRAME_MAX, True)
            finalize(self, ring.close)
        self.configure(case)

    def _pool(self, i: int) -> Bytes:
        """All buffers of a side, one a row."""
        side = self.lap.sides[i]
        off = side.pool_hva - address_of(self.memory)
        flat = self.memory[off : off + side.buffers * side.stride]
        return flat.reshape(side.buffers, side.stride)

    def _lay_out(self, i: int, at: int) -> None:
        """Ring and port `i`, their ring structures from `at` on."""
        case, side = self.case, self.lap.sides[i]
        parts = (case.parts or (len(case.sent[0]),)) if i == TX else (case.buffer_len,)
        side.desc_hva, side.avail_hva = at, at + (1 << 14)
        side.packed, side.access = int(case.packed), WRITE if i == RX else 0
        side.table_hva = at + (1 << 16) if case.indirect and i == TX else 0
        side.parts, side.lap = len(parts), 1
        side.part_len[: len(parts)] = parts
        side.chains = case.chains
        port: Any = self.state.ports[i]
        where = address_of(self.memory)
        plug_in(port, HDR_LEN, where, where, self.memory.nbytes)
        port.offers_gso, port.mac = GSO_ALL, int.from_bytes(mac_of(i), "big")
        start_ring(port, 1 - i, side, at + (1 << 15), ENTRIES, int(case.packed))
        flags = 1 << 16 if case.packed else 1  # nobody wants to be interrupted
        if case.call_fd >= 0 and i == RX:
            flags, port.queues[1 - i].call_fd = 0, case.call_fd
        self._store(at + (1 << 14), flags.to_bytes(4, "little"))

    def configure(self, case: Case) -> None:
        """Set the ports as a case of the same layout wants them; learn or pin both addresses."""
        self.case, state = case, self.state
        rx: Any = self.lap.sides[RX]
        self.per_frame = len(case.received) // len(case.sent)
        rx.chains = case.chains * self.per_frame
        state.n_ports = 2
        now_ns = read_clock(self.work)
        for i in range(2):
            fields = DEFAULTS | {**case.ports, **(case.receiver if i else case.sender)}
            for name, value in fields.items():
                setattr(state.ports[i], name, value)
        state.kind = int(FabricKind.SWITCH)
        settle(state)
        state.kind = case.kind
        for i in range(2):
            port: Any = state.ports[i]
            if port.locked:
                pin(state, port.mac, i, now_ns)
            else:
                note(state, port.mac | port.vlan << VLAN_SHIFT, i, now_ns)

    def run(self, laps: int, pump: Callable[..., int] = pump, *more: int) -> float:
        """Forward; *returns* nanoseconds a frame.  What was not done as wanted is in `faults`."""
        before = self._counters()[0][1].copy()
        elapsed = pump(self.state, self.work, self.lap, laps, *more)
        frames = laps * self.case.chains
        counts, drops = self._counters()
        found = dict(zip(LEDGER_KEYS, map(int, counts[1] - before), strict=True))
        wanted = {"rx_frames": 1.0, **self.case.counted}
        self.faults += [
            f"{self.case.name}: {key} is {found[key]}, not {each * frames:.0f}"
            for key, each in wanted.items()
            if found[key] != round(each * frames)
        ]
        for reason in np.flatnonzero(drops.sum(axis=0)):
            self.faults.append(f"{self.case.name}: frames were dropped, {DROP_REASONS[reason]}")
        drops[:] = 0
        if self.state.captures[0].lost:
            self.faults.append(f"{self.case.name}: records of the capture were lost")
        if elapsed < 0:
            raise RuntimeError(f"{self.case.name}: a frame was not taken")
        return elapsed / frames

    def run_bare(self, laps: int, way: Callable[..., int], *more: int) -> float:
        """Something else than the engine, over the same pools; *returns* nanoseconds a frame."""
        elapsed = way(self.state, self.work, self.lap, laps, *more)
        if elapsed < 0:
            raise RuntimeError(f"{self.case.name}: the bare loop came to a stop")
        return elapsed / (laps * self.case.chains)

    def post_more(self, chains: int) -> int:
        """Have so many receive buffers always posted beside those that are used up."""
        side: Any = self.lap.sides[RX]
        usual, side.chains = side.chains, chains
        post(side)
        side.chains = usual
        self.ahead = chains
        return chains

    def counter(self, key: str) -> int:
        """What the receiver's ledger says."""
        return int(self._counters()[0][1][LEDGER_KEYS.index(key)])

    def _counters(self) -> tuple[Ints, Ints]:
        return self.work.ledger, self.work.drops

    def check(self, laps: int, pump: Callable[..., int] = pump, *more: int) -> None:
        """Forward into a cleared pool, and compare every byte."""
        self.lap.sides[TX].buffer = 0
        pool = self._pool(RX)
        pool[:] = 0xEE
        first = self.lap.sides[RX].buffer - self.ahead
        self.run(laps, pump, *more)
        for i in range(min(laps * self.case.chains * self.per_frame, len(pool))):
            expected = self.case.received[i % len(self.case.received)]
            if pool[(first + i) % len(pool), : len(expected)].tobytes() != expected:
                self.faults.append(f"{self.case.name}: buffer {i} is not what was expected")
                break

    def _store(self, hva: int, data: bytes) -> None:
        off = hva - address_of(self.memory)
        self.memory[off : off + len(data)] = np.frombuffer(data, np.uint8)
