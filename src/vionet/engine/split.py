"""Split virtqueues: what is available, what was used, and who wants to be told.

How it works: `available` tells how many chains the driver has made available, `head_at` reads one
entry, `push_used` writes a used entry that the driver cannot see yet, `publish` shows all of them
with one store of the index and says whether the driver wants an interrupt.

Invariants: `avail_idx`, `used_idx` and `published_idx` are free-running modulo 2^16 (spec SP-13).
An entry's bytes are written before the index that shows it (spec SP-20, SP-21).  Between showing
and reading `used_event` stands a full barrier, and so between arming and looking again, or a
wake-up is lost (spec SP-29, SP-30).  The descriptor table is never written (spec SP-07).
"""

from vionet.engine.layout import PORT, QUEUE, Port, Queue
from vionet.jit.kernel import INT, kernel
from vionet.jit.raw import (
    fence,
    load_acquire_u16,
    load_u16,
    store_i64,
    store_release_u16,
    store_u16,
)
from vionet.spec.virtio import VRING_AVAIL_F_NO_INTERRUPT, VRING_USED_F_NO_NOTIFY

U16 = 0xFFFF


@kernel(INT, QUEUE, inline=True)
def available(queue: Queue) -> int:
    """Chains that wait in the ring; -1 where the index jumped by more than the ring (SP-14).

    The driver's index is read again only when all that was seen of it is used up.
    """
    count = (queue.avail_seen - queue.avail_idx) & U16
    if count == 0:
        queue.avail_seen = load_acquire_u16(queue.avail_hva + 2)
        count = (queue.avail_seen - queue.avail_idx) & U16
        if count > queue.entries:
            queue.avail_seen = queue.avail_idx  # so that the next look finds the same
            return -1
    return count


@kernel(INT, QUEUE, INT, inline=True)
def head_at(queue: Queue, idx: int) -> int:
    """The descriptor that starts the chain of available entry `idx`; not yet bounded."""
    return load_u16(queue.avail_hva + 4 + 2 * (idx & (queue.entries - 1)))


@kernel(INT, QUEUE, INT, inline=True)
def used_entry(queue: Queue, idx: int) -> int:
    """The address of used entry `idx`."""
    return queue.used_hva + 4 + 8 * (idx & (queue.entries - 1))


@kernel(INT, QUEUE, INT, INT, inline=True)
def push_used(queue: Queue, head: int, length: int) -> int:
    """Write one used entry behind those not yet published."""
    store_i64(used_entry(queue, queue.used_idx), head | length << 32)
    queue.used_idx = (queue.used_idx + 1) & U16
    return 0


@kernel(INT, PORT, QUEUE)
def publish(port: Port, queue: Queue) -> int:
    """Show the driver every entry pushed; *returns* 1 if it wants to be told (SP-15 to SP-19)."""
    old = queue.published_idx
    new = queue.used_idx
    if old == new:
        return 0
    store_release_u16(queue.used_hva + 2, new)
    queue.published_idx = new
    fence()
    if port.event_idx:
        used_event = load_u16(queue.avail_hva + 4 + 2 * queue.entries)
        return 1 if (new - used_event - 1) & U16 < (new - old) & U16 else 0
    return 1 - (load_u16(queue.avail_hva) & VRING_AVAIL_F_NO_INTERRUPT)


@kernel(INT, PORT, QUEUE)
def arm(port: Port, queue: Queue) -> int:
    """Ask the driver to kick once it goes beyond what was seen; *returns* 1 if it already has."""
    if port.event_idx:
        store_u16(queue.used_hva + 4 + 8 * queue.entries, queue.avail_seen)
    elif not queue.armed:
        store_u16(queue.used_hva, 0)
    queue.armed = 1
    fence()
    return 1 if load_acquire_u16(queue.avail_hva + 2) != queue.avail_seen else 0


@kernel(INT, PORT, QUEUE, inline=True)
def disarm(port: Port, queue: Queue) -> int:
    """Advise the driver not to kick while we poll (SP-26); the event index needs no store."""
    if queue.armed:
        queue.armed = 0
        if not port.event_idx:
            store_u16(queue.used_hva, VRING_USED_F_NO_NOTIFY)
    return 0


@kernel(INT, PORT, QUEUE)
def adopt(port: Port, queue: Queue) -> int:
    """Take over a ring whose addresses were just set: positions and flags (spec VU-38).

    The next used index is what the ring says, not what the base says.  Kicks are asked for until
    the worker polls; with an event index the flags stay 0 (SP-27).
    """
    queue.used_idx = load_u16(queue.used_hva + 2)
    queue.published_idx = queue.used_idx
    queue.avail_seen = queue.avail_idx
    store_u16(queue.used_hva, 0)
    if port.event_idx:
        store_u16(queue.used_hva + 4 + 8 * queue.entries, queue.avail_idx)
    queue.armed = 1
    return queue.used_idx
