"""A driver of packed rings that does anything: noise for descriptors, tables, events and flags.

Claimed: the data path returns, a burst is bounded, every frame taken is delivered or counted,
nothing outside the driver's own memory is written, and a pair beside it does not notice.
"""

import random

from hypothesis import given
from hypothesis import strategies as st

from tests.property import strategies as some
from tests.property.test_engine_hostile import DATA_LEN, address, counted
from tests.reference.frame import Layers
from tests.reference.guest import DATA_GPA, Guest
from tests.reference.network import Network
from tests.reference.packed import AVAIL, DESC, USED, PackedRing
from tests.reference.plug import EVENT_IDX, FULL, MRG_RXBUF, RING_PACKED
from tests.reference.ring import INDIRECT, NEXT, WRITE
from vionet.engine.layout import BURST_MAX
from vionet.engine.status import FabricKind

PACKED = FULL | RING_PACKED


def row(noise: random.Random, guest: Guest, write: int) -> tuple[int, int, int]:
    """Address, length and flags of a descriptor: half of them nearly right."""
    length = noise.choice([0, 1, 11, 12, 13, 16, 26, 60, 140, 1500, 4096, 70_000, 0xFFFFFFFF])
    flags = write
    if noise.random() < 0.4:
        flags |= noise.choice([0, NEXT, NEXT, INDIRECT, WRITE, 0x7F7F])
    if flags & INDIRECT and noise.random() < 0.8:
        length = 16 * noise.randrange(1, 30)
    return address(noise, guest), length, flags


def spoil(noise: random.Random, guest: Guest, index: int, write: int) -> None:
    """Noise into a ring, most of it available where the device looks next."""
    ring = (guest.rx, guest.tx)[index]
    assert isinstance(ring, PackedRing)
    queue = guest.record.queues[index]
    slot, lap = int(queue.avail_idx), int(queue.avail_wrap)
    for _ in range(ring.size):
        gpa, length, flags = row(noise, guest, write)
        waits = AVAIL if lap else USED
        marks = waits if noise.random() < 0.9 else noise.choice([0, AVAIL, USED, AVAIL | USED])
        flags = flags & ~(AVAIL | USED) | marks
        ring.set_descriptor(slot, gpa, length, noise.randrange(1 << 16), flags)
        slot += 1
        if slot == ring.size:
            slot, lap = 0, 1 - lap
    table = DATA_GPA + 16 * noise.randrange(DATA_LEN // 16 - 32)
    rows = [row(noise, guest, write) for _ in range(20)]
    guest.memory.write(table, b"".join(DESC.pack(gpa, n, 0, flags) for gpa, n, flags in rows))
    if noise.random() < 0.5:
        marks = AVAIL if queue.avail_wrap else USED
        ring.set_descriptor(int(queue.avail_idx), table, 16 * 20, 5, INDIRECT | marks)
    ring.want(noise.randrange(1 << 16), noise.randrange(1 << 16))


@some.examples(compiled=200, interpreted=60)
@given(some.seeds, st.sampled_from(list(FabricKind)), st.sampled_from([1, 5, 16]), st.booleans())
def test_hostile_sender(seed: int, kind: FabricKind, size: int, event_idx: bool) -> None:
    """Each frame taken is accounted for; of its memory only its ring is written."""
    noise = random.Random(seed)
    features = PACKED | (EVENT_IDX if event_idx else 0)
    with Network(kind) as network:
        hostile = network.guest(features, size=size, data_len=DATA_LEN)
        victim = network.guest(FULL, size=256, data_len=1 << 19)
        hostile.hostile = True
        for _ in range(3):
            for _ in range(100):
                if victim.rx.room:
                    victim.post(2000)
            hostile.memory.write(DATA_GPA, noise.randbytes(DATA_LEN // 2))
            spoil(noise, hostile, 1, 0)
            data = hostile.memory.read(DATA_GPA, DATA_LEN)
            assert 0 <= network.run(hostile) <= min(BURST_MAX, size)
            assert data == hostile.memory.read(DATA_GPA, DATA_LEN)
            victim.received()
            victim.next_gpa = DATA_GPA
        taken = hostile.ledger.get("tx_frames", 0)
        delivered = victim.ledger.get("rx_frames", 0)
        assert taken == delivered + counted(hostile) + counted(victim)


@some.examples(compiled=200, interpreted=60)
@given(some.seeds, st.booleans(), st.sampled_from([1, 5, 16]), st.booleans())
def test_hostile_receiver(seed: int, merge: bool, size: int, event_idx: bool) -> None:
    """It is given frames over rings of noise; the pair beside it does not notice."""
    noise = random.Random(seed)
    features = PACKED | (EVENT_IDX if event_idx else 0)
    with Network() as network:
        hostile = network.guest(
            features if merge else features & ~MRG_RXBUF, size=size, data_len=DATA_LEN
        )
        hostile.hostile = True
        source, sink = network.guest(PACKED, size=16), network.guest(PACKED, size=16)
        frame = Layers(dst=b"\xff" * 6).udp(noise.randbytes(noise.randrange(3000)))
        for _ in range(4):
            spoil(noise, hostile, 0, WRITE)
            sink.post(4000)
            source.send(frame.partial, frame.header)
            assert 1 == network.run(source)
            source.tx.take_used()
            assert [frame.partial] == [received.frame for received in sink.received()]
            sink.next_gpa = source.next_gpa = DATA_GPA
        assert 4 == hostile.ledger.get("rx_frames", 0) + counted(hostile)
