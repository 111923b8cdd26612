"""Area 3.2: rings that are started or stopped, enabled or disabled."""

import os
import time
from functools import partial

from vionet.check.case import Lab, check, expect
from vionet.check.driver import BIT30, QUIET, RX, TX, Broken, NotOffered, Port
from vionet.check.rules.config import refused
from vionet.check.rules.device import silent, snapshot, traffic
from vionet.check.rules.ring import burst, called
from vionet.spec import vhost_user as vu
from vionet.spec.vhost_user import Request
from vionet.vhost_user.frontend import Closed


def ready(lab: Lab, *, kick: bool = True, size: int = 256) -> Port:
    """Port 1 with everything set up but not enabled."""
    if not lab.offer.features & BIT30:
        raise NotOffered("VHOST_USER_F_PROTOCOL_FEATURES")
    a = lab.open(0, size=size)
    a.frontend.set_mem_table(a.memory)
    a.fill(16)
    for index in (RX, TX):
        a.set_up(index, kick=kick)
    return a


def _not_taken(a: Port, what: str) -> None:
    """Nothing of what is available is taken within the quiet time."""
    deadline = time.monotonic() + QUIET
    taken = a.wait(lambda: a.tx.fresh + a.rx.fresh > 0, TX, deadline)
    expect(not taken, f"{what}: {a.tx.fresh} transmitted, {a.rx.fresh} received")


def _discarded(lab: Lab, a: Port, b: Port, what: str) -> None:
    """Frames of `a` are consumed and do not arrive; nothing arrives at `a`."""
    token = lab.token()
    a.drain()
    a.send(lab.flow().bare(token.ljust(46, b"\0")))
    try:
        a.sent(lab.patience)
    except Broken as error:
        raise Broken(f"{what}: {error}") from error
    b.send(lab.flow(back=True).bare(lab.token().ljust(46, b"\0")))
    deadline = time.monotonic() + QUIET
    while (delivery := b.next_frame(deadline)) is not None:
        expect(token not in delivery.frame, f"{what}: a frame was delivered")
    expect(a.rx.fresh == 0, f"{what}: {a.rx.fresh} frames were received")


@check("VU-22", does="go through the four states of both rings", expects="each as it should be")
def four_states(lab: Lab) -> str:
    """Started and enabled are two things."""
    b = lab.port(1)
    a = ready(lab, kick=False)
    a.queue(lab.flow().bare(bytes(46)))
    a.tx.publish()
    _not_taken(a, "stopped and disabled")
    a.enable()
    _not_taken(a, "stopped and enabled")
    for index in (RX, TX):
        a.frontend.set_vring_kick(index, a.events[index].kick)
        a.kick(index)
    lab.joined(a, b)
    lab.joined(b, a)
    a.enable(False)
    _discarded(lab, a, b, "started and disabled")
    a.enable()
    lab.joined(a, b)
    return "stopped: nothing; disabled: discarded; both: frames pass"


@check("VU-23", does="set up rings, neither kick nor enable", expects="nothing is processed")
def initially_stopped(lab: Lab) -> str:
    """Rings begin stopped and disabled."""
    b = lab.port(1)
    a = ready(lab, kick=False)
    a.queue(lab.flow().bare(bytes(46)))
    a.tx.publish()
    b.send(lab.flow(back=True).bare(bytes(46)))
    _not_taken(a, "stopped and disabled")
    return "nothing"


@check(
    "VU-24",
    does="enable, kick descriptor given but never written to",
    expects="nothing is processed",
)
def stopped_enabled(lab: Lab) -> str:
    """A stopped ring is not processed, enabled or not."""
    b = lab.port(1)
    a = ready(lab, kick=False)
    a.queue(lab.flow().bare(bytes(46)))
    a.tx.publish()
    a.enable()
    b.send(lab.flow(back=True).bare(bytes(46)))
    _not_taken(a, "enabled, no kick descriptor")
    for index in (RX, TX):
        a.frontend.set_vring_kick(index, a.events[index].kick)
    b.send(lab.flow(back=True).bare(bytes(46)))
    _not_taken(a, "enabled, not kicked yet")
    return "nothing"


@check("VU-25", does="write to the kick descriptor", expects="the ring starts")
def started_by_kick(lab: Lab) -> str:
    """The first kick starts a ring."""
    b = lab.port(1)
    a = ready(lab)
    a.enable()
    lab.joined(a, b)
    lab.joined(b, a)
    return "frames pass"


@check("VU-26", does="SET_VRING_KICK without a descriptor", expects="the ring is polled")
def polled(lab: Lab) -> str:
    """Without a kick descriptor the device polls."""
    b = lab.port(1)
    a = ready(lab, kick=False)
    a.frontend.set_vring_kick(RX, a.events[RX].kick)
    a.kick(RX)
    a.frontend.set_vring_kick(TX, None)
    a.enable()
    for _ in range(5):
        token = lab.token()
        a.queue(lab.flow().bare(token.ljust(46, b"\0")))
        a.tx.publish()
        b.collect(token, lab.patience)
        lab.pause(0.01)
    a.sent(lab.patience)
    return "frames pass without a kick"


@check("VU-27", does="traffic while disabled", expects="transmit discarded, nothing received")
def disabled_drains(lab: Lab) -> str:
    """A disabled ring does not block its guest."""
    a, b = lab.pair()
    if not a.features & BIT30:
        raise NotOffered("VHOST_USER_F_PROTOCOL_FEATURES")
    a.enable(False)
    a.frontend.synchronise()
    _discarded(lab, a, b, "disabled")
    return "discarded"


@check("VU-28", does="start and enable", expects="frames pass both ways")
def normal(lab: Lab) -> str:
    """Started and enabled."""
    a, b = lab.pair()
    lab.joined(b, a)
    return "frames pass"


@check("VU-29", does="never acknowledge bit 30, never enable", expects="frames pass")
def enabled_by_default(lab: Lab) -> str:
    """Without protocol features rings are enabled at once."""
    a = lab.port(0, protocol=0)
    b = lab.port(1, protocol=0)
    expect(not a.features & BIT30, "tester out of order")
    lab.joined(a, b)
    lab.joined(b, a)
    return "frames pass"


@check(
    "VU-30", does="acknowledge bit 30, start, do not enable", expects="discarded; then frames pass"
)
def disabled_by_default(lab: Lab) -> str:
    """With protocol features rings wait for SET_VRING_ENABLE."""
    b = lab.port(1)
    a = ready(lab)
    _discarded(lab, a, b, "not enabled yet")
    a.enable()
    lab.joined(a, b)
    return "discarded until enabled"


@check("VU-31", does="enable before setting up", expects="frames pass")
def enabled_early(lab: Lab) -> str:
    """SET_VRING_ENABLE is remembered."""
    b = lab.port(1)
    a = lab.open(0)
    if not a.features & BIT30:
        raise NotOffered("VHOST_USER_F_PROTOCOL_FEATURES")
    a.enable()
    a.frontend.set_mem_table(a.memory)
    a.fill(16)
    for index in (RX, TX):
        a.set_up(index)
    lab.joined(a, b)
    lab.joined(b, a)
    return "frames pass"


@check("VU-32", does="GET_VRING_BASE under load", expects="the next index; memory left alone after")
def base_is_true(lab: Lab) -> str:
    """The reply comes when the data path has let go."""
    a, b = lab.pair()
    b.fill(150)
    burst(lab, a, 100)
    for _ in range(60):
        b.queue(lab.flow(back=True).bare(bytes(1000)))
    b.tx.publish()
    b.kick(TX)
    bases = [a.stop(RX), a.stop(TX)]
    before = snapshot(a.memory)
    time.sleep(QUIET)  # nothing must happen
    expect(snapshot(a.memory) == before, "guest memory was written to after the reply")
    for index in (RX, TX):
        used = a.rings[index].used_idx
        expect(bases[index] == used, f"ring {index}: base {bases[index]}, used index {used}")
    return f"bases {bases}"


@check(
    "VU-33",
    does="stop and restart both rings 100 times under traffic",
    expects="no loss, no double",
)
def base_continues(lab: Lab) -> str:
    """Stopping does not forget where the ring was."""
    a, b = lab.pair()
    b.fill(100)
    a.sent(lab.patience)
    for number in range(100):
        token = lab.token()
        a.queue(lab.flow().bare(token.ljust(46, b"\0")))
        a.tx.publish()
        a.kick(TX)
        base = a.stop(TX)
        a.tx.base = base
        a.set_up(TX)
        try:
            b.collect(token, lab.patience)
            a.sent(lab.patience)
        except Broken as error:
            raise Broken(f"restart {number} from {base}: {error}") from error
        expect(b.rx.fresh == 0, f"restart {number}: the frame came twice")
        b.fill(1)
    expect(a.tx.used_idx == a.tx.avail_idx, f"used {a.tx.used_idx}, available {a.tx.avail_idx}")
    return f"100 frames, each once; index {a.tx.used_idx}"


@check("VU-34", does="GET_VRING_BASE right after a burst", expects="what was taken was returned")
def nothing_in_flight(lab: Lab) -> str:
    """What was taken is finished before the ring stops."""
    a, b = lab.pair()
    b.fill(180)
    a.sent(lab.patience)
    seen = []
    for _ in range(5):
        burst(lab, a, 30)
        base = a.stop(TX)
        expect(base == a.tx.used_idx, f"base {base}, used index {a.tx.used_idx}")
        seen.append(base)
        a.tx.base = base
        a.set_up(TX)
        a.sent(lab.patience)
    return f"base = used index: {seen}"


@check(
    "VU-35",
    does="stop, set the ring up without a kick descriptor, kick the old one",
    expects="nothing",
)
def old_kick_dead(lab: Lab) -> str:
    """Stopping ends the kick descriptor."""
    a, _ = lab.pair()
    a.sent(lab.patience)
    a.tx.base = a.stop(TX)
    a.set_up(TX, kick=False)
    burst(lab, a, 1)
    _not_taken(a, "stopped, the old descriptor kicked")
    return "nothing"


@check(
    "VU-36", does="change the call descriptor 20 times under traffic", expects="the new one is used"
)
def call_changed(lab: Lab) -> str:
    """Descriptors may change while the ring runs."""
    a, b = lab.pair()
    b.fill(100)
    for number in range(20):
        os.close(a.events[TX].call)
        a.events[TX].call = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        a.frontend.set_vring_call(TX, a.events[TX].call)
        burst(lab, a, 2)
        expect(called(a, TX, lab.patience), f"change {number}: the new descriptor was not called")
        a.sent(lab.patience)
    return "20 changes, no notification lost"


@check("VU-37", does="stop all rings, then traffic and messages", expects="quiet, but answers")
def suspended(lab: Lab) -> str:
    """All rings stopped is suspended."""
    a, b = lab.pair()
    lab.joined(b, a)
    for index in (RX, TX):
        a.stop(index)
    silent(a, partial(traffic, lab, a, b))
    expect(a.frontend.silent(0.001), "a message arrived")
    a.frontend.synchronise()
    return "quiet, and GET_FEATURES is answered"


def _used_other(port: Port, idx: int) -> bool:
    return port.tx.used_idx != idx


@check("VU-38", does="start with used index 5 and bases 5 and 9", expects="used entries go on at 5")
def used_from_memory(lab: Lab) -> str:
    """The used index is read from the ring."""
    for base in (5, 9):
        lab.port(1)
        a = lab.open(0, base=base, used=5)
        a.start(16)
        token = lab.token()
        head = a.send(lab.flow().bare(token.ljust(46, b"\0")))
        deadline = time.monotonic() + lab.patience
        moved = a.wait(partial(_used_other, a, 5), TX, deadline)
        expect(moved, f"base {base}: nothing was used")
        seen, index = a.tx.used_at(5).head, a.tx.used_idx
        expect((seen, index) == (head, 6), f"base {base}: used index {index}, entry 5 is {seen}")
    return "used index 6 after one frame, with both"


@check("VU-39", does="rings that do not exist", expects="refused; the back-end stays", ports=1)
def ring_out_of_range(lab: Lab) -> str:
    """A ring that does not exist is an error."""
    lab.need(protocol=1 << vu.VHOST_USER_PROTOCOL_F_REPLY_ACK)
    wild, seen = 70000, []
    messages: list[tuple[Request, bytes, list[int]]] = [
        (Request.SET_VRING_NUM, vu.VRING_STATE.pack(wild, 256), []),
        (Request.SET_VRING_BASE, vu.VRING_STATE.pack(wild, 0), []),
        (Request.SET_VRING_ADDR, vu.VRING_ADDR.pack(wild, 0, 0, 0, 0, 0), []),
        (Request.SET_VRING_ENABLE, vu.VRING_STATE.pack(wild, 1), []),
    ]
    if lab.offer.protocol_features & 1 and 2 * lab.open(0).frontend.queue_num() < 255:
        by_fd = (Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR)
        messages += [(request, vu.U64.pack(255), [lab.eventfd()]) for request in by_fd]
    for request, payload, fds in messages:
        frontend = lab.open(0).frontend
        how = refused(partial(frontend.tell, request, payload, fds))
        expect(bool(how), f"{request.name} of a ring that does not exist was accepted")
        seen.append(f"{request.name}: {how}")
    try:
        answer = lab.open(0).frontend.ask(Request.GET_VRING_BASE, vu.VRING_STATE.pack(wild, 0))
        seen.append(f"GET_VRING_BASE: {answer.hex()}")
    except (Closed, TimeoutError) as error:
        seen.append(f"GET_VRING_BASE: {type(error).__name__}")
    return f"{lab.survived()}; {', '.join(seen)}"


@check("VU-40", does="SET_VRING_NUM 0, 3, 255, 65536", expects="refused", ports=1)
def size_out_of_range(lab: Lab) -> str:
    """Sizes are powers of two up to 32768."""
    lab.need(protocol=1 << vu.VHOST_USER_PROTOCOL_F_REPLY_ACK)
    seen = []
    for size in (0, 3, 255, 65536, 0xFFFFFFFF):
        port = lab.open(0)
        how = refused(partial(port.frontend.set_vring_num, TX, size))
        expect(bool(how), f"size {size} was accepted")
        seen.append(f"{size}: {how}")
    return ", ".join(seen)


def _start_at(a: Port, desc_uva: int) -> None:
    """Start the transmit ring with its table at `desc_uva`."""
    uva = a.memory.uva
    a.frontend.set_vring_addr(TX, desc_uva, uva(a.tx.avail_gpa), uva(a.tx.used_gpa))
    a.frontend.set_vring_call(TX, a.events[TX].call)
    a.frontend.set_vring_kick(TX, a.events[TX].kick)
    a.enable(rings=(TX,))
    a.frontend.synchronise()


@check(
    "VU-41",
    does="ring addresses outside memory and over its end",
    expects="refused, or not used",
    ports=1,
)
def address_out_of_range(lab: Lab) -> str:
    """A ring lies in memory with its whole length."""
    seen = []
    for name in ("outside", "over the end"):
        a = lab.open(0)
        a.frontend.set_mem_table(a.memory)
        region = a.memory.regions[0]
        a.frontend.set_vring_num(TX, 256)
        a.frontend.set_vring_base(TX, 0)
        start = region.uva + region.size - 64 if name == "over the end" else 0x1000
        how = refused(partial(_start_at, a, start))
        if not how:
            a.tx.expose(0)
            a.tx.publish()
            a.kick(TX)
            lab.pause(QUIET)
            expect(a.tx.used_idx == 0, f"a ring {name} was processed")
        seen.append(f"{name}: {how or 'not used'}")
    return f"{lab.survived()}; {', '.join(seen)}"


@check("VU-42", does="SET_VRING_CALL without a descriptor", expects="frames pass, nobody is called")
def no_call(lab: Lab) -> str:
    """Without a call descriptor the guest polls."""
    a, b = lab.pair()
    for port, index in ((a, TX), (b, RX)):
        port.frontend.set_vring_call(index, None)
        port.frontend.synchronise()
        port.events[index].calls()
    lab.joined(a, b)
    expect(not a.events[TX].calls() + b.events[RX].calls(), "the old descriptor was called")
    return "frames pass"


@check("VU-43", does="a call descriptor that is full, and blocks", expects="frames pass")
def full_call(lab: Lab) -> str:
    """The device never blocks on a notification."""
    a, b = lab.pair()
    full = lab.eventfd(0)
    os.eventfd_write(full, 0xFFFFFFFFFFFFFFFE)
    try:
        a.frontend.set_vring_call(TX, full)
        for _ in range(5):
            token = lab.token()
            a.send(lab.flow().bare(token.ljust(46, b"\0")))
            b.collect(token, lab.patience)
            a.sent(lab.patience)
    finally:
        os.eventfd_read(full)  # let go of whoever is stuck
        os.eventfd_write(full, 1)
    return "frames pass"


@check("VU-44", does="give an error descriptor, break the ring", expects="maybe an error", ports=1)
def error_told(lab: Lab) -> str:
    """The device may tell of ring errors."""
    a = lab.open(0)
    told = lab.eventfd()
    a.frontend.set_vring_err(TX, told)
    a.start(4)
    a.tx.avail_idx = 0x8000
    a.kick(TX)
    lab.pause(QUIET)
    try:
        return f"told {os.eventfd_read(told)} times"
    except BlockingIOError:
        return "not told"
