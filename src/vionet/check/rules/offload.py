"""Area 1.9: offloads that a driver switches while frames pass."""

from typing import Final

from vionet.check.case import CSUM, GUEST_CSUM, VERSION_1, Lab, check
from vionet.check.control import ERR, Command, ask, obeyed, offloads
from vionet.check.driver import Broken, NotOffered, Port
from vionet.check.judge import Sum, l4_sum
from vionet.check.rules.segmentation import WHOLE, kinds, made
from vionet.check.segment import KINDS
from vionet.check.verdict import describe, expect
from vionet.spec import virtio_net as net

OFFLOADS: Final = 1 << net.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS


def _received(lab: Lab, a: Port, b: Port) -> str:
    """How a frame with a partial sum of `a` comes to `b`."""
    lab.refresh(b.where, 8)
    token = lab.token()
    frame = lab.flow(back=a.where == 1).tcp(token + bytes(100))
    found = lab.carry_partial(a, b, token, frame, "TCP")
    if found.header.flags & net.VIRTIO_NET_HDR_F_NEEDS_CSUM:
        return "partial"
    expect(found.header.flags == 0 or l4_sum(found.frame) is Sum.COMPLETE, describe(found))
    return f"complete, flags {found.header.flags}"


def _taking(lab: Lab) -> int:
    return GUEST_CSUM | lab.offered(*(kind.guest for kind in KINDS), net.VIRTIO_NET_F_GUEST_ECN)


@check("CV-30", does="switch GUEST_CSUM off and on", expects="complete, flags 0; then as before")
def switched(lab: Lab) -> str:
    """Offloads follow GUEST_OFFLOADS_SET."""
    a = lab.served(OFFLOADS | GUEST_CSUM).start(64)
    b = lab.port(1, VERSION_1 | CSUM)
    lab.joined(b, a)
    seen = [_received(lab, b, a)]
    for word in (0, GUEST_CSUM, 0):
        obeyed(a, offloads(word))
        seen.append(_received(lab, b, a))
    expect(seen[1] == seen[3] == "complete, flags 0", f"{seen}")
    expect(seen[0] == seen[2], f"{seen}")
    return "; ".join(seen)


@check("CV-32", does="enable offloads that were not accepted", expects="ERR, nothing changed")
def not_accepted(lab: Lab) -> str:
    """Only what was negotiated can be switched on."""
    a = lab.served(OFFLOADS | GUEST_CSUM).start(64)
    b = lab.port(1, lab.sending())
    lab.joined(b, a)
    before = _received(lab, b, a)
    for bit in (7, 8, 9, 10, 54, 55, 46, 47, 63, 0):
        answer = ask(a, offloads(GUEST_CSUM | 1 << bit))
        expect(answer.ack == ERR, f"bit {bit}: answer {answer.ack}")
    after = _received(lab, b, a)
    expect(before == after, f"{before}, then {after}")
    for data in (b"", bytes(7), bytes(9)):
        ask(a, Command(5, 0, data))
    lab.joined(b, a)
    return "ERR"


@check("CV-33", does="switch GUEST_CSUM off, TSO left on", expects="nothing partial, nothing large")
def sums_off(lab: Lab) -> str:
    """Large frames need partial sums."""
    taking = _taking(lab)
    a = lab.served(OFFLOADS | taking)
    a.start(64, WHOLE)
    b = lab.port(1, lab.sending())
    lab.joined(b, a)
    obeyed(a, offloads(taking & ~GUEST_CSUM))
    for kind in kinds(lab):
        a.fill(10, WHOLE)
        found = lab.carry_large(b, a, made(lab, kind, 1000, 2500, back=True))
        for each in found:
            expect(each.header.flags == each.header.gso_type == 0, describe(each))
    obeyed(a, offloads(taking))
    for kind in kinds(lab):
        a.fill(10, WHOLE)
        lab.carry_large(b, a, made(lab, kind, 1000, 2500, back=True))
    if not lab.offer.features >> net.VIRTIO_NET_F_GUEST_TSO4 & 1:
        raise NotOffered("VIRTIO_NET_F_GUEST_TSO4")
    if _received(lab, b, a).startswith("nothing"):
        raise Broken("nothing came")
    return "segments, flags 0"
