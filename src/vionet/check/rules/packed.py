"""Area 2.5: packed rings, driven by the book and not by it."""

import time
from collections.abc import Callable
from typing import Final

from vionet.check.case import CSUM, INDIRECT, MRG, VERSION_1, Lab, check
from vionet.check.driver import QUIET, TX, Broken, Port
from vionet.check.packed import AVAIL, BASE, SLOT, USED
from vionet.check.verdict import during, expect, same
from vionet.spec import virtio
from vionet.spec import virtio_net as net

NEXT, WRITE, TABLE = 1, virtio.VRING_DESC_F_WRITE, virtio.VRING_DESC_F_INDIRECT
RING_PACKED: Final = 1 << virtio.VIRTIO_F_RING_PACKED
PACKED: Final = VERSION_1 | RING_PACKED
IN_ORDER: Final = 1 << virtio.VIRTIO_F_IN_ORDER


def both(lab: Lab, more: int = 0, *, size: int = 256, buffers: int = 64) -> tuple[Port, Port]:
    """Two packed ports that forward; the first has rings of `size`."""
    lab.need(RING_PACKED | more)
    a = lab.port(0, PACKED | more, size=size, rx_buffers=buffers)
    return lab.joined(a, lab.port(1, PACKED | more))


def each_way(lab: Lab, a: Port, b: Port, count: int, shape: tuple[int, ...] = ()) -> None:
    """`count` frames from `a` to `b` and back, one by one, `shape` being how `a` sends them."""
    for number in range(count):
        for x, y, layout in ((a, b, shape), (b, a, ())):
            token = lab.token()
            data = lab.flow(back=y is a).bare(token.ljust(50 + number, b"\x31"))
            with during(f"frame {number} {'back' if y is a else 'forth'}"):
                same(lab.carry(x, y, token, data, shape=layout), data)
                x.sent(lab.patience)
            y.fill(1)


@check("PK-01", does="packed rings of 2, 3, 100, 255 and 32768 slots", expects="frames pass")
def any_size(lab: Lab) -> str:
    """The size need not be a power of two."""
    sizes = (2, 3, 100, 255, 32768)
    for size in sizes:
        with during(f"size {size}"):
            a, b = both(lab, size=size, buffers=1)
            each_way(lab, a, b, 4)
    return f"sizes {sizes}"


@check("PK-02", "PK-03", does="go round rings of 5 and 7 slots many times", expects="flags follow")
def wraps(lab: Lab) -> str:
    """Wrap counters begin at 1 and flip after the last slot."""
    for size in (5, 7):
        a, b = both(lab, size=size, buffers=2)
        with during(f"size {size}"):
            each_way(lab, a, b, 3 * size, (12, 20))
        for ring in a.rings:
            slot, wrap = (ring.used_slot - 1) % size, ring.used_wrap ^ (ring.used_slot == 0)
            flags = SLOT.unpack(a.memory.read(ring.desc_gpa + 16 * slot, 16))[3]
            expect(ring.fresh or ring is a.rx or bool(flags), f"flags {flags:#x}, wrap {wrap}")
    return "three rounds and more each"


@check("PK-04", "PK-10", does="make 30 chains of 3 available at once", expects="sent in order")
def in_ring_order(lab: Lab) -> str:
    """Processing begins in the order of the ring."""
    a, b = both(lab)
    tokens = [lab.token() for _ in range(30)]
    for token in tokens:
        a.queue(lab.flow().bare(token.ljust(80, b"\0")), shape=(12, 14))
    a.publish()
    seen = [each.frame[14:26] for each in lab.arrivals(a, b, tokens[0][:6])]
    expect(seen == tokens, f"{len(seen)} frames, not in order")
    return "30 frames in order"


@check("PK-05", does="transmit 100 chains of 1 to 4 descriptors", expects="each comes back once")
def each_once(lab: Lab) -> str:
    """Used descriptors name what was completed."""
    a, _ = both(lab)
    a.sent(lab.patience)
    heads = []
    for number in range(100):
        heads.append(a.send(lab.flow().bare(bytes(46)), shape=(12, 1, 1, 1)[: 1 + number % 4]))
        if number % 20 == 19:
            seen = [used.head for used in a.sent(lab.patience)]
            expect(sorted(seen) == sorted(heads), f"{seen} came back for {heads}")
            heads.clear()
    return "100 chains, each once"


@check("PK-06", does="send partial frames, compare the sender's memory", expects="unchanged")
def readable_unwritten(lab: Lab) -> str:
    """Nothing is written to readable buffers."""
    a, b = both(lab, CSUM & lab.offer.features)
    header, data = lab.flow().tcp(lab.token() + bytes(600)).partial()
    if not a.features & CSUM:
        header = header._replace(flags=0)
    places = [a.loans[a.queue(data, header, shape)] for shape in ((12, 30), (12,), (1, 11, 54))]
    a.publish()
    a.wait(lambda: a.tx.fresh >= 3, TX, time.monotonic() + lab.patience)
    for piece in places:
        seen = a.memory.read(piece.gpa, piece.length)
        expect(seen == header.pack() + data, "a transmit buffer changed")
    b.frontend.synchronise()
    return "unchanged"


@check("PK-07", does="kick with descriptors that are not available", expects="nothing is used")
def stale(lab: Lab) -> str:
    """A descriptor is used only after AVAIL has flipped."""
    a, b = both(lab)
    a.sent(lab.patience)
    gpa = a.place(bytes(12) + lab.flow().bare(bytes(46)))
    slot, wrap = a.tx.ahead(0)
    wrong = (0, AVAIL | USED, USED if wrap else AVAIL)
    before = a.tx.outstanding
    for flags in wrong:
        a.tx.write_slot(slot, gpa, 72, 0, flags)
        a.kick(TX)
        lab.pause(QUIET / 2)
        seen = SLOT.unpack(a.memory.read(a.tx.desc_gpa + 16 * slot, 16))
        expect(seen == (gpa, 72, 0, flags), f"flags {flags:#x}: the descriptor changed to {seen}")
    expect(a.tx.outstanding == before, "tester out of order")
    lab.joined(a, b)
    return "nothing was used"


@check(
    "PK-08", does="reuse the slots of a ring of 2 at once, 300 times", expects="frames are whole"
)
def reused_at_once(lab: Lab) -> str:
    """A descriptor is left alone once USED has flipped."""
    a, b = both(lab, size=2, buffers=2)
    a.sent(lab.patience)
    for number in range(300):
        if number % 50 == 0:
            lab.refresh(1, 60)
        token = lab.token()
        data = lab.flow().bare(token.ljust(46 + number, b"\x41"))
        a.send(data, shape=(72 + number,))
        deadline = time.monotonic() + lab.patience
        while not b.rx.fresh:  # look without a pause, as a driver that polls
            if time.monotonic() > deadline:
                raise Broken("nothing arrived")
        same(b.collect(token, lab.patience), data)
        a.sent(lab.patience)
    return "300 frames"


@check("PK-09", does="chains whose id is in their last descriptor only", expects="that id is used")
def id_of_last(lab: Lab) -> str:
    """One used descriptor a chain, in its first slot, with the id of its last."""
    a, b = both(lab)
    a.sent(lab.patience)
    for shape in ((12, 20), (12,), (1, 11, 20, 9)):
        token = lab.token()
        first = a.tx.next_slot
        head = a.queue(lab.flow().bare(token.ljust(90, b"\0")), shape=shape)
        for slot in a.tx.slots(head)[:-1]:
            a.memory.write(a.tx.desc_gpa + 16 * slot + 12, b"\xee\xee")
        a.publish()
        b.collect(token, lab.patience)
        used = a.sent(lab.patience)[-1].head
        place = SLOT.unpack(a.memory.read(a.tx.desc_gpa + 16 * first, 16))
        expect(used == head == place[2], f"id {used} instead of {head}")
    each_way(lab, a, b, 2)
    return "ids and places right"


@check("PK-11", does="send a frame in 200 descriptors", expects="delivered or dropped, returned")
def long_list(lab: Lab) -> str:
    """A device may limit the length of lists."""
    a, b = both(lab)
    a.sent(lab.patience)
    token = lab.token()
    data = lab.flow().bare(token.ljust(500, b"\x12"))
    a.send(data, shape=(1,) * 199)
    a.sent(lab.patience)
    if (found := lab.arrival(a, b, token)) is not None:
        return "delivered, " + same(found, data)
    return "dropped, the list returned"


@check(
    "PK-12", does="look at used descriptors", expects="WRITE and a length when received, not sent"
)
def write_flag(lab: Lab) -> str:
    """WRITE is set where something was written."""
    a, b = both(lab)
    a.sent(lab.patience)
    for length in (46, 700, 1400):
        token = lab.token()
        data = lab.flow().bare(token.ljust(length, b"\0"))
        found = lab.carry(a, b, token, data)
        expect(bool(b.rx.last_flags & WRITE), f"received with flags {b.rx.last_flags:#x}")
        expect(found.buffers[0][1] == 12 + len(data), f"length {found.buffers[0][1]}")
        a.sent(lab.patience)
        expect(not a.tx.last_flags & WRITE, f"sent with flags {a.tx.last_flags:#x}")
    return "as it should be"


@check("PK-13", does="indirect tables full of flags and ids", expects="only WRITE means something")
def junk_in_table(lab: Lab) -> str:
    """Inside a table NEXT, AVAIL, USED and the id mean nothing; WRITE outside neither."""
    a, b = both(lab, INDIRECT)
    for junk, outer in ((0, 0), (NEXT, 0), (AVAIL | USED, 0), (NEXT | AVAIL, WRITE)):
        token = lab.token()
        data = lab.flow().bare(token + bytes(range(100)))
        head = a.queue(data, shape=(12, 20, 20), direct=0)
        slot = a.tx.slots(head)[0]
        table, length, _, _ = SLOT.unpack(a.memory.read(a.tx.desc_gpa + 16 * slot, 16))
        for entry in range(length // 16):
            a.memory.write(table + 16 * entry + 12, bytes((7, 9)) + junk.to_bytes(2, "little"))
        a.tx._held[-1] = (slot, a.tx._held[-1][1] | outer)
        a.publish()
        with during(f"flags {junk:#x} inside, {outer:#x} outside"):
            same(b.collect(token, lab.patience), data)
            a.sent(lab.patience)
    return "frames arrive"


@check(
    "PK-14", does="INDIRECT with NEXT, odd tables, endless lists", expects="survival", survival=True
)
def misused(lab: Lab) -> str:
    """A packed ring as it must not be."""
    lab.need(RING_PACKED)
    indirect = INDIRECT & lab.offer.features

    def slot(port: Port, length: int, flags: int, ahead: int = 0, gpa: int = 0) -> None:
        place, wrap = port.tx.ahead(ahead)
        shown = flags | (AVAIL if wrap else USED)
        port.tx.write_slot(place, gpa or port.place(bytes(112)), length, 3, shown)

    def endless(port: Port) -> None:
        for ahead in range(port.tx.size - 1, -1, -1):
            slot(port, 60, NEXT, ahead)

    breaches: dict[str, Callable[[Port], None]] = {
        "INDIRECT with NEXT": lambda port: slot(port, 16, TABLE | NEXT),
        "a table of 17 bytes": lambda port: slot(port, 17, TABLE),
        "an empty table": lambda port: slot(port, 0, TABLE),
        "a table outside memory": lambda port: slot(port, 64, TABLE, 0, 1 << 60),
        "4 GiB": lambda port: slot(port, 0xFFFFFFFF, 0),
        "writable": lambda port: slot(port, 100, WRITE),
        "a list without end": endless,
    }
    b = lab.port(1)
    seen = []
    for name, breach in breaches.items():
        for features in {PACKED, PACKED | indirect}:
            a = lab.port(0, features)
            lab.joined(a, b)
            a.sent(lab.patience)
            breach(a)
            a.kick(TX)
            lab.pause(QUIET / 2)
            with during(name):
                lab.survived(b)
            b.fill(8)
        seen.append(name)
    return f"survived {', '.join(seen)}"


@check("PK-15", does="IN_ORDER: send 60 frames in bursts", expects="all come back")
def batches(lab: Lab) -> str:
    """One used descriptor may give a batch back."""
    a, b = both(lab, IN_ORDER)
    a.sent(lab.patience)
    for _ in range(6):
        heads = [a.queue(lab.flow().bare(bytes(46)), shape=(12, 9)) for _ in range(10)]
        a.publish()
        seen = [used.head for used in a.sent(lab.patience)]
        expect(seen == heads, f"{seen} came back for {heads}")
    lab.joined(a, b)
    return "60 in order"


@check("PK-16", does="watch the ring while 300 merged frames arrive", expects="whole frames")
def first_last(lab: Lab) -> str:
    """The first buffer of a frame is marked used last."""
    lab.need(RING_PACKED | MRG)
    a = lab.port(0, PACKED)
    b = lab.port(1, PACKED | MRG, rx_buffers=128, shape=(200,))
    lab.joined(a, b)
    data = lab.flow().bare(bytes(1400))
    for _ in range(300):
        a.reap()
        a.send(data)
        deadline = time.monotonic() + lab.patience
        while (used := b.rx._seen(b.rx.used_slot, b.rx.used_wrap)) is None:
            if time.monotonic() > deadline:
                raise Broken("nothing arrived")
        fresh = b.rx.fresh
        gpa = b.posted[used.head][0].gpa
        count = net.NetHeader.unpack(b.memory.read(gpa, 12)).num_buffers
        expect(fresh >= count, f"{fresh} of {count} buffers were visible")
        b.next_frame(deadline)
        b.fill(count, (200,))
    return "300 frames, each whole at once"


@check("PK-22", "VU-45", does="stop and restart a packed ring at each slot", expects="it goes on")
def base_goes_round(lab: Lab) -> str:
    """The base holds both indices and both wrap counters."""
    a, b = both(lab, size=5, buffers=2)
    seen = []
    for number in range(12):
        lab.refresh(1, 4)
        a.sent(lab.patience)
        base = a.stop(TX)
        slot, wrap = a.tx.ahead(0)
        due = slot | wrap << 15
        expect(base == due | due << 16, f"base {base:#x} instead of {due | due << 16:#x}")
        seen.append(base)
        a.tx.base = base
        a.set_up(TX)
        with during(f"restart {number} from {base:#x}"):
            lab.joined(a, b)
    wrapped = sum(1 for base in seen if not base & 0x8000)
    expect(0 < wrapped < 12 and BASE not in seen[1:2], "tester out of order")
    return f"12 restarts, {wrapped} with wrap counters 0"
