"""Area 2.4: what a device does with a split ring whose driver is obedient."""

import time

from vionet.check.case import CSUM, EVENT_IDX, INDIRECT, VERSION_1, Lab, check
from vionet.check.driver import POISON, QUIET, RX, TX, Broken, Port
from vionet.check.ring import DESC
from vionet.check.verdict import describe, during, expect, same
from vionet.spec import virtio


def called(port: Port, index: int, patience: float) -> bool:
    """The device notifies ring `index` in time."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if port.events[index].calls():
            return True
        time.sleep(0.0005)  # the count is what is wanted, and reading it is not a wait
    return False


def burst(lab: Lab, port: Port, count: int) -> None:
    """Queue `count` frames and publish them at once."""
    for _ in range(count):
        port.queue(lab.flow().bare(bytes(46)))
    port.publish()


def settled(lab: Lab, port: Port) -> None:
    """All that was sent has come back, and the notifications for it are gone."""
    port.sent(lab.patience)
    time.sleep(0.002)  # a notification may follow its used index
    port.events[TX].calls()


@check("SP-01", does="rings of 2 to 32768 entries, smallest alignments", expects="frames pass")
def ring_sizes(lab: Lab) -> str:
    """Sizes are powers of two up to 32768."""
    b = lab.port(1, rx_buffers=200)
    sizes = (2, 4, 64, 1024, 32768)
    for size in sizes:
        a = lab.port(0, size=size, rx_buffers=1)
        with during(f"size {size}"):
            lab.joined(a, b)
    return f"sizes {sizes}"


@check("SP-03", does="send a frame in 250 descriptors", expects="delivered or dropped, returned")
def long_chain(lab: Lab) -> str:
    """A device may limit the length of chains."""
    a, b = lab.pair()
    token = lab.token()
    data = lab.flow().bare(token.ljust(600, b"\x12"))
    a.reap()
    a.send(data, shape=(1,) * 249)
    a.sent(lab.patience)
    if (delivery := lab.arrival(a, b, token)) is not None:
        return "delivered, " + same(delivery, data)
    return "dropped, the chain returned"


@check("SP-05", does="send partial frames, compare the sender's memory", expects="unchanged")
def readable_unwritten(lab: Lab) -> str:
    """Nothing is written to readable buffers."""
    a, b = lab.pair(VERSION_1 | CSUM & lab.offer.features)
    frame = lab.flow().tcp(lab.token() + bytes(1000))
    header, data = frame.partial()
    if not a.features & CSUM:
        header = header._replace(flags=0)
    places = [a.loans[a.queue(data, header, shape)] for shape in ((12, 30), (12,), (1, 11, 54))]
    a.publish()
    a.wait(lambda: a.tx.fresh >= 3, TX, time.monotonic() + lab.patience)
    for piece in places:
        seen = a.memory.read(piece.gpa, piece.length)
        expect(seen == header.pack(a.hdr_len) + data, "a transmit buffer changed")
    b.frontend.synchronise()
    return "unchanged"


@check("SP-07", does="send and receive, compare both descriptor tables", expects="unchanged")
def table_unwritten(lab: Lab) -> str:
    """The descriptor table is never written."""
    a, b = lab.pair()
    a.sent(lab.patience)
    token = lab.token()
    a.queue(lab.flow().bare(token.ljust(1000, b"\0")), shape=(12, 14, 100))
    rings = ((a, a.tx), (b, b.rx))
    before = [port.memory.read(ring.desc_gpa, 16 * ring.size) for port, ring in rings]
    a.publish()
    b.collect(token, lab.patience)
    a.sent(lab.patience)
    after = [port.memory.read(ring.desc_gpa, 16 * ring.size) for port, ring in rings]
    expect(after == before, "a descriptor table changed")
    return "unchanged"


def _indirect(lab: Lab, direct: int, flags: int) -> str:
    lab.need(INDIRECT)
    a, b = lab.pair(VERSION_1 | INDIRECT)
    for shape in ((12,), (12, 20, 20)):
        token = lab.token()
        data = lab.flow().bare(token + bytes(range(100)))
        head = a.queue(data, shape=shape, direct=direct)
        slot = a.tx.slots(head)[-1]
        entry = a.memory.read(a.tx.desc_gpa + 16 * slot, 16)
        address, length, seen, following = DESC.unpack(entry)
        a.tx.write_desc(slot, address, length, seen | flags, following)
        a.publish()
        same(b.collect(token, lab.patience), data)
        a.sent(lab.patience)
    return "frames arrive"


@check("SP-09", does="an indirect descriptor with the WRITE flag", expects="the flag is ignored")
def write_flag_ignored(lab: Lab) -> str:
    """WRITE on a descriptor of a table means nothing."""
    return _indirect(lab, 0, virtio.VRING_DESC_F_WRITE)


@check("SP-10", does="the header direct, the frame in an indirect table", expects="frames arrive")
def direct_then_indirect(lab: Lab) -> str:
    """Normal descriptors, the last one indirect."""
    return _indirect(lab, 1, 0)


@check("SP-13", does="start at index 65500, pass 200 frames each way", expects="all arrive")
def index_wraps(lab: Lab) -> str:
    """Indices run free modulo 2^16."""
    a, b = lab.port(0, base=65500), lab.port(1, base=65500)
    lab.joined(a, b)
    lab.joined(b, a)
    for x, y, back in ((a, b, False), (b, a, True)):
        for number in range(200):
            token = lab.token()
            data = lab.flow(back=back).bare(token.ljust(46, b"\0"))
            with during(f"frame {number}, index {x.tx.avail_idx}"):
                same(lab.carry(x, y, token, data), data)
            y.fill(1)
    return f"indices now {a.tx.used_idx} and {b.rx.used_idx}"


@check("SP-15", does="flags 0 without EVENT_IDX, used_event elsewhere", expects="a notification")
def must_notify(lab: Lab) -> str:
    """Without EVENT_IDX and with flags 0 the driver is notified."""
    a, b = lab.pair()
    a.tx.used_event = b.rx.used_event = 0x4000
    for _ in range(5):
        settled(lab, a)
        b.events[RX].calls()
        burst(lab, a, 1)
        expect(called(a, TX, lab.patience), "a used transmit buffer was not notified")
        expect(called(b, RX, lab.patience), "a used receive buffer was not notified")
    return "notified, both rings"


@check("SP-16", does="flags 1 without EVENT_IDX", expects="no notification")
def may_not_notify(lab: Lab) -> str:
    """Without EVENT_IDX flags 1 suppress notifications."""
    a, b = lab.pair()
    a.tx.avail_flags = b.rx.avail_flags = 1
    burst(lab, a, 1)
    settled(lab, a)
    b.events[RX].calls()
    burst(lab, a, 10)
    a.sent(lab.patience)
    expect(not called(a, TX, QUIET), "the transmit ring was notified")
    expect(not called(b, RX, 0.001), "the receive ring was notified")
    return "silent"


@check("SP-17", does="sweep used_event over bursts, over 65535 too", expects="a notification each")
def event_passed(lab: Lab) -> str:
    """Notified when used_event lies in (old, new]."""
    lab.need(EVENT_IDX)
    a = lab.port(0, VERSION_1 | EVENT_IDX, base=65400)
    lab.joined(a, lab.port(1, rx_buffers=250))
    for number in range(60):
        settled(lab, a)
        a.tx.used_event = a.tx.used_idx + number % 4
        burst(lab, a, 4)
        if not called(a, TX, lab.patience):
            raise Broken(f"used_event {a.tx.used_event} was passed without a notification")
    return f"60 bursts of 4, index now {a.tx.used_idx}"


@check("SP-18", does="used_event behind and far ahead", expects="no notification")
def event_not_passed(lab: Lab) -> str:
    """Silent where used_event was not passed."""
    lab.need(EVENT_IDX)
    a = lab.port(0, VERSION_1 | EVENT_IDX)
    lab.joined(a, lab.port(1, rx_buffers=250))
    for distance in (-1, -100, 50, 0x7000):
        settled(lab, a)
        a.tx.used_event = a.tx.used_idx + distance
        burst(lab, a, 4)
        a.sent(lab.patience)
        expect(not called(a, TX, QUIET / 2), f"notified with used_event at {distance:+}")
    return "silent"


@check("SP-19", does="EVENT_IDX with flags 1", expects="a notification")
def flags_ignored(lab: Lab) -> str:
    """With EVENT_IDX bit 0 of the flags means nothing."""
    lab.need(EVENT_IDX)
    a = lab.port(0, VERSION_1 | EVENT_IDX)
    lab.joined(a, lab.port(1))
    settled(lab, a)
    a.tx.avail_flags = 1
    a.tx.used_event = a.tx.used_idx
    burst(lab, a, 1)
    expect(called(a, TX, lab.patience), "not notified")
    return "notified"


@check("SP-21", does="receive into memory full of a pattern", expects="every byte is written")
def bytes_written(lab: Lab) -> str:
    """At least the used length is really written."""
    a, b = lab.pair()
    for length in (46, 999, 1400):
        token = lab.token()
        data = lab.flow().bare(token.ljust(length, b"\0"))
        delivery = lab.carry(a, b, token, data)
        expect(POISON not in delivery.frame, describe(delivery))
        expect(delivery.header.num_buffers == 1, f"the header was not written: {delivery.header}")
        same(delivery, data)
    return "every byte"


@check(
    "SP-22", does="receive into memory full of a pattern", expects="maybe bytes beyond the frame"
)
def bytes_beyond(lab: Lab) -> str:
    """A device may write beyond the used length."""
    a, b = lab.pair()
    token = lab.token()
    delivery = lab.carry(a, b, token, lab.flow().bare(token.ljust(100, b"\0")))
    beyond = len(delivery.beyond.rstrip(bytes([POISON])))
    return f"{beyond} bytes beyond the frame"


@check("SP-23", does="receive frames of several sizes", expects="used.len = header + frame")
def used_elements(lab: Lab) -> str:
    """used.id is a head, used.len counts the header."""
    a, b = lab.pair()
    lengths = []
    for length in (46, 700, 1400):
        token = lab.token()
        data = lab.flow().bare(token.ljust(length, b"\0"))
        delivery = lab.carry(a, b, token, data)
        lengths.append(delivery.buffers[0][1])
        expect(lengths[-1] == b.hdr_len + len(data), f"{lengths[-1]} for {len(data)} bytes")
    heads = [a.send(lab.flow().bare(bytes(46))) for _ in range(4)]
    seen = [used.head for used in a.sent(lab.patience)][-4:]
    expect(sorted(seen) == sorted(heads), f"heads {seen} for {heads}")
    return f"lengths {lengths}"


def _flags_seen(lab: Lab, features: int = 0) -> set[int]:
    """What stands in used.flags of both rings under traffic, and when there is none."""
    a, b = lab.pair(VERSION_1 | features, VERSION_1 | features)
    seen = set()
    for turn in range(50):
        burst(lab, a, 1)
        seen |= {a.tx.used_flags, b.rx.used_flags}
        a.sent(lab.patience)
        if turn % 10 == 9:
            time.sleep(0.002)  # an idle device may change its mind
        seen |= {a.tx.used_flags, b.rx.used_flags}
    return seen


@check("SP-25", does="look at used.flags while traffic passes", expects="0 or 1")
def used_flags(lab: Lab) -> str:
    """Without EVENT_IDX used.flags is 0 or 1."""
    seen = _flags_seen(lab)
    expect(seen <= {0, 1}, f"flags {seen}")
    return f"flags {sorted(seen)}"


@check("SP-27", does="look at used.flags with EVENT_IDX", expects="0")
def used_flags_zero(lab: Lab) -> str:
    """With EVENT_IDX used.flags is 0."""
    lab.need(EVENT_IDX)
    seen = _flags_seen(lab, EVENT_IDX)
    expect(seen == {0}, f"flags {seen}")
    return "0"


@check("SP-28", does="kick 2000 times without buffers", expects="no harm")
def kick_storm(lab: Lab) -> str:
    """Spurious kicks are tolerated."""
    a, b = lab.pair()
    a.sent(lab.patience)
    before = a.tx.used_idx
    for _ in range(2000):
        a.kick(TX)
        a.kick(RX)
    a.frontend.synchronise()
    expect(a.tx.used_idx == before, f"used index went from {before} to {a.tx.used_idx}")
    lab.joined(a, b)
    return "no harm"


@check("SP-29", does="kick only when told, 300 frames with gaps", expects="no stall", survival=True)
def lost_wakeup(lab: Lab) -> str:
    """A driver kicks exactly when it is told to."""
    event = EVENT_IDX & lab.offer.features
    a, b = lab.port(0, VERSION_1 | event), lab.port(1, rx_buffers=250)
    lab.joined(a, b)
    kicks = 0
    for number in range(300):
        if number % 100 == 0:
            lab.refresh(1, 250)
        a.queue(lab.flow().bare(bytes(46)))
        wanted = a.tx.publish()
        if wanted if event else not a.tx.used_flags & 1:
            a.kick(TX)
            kicks += 1
        with during(f"frame {number} stalled"):
            a.sent(lab.patience)
        time.sleep(0.0003 * (number % 3))
    return f"no stall, {kicks} kicks for 300 frames"
