"""Areas 1.10, 3.4 to 3.6 and 4.5: sessions that begin again, configuration, odd front-ends."""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from vionet.check.case import CONFIG, MRG, VERSION_1, Lab, check
from vionet.check.driver import BIT30, PROTOCOL, QUIET, RX, TX, Broken, Port
from vionet.check.rules.config import PROTOCOL_MTU, STATUS, number, refused
from vionet.check.rules.device import RESET, restart
from vionet.check.verdict import during, expect, same
from vionet.spec import vhost_user as vu
from vionet.spec import virtio
from vionet.spec.vhost_user import Request
from vionet.vhost_user.frontend import Closed, Frontend

RARP: Final = 1 << vu.VHOST_USER_PROTOCOL_F_RARP
BACKEND_REQ: Final = 1 << vu.VHOST_USER_PROTOCOL_F_BACKEND_REQ
REPLY_ACK: Final = 1 << vu.VHOST_USER_PROTOCOL_F_REPLY_ACK
STATUS_PROTOCOL: Final = 1 << vu.VHOST_USER_PROTOCOL_F_STATUS
ANY_LAYOUT: Final = 1 << virtio.VIRTIO_F_ANY_LAYOUT
CONFIG_CHANGE: Final = 2


# --- sessions that begin again (3.5) ----------------------------------------------------------
def reconnect(lab: Lab, port: Port) -> None:
    """Lose the connection and come back with the same memory, rings going on at the used index."""
    port.frontend.close()
    port.frontend = Frontend.connect(lab.paths[port.where], lab.timeout)
    offered = port.frontend.features()
    port.frontend.set_protocol_features(port.frontend.protocol_features() & PROTOCOL)
    expect(not port.features & ~offered, f"offered no longer: {port.features & ~offered:#x}")
    port.frontend.set_owner()
    port.frontend.set_features(port.features)
    port.frontend.set_mem_table(port.memory)
    for index in (RX, TX):
        port.rings[index].base = port.rings[index].used_idx
        port.set_up(index)
    port.enable()


@check("VU-72", "VU-73", does="lose the connection 20 times, go on at used.idx", expects="no loss")
def goes_on(lab: Lab) -> str:
    """What was available is taken up, receive buffers too."""
    a, b = lab.pair()
    lab.joined(b, a)
    for number_ in range(20):
        a.queue(lab.flow().bare(bytes(46)))
        a.tx.publish()
        reconnect(lab, a)
        with during(f"connection {number_}"):
            lab.joined(a, b)
            lab.joined(b, a)
            a.sent(lab.patience)
        lab.refresh(1, 8)
    return "20 connections, every buffer came back"


@check("VU-74", "FE-10", does="ask for the features of five connections", expects="the same")
def offers_stable(lab: Lab) -> str:
    """What was offered once is offered again."""
    lab.hang_up(1)
    seen = set()
    for _ in range(5):
        frontend = lab.connect()
        words = [frontend.features()]
        if words[0] & BIT30:
            words.append(frontend.protocol_features())
        seen.add(tuple(words))
    expect(len(seen) == 1, f"{len(seen)} different offers")
    return "the same"


@check("FE-11", does="stop rings that are enabled, and disabled ones", expects="frames pass again")
def stop_orders(lab: Lab) -> str:
    """Front-ends disable before they stop, or do not."""
    a, b = lab.port(0), lab.port(1)
    lab.joined(a, b)
    for disable in (False, True, False, True):
        a.sent(lab.patience)
        if disable:
            a.enable(False)
        for index in (RX, TX):
            a.stop(index)
        restart(a, a.tx.size)
        with during(f"disabled first: {disable}"):
            lab.joined(a, b)
            lab.joined(b, a)
        b.fill(4)
    return "both orders"


@check("FE-13", "FE-14", does="GET_QUEUE_NUM", expects="1 to 128 pairs", ports=1)
def pairs_fit(lab: Lab) -> str:
    """Ring numbers have eight bits."""
    lab.need(protocol=1 << vu.VHOST_USER_PROTOCOL_F_MQ)
    pairs = lab.open(0).frontend.queue_num()
    expect(1 <= pairs <= 128, f"{pairs} pairs")
    return f"{pairs} pairs"


@check(
    "FE-16",
    "GU-01",
    does="GET_FEATURES with CONFIG",
    expects="nothing lacks what it needs",
    ports=1,
)
def composed(lab: Lab) -> str:
    """Linux refuses a device whose features lack others."""
    lab.need(protocol=CONFIG)
    found = [virtio.NAMES[bit] for bit, _ in virtio.unmet(lab.offer.features_with_config)]
    expect(not found, f"offered alone: {', '.join(found)}")
    return "closed"


# --- the configuration and its messages (3.6) -------------------------------------------------
@check("VU-75", does="GET_CONFIG of many sizes and places", expects="that size, or none", ports=1)
def config_sizes(lab: Lab) -> str:
    """The answer has the size that was asked for."""
    lab.need(protocol=CONFIG)
    port = lab.open(0, protocol=PROTOCOL | CONFIG)
    seen = []
    for offset, size in ((0, 1), (0, 24), (4, 8), (0, 60), (0, 256), (200, 100), (0xFFFFFFFF, 8)):
        got = len(port.frontend.config(offset, size))
        expect(got in (0, size), f"{got} bytes for {size} at {offset}")
        seen.append(got)
    expect(seen[:3] == [1, 24, 8], f"sizes {seen}")
    return f"sizes {seen}"


@check("VU-76", "VU-77", does="SET_CONFIG of the status", expects="non-zero, unchanged", ports=1)
def config_kept(lab: Lab) -> str:
    """What a driver must not write stays."""
    lab.need(protocol=CONFIG)
    port = lab.open(0, protocol=PROTOCOL | CONFIG)
    before = port.frontend.config(0, 12)
    for flags in (0, 7):
        payload = vu.CONFIG_HEAD.pack(6, 2, flags) + b"\0\0"
        how = refused(partial(port.frontend.tell, Request.SET_CONFIG, payload))
        expect(bool(how), f"flags {flags}: accepted")
        port = lab.open(0, protocol=PROTOCOL | CONFIG)
    expect(port.frontend.config(0, 12) == before, "the configuration changed")
    return "refused"


@contextmanager
def _channel(lab: Lab, port: Port) -> Iterator[socket.socket]:
    """The channel on which the back-end may speak first."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours:
        with theirs:
            port.frontend.tell(Request.SET_BACKEND_REQ_FD, b"", [theirs.fileno()])
        ours.settimeout(lab.patience)
        yield ours


@check("VU-85", does="SET_BACKEND_REQ_FD, then traffic", expects="accepted, and nothing said")
def channel_taken(lab: Lab) -> str:
    """A channel is taken where it is offered."""
    lab.need(protocol=BACKEND_REQ | REPLY_ACK)
    a = lab.open(0, protocol=PROTOCOL | BACKEND_REQ)
    with _channel(lab, a) as channel:
        a.start(16)
        lab.joined(a, lab.port(1))
        channel.settimeout(QUIET)
        try:
            raise Broken(f"the back-end said {channel.recv(64).hex(' ')}")
        except TimeoutError:
            return "accepted, quiet"


@check("VU-78", "DS-10", does="take the link down and up", expects="CONFIG_CHANGE_MSG, new status")
def change_told(lab: Lab) -> str:
    """Changes of the configuration are told."""
    lab.need(protocol=BACKEND_REQ | CONFIG)
    want = VERSION_1 | STATUS & lab.offer.features_with_config
    a = lab.open(0, want, protocol=PROTOCOL | BACKEND_REQ | CONFIG).start(16)
    with _channel(lab, a) as channel:
        lab.joined(a, lab.port(1))
        seen = []
        for state, due in (("down", 0), ("up", 1)):
            lab.link(state)
            try:
                head = channel.recv(vu.HEADER.size, socket.MSG_WAITALL)
            except TimeoutError:
                raise Broken(f"link {state}: nothing was said") from None
            request, flags, size = struct.unpack("=III", head)
            expect((request, size) == (CONFIG_CHANGE, 0), f"request {request}, size {size}")
            expect(flags & 7 == vu.VERSION, f"flags {flags:#x}")
            status = number(a, 6, "<H")
            expect(status & 1 == due, f"link {state}: status {status}")
            seen.append(f"{state}: status {status}")
    return ", ".join(seen)


@check("VU-79", does="NET_SET_MTU of many values", expects="0 for what is acceptable", ports=1)
def mtu_values(lab: Lab) -> str:
    """An MTU that a driver was told of is acknowledged."""
    lab.need(protocol=PROTOCOL_MTU | REPLY_ACK)
    seen = []
    for mtu, must in ((67, False), (68, True), (1500, True), (9000, None), (65536, False)):
        port = lab.open(0, protocol=PROTOCOL | PROTOCOL_MTU)
        how = refused(partial(port.frontend.set_mtu, mtu))
        expect(must in (None, not how), f"{mtu}: {how or 'accepted'}")
        seen.append(f"{mtu}: {how or 'accepted'}")
    return ", ".join(seen)


@check("VU-80", does="SET_STATUS of a driver's start and end", expects="mirrored", ports=1)
def status_goes(lab: Lab) -> str:
    """The status goes through a driver's life."""
    lab.need(protocol=STATUS_PROTOCOL)
    port = lab.open(0, protocol=PROTOCOL | STATUS_PROTOCOL)
    for status in (1, 3, 11, 15, 0):
        port.frontend.set_status(status)
        seen = port.frontend.status()
        expect(seen == status, f"{seen} instead of {status}")
    return "1, 3, 11, 15, 0"


@check("VU-81", does="RESET_DEVICE, then set everything up again", expects="frames pass")
def reset_and_on(lab: Lab) -> str:
    """A reset disables the rings and keeps the connection."""
    lab.need(protocol=RESET)
    a, b = lab.port(0, protocol=PROTOCOL | RESET), lab.port(1)
    lab.joined(a, b)
    a.sent(lab.patience)
    a.frontend.reset_device()
    a.set_features(a.features)
    restart(a, a.tx.size)
    lab.joined(a, b)
    lab.joined(b, a)
    return "frames pass"


@check("VU-66", does="SEND_RARP", expects="a broadcast of at least 60 bytes with that address")
def rarp(lab: Lab) -> str:
    """The back-end announces a guest that does not."""
    lab.need(protocol=RARP)
    a, b = lab.port(0, protocol=PROTOCOL | RARP), lab.port(1)
    lab.joined(a, b)
    mac = b"\x02\x77\x77\x77\x77\x01"
    a.frontend.tell(Request.SEND_RARP, mac + bytes(2))
    found = b.collect(b"\x80\x35", lab.patience)
    expect(found.frame[:14] == b"\xff" * 6 + mac + b"\x80\x35", found.frame[:14].hex(" "))
    expect(len(found.frame) >= 60, f"{len(found.frame)} bytes")
    return f"{len(found.frame)} bytes"


# --- legacy drivers (1.10) --------------------------------------------------------------------
@check(
    "LG-01", "LG-02", does="a driver of 0.9.5, header in its own descriptor", expects="frames pass"
)
def legacy(lab: Lab) -> str:
    """Without VERSION_1: 10 bytes, or 12 with MRG_RXBUF."""
    b = lab.port(1)
    for want in (0, MRG & lab.offer.features):
        length = 12 if want else 10
        a = lab.port(0, want, shape=(length, 1514))
        lab.joined(a, b)
        for x, y, back in ((a, b, False), (b, a, True)):
            token = lab.token()
            data = lab.flow(back=back).bare(token.ljust(300, b"\x66"))
            with during(f"a header of {length} bytes"):
                same(lab.carry(x, y, token, data), data)
    return "headers of 10 and 12 bytes"


@check("LG-06", does="kick and enable before SET_FEATURES", expects="survival", survival=True)
def early(lab: Lab) -> str:
    """Old drivers are too early."""
    frontend = lab.connect()
    try:
        for index in (RX, TX):
            frontend.set_vring_kick(index, lab.eventfd(1))
            frontend.set_vring_enable(index)
        frontend.synchronise()
        how = "answers"
    except Closed:
        how = "connection closed"
    return f"{how}; {lab.survived(lab.port(1))}"


@check("LG-07", does="GET_FEATURES", expects="ANY_LAYOUT for legacy drivers", ports=1)
def any_layout(lab: Lab) -> str:
    """A transitional device offers ANY_LAYOUT."""
    expect(bool(lab.offer.features & ANY_LAYOUT), "VIRTIO_F_ANY_LAYOUT is not offered")
    return "offered"
