"""A guest and a front-end doing their worst, session after session: run by test_hostile.py.

How it works: `hostile_guest.py SOCKET SEED [MAC ...]` connects, behaves well until the rings run,
and then does one of the things in `MISDEEDS`, over and over until it is killed; the next session
does the next.  It prints one line per round.  It runs in a process of its own because it truncates
memory that it has mapped.  MAC are addresses of others, which it claims for its own.
"""

import contextlib
import os
import random
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Final

from vionet.check.ring import Ring
from vionet.spec import vhost_user as vu
from vionet.spec import virtio, virtio_net
from vionet.vhost_user.frontend import Closed, Frontend, Refused
from vionet.vhost_user.guest_memory import GuestMemory
from vionet.vhost_user.message import ProtocolError

OFFER: Final = virtio.mask(
    [
        virtio_net.VIRTIO_NET_F_CSUM,
        virtio_net.VIRTIO_NET_F_GUEST_CSUM,
        virtio_net.VIRTIO_NET_F_MRG_RXBUF,
        virtio.VIRTIO_F_INDIRECT_DESC,
        virtio.VIRTIO_F_EVENT_IDX,
        virtio.VIRTIO_F_VERSION_1,
        virtio.VHOST_USER_F_PROTOCOL_FEATURES,
    ]
)
SIZES: Final = (1, 2, 4, 64, 256, 1024)
MEMORY: Final = 4 << 20
NONSENSE: Final = (0, 1, 0x3FFF_FFFF, 0x4000_0000 + MEMORY - 1, 2**63, 2**64 - 1, 2**64 - 16)


class Session:
    """One connection with running rings, all of it ours to spoil."""

    cuts = 0  # how often memory was cut short, over all of them

    def __init__(self, path: str, dice: random.Random, others: list[bytes]) -> None:
        self.dice, self.others = dice, others
        self.front = Frontend.connect(path, 60)
        self.memory = GuestMemory((MEMORY, MEMORY), gap=dice.choice((0, 4096, 1 << 28)))
        self.events = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(4)]
        size = dice.choice(SIZES)
        self.rings = [Ring(self.memory, size) for _ in range(2)]
        self.rx, self.tx = self.rings
        self.data = self.memory.allocate(1 << 20)
        features = OFFER & ~virtio.mask(bit for bit in range(30) if dice.random() < 0.3)
        self.features, _ = self.front.negotiate(features, 1 << vu.VHOST_USER_PROTOCOL_F_REPLY_ACK)
        self.front.set_mem_table(self.memory)
        for index, ring in enumerate(self.rings):
            self.front.set_vring_num(index, size)
            self.front.set_vring_base(index, 0)
            uva = self.memory.uva
            self.front.set_vring_addr(
                index, uva(ring.desc_gpa), uva(ring.avail_gpa), uva(ring.used_gpa)
            )
            self.front.set_vring_call(index, self.events[2 * index])
            self.front.set_vring_kick(index, self.events[2 * index + 1])
            with contextlib.suppress(Refused):
                self.front.set_vring_enable(index)

    def close(self) -> None:
        """Hang up."""
        self.front.close()
        for event in self.events:
            os.close(event)
        self.rings.clear()
        self.memory.close()

    def kick(self, index: int) -> None:
        """Notify, as often as it likes."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self.events[2 * index + 1], 1)

    def show(self, ring: Ring, head: int) -> None:
        """Make `head` available whatever it is, if the ring has room.

        What overruns the ring breaks it for the session, before a slow device has seen the rest;
        `jump_indices` does that.
        """
        if (ring.avail_idx - ring.used_idx) & 0xFFFF < ring.size:
            ring.expose(head)
            ring.publish()

    def frame(self) -> bytes:
        """A header full of lies before a frame that is nearly right."""
        dice = self.dice
        numbers = [
            dice.choice((0, 14, 34, 54, 1460, 65535, dice.randrange(65536))) for _ in range(4)
        ]
        flags = dice.choice((0, 0, 1, 2, 4, 255))
        gso_type = dice.choice((0, 0, 0, 1, 3, 4, 5, 0x81, 255))
        lies = struct.pack("<BB5H", flags, gso_type, *numbers, dice.randrange(4))
        header = lies[: virtio_net.header_len(self.features)]
        source = dice.choice((dice.randbytes(6), b"\2" + dice.randbytes(5), *self.others))
        target = dice.choice((b"\xff" * 6, dice.randbytes(6), *self.others))
        kind = dice.choice((b"\x08\0", b"\x86\xdd", b"\x81\0", b"\x88\xa8", dice.randbytes(2)))
        body = bytes([0x45, 0]) + struct.pack("!H", dice.randrange(1600)) + dice.randbytes(5)
        body += bytes([dice.choice((6, 17, 132, 1, dice.randrange(256)))])
        return header + target + source + kind + body + dice.randbytes(dice.randrange(1600))


def lie_in_headers(session: Session) -> None:
    """Well-formed chains with headers and frames that are not."""
    data = session.frame()
    cut = session.dice.randrange(len(data))
    session.memory.write(session.data, data)
    if session.tx.size > 1:
        session.tx.write_desc(0, session.data, cut, virtio.VRING_DESC_F_NEXT, 1)
        session.tx.write_desc(1, session.data + cut, len(data) - cut)
    else:
        session.tx.write_desc(0, session.data, len(data))
    session.show(session.tx, 0)
    session.kick(1)
    with contextlib.suppress(BlockingIOError):
        os.eventfd_read(session.events[2])


def rewrite_under_way(session: Session) -> None:
    """Change the frame while the device reads it."""
    lie_in_headers(session)
    for _ in range(20):
        session.memory.write(session.data, session.frame())


def tangle_chains(session: Session) -> None:
    """Loops, zero lengths, foreign addresses, flags that contradict each other; both rings."""
    dice = session.dice
    for ring in session.rings:
        for slot in range(min(ring.size, 8)):
            gpa = dice.choice((*NONSENSE, session.data, session.data + dice.randrange(1 << 20)))
            length = dice.choice((0, 1, 10, 12, 1514, 16 * 1024, 2**32 - 1))
            following = dice.choice((0, slot, slot + 1, ring.size, 65535))
            ring.write_desc(slot, gpa, length, dice.randrange(8), following)
        wrong = dice.random() < 0.002  # breaks the ring for the rest of the session
        session.show(ring, dice.choice((ring.size, 65535)) if wrong else dice.randrange(ring.size))
    session.kick(dice.randrange(2))


def jump_indices(session: Session) -> None:
    """An available index that runs ahead, or back."""
    ring = session.dice.choice(session.rings)
    ring.avail_idx = session.dice.randrange(65536)
    session.kick(session.rings.index(ring))


def storm_kicks(session: Session) -> None:
    """Notifications for nothing."""
    for _ in range(200):
        session.kick(session.dice.randrange(2))


def babble(session: Session) -> None:
    """Messages that exist and ones that do not, with contents and descriptors at random."""
    dice = session.dice
    fds = [session.events[0]] * dice.choice((0, 0, 1, 8))
    payload = dice.randbytes(dice.choice((0, 4, 8, 8, 40, 300)))
    if dice.random() < 0.5:
        payload = struct.pack("=Q", dice.randrange(4)) + payload
    session.front.send(dice.randrange(45), payload, fds, flags=dice.choice((1, 1, 9, 0, 5, 255)))
    with contextlib.suppress(TimeoutError):
        session.front.receive(0.002)


def stop_half_way(session: Session) -> None:
    """Half a message, with descriptors, and then nothing more."""
    session.front.send_bytes(vu.HEADER.pack(5, 1, 200) + b"half", [session.events[0]] * 8)
    raise Closed("on purpose")


def truncate(session: Session) -> None:
    """The memory file shrinks under frames that are on their way."""
    for slot in range(session.tx.size):
        session.tx.write_desc(slot, session.data, 1526)
        session.tx.expose(slot)
    session.tx.publish()
    session.kick(1)
    Session.cuts += 1
    size = 0 if Session.cuts % 3 else 4096  # a page may hold all that is looked at afterwards
    for region in session.memory.regions:
        os.ftruncate(region.fd, size)
    for _ in range(50):
        session.kick(session.dice.randrange(2))
    closed = session.front.closed(1 if size else 60)
    raise Closed("by the back-end" if closed else f"served with {size} left")


def never_listen(session: Session) -> None:
    """Ask and ask, and leave the answers where they are."""
    session.front.socket.settimeout(0.05)
    session.front.send_bytes(vu.HEADER.pack(vu.Request.GET_FEATURES, 1, 0) * 100)


def crowd(session: Session) -> None:
    """More connections than a port has use for, most of them silent."""
    path = session.front.socket.getpeername()
    crowd = []
    with contextlib.suppress(OSError):
        for _ in range(20):
            one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            crowd.append(one)
            one.settimeout(0.01)
            one.connect(path)
    for one in crowd:
        one.close()


MISDEEDS: Final[tuple[Callable[[Session], None], ...]] = (
    lie_in_headers,
    rewrite_under_way,
    tangle_chains,
    jump_indices,
    storm_kicks,
    babble,
    stop_half_way,
    truncate,
    never_listen,
    crowd,
)


def main(path: str, seed: str, *others: str) -> None:
    """Sessions of a fraction of a second until killed."""
    dice = random.Random(int(seed))
    addresses = [bytes.fromhex(other.replace(":", "")) for other in others]
    for number in range(1 << 30):
        misdeed = MISDEEDS[number % len(MISDEEDS)]
        session = Session(path, dice, addresses)
        end = time.monotonic() + 0.25
        outcome = "went on"
        try:
            while time.monotonic() < end:
                misdeed(session)
        except (Closed, Refused, ProtocolError, OSError) as error:
            outcome = f"{type(error).__name__}: {error}"
        finally:
            session.close()
        print(f"round {number} {misdeed.__name__}: {outcome}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
