"""Area 3.2: setting rings up wrongly, and descriptors that are absent, full or blocking."""

import os
from functools import partial

from vionet.check.case import Lab, check
from vionet.check.driver import QUIET, RX, TX, Port
from vionet.check.rules.config import refused
from vionet.check.verdict import expect
from vionet.spec import vhost_user as vu
from vionet.spec.vhost_user import Request
from vionet.vhost_user.frontend import Closed


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
    for size in (0, 65536, 0xFFFFFFFF) if lab.extra else (0, 3, 255, 65536, 0xFFFFFFFF):
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
            a.publish()
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
