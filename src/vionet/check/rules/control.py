"""Area 1.9: the control queue, where the back-end serves it."""

import time
from dataclasses import replace
from typing import Any, Final

from vionet.check.case import CONFIG, INDIRECT, MACS, Lab, check
from vionet.check.control import (
    ALLMULTI,
    ALLUNI,
    ANNOUNCE_ACK,
    ERR,
    NOBCAST,
    NOMULTI,
    NOUNI,
    OK,
    PROMISC,
    Command,
    ask,
    mac_addr,
    mac_table,
    obeyed,
    offloads,
    rx,
    vlan,
)
from vionet.check.driver import Broken, NotOffered, Port
from vionet.check.packet import BROADCAST
from vionet.check.rules.config import number
from vionet.check.verdict import during, expect, same
from vionet.spec import virtio_net as net

CTRL_RX: Final = 1 << net.VIRTIO_NET_F_CTRL_RX
RX_EXTRA: Final = 1 << net.VIRTIO_NET_F_CTRL_RX_EXTRA
CTRL_VLAN: Final = 1 << net.VIRTIO_NET_F_CTRL_VLAN
CTRL_MAC: Final = 1 << net.VIRTIO_NET_F_CTRL_MAC_ADDR
ANNOUNCE: Final = 1 << net.VIRTIO_NET_F_GUEST_ANNOUNCE
MAC: Final = 1 << net.VIRTIO_NET_F_MAC
STATUS: Final = 1 << net.VIRTIO_NET_F_STATUS
FOREIGN: Final = b"\x02\x99\x99\x99\x99\x01"
GROUP: Final = b"\x01\x00\x5e\x00\x00\x63"


def steered(lab: Lab, features: int = 0, **options: Any) -> tuple[Port, Port]:
    """A port whose control queue is served, and its neighbour; frames pass both ways.

    Its address is that of the tester's frames, where it can be set.
    """
    setting = CTRL_MAC & lab.offer.features_with_config
    a = lab.served(features | setting, **options).start(64)
    b = lab.port(1)
    if setting:
        obeyed(a, mac_addr(MACS[0]))
    lab.joined(a, b)
    lab.joined(b, a)
    return a, b


def reaches(lab: Lab, b: Port, a: Port, dst: bytes, tags: tuple[int, ...] = ()) -> bool:
    """A frame that `b` sends to `dst` comes to `a`."""
    lab.refresh(a.where, 8)
    token = lab.token()
    b.reap()
    flow = replace(lab.flow(back=True), dst_mac=dst, tags=tags)
    b.send(flow.bare(token.ljust(46, b"\0")))
    return lab.arrival(b, a, token) is not None


def wanted(lab: Lab, b: Port, a: Port, dst: bytes, come: bool, tags: tuple[int, ...] = ()) -> None:
    """A frame to `dst` comes, or does not."""
    seen = reaches(lab, b, a, dst, tags)
    what = f"a frame to {dst.hex(':')}{f' with tags {tags}' if tags else ''}"
    expect(seen is come, f"{what} {'came' if seen else 'did not come'}")


@check("CV-01", does="a command in every split, indirect too", expects="OK each time")
def any_split(lab: Lab) -> str:
    """The framing of a command means nothing."""
    indirect = INDIRECT & lab.offer.features
    a, _ = steered(lab, CTRL_RX | indirect)
    shapes = ((2,), (1, 1, 1), (3,), (1, 2), (2, 1))
    for shape in shapes:
        for direct in (None, 0) if indirect else (None,):
            with during(f"descriptors of {shape}, indirect {direct is not None}"):
                answer = ask(a, rx(PROMISC), shape, direct=direct)
                expect(answer.ack == OK, f"answer {answer.ack}")
    table = mac_table([FOREIGN] * 3, [GROUP] * 2)
    answer = ask(a, table, (1,) * len(table.pack()))
    expect(answer.ack == OK, f"a table byte by byte: answer {answer.ack}")
    return f"{len(shapes)} splits"


@check("CV-02", does="unknown classes and commands", expects="ERR, at once")
def unknown(lab: Lab) -> str:
    """What a device does not know it refuses."""
    a, b = steered(lab)
    slowest = 0.0
    for kind, command in ((200, 0), (255, 255), *((kind, 99) for kind in range(8))):
        for data in (b"", bytes(1), bytes(300)):
            began = time.monotonic()
            answer = ask(a, Command(kind, command, data))
            slowest = max(slowest, time.monotonic() - began)
            expect(answer.ack == ERR, f"class {kind}, command {command}: answer {answer.ack}")
    lab.joined(a, b)
    return f"ERR, the slowest after {1000 * slowest:.1f} ms"


@check("CV-03", does="commands that are right, and wrong", expects="a used length of 1")
def ack_counted(lab: Lab) -> str:
    """The used length counts the acknowledgement."""
    a, _ = steered(lab, CTRL_RX)
    lengths = [ask(a, each).length for each in (rx(PROMISC), Command(200, 0), mac_table())]
    expect(lengths == [1, 1, 1], f"used lengths {lengths}")
    return "1 each"


@check("CV-04", does="PROMISC and ALLMULTI, on and off", expects="OK")
def modes(lab: Lab) -> str:
    """CTRL_RX brings two modes."""
    a, _ = steered(lab, CTRL_RX)
    obeyed(a, *(rx(mode, on) for mode in (PROMISC, ALLMULTI) for on in (1, 0, 1)))
    return "OK"


@check("CV-05", does="PROMISC", expects="frames for others arrive, with other modes too")
def promiscuous(lab: Lab) -> str:
    """Promiscuous is everything."""
    a, b = steered(lab, CTRL_RX)
    obeyed(a, rx(PROMISC))
    for dst in (FOREIGN, GROUP, BROADCAST, MACS[0]):
        wanted(lab, b, a, dst, True)
    return "all arrive"


@check("CV-06", does="ALLMULTI", expects="groups arrive")
def all_groups(lab: Lab) -> str:
    """All groups."""
    a, b = steered(lab, CTRL_RX)
    obeyed(a, rx(PROMISC, 0), rx(ALLMULTI))
    wanted(lab, b, a, GROUP, True)
    obeyed(a, rx(ALLMULTI, 0))
    return f"a group arrives; without ALLMULTI: {reaches(lab, b, a, GROUP)}"


@check("CV-07", does="ALLUNI, NOMULTI, NOUNI, NOBCAST, on and off", expects="OK")
def more_modes(lab: Lab) -> str:
    """CTRL_RX_EXTRA brings four modes."""
    a, _ = steered(lab, CTRL_RX | RX_EXTRA)
    modes = (ALLUNI, NOMULTI, NOUNI, NOBCAST)
    obeyed(a, *(rx(mode, on) for mode in modes for on in (1, 0)))
    return "OK"


@check("CV-08", does="NOMULTI, NOUNI and NOBCAST above ALLMULTI and ALLUNI", expects="kept away")
def suppressed(lab: Lab) -> str:
    """A class that is switched off stays away."""
    a, b = steered(lab, CTRL_RX | RX_EXTRA)
    obeyed(a, rx(PROMISC, 0), rx(ALLMULTI), rx(ALLUNI), rx(NOMULTI))
    wanted(lab, b, a, GROUP, False)
    wanted(lab, b, a, BROADCAST, True)
    obeyed(a, rx(NOMULTI, 0), rx(NOBCAST))
    wanted(lab, b, a, BROADCAST, False)
    wanted(lab, b, a, GROUP, True)
    obeyed(a, rx(NOBCAST, 0))
    wanted(lab, b, a, FOREIGN, True)
    return "kept away, broadcast apart"


@check(
    "CV-10", "CV-16", does="commands whose feature was not accepted", expects="ERR", survival=True
)
def not_negotiated(lab: Lab) -> str:
    """No command without its feature."""
    a = lab.served().start(16)
    b = lab.port(1)
    lab.joined(a, b)
    commands = [rx(mode) for mode in range(6)]
    commands += [mac_table([FOREIGN]), mac_addr(FOREIGN), vlan(5), ANNOUNCE_ACK]
    commands += [Command(4, 0, b"\1\0"), offloads(0)]
    for command in commands:
        answer = ask(a, command)
        expect(answer.ack == ERR, f"{command}: answer {answer.ack}")
    return f"{len(commands)} commands, ERR; {lab.survived(b)}"


@check("CV-11", does="fill the table, start over", expects="the table is empty")
def table_forgotten(lab: Lab) -> str:
    """A reset empties the table."""
    a, b = steered(lab, CTRL_RX)
    obeyed(a, rx(PROMISC, 0))
    filters = not reaches(lab, b, a, FOREIGN)
    obeyed(a, mac_table([FOREIGN]))
    wanted(lab, b, a, FOREIGN, True)
    a, b = steered(lab, CTRL_RX)
    obeyed(a, rx(PROMISC, 0))
    if not filters:
        return "the device does not filter"
    wanted(lab, b, a, FOREIGN, False)
    return "empty"


@check("CV-12", does="MAC_TABLE_SET, then a frame at once", expects="the new table counts")
def table_at_once(lab: Lab) -> str:
    """The table is in force when the command comes back."""
    a, b = steered(lab, CTRL_RX)
    obeyed(a, rx(PROMISC, 0), rx(ALLMULTI, 0))
    for place in range(20):
        mac, group = FOREIGN[:5] + bytes((place,)), GROUP[:5] + bytes((place,))
        obeyed(a, mac_table([mac], [group]))
        wanted(lab, b, a, mac, True)
        wanted(lab, b, a, group, True)
    many = [FOREIGN[:4] + bytes((place, 7)) for place in range(200)]
    obeyed(a, mac_table(many))
    wanted(lab, b, a, many[-1], True)
    return "20 tables, and one of 200"


@check("CV-13", does="MAC_ADDR_SET, then read the configuration", expects="the new address")
def address_shown(lab: Lab) -> str:
    """The configuration has the new address when the command comes back."""
    lab.need(protocol=CONFIG)
    a = lab.served(CTRL_MAC | MAC & lab.offer.features_with_config).start(16)
    before = a.frontend.config(0, 6)
    obeyed(a, mac_addr(FOREIGN))
    seen = a.frontend.config(0, 6)
    expect(seen == FOREIGN, f"{seen.hex(':')}, before {before.hex(':')}")
    return seen.hex(":")


@check("CV-14", does="no PROMISC; frames for others", expects="they stay away")
def others_kept_away(lab: Lab) -> str:
    """Only what is for this driver."""
    a, b = steered(lab, CTRL_RX)
    obeyed(a, rx(PROMISC, 0), rx(ALLMULTI, 0), mac_table([FOREIGN]))
    wanted(lab, b, a, FOREIGN[:5] + b"\x55", False)
    wanted(lab, b, a, GROUP, False)
    for dst in (FOREIGN, MACS[0], BROADCAST):
        wanted(lab, b, a, dst, True)
    return "they stay away"


@check("CV-15", does="tables with wrong lengths", expects="ERR, survival", survival=True)
def bad_tables(lab: Lab) -> str:
    """A table is as long as it says."""
    a, b = steered(lab, CTRL_RX)
    good = mac_table([FOREIGN], [GROUP]).data
    tables: tuple[bytes, ...] = (
        b"",
        b"\1",
        b"\xff\xff\xff\xff" + good[4:],
        b"\0\0\0\x80" + bytes(8),
        good[:-1],
    )
    tables += (good[:11], good + bytes(5), b"\0\0\0\0\xff\xff\xff\x7f")
    seen = [ask(a, Command(1, 0, data)).ack for data in tables]
    expect(set(seen[:6]) == {ERR}, f"answers {seen}")
    ask(a, b"")
    ask(a, b"\0")
    ask(a, rx(PROMISC), room=0)
    return f"answers {seen}; {lab.survived(b)}"


@check(
    "CV-17", does="CTRL_VLAN with an empty table", expects="tagged frames stay away, others pass"
)
def no_vlans(lab: Lab) -> str:
    """The VLAN table begins empty."""
    a, b = steered(lab, CTRL_VLAN)
    wanted(lab, b, a, MACS[0], False, (5,))
    wanted(lab, b, a, MACS[0], True)
    return "untagged frames pass only"


@check("CV-18", does="tagged frames without CTRL_VLAN", expects="all arrive as they are")
def all_vlans(lab: Lab) -> str:
    """Without CTRL_VLAN every tag passes."""
    a, b = lab.pair()
    for tags in ((1,), (5,), (4094,), (6, 7)):
        token = lab.token()
        data = lab.flow(tags=tags).bare(token.ljust(46, b"\0"))
        with during(f"tags {tags}"):
            same(lab.carry(a, b, token, data), data)
    return "all arrive"


@check("CV-19", does="VLAN_ADD and VLAN_DEL", expects="what is listed arrives")
def listed_vlans(lab: Lab) -> str:
    """The table names what is received."""
    a, b = steered(lab, CTRL_VLAN)
    others = []
    for vid in (1, 5, 1000, 4094):
        obeyed(a, vlan(vid))
        wanted(lab, b, a, MACS[0], True, (vid,))
        obeyed(a, vlan(vid, add=False))
        others.append(reaches(lab, b, a, MACS[0], (vid,)))
    expect(not any(others), f"received after VLAN_DEL: {others}")
    return "listed ones arrive, others do not"


@check("CV-20", does="VLAN_ADD 4096 and 65535, one byte, three", expects="ERR, or no harm")
def odd_vlans(lab: Lab) -> str:
    """There are 4096 VLANs."""
    a, b = steered(lab, CTRL_VLAN)
    seen = [ask(a, vlan(vid)).ack for vid in (4096, 0xFFFF)]
    seen += [ask(a, Command(2, 0, data)).ack for data in (b"", b"\1", b"\1\0\0")]
    lab.joined(a, b)
    return f"answers {seen}"


@check("CV-21", does="ANNOUNCE_ACK", expects="the bit is clear when it comes back")
def announced(lab: Lab) -> str:
    """The driver has announced itself."""
    a = lab.served(ANNOUNCE | STATUS).start(16)
    lab.link("down")
    lab.link("up")
    deadline = time.monotonic() + lab.patience
    while not number(a, 6, "<H") & 2:
        if time.monotonic() > deadline:
            raise NotOffered("an announcement after the link has come up")
        lab.pause(0.01)
    for count in range(1, 4):
        obeyed(a, ANNOUNCE_ACK)
        if not (status := number(a, 6, "<H")) & 2:
            return f"status {status} after {count}"
    raise Broken(f"status {status} after three")  # a device may ask once more
