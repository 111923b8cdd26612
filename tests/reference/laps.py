"""Guests with packed rings, and one frame that passes between two of them as it should."""

from tests.reference.frame import Layers
from tests.reference.guest import DATA_GPA, Guest
from tests.reference.network import Network
from tests.reference.packed import PackedRing
from tests.reference.plug import FULL, MRG_RXBUF, RING_PACKED

PACKED = FULL | RING_PACKED
FRAME = Layers().udp(bytes(range(200)))
LEN = 12 + len(FRAME.data)


def rings(guest: Guest) -> tuple[PackedRing, PackedRing]:
    """Both rings of a guest, which are packed, and vionet knows it."""
    assert (1, 1) == tuple(guest.record.queues[i].packed for i in (0, 1))
    assert isinstance(guest.rx, PackedRing) and isinstance(guest.tx, PackedRing)
    return guest.rx, guest.tx


def rewind(*guests: Guest) -> None:
    """Use the guests' memory for buffers again."""
    for guest in guests:
        guest.next_gpa = DATA_GPA


def pass_one(network: Network, source: Guest, sink: Guest) -> None:
    """One frame passes as it should; the sink has posted no buffers that it would take."""
    rewind(source, sink)
    for _ in range(-(-LEN // 60)):
        sink.post(60 if sink.features & MRG_RXBUF else LEN)
    source.send(FRAME.partial, FRAME.header)
    assert 1 == network.run(source)
    assert [FRAME.partial] == [received.frame for received in sink.received()]
    assert 1 == len(source.tx.take_used())
