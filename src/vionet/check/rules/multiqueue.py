"""Areas 1.2, 1.9 and 4.5: several pairs of queues, by the control queue and by the front-end."""

import time
from collections.abc import Iterable

from vionet.check.case import MACS, MQ, VERSION_1, Lab, check
from vionet.check.control import ERR, ask, mac_addr, obeyed, vq_pairs
from vionet.check.driver import QUIET, Broken, NotOffered, Port
from vionet.check.rules.control import CTRL_MAC
from vionet.check.verdict import expect

FLOWS = 24


def several(lab: Lab, pairs: int = 2) -> tuple[Port, Port]:
    """A port with all the pairs there are and a control queue, `pairs` in use; its neighbour."""
    if lab.offer.pairs < 2:
        raise NotOffered("more than one pair of queues")
    setting = CTRL_MAC & lab.offer.features_with_config
    a = lab.served(MQ | setting).start(32)
    b = lab.port(1, rx_buffers=200)
    if setting:
        obeyed(a, mac_addr(MACS[0]))
    if pairs > 1:
        obeyed(a, vq_pairs(pairs))
    return lab.joined(a, b)


def shower(lab: Lab, a: Port, b: Port, flows: Iterable[int] = range(FLOWS)) -> dict[int, int]:
    """One frame of each flow from `b` to `a`: flow -> the pair that it came on.

    Raises `Broken` if one does not come.
    """
    tokens = {}
    for flow in flows:
        token = lab.token()
        tokens[flow] = token
        b.queue(lab.flow(back=True, src_port=40001, dst_port=50000 + flow).udp(token).data)
    b.publish()
    b.sent(lab.patience)
    came: dict[int, int] = {}
    deadline = time.monotonic() + lab.patience
    while len(came) < len(tokens):
        if time.monotonic() > deadline:
            raise Broken(f"{len(came)} of {len(tokens)} flows came")
        for pair in range(a.pairs):
            while (found := a.next_frame(0, pair)) is not None:
                came |= {flow: pair for flow, token in tokens.items() if token in found.frame}
    for pair in range(a.pairs):
        a.fill(FLOWS, pair=pair)
    return came


def teach(lab: Lab, a: Port, pair: int, flow: int) -> None:
    """Send a frame of a flow from `a` on `pair`."""
    a.reap(pair)
    frame = lab.flow(src_port=50000 + flow, dst_port=40001).udp(lab.token())
    a.send(frame.data, pair=pair)
    a.sent(lab.patience, pair)


@check("CF-02", does="a command at ring 2 without MQ, at 2N with", expects="an answer at both")
def control_ring(lab: Lab) -> str:
    """The control queue moves with MQ."""
    a = lab.served().start(8)
    ask(a, vq_pairs(1))
    seen = ["ring 2"]
    if lab.offer.features_with_config & MQ:
        a = lab.served(MQ).start(8)
        obeyed(a, vq_pairs(1))
        seen.append(f"ring {2 * lab.offer.pairs} with MQ")
    return ", ".join(seen)


@check("CV-23", does="VQ_PAIRS_SET 2, 1, 2", expects="the last one counts")
def last_wins(lab: Lab) -> str:
    """Several pairs are off until they are asked for."""
    a, b = several(lab, 1)
    used = [len(set(shower(lab, a, b).values()))]
    for pairs in (2, 1, 2):
        obeyed(a, vq_pairs(pairs))
        for flow in range(FLOWS):
            teach(lab, a, flow % pairs, flow)
        used.append(len(set(shower(lab, a, b).values())))
    expect(used[0] == used[2] == 1, f"pairs used {used}")
    return f"pairs used {used}"


@check("CV-24", does="24 flows to two pairs, three times", expects="each keeps its queue")
def steady(lab: Lab) -> str:
    """A flow stays where it is."""
    a, b = several(lab)
    for flow in range(FLOWS):
        teach(lab, a, flow % 2, flow)
    first = shower(lab, a, b)
    for _ in range(2):
        again = shower(lab, a, b)
        expect(again == first, f"flows moved: {first}, then {again}")
    expect(set(first.values()) <= {0, 1}, f"{first}")
    return f"pairs used {sorted(set(first.values()))}"


@check("CV-25", does="send a flow on each transmit queue", expects="it comes back on the same pair")
def follows(lab: Lab) -> str:
    """A flow that was sent on queue X comes back on queue X."""
    if lab.offer.pairs < 2:
        raise NotOffered("more than one pair of queues")
    a, b = several(lab, lab.offer.pairs)
    for turn in range(2):
        due = {flow: (flow + turn) % lab.offer.pairs for flow in range(FLOWS)}
        for flow, pair in due.items():
            teach(lab, a, pair, flow)
        seen = shower(lab, a, b)
        expect(seen == due, f"sent on {due}, came on {seen}")
    return f"{FLOWS} flows over {lab.offer.pairs} pairs, twice"


@check("CV-26", does="post buffers on all pairs, ask for none", expects="only the first is used")
def first_only(lab: Lab) -> str:
    """After initialisation there is one pair."""
    a, b = several(lab, 1)
    used = set(shower(lab, a, b).values())
    expect(used == {0}, f"pairs used {sorted(used)}")
    return "the first only"


@check("CV-27", does="VQ_PAIRS_SET 1 under traffic", expects="nothing comes to others afterwards")
def shrunk(lab: Lab) -> str:
    """Queues beyond the number are left alone."""
    a, b = several(lab)
    for flow in range(FLOWS):
        teach(lab, a, flow % 2, flow)
    for _ in range(5):
        obeyed(a, vq_pairs(2))
        shower(lab, a, b)
        for flow in range(FLOWS):
            b.queue(lab.flow(back=True, src_port=40001, dst_port=50000 + flow).udp(b"x").data)
        b.publish()
        obeyed(a, vq_pairs(1))
        before = [ring.fresh for ring in a.rings[2 : 2 * a.pairs : 2]]
        b.sent(lab.patience)
        lab.pause(QUIET / 2)
        after = [ring.fresh for ring in a.rings[2 : 2 * a.pairs : 2]]
        expect(before == after, f"{before} used on other pairs, then {after}")
        for pair in range(a.pairs):
            a.drain(pair)
            a.fill(FLOWS, pair=pair)
        used = set(shower(lab, a, b).values())
        expect(used == {0}, f"pairs used {sorted(used)}")
    return "five times"


@check("CV-29", does="VQ_PAIRS_SET 0 and too many; send on others", expects="ERR", survival=True)
def bad_numbers(lab: Lab) -> str:
    """From one to as many as there are."""
    a, b = several(lab, 1)
    for count in (0, lab.offer.pairs + 1, 0x8000, 0xFFFF):
        answer = ask(a, vq_pairs(count))
        expect(answer.ack == ERR, f"{count} pairs: answer {answer.ack}")
    used = set(shower(lab, a, b).values())
    expect(used == {0}, f"pairs used {sorted(used)}")
    a.send(lab.flow().bare(lab.token().ljust(46, b"\0")), pair=1)
    return f"ERR; {lab.survived(b)}"


@check(
    "FE-04", does="enable and disable pairs by SET_VRING_ENABLE", expects="frames pass throughout"
)
def by_front_end(lab: Lab) -> str:
    """A front-end that keeps the control queue enables rings."""
    lab.need(MQ)
    if lab.offer.pairs < 2:
        raise NotOffered("more than one pair of queues")
    a = lab.port(0, VERSION_1 | MQ, pairs=lab.offer.pairs)
    b = lab.port(1, rx_buffers=200)
    others = range(2, 2 * lab.offer.pairs)
    lab.joined(a, b)
    used = []
    for enabled in (True, False, True, False):
        a.enable(enabled, others)
        a.frontend.synchronise()
        for flow in range(FLOWS):
            teach(lab, a, flow % 2 if enabled else 0, flow)
        seen = shower(lab, a, b)
        used.append(len(set(seen.values())))
        expect(enabled or set(seen.values()) == {0}, f"disabled, but pairs {set(seen.values())}")
    return f"pairs used {used}"
