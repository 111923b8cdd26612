"""Area 2.5: who asks whom for notifications in a packed ring."""

from vionet.check.case import EVENT_IDX, Lab, check
from vionet.check.driver import QUIET, RX, TX, Broken
from vionet.check.packed import DISABLE, ENABLE, SPECIFIC
from vionet.check.rules.packed import both
from vionet.check.rules.ring import burst, called, settled
from vionet.check.verdict import expect


@check("PK-17", does="the driver's event flags 0, 1 and 3", expects="notified, silent, no harm")
def event_flags(lab: Lab) -> str:
    """The driver asks for notifications, or for none."""
    a, b = both(lab)
    for port, index in ((a, TX), (b, RX)):
        port.rings[index].ask(ENABLE)
    for _ in range(4):
        settled(lab, a)
        b.events[RX].calls()
        burst(lab, a, 1)
        expect(called(a, TX, lab.patience), "flags 0: the transmit ring was not notified")
        expect(called(b, RX, lab.patience), "flags 0: the receive ring was not notified")
    for port, index in ((a, TX), (b, RX)):
        port.rings[index].ask(DISABLE)
    burst(lab, a, 1)
    settled(lab, a)
    b.events[RX].calls()
    burst(lab, a, 10)
    a.sent(lab.patience)
    expect(not called(a, TX, QUIET), "flags 1: the transmit ring was notified")
    expect(not called(b, RX, 0.001), "flags 1: the receive ring was notified")
    a.tx.ask(3)
    burst(lab, a, 1)
    a.sent(lab.patience)
    return "as it should be"


@check("PK-18", does="ask for a notification at each place of bursts", expects="one each")
def event_passed(lab: Lab) -> str:
    """A place that a batch passes is notified, over the end of the ring too."""
    a, _ = both(lab, EVENT_IDX, size=31, buffers=4)
    for number in range(60):
        lab.refresh(1, 8)
        settled(lab, a)
        a.tx.ask(SPECIFIC, *a.tx.ahead(2 * (number % 4)))
        burst(lab, a, 4)
        if not called(a, TX, lab.patience):
            raise Broken(f"burst {number}: the place was passed without a notification")
    for distance in (12, 15):
        lab.refresh(1, 8)
        settled(lab, a)
        a.tx.ask(SPECIFIC, *a.tx.ahead(distance))
        burst(lab, a, 4)
        a.sent(lab.patience)
        expect(not called(a, TX, QUIET / 2), f"notified {distance - 8} slots too early")
    return "60 bursts of 4 in a ring of 31"


@check("PK-19", does="look at both event structures under traffic", expects="reserved bits 0")
def event_structures(lab: Lab) -> str:
    """The device writes its own structure only."""
    a, b = both(lab, EVENT_IDX & lab.offer.features)
    seen = set()
    a.tx.ask(ENABLE, 17, 1)
    for _ in range(50):
        burst(lab, a, 1)
        a.sent(lab.patience)
        for port, ring in ((a, a.tx), (b, b.rx)):
            _, flags = ring.event(ring.used_gpa)
            seen.add(flags)
            expect(flags in (0, 1, 2), f"flags {flags:#x}")
            expect(port is b or ring.event(ring.avail_gpa) == (17 | 1 << 15, 0), "ours was written")
        lab.refresh(1, 2)
    return f"flags {sorted(seen)}"


@check("PK-20", does="kick 2000 times without buffers", expects="no harm", survival=True)
def kick_storm(lab: Lab) -> str:
    """Kicks with nothing new."""
    a, b = both(lab)
    a.sent(lab.patience)
    for _ in range(2000):
        a.kick(TX)
        a.kick(RX)
    a.frontend.synchronise()
    expect(a.tx.fresh == 0, f"{a.tx.fresh} came back that were not sent")
    lab.joined(a, b)
    return "no harm"
