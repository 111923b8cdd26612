"""Area 3.1: messages, replies, acknowledgements and what may be sent when."""

import random
import socket
import struct
from pathlib import Path

from vionet.check.case import CONFIG, VERSION_1, Lab, check
from vionet.check.driver import BIT30, PROTOCOL, QUIET, RX, TX, Broken, NotOffered
from vionet.check.rules.config import refused
from vionet.check.verdict import expect
from vionet.spec import vhost_user as vu
from vionet.spec.vhost_user import Request
from vionet.vhost_user.frontend import Closed, Frontend
from vionet.vhost_user.guest_memory import GuestMemory
from vionet.vhost_user.message import Message, ProtocolError

REPLY_ACK = 1 << vu.VHOST_USER_PROTOCOL_F_REPLY_ACK
NEED = vu.VERSION | vu.FLAG_NEED_REPLY
KNOWN_PROTOCOL = (1 << 23) - 1
UNKNOWN_REQUEST = 200


def greeted(lab: Lab, protocol: int = PROTOCOL) -> Frontend:
    """A front-end that has negotiated protocol features and nothing else."""
    frontend = lab.connect()
    if not frontend.features() & BIT30:
        raise NotOffered("VHOST_USER_F_PROTOCOL_FEATURES")
    frontend.set_protocol_features(frontend.protocol_features() & protocol)
    return frontend


def descriptors(frontend: Frontend) -> int:
    """Open descriptors of the process behind the socket."""
    layout = struct.Struct("3i")
    raw = frontend.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, layout.size)
    pid = layout.unpack(raw)[0]
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError as error:
        raise NotOffered("a look at the back-end's descriptors in /proc") from error


@check(
    "VU-01",
    does="send messages byte by byte, and header apart from payload",
    expects="answers",
    ports=1,
)
def any_pieces(lab: Lab) -> str:
    """A message is a stream of bytes."""
    frontend = lab.connect()
    for byte in Message(Request.GET_FEATURES).pack():
        expect(frontend.silent(0.002), "an answer to half a message")
        frontend.send_bytes(bytes([byte]))
    first = vu.U64.unpack(frontend.reply(Request.GET_FEATURES))[0]
    expect(first == lab.offer.features, f"GET_FEATURES is {first:#x}")
    data = Message(Request.SET_FEATURES, vu.U64.pack(VERSION_1)).pack()
    frontend.send_bytes(data[:12])
    expect(frontend.silent(0.01), "an answer to a header")
    for byte in data[12:]:
        frontend.send_bytes(bytes([byte]))
    frontend.send_bytes(Message(Request.GET_FEATURES).pack())
    again = vu.U64.unpack(frontend.reply(Request.GET_FEATURES))[0]
    expect(again == first, f"GET_FEATURES is {again:#x}")
    return "answered"


@check("VU-02", does="send version 2 and version 0", expects="no ordinary answer", ports=1)
def wrong_version(lab: Lab) -> str:
    """The version is 1."""
    seen = []
    for version in (2, 0):
        frontend = lab.connect()
        frontend.send(Request.GET_FEATURES, flags=version)
        try:
            reply = frontend.receive(lab.patience)
        except (Closed, ProtocolError):
            seen.append("closed")
        except TimeoutError:
            seen.append("no answer")
        else:
            raise Broken(f"version {version} was answered with {reply.payload.hex()}")
    return ", ".join(seen)


@check(
    "VU-03",
    does="ask everything that has an answer",
    expects="reply flag, version 1, same id",
    ports=1,
)
def reply_headers(lab: Lab) -> str:
    """Replies are marked as replies."""
    port = lab.open(0)
    asked = [
        (Request.GET_FEATURES, b""),
        (Request.GET_PROTOCOL_FEATURES, b""),
        (Request.GET_VRING_BASE, vu.VRING_STATE.pack(0, 0)),
    ]
    port.frontend.set_mem_table(port.memory)
    port.set_up(RX)
    if port.frontend.negotiated(vu.VHOST_USER_PROTOCOL_F_MQ):
        asked.append((Request.GET_QUEUE_NUM, b""))
    for request, payload in asked:
        port.frontend.send(request, payload)
        reply = port.frontend.receive()
        expect(reply.request == request, f"{request.name} was answered with id {reply.request}")
        wanted = vu.VERSION | vu.FLAG_REPLY
        expect(
            reply.flags & 7 == wanted, f"{request.name} was answered with flags {reply.flags:#x}"
        )
    return ", ".join(request.name for request, _ in asked)


@check(
    "VU-04",
    does="ask everything that must be answered",
    expects="an answer of the right size",
    ports=1,
)
def always_answered(lab: Lab) -> str:
    """Some messages are always answered."""
    offered = lab.offer.protocol_features
    more = CONFIG | 1 << vu.VHOST_USER_PROTOCOL_F_STATUS
    port = lab.open(0, protocol=PROTOCOL | more)
    port.frontend.set_mem_table(port.memory)
    port.set_up(TX)
    asked = [
        (Request.GET_FEATURES, b"", 8),
        (Request.GET_PROTOCOL_FEATURES, b"", 8),
        (Request.GET_VRING_BASE, vu.VRING_STATE.pack(1, 0), 8),
    ]
    by_feature = (
        (vu.VHOST_USER_PROTOCOL_F_MQ, (Request.GET_QUEUE_NUM, b"", 8)),
        (vu.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS, (Request.GET_MAX_MEM_SLOTS, b"", 8)),
        (vu.VHOST_USER_PROTOCOL_F_STATUS, (Request.GET_STATUS, b"", 8)),
        (
            vu.VHOST_USER_PROTOCOL_F_CONFIG,
            (Request.GET_CONFIG, vu.CONFIG_HEAD.pack(0, 6, 0) + bytes(6), 18),
        ),
    )
    asked += [row for bit, row in by_feature if offered >> bit & 1]
    for request, payload, size in asked:
        try:
            answer = port.frontend.ask(request, payload)
        except (TimeoutError, Closed) as error:
            raise Broken(f"{request.name}: {type(error).__name__}") from error
        expect(len(answer) == size, f"{request.name}: {len(answer)} bytes instead of {size}")
    return ", ".join(request.name for request, *_ in asked)


def _acknowledged(lab: Lab) -> list[tuple[Request, bytes, list[int]]]:
    """Messages without a reply of their own, in an order that makes sense."""
    memory = GuestMemory((1 << 20,))
    lab.memories.append(memory)
    region = memory.regions[0]
    layout = vu.MEM_REGION.pack(region.gpa, region.size, region.uva, 0)
    events = [lab.eventfd() for _ in range(3)]
    address = vu.VRING_ADDR.pack(0, 0, region.uva, region.uva + 8192, region.uva + 4096, 0)
    return [
        (Request.SET_OWNER, b"", []),
        (Request.SET_FEATURES, vu.U64.pack(VERSION_1 | BIT30), []),
        (Request.SET_MEM_TABLE, vu.MEM_TABLE_HEAD.pack(1, 0) + layout, [region.fd]),
        (Request.SET_VRING_NUM, vu.VRING_STATE.pack(0, 256), []),
        (Request.SET_VRING_BASE, vu.VRING_STATE.pack(0, 0), []),
        (Request.SET_VRING_ADDR, address, []),
        (Request.SET_VRING_CALL, vu.U64.pack(0), [events[0]]),
        (Request.SET_VRING_ERR, vu.U64.pack(0), [events[1]]),
        (Request.SET_VRING_KICK, vu.U64.pack(0), [events[2]]),
        (Request.SET_VRING_ENABLE, vu.VRING_STATE.pack(0, 1), []),
    ]


@check(
    "VU-05", does="need_reply on ten messages without a reply", expects="one u64 each, 0", ports=1
)
def one_acknowledgement(lab: Lab) -> str:
    """With REPLY_ACK need_reply is answered."""
    lab.need(protocol=REPLY_ACK)
    frontend = greeted(lab)
    for request, payload, fds in _acknowledged(lab):
        try:
            code = frontend.acknowledgement(request, payload, fds)
        except (TimeoutError, Closed, ProtocolError) as error:
            raise Broken(f"{request.name}: {str(error) or type(error).__name__}") from error
        expect(code == 0, f"{request.name} was acknowledged with {code}")
        expect(frontend.silent(0.002), f"{request.name} was answered twice")
    return "ten messages, one u64 each"


@check("VU-06", does="need_reply on GET_FEATURES", expects="one reply", ports=1)
def one_reply(lab: Lab) -> str:
    """Messages that reply anyway reply once."""
    lab.need(protocol=REPLY_ACK)
    frontend = greeted(lab)
    for request in (Request.GET_FEATURES, Request.GET_PROTOCOL_FEATURES):
        frontend.send(request, flags=NEED)
        frontend.reply(request)
        expect(frontend.silent(QUIET), f"{request.name} was answered twice")
    return "one reply each"


@check(
    "VU-07",
    does="messages without need_reply; need_reply without REPLY_ACK",
    expects="silence",
    ports=1,
)
def no_acknowledgement(lab: Lab) -> str:
    """No acknowledgement that was not asked for."""
    with_ack = greeted(lab)
    for request, payload, fds in _acknowledged(lab):
        with_ack.send(request, payload, fds)
    expect(with_ack.silent(QUIET), "an answer although need_reply was clear")
    with_ack.synchronise()
    without = greeted(lab, PROTOCOL & ~REPLY_ACK)
    without.send(Request.SET_OWNER, flags=NEED)
    without.send(Request.SET_FEATURES, vu.U64.pack(VERSION_1 | BIT30), flags=NEED)
    expect(without.silent(QUIET), "an answer although REPLY_ACK was not negotiated")
    without.synchronise()
    return "silence"


@check(
    "VU-08",
    does="an unknown request, and one that must fail, with need_reply",
    expects="non-zero",
    ports=1,
)
def failure_told(lab: Lab) -> str:
    """A failure is told, not swallowed."""
    lab.need(protocol=REPLY_ACK)
    seen = []
    for name, request, payload in (
        ("request 200", UNKNOWN_REQUEST, b""),
        ("a ring of 0", Request.SET_VRING_NUM, vu.VRING_STATE.pack(0, 0)),
        ("ring 70000", Request.SET_VRING_BASE, vu.VRING_STATE.pack(70000, 0)),
    ):
        frontend = greeted(lab)
        try:
            code = frontend.acknowledgement(request, payload)
        except Closed:
            seen.append(f"{name}: closed")
        except TimeoutError as error:
            raise Broken(f"{name}: no answer") from error
        else:
            expect(code != 0, f"{name} was acknowledged with 0")
            seen.append(f"{name}: {code}")
    return ", ".join(seen)


@check(
    "VU-09", does="send 60 connections of random bytes and messages", expects="survival", ports=1
)
def noise(lab: Lab) -> str:
    """A connection may be closed; the back-end stays."""
    source = random.Random(9)
    for number in range(60):
        frontend = Frontend.connect(lab.paths[0], lab.timeout)
        try:
            for _ in range(4):
                body = source.randbytes(source.choice((0, 4, 8, 16, 40, 200)))
                request = source.randrange(45)
                flags = source.choice((vu.VERSION, NEED, 0x105))
                if number % 3 == 0:
                    frontend.send_bytes(source.randbytes(64))
                else:
                    frontend.send(request, body, flags=flags)
        except Closed:
            pass
        finally:
            frontend.close()
    return lab.survived()


@check("VU-10", does="ADD_MEM_REG without CONFIGURE_MEM_SLOTS", expects="refused", ports=1)
def not_negotiated(lab: Lab) -> str:
    """Extensions only once they were negotiated."""
    lab.need(protocol=REPLY_ACK | 1 << vu.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS)
    frontend = greeted(lab, REPLY_ACK)
    memory = GuestMemory((1 << 20,))
    lab.memories.append(memory)
    how = refused(lambda: frontend.add_mem_reg(memory.regions[0]))
    expect(bool(how), "ADD_MEM_REG was accepted")
    return how


@check("VU-11", does="protocol features before SET_FEATURES", expects="they work", ports=1)
def protocol_first(lab: Lab) -> str:
    """Protocol features need no acknowledged bit 30."""
    frontend = lab.connect()
    frontend.features()
    word = frontend.protocol_features()
    frontend.set_protocol_features(word & PROTOCOL)
    again = frontend.protocol_features()
    expect(again == word, f"{again:#x} after {word:#x}")
    return " ".join(vu.protocol_names(word))


@check("VU-12", does="GET_FEATURES", expects="bit 30", ports=1)
def bit_30(lab: Lab) -> str:
    """Protocol features exist."""
    expect(bool(lab.offer.features & BIT30), "bit 30 is not offered")
    return "offered"


@check("VU-13", does="GET_PROTOCOL_FEATURES", expects="no bits above 22", ports=1)
def known_protocol(lab: Lab) -> str:
    """Only protocol features that exist."""
    unknown = lab.offer.protocol_features & ~KNOWN_PROTOCOL
    expect(not unknown, f"unknown bits {unknown:#x}")
    return " ".join(vu.protocol_names(lab.offer.protocol_features))


@check(
    "VU-15", does="SET_PROTOCOL_FEATURES of INBAND_NOTIFICATIONS alone", expects="closed", ports=1
)
def inband_alone(lab: Lab) -> str:
    """In-band notifications need REPLY_ACK and BACKEND_REQ."""
    frontend = lab.connect()
    frontend.synchronise()
    bit = 1 << vu.VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS
    frontend.send(Request.SET_PROTOCOL_FEATURES, vu.U64.pack(bit))
    expect(frontend.closed(lab.patience), "the connection stays open")
    return "closed"


@check("VU-16", does="GET_PROTOCOL_FEATURES", expects="MQ", ports=1)
def multiple_queues(lab: Lab) -> str:
    """The protocol feature MQ is always there."""
    expect(bool(lab.offer.protocol_features & 1), "MQ is not offered")
    return "offered"


@check("VU-17", does="GET_QUEUE_NUM", expects="1 to 128 pairs", ports=1)
def queue_number(lab: Lab) -> str:
    """A number of pairs; ring numbers have 8 bits."""
    lab.need(protocol=1)
    pairs = lab.open(0).frontend.queue_num()
    expect(1 <= pairs <= 128, f"{pairs}")
    return f"{pairs}"


@check("VU-18", does="SET_OWNER", expects="the session goes on", ports=1)
def owner(lab: Lab) -> str:
    """A session begins."""
    frontend = lab.connect()
    frontend.set_owner()
    expect(frontend.silent(QUIET), "SET_OWNER was answered")
    frontend.synchronise()
    return "no reply"


@check("VU-19", does="RESET_OWNER during traffic", expects="the connection continues")
def reset_owner(lab: Lab) -> str:
    """A relic: ignore it, or disable the rings."""
    a, _ = lab.pair()
    a.frontend.send(Request.RESET_OWNER)
    try:
        a.frontend.synchronise()
    except Closed as error:
        raise Broken("the connection was closed") from error
    return "the connection continues"


@check(
    "VU-20", does="300 messages with three descriptors too many", expects="none is kept", ports=1
)
def surplus_descriptors(lab: Lab) -> str:
    """Descriptors that nobody asked for are closed."""
    watch = lab.connect()
    before = descriptors(watch)
    lab.hang_up(0)
    fds = [lab.eventfd() for _ in range(3)]
    for _ in range(30):
        frontend = Frontend.connect(lab.paths[0], lab.timeout)
        try:
            for _ in range(10):
                frontend.send(Request.SET_OWNER, b"", fds)
            frontend.synchronise()
        except (Closed, ProtocolError):
            pass
        finally:
            frontend.close()
    after = descriptors(lab.connect())
    expect(after <= before + 4, f"{before} descriptors before, {after} after")
    return f"{before} descriptors before, {after} after"


@check("VU-21", does="connect five times", expects="served each time", ports=1)
def reconnected(lab: Lab) -> str:
    """A front-end reconnects."""
    for _ in range(5):
        lab.survived()
    return "served five times"
