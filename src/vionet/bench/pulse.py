"""A driver that sends one frame at a time and sleeps until it is told of another.

How it works: a `Pulse` is what compiled code needs of a port of `check.driver`: the rings' places,
one frame ready to be sent, and the two eventfds.  Sending makes the frame available and kicks if
the device wants that; taking gives each receive buffer back and asks to be told of the next one,
as Linux does with the event index (spec SP-29, SP-30).

Trust: as in `driver`, the back-end is measured and not fought: its ids are masked.
"""

from typing import Annotated, Final

from vionet.check.driver import RX, TX, Port
from vionet.check.ring import Piece
from vionet.jit import libc, raw
from vionet.jit.kernel import INT, kernel
from vionet.jit.record import Ints, Record, address_of, allocate, record_type
from vionet.spec import virtio_net as net

POLLIN: Final = 1

poll = libc._int_function("poll", 3)
usleep = libc._int_function("usleep", 1)


class Pulse(Record):
    """One end: a transmit ring with one chain, and a receive ring."""

    tx_avail_hva: int
    tx_used_hva: int
    tx_idx: int  # of the available ring, free-running
    tx_head: int
    rx_avail_hva: int
    rx_used_hva: int
    rx_idx: int
    rx_seen: int  # of the used ring
    entries: int
    kick_fd: int
    call_fd: int
    used_len: int  # of a frame as the other end sends it, header included
    received: int
    wrong: int  # of another length
    kicks: int
    one_hva: int
    room_hva: int  # where a counter may be read to, and a pollfd stands
    clock_hva: int
    one: Annotated[Ints, 1]
    room: Annotated[Ints, 2]
    clock: Annotated[Ints, 2]


PULSE = record_type(Pulse)


def pulse(port: Port, frame: bytes) -> Pulse:
    """The end at `port`, whose rings are set up; it sends `frame` and expects as much."""
    end = allocate(Pulse)
    rx, tx = port.rings[RX], port.rings[TX]
    data = net.NetHeader().pack(port.hdr_len) + frame
    end.tx_head = tx.chain([Piece(port.place(data), len(data))])
    end.used_len = len(data)
    hva = port.memory.hva
    end.tx_avail_hva, end.tx_used_hva = hva(tx.avail_gpa), hva(tx.used_gpa)
    end.rx_avail_hva, end.rx_used_hva = hva(rx.avail_gpa), hva(rx.used_gpa)
    end.tx_idx, end.rx_idx, end.entries = tx.next_idx, rx.next_idx, rx.size
    end.rx_seen = rx.used_idx
    end.kick_fd, end.call_fd = port.events[TX].kick, port.events[RX].call
    end.one_hva, end.room_hva, end.clock_hva = map(address_of, (end.one, end.room, end.clock))
    end.one[0] = 1
    return end


@kernel(INT, PULSE)
def send(end: Pulse) -> int:
    """Make the frame available once more.  *returns* 1 where the device was kicked."""
    mask = end.entries - 1
    raw.store_u16(end.tx_avail_hva + 4 + 2 * (end.tx_idx & mask), end.tx_head)
    end.tx_idx += 1
    raw.store_release_u16(end.tx_avail_hva + 2, end.tx_idx)
    raw.fence()
    event = raw.load_u16(end.tx_used_hva + 4 + 8 * end.entries)
    if (end.tx_idx - event - 1) & 0xFFFF:
        return 0
    end.kicks += 1
    libc.write(end.kick_fd, end.one_hva, 8)
    return 1


@kernel(INT, PULSE)
def take(end: Pulse) -> int:
    """Take what has arrived, and be told of the next.  *returns* the number of frames."""
    mask = end.entries - 1
    count = (raw.load_acquire_u16(end.rx_used_hva + 2) - end.rx_seen) & 0xFFFF
    for _ in range(count):
        entry = raw.load_i64(end.rx_used_hva + 4 + 8 * (end.rx_seen & mask))
        end.wrong += (entry >> 32) & 0xFFFFFFFF != end.used_len
        raw.store_u16(end.rx_avail_hva + 4 + 2 * (end.rx_idx & mask), entry & mask)
        end.rx_seen += 1
        end.rx_idx += 1
    if count:
        raw.store_u16(end.rx_avail_hva + 4 + 2 * end.entries, end.rx_seen)
        raw.store_release_u16(end.rx_avail_hva + 2, end.rx_idx)
        raw.fence()
    end.received += count
    return count


@kernel(INT, PULSE, INT, INT)
def hear(end: Pulse, fd: int, patience_ms: int) -> int:
    """Sleep until an eventfd is written, and reset it.  *returns* 1, or 0 if it was not."""
    end.room[0] = fd | POLLIN << 32
    if poll(end.room_hva, 1, patience_ms) <= 0:
        return 0
    libc.read(fd, end.room_hva, 8)
    return 1
