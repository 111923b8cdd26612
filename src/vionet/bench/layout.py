"""The records of the load generator: one driver with two ports, A (0) and B (1).

Invariants: written by the kernels while `driver.run` runs, by Python between two runs.  Indices
are free-running and not masked; they are masked where they enter a ring.
"""

from typing import Annotated, Final

from vionet.jit.record import Ints, Record, Records, record_type

BURST: Final = 64  # the most frames that one turn takes or offers per ring
RX: Final = 0
TX: Final = 1
SAMPLE: Final = 1024  # one frame in so many is compared as a whole, a power of two
# Rates that are not frames per second:
SATURATE: Final = -1  # closed loop: no more under way than the receive ring can hold
FLOOD: Final = -2  # as fast as the transmit ring takes them, whatever becomes of them


class Ring(Record):
    """One ring, seen by its driver.  Descriptor `head` owns the buffer at index `head`.

    Of a packed ring `avail_hva` and `used_hva` are the driver's and the device's event structure,
    and the two indices count chains; as those have `parts` slots each and their number is a power
    of two, an index says slot and lap.
    """

    desc_hva: int
    avail_hva: int
    used_hva: int
    entries: int
    count: int  # chains that exist
    parts: int  # descriptors in the ring that one chain takes
    shift: int  # packed: log2 of `count`
    words_hva: int  # packed: the second half of each descriptor, without the lap
    avail_idx: int  # the next to be made available
    used_idx: int  # the next to be taken back
    buf_hva: int
    stride: int  # from buffer to buffer
    seq_off: int  # of the sequence number in a chain's buffer
    kick_fd: int
    kicked_idx: int  # avail_idx when the device was last asked whether it wants a kick


class End(Record):
    """One port of the load: a receive ring, a transmit ring, and what was counted."""

    header_len: int
    mergeable: int
    event_idx: int
    packed: int
    rate: int  # frames per second to offer, 0: none, or SATURATE, FLOOD
    frame_len: int  # of the frames that the other end sends
    window: int  # how many of them the receive ring holds
    large: int  # gso_type and gso_size of their header, in place (`driver.LARGE`)
    pattern_hva: int  # such a frame, and which bits of it are the same in all
    same_hva: int
    sample: int  # a frame is compared as a whole if its number has none of these bits
    offered: int  # frames that were due, sent or refused
    refused: int  # due while the ring was full for longer than it holds
    sent: int
    received: int
    octets: int
    partial: int  # received with NEEDS_CSUM
    expected_seq: int
    lost: int  # holes in the sequence
    wrong: int  # another length or kind, other bytes, a broken sequence number, or an old one
    pieces: int  # receive buffers that the frame in hand still spans
    pieces_len: int  # bytes of it so far
    comparing: int  # it is compared
    compared: int  # frames that were
    kicks: int
    rings: Annotated[Records[Ring], 2]


class Load(Record):
    """The whole generator."""

    interval_ns: int  # the least time from turn to turn
    clock_hva: int
    one_hva: int
    elapsed_ns: int
    busy_ns: int  # spent in turns that moved something
    clock: Annotated[Ints, 2]
    one: Annotated[Ints, 1]
    ends: Annotated[Records[End], 2]


LOAD = record_type(Load)
END = record_type(End)
RING = record_type(Ring)
