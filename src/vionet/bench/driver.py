"""The load's kernels: offer frames, take them in, give the buffers back.

How it works: one thread looks after both ends in turns.  A turn takes what has arrived at each
end, gives those buffers back, and makes the frames that are due available, in one burst a ring.
Buffers and descriptors are written once, before (`memory`); per frame the driver writes only a
sequence number (and its complement, so that a checksum over it stays right) and an entry of the
available ring, and reads the first line of what it received.  It asks for no notification.
Rings are split (here) or packed (`driver_packed`).

No list of free chains is kept: as there are `count` chains, entry k of the available ring takes
the chain that came back in entry k - count of the used ring, which has not been written over by
then.  `memory` fills the used ring with the first `count` before the device sees it.

Every frame's length, number and kind are looked at; one in SAMPLE, and all that arrive after the
timed part, are compared byte for byte.

Invariants: a turn begins `interval_ns` after the last, or at once if that has passed: polling a
ring oftener would only take its cache lines away from the device.

Trust: the back-end is measured, not fought.  Its ids are masked, so that no access leaves our
memory; its lengths are compared with what was sent.
"""

from vionet.bench.arrival import LOW, take_buffer
from vionet.bench.clock import SECOND_NS, now_ns
from vionet.bench.driver_packed import kick_packed, offer_burst_packed, take_burst_packed
from vionet.bench.layout import BURST, END, LOAD, RING, RX, SATURATE, TX, End, Load, Ring
from vionet.jit import libc, raw
from vionet.jit.kernel import INT, kernel
from vionet.spec.virtio import VRING_USED_F_NO_NOTIFY


@kernel(INT, END, RING, INT, inline=True)
def give_back(end: End, ring: Ring, used_idx: int) -> int:
    """Publish that everything before `used_idx` was taken and is available again."""
    ring.used_idx = used_idx
    ring.avail_idx = used_idx + ring.count
    if end.event_idx:  # an event that has just passed: no notification for 65535 entries
        raw.store_u16(ring.avail_hva + 4 + 2 * ring.entries, used_idx - 1)
    raw.store_release_u16(ring.avail_hva + 2, ring.avail_idx)
    return 0


@kernel(INT, END)
def take_burst(end: End) -> int:
    """Take in what arrived and give the buffers back.  Returns how many buffers."""
    ring = end.rings[RX]
    mask = ring.entries - 1
    first = ring.used_idx
    n = (raw.load_acquire_u16(ring.used_hva + 2) - first) & 0xFFFF
    n = min(n, BURST)
    if n == 0:
        return 0
    for i in range(n):
        head = raw.load_u32(ring.used_hva + 4 + 8 * ((first + i) & mask)) & mask
        raw.prefetch(ring.buf_hva + head * ring.stride)
    for i in range(n):
        entry = raw.load_i64(ring.used_hva + 4 + 8 * ((first + i) & mask))
        head = entry & mask
        take_buffer(end, ring, ring.buf_hva + head * ring.stride, (entry >> 32) & LOW)
        raw.store_u16(ring.avail_hva + 4 + 2 * ((first + ring.count + i) & mask), head)
    give_back(end, ring, first + n)
    return n


@kernel(INT, END)
def take_ring(end: End) -> int:
    """Take in all that arrived.  Returns how many buffers."""
    total = 0
    n = BURST
    while n == BURST and total < end.rings[RX].count:
        n = take_burst_packed(end) if end.packed else take_burst(end)
        total += n
    return total


@kernel(INT, END, INT)
def offer_burst(end: End, due: int) -> int:
    """Make up to `due` frames available, as many as the ring takes.  Returns how many."""
    ring = end.rings[TX]
    mask = ring.entries - 1
    first = ring.avail_idx
    n = max(0, min(due, BURST))
    if ring.count - (first - ring.used_idx) < n:
        ring.used_idx += (raw.load_acquire_u16(ring.used_hva + 2) - ring.used_idx) & 0xFFFF
        if end.event_idx:
            raw.store_u16(ring.avail_hva + 4 + 2 * ring.entries, ring.used_idx - 1)
    n = min(n, ring.count - (first - ring.used_idx))
    seq_hva = ring.buf_hva + ring.seq_off
    for i in range(n):
        head = raw.load_u32(ring.used_hva + 4 + 8 * ((first + i - ring.count) & mask)) & mask
        seq = (end.sent + i) & LOW
        raw.store_i64(seq_hva + head * ring.stride, seq | (seq ^ LOW) << 32)
        raw.store_u16(ring.avail_hva + 4 + 2 * ((first + i) & mask), head)
    if n > 0:
        end.sent += n
        ring.avail_idx = first + n
        raw.store_release_u16(ring.avail_hva + 2, first + n)
    return n


@kernel(INT, END, INT)
def offer_ring(end: End, due: int) -> int:
    """Make up to `due` frames available, in bursts.  Returns how many."""
    total = 0
    n = BURST
    while n == BURST:
        left = due - total
        n = offer_burst_packed(end, left) if end.packed else offer_burst(end, left)
        total += n
    return total


@kernel(INT, END, END, INT)
def offer_due(source: End, sink: End, elapsed_ns: int) -> int:
    """Offer what the rate asks for by now; what a full ring holds up for long is refused."""
    if source.rate == 0:
        return 0
    if source.rate < 0:
        due = source.rings[TX].count
        if source.rate == SATURATE:
            due = sink.window - (source.sent - sink.received - sink.lost)
        n = offer_ring(source, due)
        source.offered += n
        return n
    due = elapsed_ns * source.rate // SECOND_NS - source.offered
    n = offer_ring(source, due)
    excess = max(0, due - n - source.rings[TX].entries)
    source.refused += excess
    source.offered += n + excess
    return n


@kernel(INT, LOAD, END, RING)
def kick(load: Load, end: End, ring: Ring) -> int:
    """Kick the device if it asked for it; requires a fence after the index was published."""
    old = ring.kicked_idx
    new = ring.avail_idx
    if new == old:
        return 0
    ring.kicked_idx = new
    if end.packed:
        wanted = kick_packed(end, ring, old) != 0
    elif end.event_idx:
        event = raw.load_u16(ring.used_hva + 4 + 8 * ring.entries)
        wanted = ((new - event - 1) & 0xFFFF) < ((new - old) & 0xFFFF)
    else:
        wanted = raw.load_u16(ring.used_hva) & VRING_USED_F_NO_NOTIFY == 0
    if wanted:
        end.kicks += 1
        libc.write(ring.kick_fd, load.one_hva, 8)
    return 0


@kernel(INT, LOAD, INT)
def take_turn(load: Load, elapsed_ns: int) -> int:
    """Look after both ends once.  Returns how many entries were moved."""
    moved = 0
    for i in range(2):
        moved += take_ring(load.ends[i])
    for i in range(2):
        moved += offer_due(load.ends[i], load.ends[1 - i], elapsed_ns)
    if moved:
        raw.fence()
        for i in range(2):
            kick(load, load.ends[i], load.ends[i].rings[RX])
            kick(load, load.ends[i], load.ends[i].rings[TX])
    return moved


@kernel(INT, LOAD, INT)
def run(load: Load, duration_ns: int) -> int:
    """Drive both ends for `duration_ns` from now.  Returns how many entries were moved."""
    total = 0
    start = now_ns(load.clock_hva)
    now = start
    ready = start
    while now - start < duration_ns:
        if now < ready:
            raw.relax()
            moved = 0
        else:
            ready = now + load.interval_ns
            moved = take_turn(load, now - start)
        total += moved
        then = now
        now = now_ns(load.clock_hva)
        if moved:
            load.busy_ns += now - then
    load.elapsed_ns = now - start
    return total
