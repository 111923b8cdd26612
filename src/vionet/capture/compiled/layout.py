"""What the reader of a capture ring works on: one block of memory, one writer, its process.

A reader has a `State` and a `Work` of its own beside it, in which three ports stand for whoever was
at both ends (`PORT_*`), so that the engine's kernels can be run again on what a record holds.
"""

from typing import Annotated, Final

from vionet.engine.layout import Seen
from vionet.jit.record import Ints, Record, Records, dtype_of, record_type

PORT_IN, PORT_GUEST, PORT_STREAM = range(3)  # of the reader's State
INTERFACES_MAX: Final = 1024  # of one file
NOTES_MAX: Final = 1024  # kinds of packets whose options are kept, a power of two
NOTE_LEN: Final = 2048  # bytes of a packet's options, the end of options included
KEY_LEN: Final = 12
SEEN_LEN: Final = dtype_of(Seen).itemsize
PACKET_MAX: Final = 65536 + 4096  # bytes of one frame with a tag more
SLACK_LEN: Final = PACKET_MAX + 2 * NOTE_LEN  # behind `room`, where a frame is put together
BLOCK_LEN: Final = 32  # bytes of a block without packet and options

# What a turn of the reader ended with.
NONE, FULL, UNKNOWN_KIND, BROKEN, ENOUGH = range(1, 6)  # 0: OK
# How the bytes in the file came about, beyond what the record says.
AS_RECORDED, FINISHED, CUT, SEGMENTED = range(4)


class Reading(Record):
    """One reader."""

    page_hva: int  # the page in front of the ring
    ring_hva: int  # its records
    ring_len: int
    tail: int  # bytes read; what the page says of it is for the engine
    out_hva: int  # where blocks are written
    out_len: int  # how many bytes of them
    room: int  # that there may be
    left: int  # packets that there may be
    snap_len: int
    delivered: int  # 1: as the receiver got it, else finished
    segment: int  # 1: large frames in segments
    n_packets: int  # that the record in hand makes
    shown: int  # AS_RECORDED …
    seen_hva: int  # of `seen`
    notes_hva: int  # the options of each kind of packet, NOTE_LEN bytes apart
    slot: int  # of the note in hand; of an unknown kind where it would be
    seen: Annotated[Records[Seen], 1]
    key: Annotated[Ints, KEY_LEN]  # the kind of packet in hand
    keys: Annotated[Ints, NOTES_MAX, KEY_LEN]  # the kinds that are known
    note_len: Annotated[Ints, NOTES_MAX]  # 0: the slot is free
    note_interface: Annotated[Ints, NOTES_MAX]
    packets: Annotated[Ints, INTERFACES_MAX]  # written, by interface


READING = record_type(Reading)
