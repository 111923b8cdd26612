"""The load's packed rings: what `driver` does with split ones, by VIRTIO 1.2 section 2.8.

How it works: a chain has the same slots and the same buffer in every lap, and its number is its
buffer id, so a descriptor's second half is a constant but for the two bits of the lap, and
nothing else is written.  That asks for a device which uses chains in the order in which it got
them; another id is counted as wrong.  An index counts chains for ever: the low bits are the chain,
the bit above them the lap.

Invariants: a chain is offered again only after it was seen used; the head of a chain is written
last (spec PK-21).
"""

from typing import Final

from vionet.bench.arrival import LOW, take_buffer
from vionet.bench.layout import BURST, END, RING, RX, TX, End, Ring
from vionet.jit import raw
from vionet.jit.kernel import INT, kernel
from vionet.spec.virtio import (
    VRING_PACKED_DESC_F_AVAIL,
    VRING_PACKED_DESC_F_USED,
    VRING_PACKED_EVENT_FLAG_DESC,
    VRING_PACKED_EVENT_FLAG_DISABLE,
)

AVAIL_BIT: Final = 48 + VRING_PACKED_DESC_F_AVAIL
USED_BIT: Final = 48 + VRING_PACKED_DESC_F_USED
AVAILABLE: Final = 1 << AVAIL_BIT  # in the first, third, … lap
AVAILABLE_ODD: Final = (1 << USED_BIT) - (1 << 64)  # in the others, as a signed number


@kernel(INT, RING, INT, inline=True)
def lap_of(ring: Ring, idx: int) -> int:
    """The wrap counter at chain `idx`: 1 in the first lap (spec PK-02)."""
    return 1 - (idx >> ring.shift & 1)


@kernel(INT, RING, INT, inline=True)
def word_hva(ring: Ring, idx: int) -> int:
    """Where the second half of the first descriptor of chain `idx` is."""
    return ring.desc_hva + 16 * ring.parts * (idx & (ring.count - 1)) + 8


@kernel(INT, RING, INT, inline=True)
def used(ring: Ring, idx: int) -> int:
    """Whether the device has given back chain `idx` (spec PK-03)."""
    word = raw.load_acquire_i64(word_hva(ring, idx))
    lap = lap_of(ring, idx)
    return 1 if word >> AVAIL_BIT & 1 == lap and word >> USED_BIT & 1 == lap else 0


@kernel(INT, END, RING, INT, inline=True)
def check_id(end: End, ring: Ring, idx: int) -> int:
    """Count an id that is not the chain's; *returns* the written length."""
    word = raw.load_i64(word_hva(ring, idx))
    end.wrong += word >> 32 & 0xFFFF != idx & (ring.count - 1)
    return word & LOW


@kernel(INT, RING, INT, inline=True)
def make_available(ring: Ring, idx: int) -> int:
    """Give chain `idx` to the device."""
    bits = AVAILABLE if lap_of(ring, idx) else AVAILABLE_ODD
    head_hva = word_hva(ring, idx)
    words_hva = ring.words_hva + 8 * ring.parts * (idx & (ring.count - 1))
    for part in range(1, ring.parts):
        raw.store_i64(head_hva + 16 * part, raw.load_i64(words_hva + 8 * part) | bits)
    word = raw.load_i64(words_hva) | bits
    raw.fence_release()
    raw.store_i64(head_hva, word)
    return 0


@kernel(INT, END)
def take_burst_packed(end: End) -> int:
    """Take in what arrived and give the buffers back.  Returns how many buffers."""
    ring = end.rings[RX]
    first = ring.used_idx
    n = 0
    while n < BURST and used(ring, first + n):
        raw.prefetch(ring.buf_hva + ((first + n) & (ring.count - 1)) * ring.stride)
        n += 1
    for idx in range(first, first + n):
        length = check_id(end, ring, idx)
        take_buffer(end, ring, ring.buf_hva + (idx & (ring.count - 1)) * ring.stride, length)
        make_available(ring, idx + ring.count)
    ring.used_idx = first + n
    ring.avail_idx = first + n + ring.count
    return n


@kernel(INT, END, INT)
def offer_burst_packed(end: End, due: int) -> int:
    """Make up to `due` frames available, as many as the ring takes.  Returns how many."""
    ring = end.rings[TX]
    first = ring.avail_idx
    n = max(0, min(due, BURST))
    while ring.used_idx < first and ring.count - (first - ring.used_idx) < n:
        if not used(ring, ring.used_idx):
            break
        check_id(end, ring, ring.used_idx)
        ring.used_idx += 1
    n = min(n, ring.count - (first - ring.used_idx))
    seq_hva = ring.buf_hva + ring.seq_off
    stride = ring.stride * ring.parts
    for idx in range(first, first + n):
        seq = (end.sent + idx - first) & LOW
        raw.store_i64(seq_hva + (idx & (ring.count - 1)) * stride, seq | (seq ^ LOW) << 32)
        make_available(ring, idx)
    end.sent += n
    ring.avail_idx = first + n
    return n


@kernel(INT, END, RING, INT)
def kick_packed(end: End, ring: Ring, old: int) -> int:
    """Whether the device wants to know of the chains from `old` on (spec PK-17, PK-18)."""
    event = raw.load_u32(ring.used_hva)
    mode = event >> 16 & 3
    if mode != VRING_PACKED_EVENT_FLAG_DESC or not end.event_idx:
        return 1 if mode != VRING_PACKED_EVENT_FLAG_DISABLE else 0
    new = ring.avail_idx
    slot = (new & (ring.count - 1)) * ring.parts
    wanted = event & 0x7FFF
    if event >> 15 & 1 != lap_of(ring, new):
        wanted -= ring.entries
    return 1 if slot - (new - old) * ring.parts <= wanted < slot else 0
