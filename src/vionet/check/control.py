"""The control queue from the driver's side: commands, and how they are asked (spec 1.9)."""

import struct
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from vionet.check.driver import Broken, Port
from vionet.check.ring import Piece, split_at

OK: Final = 0
ERR: Final = 1
UNTOUCHED: Final = 0x77


class Command(NamedTuple):
    """Class, command, data."""

    kind: int
    number: int
    data: bytes = b""

    def pack(self) -> bytes:
        """The readable part of the request."""
        return bytes((self.kind, self.number)) + self.data


def rx(mode: int, on: int = 1) -> Command:
    """A receive mode: PROMISC 0, ALLMULTI 1, ALLUNI 2, NOMULTI 3, NOUNI 4, NOBCAST 5."""
    return Command(0, mode, bytes((on,)))


PROMISC, ALLMULTI, ALLUNI, NOMULTI, NOUNI, NOBCAST = range(6)


def mac_table(unicast: Sequence[bytes] = (), multicast: Sequence[bytes] = ()) -> Command:
    """MAC_TABLE_SET."""
    lists = (struct.pack("<I", len(macs)) + b"".join(macs) for macs in (unicast, multicast))
    return Command(1, 0, b"".join(lists))


def mac_addr(mac: bytes) -> Command:
    """MAC_ADDR_SET."""
    return Command(1, 1, mac)


def vlan(vid: int, *, add: bool = True) -> Command:
    """VLAN_ADD, VLAN_DEL."""
    return Command(2, 0 if add else 1, struct.pack("<H", vid))


ANNOUNCE_ACK: Final = Command(3, 0)


def vq_pairs(count: int) -> Command:
    """VQ_PAIRS_SET."""
    return Command(4, 0, struct.pack("<H", count))


def offloads(word: int) -> Command:
    """GUEST_OFFLOADS_SET."""
    return Command(5, 0, struct.pack("<Q", word))


class Answer(NamedTuple):
    """What came back: the byte of the acknowledgement, and the used length."""

    ack: int
    length: int


def ask(
    port: Port,
    command: Command | bytes,
    shape: Sequence[int] = (2,),
    *,
    direct: int | None = None,
    room: int = 1,
) -> Answer:
    """Put a command into the last ring and wait for its end; `Broken` if there is none.

    `shape` are the lengths of its descriptors, what is missing comes last; the acknowledgement has
    a descriptor of `room` bytes of its own.
    """
    index, ring = len(port.rings) - 1, port.rings[-1]
    data = command if isinstance(command, bytes) else command.pack()
    lengths = [*shape]
    while sum(lengths) > len(data):
        lengths.pop()
    if rest := len(data) - sum(lengths):
        lengths.append(rest)
    gpa, ack = port.place(data or b"\0"), port.place(bytes((UNTOUCHED,)) * 8)
    pieces = split_at(gpa, lengths)
    if room:
        pieces.append(Piece(ack, room, True))
    head = ring.chain(pieces, direct=direct)
    ring.expose(head)
    ring.publish()
    port.kick(index)
    deadline = time.monotonic() + port.patience
    if not port.wait(lambda: bool(ring.fresh), index, deadline):
        raise Broken(f"command {data[:8].hex(' ')} was not answered within {port.patience:g} s")
    used = ring.take_one()
    if used.head != head:
        raise Broken(f"chain {used.head} came back for {head}")
    return Answer(port.memory.read(ack, 1)[0], used.length)


def obeyed(port: Port, *commands: Command) -> None:
    """Ask each command; `Broken` unless each is acknowledged with OK."""
    for command in commands:
        if (answer := ask(port, command)).ack != OK:
            raise Broken(f"command {command.pack()[:8].hex(' ')} was answered with {answer.ack}")
