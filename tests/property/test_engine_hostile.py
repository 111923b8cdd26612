"""A driver that does anything: noise for descriptors, rings and indices.

Claimed: the data path returns, a burst is bounded, every frame taken is delivered or counted,
nothing outside the driver's own memory is written, the sender's memory is never written by what it
sends, and two other guests exchange frames as if nothing were.
"""

import random

from hypothesis import given
from hypothesis import strategies as st

from tests.property import strategies as some
from tests.reference.frame import MACS, Layers
from tests.reference.guest import DATA_GPA, Guest
from tests.reference.network import Network
from tests.reference.plug import EVENT_IDX, FULL, MRG_RXBUF
from tests.reference.ring import INDIRECT, NEXT, WRITE, DriverRing
from vionet.engine.layout import BURST_MAX
from vionet.engine.status import FabricKind

DATA_LEN = 1 << 14
SIZE = 16
NOT_DROPS = {"ring_broken", "fdb_full"}


def address(noise: random.Random, guest: Guest) -> int:
    """An address a hostile driver would try."""
    edges = [0, DATA_GPA, DATA_GPA + DATA_LEN // 2, guest.end_gpa, 1 << 63, (1 << 64) - 1]
    if noise.random() < 0.7:
        return DATA_GPA + noise.randrange(DATA_LEN)
    return (noise.choice(edges) + noise.randint(-40, 40)) % (1 << 64)


def descriptor(noise: random.Random, guest: Guest, write: int) -> tuple[int, int, int, int]:
    """A descriptor: half of them nearly right."""
    length = noise.choice([0, 1, 11, 12, 13, 16, 26, 60, 140, 1500, 4096, 70_000, 0xFFFFFFFF])
    flags = write
    if noise.random() < 0.5:
        flags |= noise.choice([0, NEXT, NEXT, INDIRECT, WRITE, 0xFFFF])
    if noise.random() < 0.1:
        flags = noise.randrange(1 << 16)
    if flags & INDIRECT and noise.random() < 0.8:
        length = 16 * noise.randrange(1, 30)
    following = noise.randrange(SIZE) if noise.random() < 0.9 else noise.randrange(1 << 16)
    return address(noise, guest), length, flags, following


def spoil(noise: random.Random, guest: Guest, ring: DriverRing, write: int) -> int:
    """Noise into a ring; *returns* how far its index was moved."""
    for slot in range(SIZE):
        ring.set_descriptor(slot, *descriptor(noise, guest, write))
        head = noise.randrange(SIZE) if noise.random() < 0.95 else noise.randrange(1 << 16)
        ring.set_entry(slot, head)
    table = DATA_GPA + 16 * noise.randrange(DATA_LEN // 16 - 32)
    for i in range(20):
        gpa, length, flags, following = descriptor(noise, guest, write)
        entry = gpa.to_bytes(8, "little") + length.to_bytes(4, "little")
        entry += flags.to_bytes(2, "little") + following.to_bytes(2, "little")
        guest.memory.write(table + 16 * i, entry)
    if noise.random() < 0.5:
        ring.set_descriptor(noise.randrange(SIZE), table, 16 * 20, INDIRECT, 0)
    ring.want_event(noise.randrange(1 << 16))
    ring.suppress(noise.randrange(1 << 16))
    step = noise.randint(1, SIZE) if noise.random() < 0.8 else noise.randrange(1 << 16)
    ring.publish((ring.used_idx + step) & 0xFFFF)
    return step


def counted(guest: Guest) -> int:
    """Frames that were dropped here, by any reason."""
    return sum(n for reason, n in guest.drops.items() if reason not in NOT_DROPS)


@some.examples(compiled=200, interpreted=60)
@given(some.seeds, st.sampled_from(list(FabricKind)), st.booleans())
def test_hostile_sender(seed: int, kind: FabricKind, event_idx: bool) -> None:
    """Its memory is not changed by what it sends, and each frame taken is accounted for."""
    noise = random.Random(seed)
    with Network(kind) as network:
        hostile = network.guest(
            FULL | (EVENT_IDX if event_idx else 0), size=SIZE, data_len=DATA_LEN
        )
        victim = network.guest(FULL, size=256, data_len=1 << 19)
        for _ in range(3):
            for _ in range(100):
                if victim.rx.room:
                    victim.post(2000)
            hostile.memory.write(DATA_GPA, noise.randbytes(DATA_LEN // 2))
            spoil(noise, hostile, hostile.tx, 0)
            before = hostile.tx.used_idx
            done = network.run(hostile)
            assert 0 <= done <= min(BURST_MAX, SIZE)
            assert done == (hostile.tx.used_idx - before) & 0xFFFF
            victim.received()
            victim.next_gpa = DATA_GPA
        taken = hostile.ledger.get("tx_frames", 0)
        delivered = victim.ledger.get("rx_frames", 0)
        assert taken == delivered + counted(hostile) + counted(victim)


@some.examples(compiled=200, interpreted=60)
@given(some.seeds, st.booleans(), st.booleans())
def test_hostile_receiver(seed: int, merge: bool, event_idx: bool) -> None:
    """It is given frames over rings of noise; the pair beside it does not notice."""
    noise = random.Random(seed)
    features = FULL | (EVENT_IDX if event_idx else 0)
    with Network() as network:
        hostile = network.guest(
            features if merge else features & ~MRG_RXBUF, size=SIZE, data_len=DATA_LEN
        )
        hostile.hostile = True
        source, sink = network.guest(size=SIZE), network.guest(size=SIZE)
        frame = Layers(dst=b"\xff" * 6).udp(noise.randbytes(noise.randrange(3000)))
        for _ in range(4):
            spoil(noise, hostile, hostile.rx, WRITE)
            sink.post(4000)
            source.send(frame.partial, frame.header)
            assert 1 == network.run(source)
            source.tx.take_used()
            assert [frame.partial] == [received.frame for received in sink.received()]
            sink.next_gpa = source.next_gpa = DATA_GPA
        assert 4 == hostile.ledger.get("rx_frames", 0) + counted(hostile)


@some.examples(compiled=100, interpreted=40)
@given(some.seeds)
def test_hostile_both_ways(seed: int) -> None:
    """A guest that sends noise to its own address and everybody's, over rings of noise, between
    the bursts of a good pair."""
    noise = random.Random(seed)
    with Network() as network:
        hostile = network.guest(size=SIZE, data_len=DATA_LEN)
        hostile.hostile = True
        pair = [network.guest(size=256, data_len=1 << 19) for _ in range(2)]
        frames = [Layers(src=MACS[i], dst=MACS[1 - i]).tcp(noise.randbytes(700)) for i in range(2)]
        for turn in range(6):
            hostile.memory.write(DATA_GPA, noise.randbytes(DATA_LEN // 2))
            spoil(noise, hostile, hostile.rx, WRITE)
            spoil(noise, hostile, hostile.tx, 0)
            for guest in pair:
                for _ in range(SIZE + 1):
                    guest.post(1500)
            assert network.run(hostile) <= SIZE
            for guest in pair:
                guest.received()  # what the hostile guest sent them
            source, sink = pair[turn % 2], pair[1 - turn % 2]
            frame = frames[turn % 2]
            source.send(frame.partial, frame.header)
            assert 1 == network.run(source)
            source.tx.take_used()
            assert [frame.partial] == [received.frame for received in sink.received()]
