"""The control queue's ring: take a driver's command, give the answer back (spec CV-01 to CV-03).

How it works: the control plane calls these while it holds the worker.  `take_command` copies the
readable part of one chain, however it is cut up, and notes where the first writable byte is;
`give_back` puts the acknowledgement there.  The interrupt is left to the worker (`call_drivers`),
because a front-end can make the write of its call descriptor block, and the worker can be freed
from that (`fabric.worker`).

Invariants: a command is copied once, and the copy is judged; a chain costs at most `CHAIN_MAX`
descriptors and `COMMAND_MAX` bytes.  A chain that is no command is given back with length 0.

Trust: ring, descriptors and bytes are the driver's; `guest.translate` bounds every address.
"""

from typing import Annotated

from vionet.engine.guest import contiguous, translate
from vionet.engine.layout import (
    CHAIN_MAX,
    PORT,
    QUEUE,
    QUEUES_PER_PORT,
    STATE,
    WORK,
    Port,
    Queue,
    State,
    Work,
)
from vionet.engine.packed import measure, use_packed, waits
from vionet.engine.ring import publish
from vionet.engine.split import available, head_at, push_used
from vionet.engine.status import CALLS
from vionet.engine.tell import signal
from vionet.jit.kernel import INT, kernel
from vionet.jit.raw import copy, load_acquire_i64, load_i64
from vionet.jit.record import Bytes, Record, address_of, allocate, record_type
from vionet.spec.virtio import (
    VRING_DESC_F_INDIRECT,
    VRING_DESC_F_NEXT,
    VRING_DESC_F_WRITE,
    VRING_SIZE_MAX,
)

COMMAND_MAX = 2048  # bytes of a command that are looked at: a table of 338 addresses
U16 = 0xFFFF
U32 = 0xFFFFFFFF
NO_COMMAND = 0
TAKEN = 1
BROKEN = -1


class Command(Record):
    """One command, copied out of the guest."""

    head: int  # what goes back: a descriptor's index; packed: the buffer's id
    span: int  # packed: slots of the ring that the chain takes
    length: int  # bytes of the command, of which at most COMMAND_MAX are copied
    ack_hva: int  # where its acknowledgement goes; 0: it is no command
    bytes_hva: int  # of `copied`
    copied: Annotated[Bytes, COMMAND_MAX + 8]  # and the acknowledgement


COMMAND = record_type(Command)


def new_command() -> Command:
    """Room for one command."""
    command = allocate(Command)
    command.bytes_hva = address_of(command.copied)
    return command


@kernel(INT, PORT, COMMAND, INT, INT)
def copy_out(port: Port, command: Command, gpa: int, length: int) -> int:
    """Append a readable buffer to the command.  *returns* 1, or 0 where it is not all mapped."""
    while length > 0:
        piece = min(contiguous(port, gpa), length)
        hva = translate(port, gpa, piece) if piece else 0
        if hva == 0:
            return 0
        room = min(piece, COMMAND_MAX - command.length)
        if room > 0:
            copy(command.bytes_hva + command.length, hva, room)
        command.length += piece
        gpa += piece
        length -= piece
    return 1


@kernel(INT, PORT, COMMAND, INT, INT, INT)
def add_buffer(port: Port, command: Command, gpa: int, length: int, writable: int) -> int:
    """One buffer of the chain.  *returns* 1, or 0 where the chain is no command."""
    if not writable:
        return copy_out(port, command, gpa, length) if command.ack_hva == 0 else 0
    if command.ack_hva == 0 and length > 0:
        command.ack_hva = translate(port, gpa, 1)
        return 1 if command.ack_hva else 0
    return 1


@kernel(INT, PORT, COMMAND, INT, INT)
def read_table(port: Port, command: Command, gpa: int, length: int) -> int:
    """The buffers of a packed ring's indirect table, which lie in sequence (spec PK-13)."""
    if length == 0 or length & 15 or length > 16 * CHAIN_MAX or not port.indirect:
        return 0
    table = translate(port, gpa, length)
    if table == 0:
        return 0
    for i in range(length >> 4):
        word = load_i64(table + 16 * i + 8)
        writable = word >> 48 & VRING_DESC_F_WRITE
        if not add_buffer(port, command, load_i64(table + 16 * i), word & U32, writable):
            return 0
    return 1


@kernel(INT, PORT, QUEUE, COMMAND)
def read_packed(port: Port, queue: Queue, command: Command) -> int:
    """Read the chain of `command.span` descriptors at the next slot; *returns* 1 if all is well."""
    slot = queue.avail_idx
    for _ in range(command.span):
        gpa = load_i64(queue.desc_hva + 16 * slot)
        word = load_i64(queue.desc_hva + 16 * slot + 8)
        flags = word >> 48
        if flags & VRING_DESC_F_INDIRECT:
            alone = 1 if command.span == 1 else 0  # spec PK-14
            return read_table(port, command, gpa, word & U32) if alone else 0
        if not add_buffer(port, command, gpa, word & U32, flags & VRING_DESC_F_WRITE):
            return 0
        slot = slot + 1 if slot + 1 < queue.entries else 0
    return 1


@kernel(INT, PORT, QUEUE, COMMAND)
def read_split(port: Port, queue: Queue, command: Command) -> int:
    """Read the chain that starts at `command.head`; *returns* 1 where it is whole."""
    table = queue.desc_hva
    size = queue.entries
    inside = 0
    i = command.head
    for _ in range(CHAIN_MAX + 1):
        gpa = load_i64(table + 16 * i)
        word = load_i64(table + 16 * i + 8)
        length = word & U32
        flags = word >> 32 & U16
        if flags & VRING_DESC_F_INDIRECT:
            if inside or not port.indirect or flags & VRING_DESC_F_NEXT:
                return 0
            if length == 0 or length & 15 or length > 16 * VRING_SIZE_MAX:
                return 0
            table = translate(port, gpa, length)
            if table == 0:
                return 0
            size = length >> 4
            i = 0
            inside = 1
            continue
        if not add_buffer(port, command, gpa, length, flags & VRING_DESC_F_WRITE):
            return 0
        if not flags & VRING_DESC_F_NEXT:
            return 1
        i = word >> 48 & U16
        if i >= size:
            return 0
    return 0


@kernel(INT, QUEUE, COMMAND)
def find_split(queue: Queue, command: Command) -> int:
    """Where the next chain of a split ring begins; *returns* as `take_command`."""
    count = available(queue)
    if count <= 0:
        return BROKEN if count < 0 else NO_COMMAND
    command.head = head_at(queue, queue.avail_idx)
    queue.avail_idx = (queue.avail_idx + 1) & U16
    return TAKEN if command.head < queue.entries else BROKEN


@kernel(INT, QUEUE, COMMAND)
def find_packed(queue: Queue, command: Command) -> int:
    """How long the next chain of a packed ring is, and its id; *returns* as `take_command`."""
    slot = queue.avail_idx
    lap = queue.avail_wrap
    queue.avail_seen = slot | lap << 15
    if not waits(load_acquire_i64(queue.desc_hva + 16 * slot + 8), lap):
        return NO_COMMAND
    chain = measure(queue, slot, lap, queue.entries)
    if chain < 0:
        return BROKEN
    command.head = chain >> 16
    command.span = chain & U16
    return TAKEN


@kernel(INT, PORT, QUEUE, COMMAND)
def take_command(port: Port, queue: Queue, command: Command) -> int:
    """Take the next chain.  *returns* TAKEN, NO_COMMAND where none waits, or BROKEN.

    `command.ack_hva` is 0 where the chain is no command: `give_back` it all the same.
    """
    found = find_packed(queue, command) if queue.packed else find_split(queue, command)
    if found != TAKEN:
        return found
    command.length = 0
    command.ack_hva = 0
    packed = queue.packed
    whole = read_packed(port, queue, command) if packed else read_split(port, queue, command)
    if not whole:
        command.ack_hva = 0
    return TAKEN


@kernel(INT, PORT, QUEUE, COMMAND, INT)
def give_back(port: Port, queue: Queue, command: Command, ack: int) -> int:
    """Acknowledge the command taken last and use its chain.

    *returns* 1 where the driver wants to be told: the worker does that (`call_drivers`).
    """
    written = 0
    if command.ack_hva:
        command.copied[COMMAND_MAX] = ack
        copy(command.ack_hva, command.bytes_hva + COMMAND_MAX, 1)
        written = 1
    if queue.packed:
        use_packed(queue, command.head, command.span, written)
    else:
        push_used(queue, command.head, written)
    wanted = publish(port, queue)
    queue.owed |= wanted
    return wanted


@kernel(INT, STATE, WORK)
def call_drivers(state: State, work: Work) -> int:
    """Give the interrupts that came to be owed while the worker was held.

    For a command's answer, and to a driver that may have missed one of a process before this.
    """
    for index in range(state.n_ports):
        port = state.ports[index]
        for ring in range(QUEUES_PER_PORT if port.worker == work.number else 0):
            queue = port.queues[ring]
            if queue.owed and queue.ready and queue.call_fd >= 0:
                queue.owed = 0
                signal(work, index, queue.call_fd)
                work.ledger[index, CALLS] += 1
    return 0
