"""Packed virtqueues: one ring of descriptors that the driver fills and the device writes over.

How it works: a descriptor's second 8 bytes hold its length, buffer id and flags, so that one load
takes and one store gives back.  `AVAIL` differs from `USED` and equals the driver's lap while a
descriptor waits; both equal the device's lap once it was used.  A chain takes as many slots as it
has descriptors and is given back by one store in the first of them, with the id found in the last
(spec PK-09).  The driver's and the device's event structures say who wants to be told.

Invariants: `avail_idx`, `used_idx` and `published_idx` are slots, each with a lap of 1 or 0 beside
it that turns at the ring's end, whatever the size (spec PK-01, PK-02).  Chains are used in the
order in which they were taken.  A slot is stored to once, last of all that concerns its chain, and
not looked at again (spec PK-08).  Between two publications a ring is not lapped.  A chain never
leads beyond what the driver has made available, nor is it longer than the ring.

Where the front-end cannot restore a position (`ports.position`), `mirror_hva` is a record that
outlives this process: the position, the lap's number, and for each slot how long the chain was
that began there and in which lap; written before the slot is, so that a position which lags
behind the ring can be brought up to it (`recover`).

Trust: descriptors and the driver's event structure are the driver's, who may rewrite them at any
moment.  Each load is bounded by the ring, which was checked as a whole.
"""

from typing import Final

from vionet.engine.guest import U16, U32, UNMAPPED, add, translate
from vionet.engine.layout import CHAIN_MAX, PORT, QUEUE, WORK, Port, Queue, Work
from vionet.engine.status import CHAIN_INVALID, CHAIN_TOO_LONG, DESCRIPTOR_UNMAPPED, OK
from vionet.jit.kernel import INT, kernel
from vionet.jit.raw import (
    fence,
    fence_release,
    load_acquire_i64,
    load_i64,
    load_u32,
    store_i64,
    store_u32,
)
from vionet.spec.virtio import (
    VRING_DESC_F_INDIRECT,
    VRING_DESC_F_NEXT,
    VRING_DESC_F_WRITE,
    VRING_PACKED_DESC_F_AVAIL,
    VRING_PACKED_DESC_F_USED,
    VRING_PACKED_EVENT_FLAG_DESC,
    VRING_PACKED_EVENT_FLAG_DISABLE,
    VRING_PACKED_EVENT_FLAG_ENABLE,
    VRING_SIZE_MAX,
)

# Bits of a descriptor's second word.
NEXT: Final = VRING_DESC_F_NEXT << 48
WRITE: Final = VRING_DESC_F_WRITE << 48
INDIRECT: Final = VRING_DESC_F_INDIRECT << 48
AVAIL_BIT: Final = 48 + VRING_PACKED_DESC_F_AVAIL
USED_BIT: Final = 48 + VRING_PACKED_DESC_F_USED
# Both bits set, as a signed number.
USED_LAP: Final = (1 << AVAIL_BIT | 1 << USED_BIT) - (1 << 64)
LAP: Final = 1 << 15  # beside a slot, as in an event structure and in a ring's base
FRESH: Final = LAP  # where every new ring begins
BROKEN: Final = -1

# A mirror: words of 8 bytes, then 4 bytes for each slot of the largest ring.
MIRROR_LIVE: Final = 1 << 62
MIRROR_LAP_OFF: Final = 8  # the number of the lap, mod 2^16
MIRROR_SPANS_OFF: Final = 4096
MIRROR_LEN: Final = MIRROR_SPANS_OFF + 4 * VRING_SIZE_MAX


@kernel(INT, INT, INT, inline=True)
def waits(word: int, lap: int) -> int:
    """Whether a descriptor's second word says that it is available in `lap` (spec PK-03)."""
    return 1 if word >> AVAIL_BIT & 1 == lap and word >> USED_BIT & 1 != lap else 0


@kernel(INT, QUEUE, INT, INT, INT)
def measure(queue: Queue, slot: int, lap: int, limit: int) -> int:
    """Follow a chain that begins at an available descriptor, at most `limit` of them.

    *returns* its span below bit 16 and its buffer id above, or BROKEN.
    """
    span = 0
    while True:
        word = load_i64(queue.desc_hva + 16 * slot + 8)
        span += 1
        if span > limit or not waits(word, lap):
            return BROKEN
        if not word & NEXT:
            return (word >> 32 & U16) << 16 | span
        slot += 1
        if slot == queue.entries:
            slot = 0
            lap = 1 - lap


@kernel(INT, QUEUE, inline=True)
def unpublished(queue: Queue) -> int:
    """Slots that were used since the last publication."""
    count = queue.used_idx - queue.published_idx
    return count if queue.used_wrap == queue.published_wrap else count + queue.entries


@kernel(INT, PORT, QUEUE, WORK, INT, INT, INT, INT)
def walk_packed(
    port: Port, queue: Queue, work: Work, slot: int, span: int, n: int, writable: int
) -> int:
    """Append the buffers of the chain of `span` descriptors at `slot` from scatter entry `n`.

    As `guest.walk`; of each descriptor address, length, WRITE and INDIRECT are judged here.
    """
    table = queue.desc_hva
    size = queue.entries
    alone = 1 if span == 1 else 0
    inside = 0
    total = 0
    wanted = WRITE if writable else 0
    if span > CHAIN_MAX:
        return CHAIN_TOO_LONG
    while span > 0:
        gpa = load_i64(table + 16 * slot)
        word = load_i64(table + 16 * slot + 8)
        length = word & U32
        if word & INDIRECT and not inside:
            # Nothing may stand beside it (spec PK-14); its own WRITE is nothing (spec PK-13).
            if not alone or not port.indirect or word & NEXT:
                return CHAIN_INVALID
            if length == 0 or length & 15 or length > 16 * VRING_SIZE_MAX:
                return CHAIN_INVALID
            table = translate(port, gpa, length)
            if table == 0:
                return DESCRIPTOR_UNMAPPED
            span = size = length >> 4
            if span > CHAIN_MAX:
                return CHAIN_TOO_LONG
            slot = 0
            inside = 1
            continue
        if word & WRITE != wanted:
            return CHAIN_INVALID
        n = add(port, work, gpa, length, n, writable)
        if n < 0:
            return DESCRIPTOR_UNMAPPED if n == UNMAPPED else CHAIN_TOO_LONG
        total += length
        span -= 1
        slot = slot + 1 if slot + 1 < size else 0
    work.n_walked = n
    work.walked_len = total
    return OK


@kernel(INT, QUEUE, INT, inline=True)
def take_slots(queue: Queue, span: int) -> int:
    """Move on behind a chain that is being used: both positions, and the mirror."""
    if queue.mirror_hva:
        number = load_i64(queue.mirror_hva + MIRROR_LAP_OFF)
        store_u32(queue.mirror_hva + MIRROR_SPANS_OFF + 4 * queue.used_idx, span | number << 16)
    queue.used_idx += span
    if queue.used_idx >= queue.entries:
        queue.used_idx -= queue.entries
        queue.used_wrap = 1 - queue.used_wrap
        if queue.mirror_hva:
            number = load_i64(queue.mirror_hva + MIRROR_LAP_OFF)
            store_i64(queue.mirror_hva + MIRROR_LAP_OFF, number + 1 & U16)
    queue.avail_idx += span
    if queue.avail_idx >= queue.entries:
        queue.avail_idx -= queue.entries
        queue.avail_wrap = 1 - queue.avail_wrap
    return 0


@kernel(INT, QUEUE, INT, INT, inline=True)
def used_word(queue: Queue, identity: int, length: int) -> int:
    """What gives a buffer back: WRITE where something was written (spec PK-12)."""
    flags = USED_LAP if queue.used_wrap else 0
    return flags | (WRITE if length else 0) | identity << 32 | length


@kernel(INT, QUEUE, INT, INT, INT, inline=True)
def use_packed(queue: Queue, identity: int, span: int, length: int) -> int:
    """Take the next chain and give it back."""
    hva = queue.desc_hva + 16 * queue.used_idx + 8
    word = used_word(queue, identity, length)
    take_slots(queue, span)
    fence_release()
    store_i64(hva, word)
    return 0


@kernel(INT, PORT, QUEUE)
def publish_packed(port: Port, queue: Queue) -> int:
    """All used descriptors are in place; *returns* 1 if the driver wants to be told (PK-17, 18)."""
    lap = queue.used_wrap
    old = queue.published_idx - (queue.entries if queue.published_wrap != lap else 0)
    new = queue.used_idx
    queue.published_idx = new
    queue.published_wrap = lap
    if queue.mirror_hva:
        number = load_i64(queue.mirror_hva + MIRROR_LAP_OFF)
        fence_release()  # never ahead of the ring
        store_i64(queue.mirror_hva, MIRROR_LIVE | number << 16 | lap << 15 | new)
    if old == new:
        return 0
    fence()
    event = load_u32(queue.avail_hva)
    mode = event >> 16 & 3
    if mode != VRING_PACKED_EVENT_FLAG_DESC or not port.event_idx:
        return 1 if mode != VRING_PACKED_EVENT_FLAG_DISABLE else 0
    wanted = event & LAP - 1
    if event >> 15 & 1 != lap:
        wanted -= queue.entries
    return 1 if old <= wanted < new else 0


@kernel(INT, PORT, QUEUE)
def arm_packed(port: Port, queue: Queue) -> int:
    """Ask for a kick at the first slot that was found empty; *returns* 1 if it no longer is."""
    mode = VRING_PACKED_EVENT_FLAG_DESC if port.event_idx else VRING_PACKED_EVENT_FLAG_ENABLE
    store_u32(queue.used_hva, queue.avail_seen | mode << 16)
    queue.armed = 1
    fence()
    slot = queue.avail_seen & LAP - 1
    return waits(load_acquire_i64(queue.desc_hva + 16 * slot + 8), queue.avail_seen >> 15)


@kernel(INT, QUEUE)
def disarm_packed(queue: Queue) -> int:
    """Advise the driver not to kick."""
    if queue.armed:
        queue.armed = 0
        store_u32(queue.used_hva, VRING_PACKED_EVENT_FLAG_DISABLE << 16)
    return 0


@kernel(INT, QUEUE)
def unused(queue: Queue) -> int:
    """Whether no descriptor of the ring was ever used: USED is clear everywhere."""
    for slot in range(queue.entries):
        if load_i64(queue.desc_hva + 16 * slot + 8) < 0:
            return 0
    return 1


@kernel(INT, PORT, QUEUE, INT)
def adopt_packed(port: Port, queue: Queue, base: int) -> int:
    """Take over a ring at `base` (spec VU-45); *returns* 1 if it was used before.

    *requires* slots below the ring's size.  Some front-ends leave the used half 0: then it is the
    available one.  A lap of 0 at the first slot of an unused ring is a front-end's that does not
    know laps.
    """
    if base == 0 and unused(queue):
        base = FRESH
    used = base >> 16 if base >> 16 else base
    queue.avail_idx = base & LAP - 1
    queue.avail_wrap = base >> 15 & 1
    queue.used_idx = used & LAP - 1
    queue.used_wrap = used >> 15 & 1
    queue.published_idx = queue.used_idx
    queue.published_wrap = queue.used_wrap
    queue.avail_seen = base & U16
    if queue.mirror_hva:
        number = load_i64(queue.mirror_hva + MIRROR_LAP_OFF)
        store_i64(queue.mirror_hva, MIRROR_LIVE | number << 16 | used & U16)
    arm_packed(port, queue)
    return 1 - unused(queue)


@kernel(INT, QUEUE, INT, INT, INT)
def give_up(queue: Queue, slot: int, span: int, lap: int) -> int:
    """Give a chain back that was taken and perhaps used, but not seen by the driver yet: empty."""
    word = load_i64(queue.desc_hva + 16 * slot + 8)
    identity = word >> 32 & U16
    if waits(word, lap):
        measured = measure(queue, slot, lap, span)
        if measured != BROKEN:
            identity = measured >> 16
    fence_release()
    flags = USED_LAP if lap else 0
    store_i64(queue.desc_hva + 16 * slot + 8, flags | identity << 32)
    return 0


@kernel(INT, QUEUE, INT)
def recover(queue: Queue, mirrored: int) -> int:
    """Bring a ring to a position from which it can go on; `mirrored` is the one in its mirror.

    The mirror knows which chains were taken behind that position.  The first of them may be used:
    their first slot is marked so (and the driver may have made it available for the next lap).
    From the first that is not, the driver has seen none, though some may be marked (a frame is
    noted before another is written, `deliver_guest.flush`): all of those are given back empty.
    *returns* slot and lap, with the lap's number above bit 16, or BROKEN where the ring is a new
    one.  *requires* a slot below the ring's size.
    """
    if unused(queue):
        return BROKEN
    slot = mirrored & LAP - 1
    number = mirrored >> 16 & U16
    lap = mirrored >> 15 & 1
    left = queue.entries
    seen = 1
    while left > 0:
        entry = load_u32(queue.mirror_hva + MIRROR_SPANS_OFF + 4 * slot)
        span = entry & U16
        if entry >> 16 != number or span == 0 or span > left:
            break
        if load_i64(queue.desc_hva + 16 * slot + 8) >> USED_BIT & 1 != lap:
            seen = 0
        if not seen:
            give_up(queue, slot, span, lap)
        left -= span
        slot += span
        if slot >= queue.entries:
            slot -= queue.entries
            lap = 1 - lap
            number = number + 1 & U16
    return number << 16 | lap << 15 | slot
