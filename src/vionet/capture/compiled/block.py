"""Records of a ring, and the pcapng blocks that are made of them.

How it works: `read_on` takes one record after the other, has it made a frame (`frame`) and writes
an Enhanced Packet Block for it.  What stands behind a packet (flags, comment) is the same for all
packets to which the same happened, so Python writes it once for each such kind; `find_kind` finds
it again by all facts of the kind, and `read_on` returns where one is new.

Invariants: a record is counted as read when its blocks are written, and not before; whatever made
`read_on` return is met again at the next call.  Blocks are whole.  Little-endian host.

Trust: the ring is written by vionet, which may die at any moment and leave it as it is.  What its
head and a record say is compared with the ring and with what is possible before it is used; then
nothing is read but what the record has.
"""

from vionet.capture.compiled.frame import show_frame
from vionet.capture.compiled.layout import (
    BLOCK_LEN,
    BROKEN,
    ENOUGH,
    FULL,
    KEY_LEN,
    NONE,
    NOTE_LEN,
    NOTES_MAX,
    PACKET_MAX,
    PORT_STREAM,
    READING,
    SEEN_LEN,
    UNKNOWN_KIND,
    Reading,
)
from vionet.engine.deliver_stream import PREFIX_LEN
from vionet.engine.layout import (
    DROPS_LEN,
    RING_HEAD,
    RING_TAIL,
    RING_WAITS,
    STATE,
    WORK,
    State,
    Work,
)
from vionet.engine.parse import swap16
from vionet.engine.status import OK, Accepts, Action, Csum
from vionet.jit.kernel import INT, kernel
from vionet.jit.raw import (
    copy,
    fence,
    load_acquire_i64,
    load_i64,
    load_u16,
    store_i64,
    store_release_i64,
    store_u32,
)

ENHANCED_PACKET = 6
FIXED_LEN = 28  # of a block, in front of the packet
PROBES = 8
TELL_LEN = 65536  # bytes after which the engine is told that they were read
FRAME_LIMIT = PACKET_MAX - 64  # bytes that no frame has
NEEDS_CSUM = 1
HASH_MASK = (1 << 46) - 1
STATES, ACCEPTS, ACTIONS = len(Csum), len(Accepts), len(Action)


@kernel(INT, INT, INT, INT, inline=True)
def between(low: int, value: int, high: int) -> int:
    """Whether `value` is one of low … high - 1."""
    return 1 if low <= value < high else 0


@kernel(INT, READING, INT)
def next_record(reading: Reading, head: int) -> int:
    """Take the next record in hand.  *returns* OK, NONE or BROKEN."""
    if head - reading.tail > reading.ring_len or head < reading.tail:
        return BROKEN
    while reading.tail < head:
        off = reading.tail & (reading.ring_len - 1)
        hva = reading.ring_hva + off
        size = load_i64(hva)
        if size == 0:
            reading.tail += reading.ring_len - off
            continue
        seen = reading.seen[0]
        if size < SEEN_LEN or size & 7 or size > min(head - reading.tail, reading.ring_len - off):
            return BROKEN
        copy(reading.seen_hva, hva, SEEN_LEN)
        seen.record_len = size  # as it was measured
        if (
            between(0, seen.cap_len, min(size - SEEN_LEN, FRAME_LIMIT) + 1)
            & between(seen.cap_len, seen.length, FRAME_LIMIT + 1)
            & between(0, seen.drop, DROPS_LEN)
            & between(-1, seen.state, STATES)
            & between(-1, seen.accepts, ACCEPTS)
            & between(-1, seen.action, ACTIONS)
        ):
            return OK
        return BROKEN
    return NONE if reading.tail == head else BROKEN


@kernel(INT, READING)
def note_kind(reading: Reading) -> int:
    """All that the options of the packet in hand depend on."""
    seen = reading.seen[0]
    key = reading.key
    key[0] = seen.in_serial
    key[1] = seen.out_serial
    key[2] = seen.in_features
    key[3] = seen.out_features
    key[4] = seen.side | reading.shown << 8
    key[5] = seen.drop
    key[6] = (seen.state + 1) | (seen.accepts + 1) << 8 | (seen.action + 1) << 16
    key[7] = seen.segments
    partial = seen.header & NEEDS_CSUM
    large = seen.header & 0xFF00
    # hdr_len is a hint, and what a flag does not call for may be anything.
    mask = 0xFFFF | (0xFFFF << 32 if large else 0) | (-1 << 48 if partial else 0)
    key[8] = seen.header & mask
    key[9] = seen.csum_offset if partial else 0
    key[10] = seen.vid
    key[11] = seen.facts
    return 0


@kernel(INT, READING, INT)
def is_kind(reading: Reading, slot: int) -> int:
    """Whether the packet in hand is of the kind at `slot`."""
    if reading.note_len[slot] == 0:
        return 0
    for i in range(KEY_LEN):
        if reading.keys[slot, i] != reading.key[i]:
            return 0
    return 1


@kernel(INT, READING)
def find_kind(reading: Reading) -> int:
    """Have `reading.slot` be the kind of the packet in hand.  *returns* 1, or 0 where it is not
    known; it belongs there then, whatever is there."""
    note_kind(reading)
    if is_kind(reading, reading.slot):
        return 1
    found = 0
    for i in range(KEY_LEN):
        found = (found * 31 ^ found >> 17 ^ reading.key[i]) & HASH_MASK
    found ^= found >> 23
    free = -1
    for i in range(PROBES):
        slot = (found + i) & (NOTES_MAX - 1)
        if is_kind(reading, slot):
            reading.slot = slot
            return 1
        if free < 0 and reading.note_len[slot] == 0:
            free = slot
    reading.slot = free if free >= 0 else (found + (found >> 10 & 7)) & (NOTES_MAX - 1)
    return 0


@kernel(INT, READING, INT, INT)
def put_block(reading: Reading, length: int, original: int) -> int:
    """Finish the block whose packet of `length` bytes stands at its place behind the others."""
    seen = reading.seen[0]
    hva = reading.out_hva + reading.out_len
    length = min(length, reading.snap_len)
    note_len = reading.note_len[reading.slot]
    padded = (length + 3) & ~3
    total = BLOCK_LEN + padded + note_len
    store_u32(hva, ENHANCED_PACKET)
    store_u32(hva + 4, total)
    store_u32(hva + 8, reading.note_interface[reading.slot])
    store_u32(hva + 12, seen.time_ns >> 32)
    store_u32(hva + 16, seen.time_ns)
    store_u32(hva + 20, length)
    store_u32(hva + 24, original)
    store_u32(hva + FIXED_LEN + length, 0)
    copy(hva + FIXED_LEN + padded, reading.notes_hva + reading.slot * NOTE_LEN, note_len)
    store_u32(hva + total - 4, total)
    reading.out_len += total
    reading.left -= 1
    reading.packets[reading.note_interface[reading.slot]] += 1
    return 0


@kernel(INT, STATE, READING)
def put_segments(state: State, reading: Reading) -> int:
    """Write a block for each segment in the send buffer, or none.  *returns* OK or FULL."""
    most = BLOCK_LEN + 4 + reading.note_len[reading.slot] - PREFIX_LEN
    source = state.ports[PORT_STREAM].out_hva
    needed = state.ports[PORT_STREAM].out_len + reading.n_packets * most
    if reading.out_len + needed > reading.room:
        return FULL
    for _ in range(reading.n_packets):
        if reading.left == 0:
            break
        length = swap16(load_u16(source)) << 16 | swap16(load_u16(source + 2))
        source += PREFIX_LEN
        copy(reading.out_hva + reading.out_len + FIXED_LEN, source, length)
        put_block(reading, length, length)
        source += length
    return OK


@kernel(INT, STATE, WORK, READING, INT)
def show(state: State, work: Work, reading: Reading, source: int) -> int:
    """Write what the record in hand, whose frame lies at `source`, makes.  *returns* OK, FULL or
    UNKNOWN_KIND."""
    seen = reading.seen[0]
    hva = reading.out_hva + reading.out_len + FIXED_LEN
    length = show_frame(state, work, reading, work.frame[0], source, hva)
    if not find_kind(reading):
        return UNKNOWN_KIND
    if reading.n_packets > 1 or length == 0:
        return put_segments(state, reading)
    room = reading.room - reading.out_len
    if BLOCK_LEN + min(length, reading.snap_len) + 3 + reading.note_len[reading.slot] > room:
        return FULL
    put_block(reading, length, max(length, seen.length) if seen.cap_len < seen.length else length)
    return OK


@kernel(INT, STATE, WORK, READING)
def read_on(state: State, work: Work, reading: Reading) -> int:
    """Write blocks of what is in the ring.

    *returns* NONE: the ring is empty; FULL: there is no room for the next; UNKNOWN_KIND: its
    options are to be written first; ENOUGH: there are as many as there may be; or BROKEN.
    """
    head = load_acquire_i64(reading.page_hva + RING_HEAD)
    told = reading.tail
    status = OK
    while status == OK:
        if reading.left == 0:
            return ENOUGH
        status = next_record(reading, head)
        if status != OK:
            break
        source = reading.ring_hva + (reading.tail & (reading.ring_len - 1)) + SEEN_LEN
        status = show(state, work, reading, source)
        if status == OK:
            reading.tail += reading.seen[0].record_len
            if reading.tail - told >= TELL_LEN:
                told = reading.tail
                store_release_i64(reading.page_hva + RING_TAIL, told)
    store_release_i64(reading.page_hva + RING_TAIL, reading.tail)
    return status


@kernel(INT, READING, INT)
def rest(reading: Reading, waits: int) -> int:
    """Say that the reader is about to sleep, or is not.  *returns* 1 where nothing has come."""
    store_i64(reading.page_hva + RING_WAITS, waits)
    fence()
    return 1 if load_acquire_i64(reading.page_hva + RING_HEAD) == reading.tail else 0
