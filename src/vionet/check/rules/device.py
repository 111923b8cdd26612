"""Areas 2.1 and 2.3: status, reset, and what a ring may do before and after."""

import threading
import time
from collections.abc import Callable
from functools import partial

from vionet.check.case import CONFIG, CSUM, GUEST_CSUM, VERSION_1, Lab, check
from vionet.check.driver import PROTOCOL, QUIET, RX, TX, Port
from vionet.check.judge import objections
from vionet.check.rules.config import refused
from vionet.check.verdict import describe, expect
from vionet.spec import vhost_user as vu
from vionet.vhost_user.guest_memory import GuestMemory

STATUS = 1 << vu.VHOST_USER_PROTOCOL_F_STATUS
RESET = 1 << vu.VHOST_USER_PROTOCOL_F_RESET_DEVICE
FEATURES_OK = 8


def snapshot(memory: GuestMemory) -> list[bytes]:
    """All that was ever given out of guest memory."""
    return [bytes(region.view[: region.used]) for region in memory.regions]


def written(port: Port) -> list[object]:
    """All that a device may write to: what it says of its use, and posted receive buffers."""
    used: list[object] = [port.memory.read(ring.used_gpa, ring.used_len) for ring in port.rings]
    used += [ring.fresh for ring in port.rings]
    pieces = [piece for chain in port.posted.values() for piece in chain]
    return used + [port.memory.read(piece.gpa, piece.length) for piece in pieces]


def silent(port: Port, provoke: Callable[[], object]) -> None:
    """Raise `Broken` if the device writes or notifies within the quiet time after `provoke()`."""
    before = written(port)
    for events in port.events:
        events.calls()
    provoke()
    time.sleep(QUIET)  # there is nothing to wait for: nothing must happen
    expect(written(port) == before, "guest memory was written to")
    expect(not any(events.calls() for events in port.events), "the driver was notified")


def traffic(lab: Lab, a: Port, b: Port) -> None:
    """A frame each way that nobody has to take."""
    b.send(lab.flow(back=True).bare(bytes(46)))
    a.send(lab.flow().bare(bytes(46)))


@check("DS-01", does="fill both rings, never start them", expects="used indices stay 0")
def nothing_before_start(lab: Lab) -> str:
    """No buffer is consumed before the driver is ready."""
    b = lab.port(1)
    a = lab.open(0)
    a.frontend.set_mem_table(a.memory)
    a.fill(8)
    a.queue(lab.flow().bare(bytes(46)))
    a.tx.publish()

    def set_up() -> None:
        for index in (RX, TX):
            a.set_up(index, kick=False)
        b.send(lab.flow(back=True).bare(bytes(46)))

    silent(a, set_up)
    used = a.rx.used_idx, a.tx.used_idx
    expect(used == (0, 0), f"used indices {used}")
    return "used indices 0, no notifications"


@check("DS-03", does="SET_STATUS 1, 3; GET_STATUS", expects="the same", ports=1)
def status_mirrored(lab: Lab) -> str:
    """The status bits."""
    lab.need(protocol=STATUS)
    port = lab.open(0, protocol=PROTOCOL | STATUS)
    for status in (1, 3):
        port.frontend.set_status(status)
        seen = port.frontend.status()
        expect(seen == status, f"{seen} instead of {status}")
    return "1, 3"


@check("DS-04", does="SET_FEATURES of bits not offered, FEATURES_OK", expects="refused", ports=1)
def subset_refused(lab: Lab) -> str:
    """SET_FEATURES is refused, or FEATURES_OK is not kept, for a set that is not valid."""
    port = lab.open(0, protocol=PROTOCOL | STATUS)
    foreign = next(bit for bit in (57, 61, 63) if not lab.offer.features >> bit & 1)
    how = refused(lambda: port.frontend.set_features(port.features | 1 << foreign))
    if how:
        return f"SET_FEATURES: {how}"
    lab.need(protocol=STATUS)  # the only other way to say no
    how = refused(lambda: port.frontend.set_status(3 | FEATURES_OK))
    if how:
        return f"SET_STATUS: {how}"
    expect(not port.frontend.status() & FEATURES_OK, f"bit {foreign} was accepted")
    return "FEATURES_OK is clear"


@check("DS-05", does="SET_STATUS 15, then 0", expects="GET_STATUS 0", ports=1)
def reset_status(lab: Lab) -> str:
    """After a reset the status is 0."""
    lab.need(protocol=STATUS)
    port = lab.open(0, protocol=PROTOCOL | STATUS).start(4)
    port.frontend.set_status(15)
    port.frontend.set_status(0)
    seen = port.frontend.status()
    expect(seen == 0, f"status is {seen}")
    return "0"


@check("DS-06", does="RESET_DEVICE, then traffic", expects="no write, no notification")
def reset_is_quiet(lab: Lab) -> str:
    """After a reset no queue is touched."""
    lab.need(protocol=RESET)
    a = lab.port(0, protocol=PROTOCOL | RESET)
    b = lab.port(1)
    lab.joined(b, a)
    a.frontend.reset_device()
    a.frontend.synchronise()
    silent(a, partial(traffic, lab, a, b))
    return "quiet"


@check("DS-08", does="GET_CONFIG of 60 and 256 bytes", expects="an answer", ports=1, survival=True)
def long_config(lab: Lab) -> str:
    """A driver may ask for more than there is."""
    lab.need(protocol=CONFIG)
    port = lab.open(0, protocol=PROTOCOL | CONFIG)
    sizes = [len(port.frontend.config(0, size)) for size in (60, 256)]
    return f"answers of {sizes} bytes"


@check(
    "DS-11", does="kick before the ring is set up and enabled", expects="survival", survival=True
)
def early_kick(lab: Lab) -> str:
    """No kicks before the driver is ready."""
    a = lab.open(0)
    for index in (RX, TX):
        a.frontend.set_vring_kick(index, a.events[index].kick)
        a.kick(index)
    a.frontend.synchronise()
    b = lab.port(1)
    return lab.survived(b)


@check(
    "DS-12", does="rewrite headers while they are sent", expects="only sound frames", survival=True
)
def changing_header(lab: Lab) -> str:
    """What was judged is what is delivered."""
    a, b = lab.pair(VERSION_1 | CSUM, VERSION_1 | GUEST_CSUM)
    frame = lab.flow().udp(b"flip" + bytes(100))
    good, data = frame.partial()
    bad = good._replace(csum_start=0xFFF0, csum_offset=0xFFFF)
    count, stop = 0, threading.Event()
    b.fill(150)
    gpa = a.place(good.pack(12) + data)
    view = a.memory.view(gpa, 12)

    def flip() -> None:
        while not stop.is_set():
            view[:] = bad.pack(12)
            view[:] = good.pack(12)

    thread = threading.Thread(target=flip)
    thread.start()
    try:
        for _ in range(200):
            a.queue(data, good)  # another place; then point its descriptor at the one that changes
            head = next(iter(reversed(a.loans)))
            a.memory.write(a.tx.desc_gpa + 16 * head, gpa.to_bytes(8, "little"))
            a.publish()
            a.sent(lab.patience)
    finally:
        stop.set()
        thread.join()
    deadline = time.monotonic() + QUIET
    while (delivery := b.next_frame(deadline)) is not None:
        found = objections(delivery.header, delivery.frame)
        expect(not found, f"{'; '.join(found)} ({describe(delivery)})")
        count += 1
    return f"{lab.survived(b)}; {count} frames, all sound"


def _stopped(lab: Lab) -> tuple[Port, Port]:
    """Port 1 with its rings stopped after traffic, and its neighbour."""
    a, b = lab.port(0), lab.port(1)
    lab.joined(a, b)
    lab.joined(b, a)
    for index in (RX, TX):
        a.stop(index)
    return a, b


@check("VR-01", does="stop the rings, then traffic", expects="no write, no notification")
def stopped_is_quiet(lab: Lab) -> str:
    """A queue that was reset is left alone."""
    a, b = _stopped(lab)
    silent(a, partial(traffic, lab, a, b))
    return "quiet"


def restart(a: Port, size: int) -> None:
    """New rings of `size` from index 0, at other addresses."""
    a.rings[:] = [a.ring(size=size, base=0, used=None) for _ in (RX, TX)]
    a.posted.clear()
    a.loans.clear()
    a.fill(min(size, 8))
    for index in (RX, TX):
        a.set_up(index)
    a.enable()


@check("VR-02", does="stop the rings, restart them from index 0", expects="frames pass")
def restarted(lab: Lab) -> str:
    """A queue that was reset begins anew."""
    a, b = _stopped(lab)
    restart(a, a.tx.size)
    lab.joined(a, b)
    lab.joined(b, a)
    a.sent(lab.patience)
    used, available = a.tx.used_idx, a.tx.avail_idx
    expect(used == available, f"the used index is {used} after {available} frames")
    return f"frames pass; used indices {a.rx.used_idx}, {a.tx.used_idx}"


@check(
    "VR-03", does="stop the rings, restart them with 16 entries elsewhere", expects="frames pass"
)
def restarted_elsewhere(lab: Lab) -> str:
    """Changed sizes and addresses are honoured."""
    a, b = _stopped(lab)
    restart(a, 16)
    for _ in range(40):
        lab.joined(a, b)
        b.fill(2)
    lab.joined(b, a)
    return "frames pass in rings of 16"


@check(
    "VR-04", does="stop the rings, use their memory otherwise", expects="no write", survival=True
)
def memory_given_back(lab: Lab) -> str:
    """After a reset the driver frees the memory."""
    a, b = _stopped(lab)
    for ring in a.rings:
        for length, gpa in ((16 * ring.size, ring.desc_gpa), (6 + 8 * ring.size, ring.used_gpa)):
            a.memory.view(gpa, length)[:] = b"\xee" * length
    before = snapshot(a.memory)
    silent(a, partial(b.send, lab.flow(back=True).bare(bytes(46))))
    expect(snapshot(a.memory) == before, "guest memory was written to")
    return "no write"
