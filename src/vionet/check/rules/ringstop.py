"""Area 3.2: stopping rings, starting them again, and where they go on."""

import os
import time
from functools import partial

from vionet.check.case import Lab, check
from vionet.check.driver import QUIET, RX, TX, Port
from vionet.check.rules.device import silent, snapshot, traffic
from vionet.check.rules.ring import burst, called
from vionet.check.rules.ringstate import not_taken
from vionet.check.verdict import during, expect


@check("VU-32", does="GET_VRING_BASE under load", expects="the next index; memory left alone after")
def base_is_true(lab: Lab) -> str:
    """The reply comes when the data path has let go."""
    a, b = lab.pair()
    b.fill(150)
    burst(lab, a, 100)
    for _ in range(60):
        b.queue(lab.flow(back=True).bare(bytes(1000)))
    b.publish()
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
        a.publish()
        base = a.stop(TX)
        a.tx.base = base
        a.set_up(TX)
        with during(f"restart {number} from {base}"):
            b.collect(token, lab.patience)
            a.sent(lab.patience)
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
    not_taken(a, "stopped, the old descriptor kicked")
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


@check(
    "VU-37", "VU-62", does="stop all rings, then traffic and messages", expects="quiet, but answers"
)
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
    return bool(port.tx.used_idx != idx)


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
