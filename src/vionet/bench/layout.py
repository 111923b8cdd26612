"""The records of the load generator: one driver with two ports, A (0) and B (1).

Invariants: written by the kernels while `driver.run` runs, by Python between two runs.  Indices
are free-running and not masked; they are masked where they enter a ring.
"""

from typing import Annotated, Final

from vionet.jit.record import Ints, Record, Records, record_type

BURST: Final = 64  # the most frames that one turn takes or offers per ring
RX: Final = 0
TX: Final = 1
SEQ_OFF: Final = 42  # of the sequence number in the frame: after Ethernet, IPv4, UDP
# Rates that are not frames per second:
SATURATE: Final = -1  # closed loop: no more under way than the receive ring can hold
FLOOD: Final = -2  # as fast as the transmit ring takes them, whatever becomes of them


class Ring(Record):
    """One split ring, seen by its driver.  Chain `head` owns the buffer at index `head`."""

    desc_hva: int
    avail_hva: int
    used_hva: int
    entries: int
    count: int  # chains that exist
    avail_idx: int  # the next to be made available
    used_idx: int  # the next to be taken back
    buf_hva: int
    stride: int  # from buffer to buffer
    kick_fd: int
    kicked_idx: int  # avail_idx when the device was last asked whether it wants a kick


class End(Record):
    """One port of the load: a receive ring, a transmit ring, and what was counted."""

    header_len: int
    mergeable: int
    event_idx: int
    rate: int  # frames per second to offer, 0: none, or SATURATE, FLOOD
    frame_len: int  # of the frames that the other end sends
    offered: int  # frames that were due, sent or refused
    refused: int  # due while the ring was full for longer than it holds
    sent: int
    received: int
    octets: int
    partial: int  # received with NEEDS_CSUM
    expected_seq: int
    lost: int  # holes in the sequence
    wrong: int  # another length, a broken sequence number, or an old one
    pieces: int  # receive buffers that the frame in hand still spans
    pieces_len: int
    kicks: int
    rings: Annotated[Records[Ring], 2]


class Load(Record):
    """The whole generator."""

    interval_ns: int  # the least time from turn to turn
    clock_hva: int
    one_hva: int
    elapsed_ns: int
    busy_ns: int  # spent in turns that moved something
    gap_ns: int  # the longest time between two looks at the clock: others had the core
    clock: Annotated[Ints, 2]
    one: Annotated[Ints, 1]
    ends: Annotated[Records[End], 2]


LOAD = record_type(Load)
END = record_type(End)
RING = record_type(Ring)
