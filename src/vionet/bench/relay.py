"""The least that a back-end could do, as a yardstick: what the load can drive when nothing limits.

How it works: a kernel in a thread of its own on the other core, which sees the very rings of a
`Load`: it takes a burst from one end's transmit ring and gives it to the other end's receive
ring, in one copy, looking at no descriptor but the head's and at nothing in the frame.  The rate
it allows is a ceiling for every real back-end; a peer that comes close to it is measured against
the load and not against itself.
"""

from typing import Annotated, Final, Self

import numpy as np

from vionet.bench.layout import RX, TX
from vionet.bench.memory import GuestRing
from vionet.bench.place import beside
from vionet.bench.round import Rounds, Setting
from vionet.jit import raw
from vionet.jit.kernel import INT, kernel
from vionet.jit.record import Record, Records, address_of, allocate, record_type
from vionet.spec.virtio import VRING_USED_F_NO_NOTIFY
from vionet.spec.virtio_net import HDR_NUM_BUFFERS

BURST: Final = 32


class Side(Record):
    """The device's view of a ring: addresses, and its own two indices."""

    desc_hva: int
    avail_hva: int
    used_hva: int
    entries: int
    to_hva: int  # what turns the driver's addresses into ours
    avail_idx: int
    used_idx: int


class Relay(Record):
    """Two ports of two rings, [end][RX or TX], and a flag to stop."""

    stop: int
    stop_hva: int
    moved: int
    sides: Annotated[Records[Side], 4]


SIDE = record_type(Side)
RELAY = record_type(Relay)


class Yardstick(Rounds):
    """A load served by the relay in a thread of its own, on `core`."""

    def __init__(self, setting: Setting, core: int) -> None:
        """Start the relay."""
        super().__init__(setting)
        self.relay = allocate(Relay)
        self.relay.stop_hva = address_of(self.relay)
        for end in range(2):
            self.prepare(end, setting.features)
            for kind in (RX, TX):
                _watch(self.relay.sides[2 * end + kind], self.rings[end][kind])
        self._thread = beside(core, lambda: run_relay(self.relay))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.relay.stop = 1
        self._thread.join()
        self.release()


def _watch(side: Side, guest_ring: GuestRing) -> None:
    """Have `side` look at a ring from its beginning."""
    ring, region = guest_ring.ring, guest_ring.memory.regions[0]
    side.desc_hva, side.avail_hva = ring.desc_hva, ring.avail_hva
    side.used_hva, side.entries = ring.used_hva, ring.entries
    raw_flags = np.frombuffer(guest_ring.memory.view(guest_ring.used_gpa, 2), "<u2")
    raw_flags[0] = VRING_USED_F_NO_NOTIFY
    side.to_hva = region.hva - region.gpa


@kernel(INT, SIDE, SIDE)
def relay_burst(source: Side, sink: Side) -> int:
    """Move a burst; frames that find no buffer stay.  Returns how many moved."""
    n = (raw.load_acquire_u16(source.avail_hva + 2) - source.avail_idx) & 0xFFFF
    if n == 0:
        return 0
    room = (raw.load_acquire_u16(sink.avail_hva + 2) - sink.avail_idx) & 0xFFFF
    n = min(n, room, BURST)
    for i in range(n):
        slot = (source.avail_idx + i) & (source.entries - 1)
        head = raw.load_u16(source.avail_hva + 4 + 2 * slot)
        raw.prefetch(raw.load_i64(source.desc_hva + 16 * head) + source.to_hva)
    for i in range(n):
        slot = (source.avail_idx + i) & (source.entries - 1)
        head = raw.load_u16(source.avail_hva + 4 + 2 * slot)
        desc_hva = source.desc_hva + 16 * head
        raw.store_i64(source.used_hva + 4 + 8 * slot, head)
        slot = (sink.avail_idx + i) & (sink.entries - 1)
        taken = raw.load_u16(sink.avail_hva + 4 + 2 * slot)
        length = raw.load_u32(desc_hva + 8)
        target_hva = raw.load_i64(sink.desc_hva + 16 * taken) + sink.to_hva
        raw.copy(target_hva, raw.load_i64(desc_hva) + source.to_hva, length)
        raw.store_u16(target_hva + HDR_NUM_BUFFERS, 1)
        raw.store_i64(sink.used_hva + 4 + 8 * slot, taken | length << 32)
    source.avail_idx += n
    sink.avail_idx += n
    raw.store_release_u16(source.used_hva + 2, source.avail_idx)
    raw.store_release_u16(sink.used_hva + 2, sink.avail_idx)
    return n


@kernel(INT, RELAY)
def run_relay(relay: Relay) -> int:
    """Relay both ways until `relay.stop` is set.  Returns how many frames moved."""
    while raw.load_acquire_i64(relay.stop_hva) == 0:
        n = relay_burst(relay.sides[TX], relay.sides[2 + RX])
        n += relay_burst(relay.sides[2 + TX], relay.sides[RX])
        relay.moved += n
        if n == 0:
            raw.relax()
    return relay.moved
