"""Area 3.2: rings that are started or stopped, enabled or disabled."""

import time

from vionet.check.case import Lab, check
from vionet.check.driver import BIT30, QUIET, RX, TX, NotOffered, Port
from vionet.check.verdict import during, expect


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


def not_taken(a: Port, what: str) -> None:
    """Nothing of what is available is taken within the quiet time."""
    deadline = time.monotonic() + QUIET
    taken = a.wait(lambda: a.tx.fresh + a.rx.fresh > 0, TX, deadline)
    expect(not taken, f"{what}: {a.tx.fresh} transmitted, {a.rx.fresh} received")


def _discarded(lab: Lab, a: Port, b: Port, what: str) -> None:
    """Frames of `a` are consumed and do not arrive; nothing arrives at `a`."""
    token = lab.token()
    a.drain()
    a.send(lab.flow().bare(token.ljust(46, b"\0")))
    with during(what):
        a.sent(lab.patience)
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
    not_taken(a, "stopped and disabled")
    a.enable()
    not_taken(a, "stopped and enabled")
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
    not_taken(a, "stopped and disabled")
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
    not_taken(a, "enabled, no kick descriptor")
    for index in (RX, TX):
        a.frontend.set_vring_kick(index, a.events[index].kick)
    b.send(lab.flow(back=True).bare(bytes(46)))
    not_taken(a, "enabled, not kicked yet")
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
