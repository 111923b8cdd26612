"""The session against everything: each ring state times each request, and noise.

The expected ring states are written down here by hand from the rules (spec VU-22 to VU-35), not
taken from the session.
"""

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.recorder import (
    CALL,
    ERR,
    FEATURES,
    KICK,
    PROTOCOL_FEATURES,
    Peer,
    Recorder,
    descriptors,
    mappings,
)
from vionet.spec import vhost_user as vu
from vionet.spec.vhost_user import Request
from vionet.vhost_user.connection import Connection
from vionet.vhost_user.frontend import pack_region
from vionet.vhost_user.message import Message, ProtocolError
from vionet.vhost_user.request import FORMS
from vionet.vhost_user.session import BIT_30

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
STATES = [(ready, enabled) for ready in (False, True) for enabled in (False, True)]
STAYS = None


def state(index: int, number: int) -> bytes:
    """A payload of two words."""
    return vu.VRING_STATE.pack(index, number)


# name -> (request, payload, descriptors, ready afterwards, enabled afterwards); both of ring 0
STEPS: dict[str, tuple[Request, bytes, tuple[int, ...], bool | None, bool | None]] = {
    "get features": (Request.GET_FEATURES, b"", (), STAYS, STAYS),
    "bit 30": (Request.SET_FEATURES, vu.U64.pack(BIT_30), (), STAYS, STAYS),
    "no bit 30": (Request.SET_FEATURES, vu.U64.pack(0), (), STAYS, True),
    "set owner": (Request.SET_OWNER, b"", (), STAYS, STAYS),
    "reset owner": (Request.RESET_OWNER, b"", (), STAYS, STAYS),
    "no memory": (Request.SET_MEM_TABLE, vu.MEM_TABLE_HEAD.pack(0, 0), (), False, STAYS),
    "log fd": (Request.SET_LOG_FD, b"", (ERR,), STAYS, STAYS),
    "smaller": (Request.SET_VRING_NUM, state(0, 4), (), STAYS, STAYS),
    "same size": (Request.SET_VRING_NUM, state(0, 8), (), STAYS, STAYS),
    "base": (Request.SET_VRING_BASE, state(0, 7), (), STAYS, STAYS),
    "stop": (Request.GET_VRING_BASE, state(0, 0), (), False, STAYS),
    "stop another": (Request.GET_VRING_BASE, state(1, 0), (), STAYS, STAYS),
    "kick": (Request.SET_VRING_KICK, vu.U64.pack(0), (KICK,), True, STAYS),
    "no kick": (Request.SET_VRING_KICK, vu.U64.pack(vu.VRING_NOFD), (), True, STAYS),
    "kick another": (Request.SET_VRING_KICK, vu.U64.pack(1), (KICK,), STAYS, STAYS),
    "call": (Request.SET_VRING_CALL, vu.U64.pack(0), (CALL,), STAYS, STAYS),
    "no call": (Request.SET_VRING_CALL, vu.U64.pack(vu.VRING_NOFD), (), STAYS, STAYS),
    "err": (Request.SET_VRING_ERR, vu.U64.pack(0), (ERR,), STAYS, STAYS),
    "protocol": (Request.GET_PROTOCOL_FEATURES, b"", (), STAYS, STAYS),
    "set protocol": (
        Request.SET_PROTOCOL_FEATURES,
        vu.U64.pack(PROTOCOL_FEATURES),
        (),
        STAYS,
        STAYS,
    ),
    "queues": (Request.GET_QUEUE_NUM, b"", (), STAYS, STAYS),
    "enable": (Request.SET_VRING_ENABLE, state(0, 1), (), STAYS, True),
    "disable": (Request.SET_VRING_ENABLE, state(0, 0), (), STAYS, False),
    "enable another": (Request.SET_VRING_ENABLE, state(1, 1), (), STAYS, STAYS),
    "endian": (Request.SET_VRING_ENDIAN, state(0, 0), (), STAYS, STAYS),
    "mtu": (Request.NET_SET_MTU, vu.U64.pack(1500), (), STAYS, STAYS),
    "channel": (Request.SET_BACKEND_REQ_FD, b"", (ERR,), STAYS, STAYS),
    "config": (Request.GET_CONFIG, vu.CONFIG_HEAD.pack(0, 0, 0), (), STAYS, STAYS),
    "migrate": (Request.SET_CONFIG, vu.CONFIG_HEAD.pack(0, 0, 1), (), STAYS, STAYS),
    "reset device": (Request.RESET_DEVICE, b"", (), False, False),
    "slots": (Request.GET_MAX_MEM_SLOTS, b"", (), STAYS, STAYS),
}


@contextlib.contextmanager
def peer_in(ready: bool, enabled: bool) -> Iterator[Peer]:
    """A peer whose ring 0 lacks nothing but perhaps its kick, and is in this state."""
    peer = Peer()
    peer.set_memory()
    peer.tell(Request.SET_FEATURES, vu.U64.pack(BIT_30))
    peer.set_up()
    if not ready:
        peer.base()
    if enabled:
        peer.state(Request.SET_VRING_ENABLE, 0, 1)
    try:
        yield peer
    finally:
        peer.close()


def steps_about_memory(
    peer: Peer,
) -> dict[str, tuple[Request, bytes, tuple[int, ...], bool | None]]:
    """Requests that need the peer's own regions: the ring lies in the first of two."""
    first, second = peer.guest.regions
    table = vu.MEM_TABLE_HEAD.pack(2, 0) + pack_region(first) + pack_region(second)
    return {
        "same memory": (Request.SET_MEM_TABLE, table, (first.fd, second.fd), STAYS),
        "remove": (Request.REM_MEM_REG, vu.U64.pack(0) + pack_region(first), (), False),
        "remove other": (Request.REM_MEM_REG, vu.U64.pack(0) + pack_region(second), (), STAYS),
        "same address": (Request.SET_VRING_ADDR, peer.place(0), (), STAYS),
    }


def check(peer: Peer, before: tuple[bool, bool], ready: bool | None, enabled: bool | None) -> None:
    """Session and device agree with what the rules say."""
    expected = before[0] if ready is None else ready, before[1] if enabled is None else enabled
    for ring in (peer.session.rings[0], peer.device.rings[0]):
        assert expected == (ring.ready, ring.enabled)


@pytest.mark.parametrize("before", STATES, ids=lambda s: f"ready={s[0]:d} enabled={s[1]:d}")
def test_every_state_times_every_request(before: tuple[bool, bool]) -> None:
    """spec VU-22 to VU-35: each request moves each state where the rules say, and nowhere else."""
    seen = set()
    for request, payload, fds, ready, enabled in STEPS.values():
        with peer_in(*before) as peer:
            peer.send(request, payload, *fds)
            check(peer, before, ready, enabled)
        seen.add(request)
    for name in ("same memory", "remove", "remove other", "same address"):
        with peer_in(*before) as peer:
            request, payload, fds, ready = steps_about_memory(peer)[name]
            peer.send(request, payload, *fds)
            check(peer, before, ready, STAYS)
        seen.add(request)
    assert FORMS.keys() - seen == {Request.ADD_MEM_REG}  # cannot touch a ring that is mapped


@QUICK
@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=30))
def test_states_along_any_path(names: list[str]) -> None:
    """Along every sequence of requests, enabled follows the rules and ready needs memory."""
    with peer_in(False, False) as peer:
        enabled, kicked, complete, retired = False, False, True, False
        for name in names:
            request, payload, fds, _, enables = STEPS[name]
            peer.send(request, payload, *fds)
            enabled = enabled if enables is None else enables
            # A base for a ring that was disabled while it ran: its driver starts over.
            retired = (retired or (name == "disable" and kicked and complete)) and not enabled
            if name in ("kick", "no kick"):
                kicked, retired = True, False
            elif name in ("stop", "reset device") or (name == "base" and retired):
                kicked = False
            # Without memory, and without size and addresses after a reset, no kick helps.
            complete = complete and name not in ("no memory", "reset device")
            ring = peer.session.rings[0]
            assert (kicked and complete, enabled) == (ring.ready, ring.enabled)
            assert peer.session.fds <= {KICK, CALL, ERR}


# --- noise ------------------------------------------------------------------------------------
ADDRESSES = st.one_of(
    st.integers(0, 2**64 - 1),
    st.sampled_from([0, 0x4000_0000, 0x7E00_0000_0000, 2**63 - 4096, 2**64 - 4096]),
    st.integers(0, 40).map(lambda page: 0x7E00_0000_0000 + page * 4096),
)
SMALL = st.one_of(st.integers(0, 3), st.integers(0, 2**32 - 1))
PAYLOADS = st.one_of(
    st.binary(max_size=400),
    st.integers(0, 2**64 - 1).map(vu.U64.pack),
    st.sampled_from([0, 1, 256, 257, FEATURES, FEATURES | BIT_30]).map(vu.U64.pack),
    st.builds(vu.VRING_STATE.pack, SMALL, st.one_of(SMALL, st.sampled_from([8, 256]))),
    st.builds(vu.VRING_ADDR.pack, SMALL, SMALL, ADDRESSES, ADDRESSES, ADDRESSES, ADDRESSES),
    st.builds(
        lambda gpa, size, uva, offset: vu.U64.pack(0) + vu.MEM_REGION.pack(gpa, size, uva, offset),
        ADDRESSES,
        st.one_of(st.just(65536), ADDRESSES),
        ADDRESSES,
        st.one_of(st.just(0), ADDRESSES),
    ),
    st.builds(
        lambda count, size, start: (
            vu.MEM_TABLE_HEAD.pack(count, 0)
            + b"".join(
                vu.MEM_REGION.pack(start + i * size, size, start + i * size, 0)
                for i in range(count)
            )
        ),
        st.integers(0, 8),
        st.sampled_from([4096, 65536]),
        st.sampled_from([0, 0x4000_0000]),
    ),
    st.builds(
        lambda offset, data, flags: vu.CONFIG_HEAD.pack(offset, len(data), flags) + data,
        SMALL,
        st.binary(max_size=300),
        SMALL,
    ),
)
REQUESTS = st.one_of(st.sampled_from(sorted(FORMS)), st.integers(0, 2**32 - 1))
FLAGS = st.one_of(st.sampled_from([1, 9]), st.integers(0, 31))
KINDS = ("eventfd", "memfd", "pipe", "socket", "file")
MESSAGES = st.tuples(REQUESTS, PAYLOADS, FLAGS, st.lists(st.sampled_from(KINDS), max_size=9))


def open_one(kind: str) -> list[int]:
    """Descriptors of one kind; the first is the one to send."""
    match kind:
        case "eventfd":
            return [os.eventfd(0, os.EFD_NONBLOCK)]
        case "memfd":
            fd = os.memfd_create("guest")
            os.ftruncate(fd, 65536)
            return [fd]
        case "pipe":
            reading, writing = os.pipe()
            return [writing, reading]
        case "socket":
            return [end.detach() for end in socket.socketpair()]
        case _:
            return [os.open("/dev/null", os.O_RDONLY)]


class Wire:
    """A real connection to a recorder, driven without a loop."""

    def __init__(self) -> None:
        self.ours, theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.device = Recorder(real=True)
        self.reasons: list[str] = []
        self.connection = Connection(theirs, self.device, lambda reason, _: self.note(reason))

    def note(self, reason: str) -> None:
        self.reasons.append(reason)

    def send(self, data: bytes, kinds: list[str]) -> None:
        """Send bytes with one descriptor of each kind, and let the back-end read them."""
        opened = [open_one(kind) for kind in kinds]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if kinds:
                socket.send_fds(self.ours, [data], [fds[0] for fds in opened])
            elif data:
                self.ours.send(data)
        for fd in [fd for fds in opened for fd in fds]:
            os.close(fd)
        while self.connection.open and self.connection.read():
            pass
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            while self.ours.recv(65536):
                pass

    def close(self) -> None:
        """The front-end goes away; the back-end notices."""
        self.ours.close()
        while self.connection.open and self.connection.read():
            pass
        assert not self.connection.open
        assert 1 == len(self.reasons)


@QUICK
@given(st.lists(MESSAGES, max_size=40), st.booleans())
def test_any_messages_and_descriptors_leave_nothing(
    messages: list[tuple[int, bytes, int, list[str]]], negotiated: bool
) -> None:
    """Whatever a front-end sends, the worst is the end of its session, and all is given back."""
    before = descriptors(), mappings()
    wire = Wire()
    if negotiated:
        word = vu.U64.pack(PROTOCOL_FEATURES)
        wire.send(Message(Request.SET_PROTOCOL_FEATURES, word).pack(), [])
    for request, payload, flags, kinds in messages:
        wire.send(Message(request, payload, (), flags).pack(), kinds)
    wire.close()
    assert before == (descriptors(), mappings())


@QUICK
@given(st.lists(st.tuples(st.binary(max_size=80), st.lists(st.sampled_from(KINDS), max_size=10))))
def test_any_bytes_leave_nothing(pieces: list[tuple[bytes, list[str]]]) -> None:
    """Noise instead of messages, descriptors on any of it."""
    before = descriptors(), mappings()
    wire = Wire()
    for data, kinds in pieces:
        wire.send(data or b"\1", kinds)
    wire.close()
    assert before == (descriptors(), mappings())


@QUICK
@given(st.lists(st.tuples(REQUESTS, PAYLOADS, FLAGS), max_size=40))
def test_a_session_raises_only_protocol_errors(messages: list[tuple[int, bytes, int]]) -> None:
    """Without descriptors, and with a ring running: a refused request tells the device nothing."""
    with peer_in(True, True) as peer:
        for request, payload, flags in messages:
            calls = len(peer.device.calls)
            try:
                answer = peer.send(request, payload, flags=flags)
            except ProtocolError:
                assert calls == len(peer.device.calls)
                break
            if answer is not None:
                assert (request, vu.VERSION | vu.FLAG_REPLY) == (answer.request, answer.flags)
                refused = request not in FORMS or not Request(request).name.startswith("GET_")
                if refused and answer.payload != vu.U64.pack(0):
                    assert calls == len(peer.device.calls)
