"""The end of the straight path: one staged frame to one port, as it is or summed while copied.

How it works: to a guest the delivery is noted for `deliver_guest.flush`, with what that needs to
fill or verify the L4 checksum; a kernel gets the frame by one `writev`.  Whatever is not simple (a
buffer of several descriptors, no buffer, an action that a kernel needs help with) is left as it is,
for the long way.

Invariants: a receive buffer's descriptor is read once and compared with the memory map before it
is taken; nothing is taken that is not noted.  *requires* `plain.state_of` was asked of the frame.
"""

from vionet.engine.checksum import seed_of
from vionet.engine.deliver_tap import write_out
from vionet.engine.guest import U16, U32, translate
from vionet.engine.layout import (
    HEAD_LEN,
    LATE_MAX,
    PORT,
    QUEUE,
    SLOT_LEN,
    STATE,
    WORK,
    Port,
    Queue,
    State,
    Work,
)
from vionet.engine.packed import INDIRECT, NEXT, WRITE, unpublished, waits
from vionet.engine.parse import IPV4_LE
from vionet.engine.receive import AHEAD, SPECIAL, WRITABLE, use_one_packed
from vionet.engine.seal import write_header
from vionet.engine.split import available, head_at, used_entry
from vionet.engine.status import CSUM_ELIDED, OK, Action, PortKind
from vionet.engine.tell import touch
from vionet.jit.kernel import INT, kernel
from vionet.jit.raw import load_acquire_i64, load_i64, load_u16, prefetch
from vionet.spec.packet import ETH_HLEN, IPPROTO_UDP, TCP_CSUM_OFF, UDP_CSUM_OFF
from vionet.spec.virtio_net import VIRTIO_NET_HDR_F_NEEDS_CSUM

GUEST = int(PortKind.GUEST)
PASS = int(Action.PASS)
PASS_PARTIAL = int(Action.PASS_PARTIAL)
FILL = int(Action.FILL)
VERIFY = int(Action.VERIFY)
NEEDS_CSUM = VIRTIO_NET_HDR_F_NEEDS_CSUM


@kernel(INT, WORK, INT, INT, INT, INT)
def note_sum(work: Work, head: int, length: int, out: int, action: int) -> int:
    """Add to the delivery noted last what `flush` needs to fill or verify its L4 checksum."""
    late = work.late[work.n_late - 1]
    kind = load_u16(head + 12)
    if kind == IPV4_LE:
        late.l4_off = ETH_HLEN + 20
        l4 = load_u16(head + 22) >> 8
    else:
        late.l4_off = ETH_HLEN + 40
        l4 = load_u16(head + 20) & 0xFF
    late.action = action
    late.out = out
    late.field = late.l4_off + (UDP_CSUM_OFF if l4 == IPPROTO_UDP else TCP_CSUM_OFF)
    late.seed = seed_of(head, kind, l4, length - late.l4_off)
    return 0


@kernel(INT, PORT, QUEUE, WORK, INT, inline=True)
def take_split(port: Port, queue: Queue, work: Work, need: int) -> int:
    """The next buffer of a split ring, for the delivery that is noted next.

    *returns* its address, or 0 where it is not one descriptor that holds `need` bytes.
    """
    if available(queue) <= 0:
        return 0
    chain = head_at(queue, queue.avail_idx)
    if chain >= queue.entries:
        return 0
    gpa = load_i64(queue.desc_hva + 16 * chain)
    word = load_i64(queue.desc_hva + 16 * chain + 8)
    if (word & SPECIAL) != WRITABLE or word & U32 < need:
        return 0
    hva = translate(port, gpa, word & U32)
    if hva:
        ahead = head_at(queue, queue.avail_idx + AHEAD) & (queue.entries - 1)
        prefetch(queue.desc_hva + 16 * ahead)
        late = work.late[work.n_late]
        late.used_hva = used_entry(queue, queue.used_idx)
        late.used = chain | need << 32
        queue.used_idx = queue.used_idx + 1 & U16
        queue.avail_idx = queue.avail_idx + 1 & U16
    return hva


@kernel(INT, PORT, QUEUE, WORK, INT)
def take_packed(port: Port, queue: Queue, work: Work, need: int) -> int:
    """`take_split` of a packed ring."""
    slot = queue.avail_idx
    queue.avail_seen = queue.avail_wrap << 15 | slot
    word = load_acquire_i64(queue.desc_hva + 16 * slot + 8)
    if (
        not waits(word, queue.avail_wrap)
        or word & (NEXT | INDIRECT)
        or not word & WRITE
        or word & U32 < need
        or unpublished(queue) >= queue.entries
    ):
        return 0
    hva = translate(port, load_i64(queue.desc_hva + 16 * slot), word & U32)
    if hva:
        work.chain_head[0] = word >> 32 & U16
        work.chain_span[0] = 1
        use_one_packed(queue, work, work.n_late, need)
    return hva


@kernel(INT, STATE, WORK, INT, INT, INT, INT, inline=True)
def note(state: State, work: Work, out: int, i: int, header_len: int, action: int) -> int:
    """Note the delivery of staged frame `i` into the next receive buffer of guest `out`.

    *returns* 0 where that buffer is not one descriptor that holds the frame.
    """
    port = state.ports[out]
    queue = port.queues[0]
    length = work.slot_len[i]
    if work.n_late == LATE_MAX:
        return 0
    if queue.packed:
        hva = take_packed(port, queue, work, port.header_len + length)
    else:
        hva = take_split(port, queue, work, port.header_len + length)
    if hva == 0:
        return 0
    head = work.heads_hva + SLOT_LEN * i
    head_len = min(length, HEAD_LEN)
    late = work.late[work.n_late]
    work.n_late += 1
    late.dst_hva = hva
    late.header_len = port.header_len
    late.header = 0
    late.csum_offset = 0
    late.action = 0
    if action == PASS_PARTIAL:
        late.header = load_i64(head - header_len) >> 48 << 48 | NEEDS_CSUM
        late.csum_offset = load_u16(head - header_len + 8)
        work.ledger[out, CSUM_ELIDED] += 1
    elif action != PASS:
        note_sum(work, head, length, out, action)
    late.head_hva = head
    late.head_len = head_len
    late.rest = length - head_len
    late.src_hva = work.slot_hva[i] + header_len + head_len
    touch(state, work, out, 0)
    return 1


@kernel(INT, PORT, WORK, INT, INT, INT)
def send(port: Port, work: Work, i: int, header_len: int, action: int) -> int:
    """Write staged frame `i` to a kernel, as `deliver_tap.to_tap`.  *returns* OK or a drop reason.

    The header goes in the place of the guest's, in front of the head copy.
    """
    head = work.heads_hva + SLOT_LEN * i
    length = work.slot_len[i]
    flags = start = offset = 0
    if action == PASS_PARTIAL:
        flags = NEEDS_CSUM
        start = load_u16(head - header_len + 6)
        offset = load_u16(head - header_len + 8)
    front = port.egress_header_len
    if front:
        write_header(head - front, front, flags, start, offset, 1)
    head_len = min(length, HEAD_LEN)
    work.iov[0] = head - front
    work.iov[1] = front + head_len
    work.iov[2] = work.slot_hva[i] + header_len + head_len
    work.iov[3] = length - head_len
    return write_out(port, work, 2 if length > head_len else 1)


@kernel(INT, STATE, WORK, INT, INT, INT, INT, inline=True)
def pass_on(state: State, work: Work, out: int, i: int, header_len: int, action: int) -> int:
    """Deliver staged frame `i`.  *returns* 1, 0: not plain after all, -1: dropped and counted."""
    port = state.ports[out]
    if port.kind == GUEST:
        if action == PASS or action == PASS_PARTIAL or action == FILL or action == VERIFY:
            return note(state, work, out, i, header_len, action)
        return 0
    if action != PASS and action != PASS_PARTIAL:
        return 0
    status = send(port, work, i, header_len, action)
    if status != OK:
        work.drops[out, status] += 1
        work.passed_bytes += work.slot_len[i]
        return -1
    if action == PASS_PARTIAL:
        work.ledger[out, CSUM_ELIDED] += 1
    return 1
