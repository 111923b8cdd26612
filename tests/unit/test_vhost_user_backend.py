"""The back-end on real sockets: roles, endings, descriptors, and what people are told."""

import ctypes
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.front_end import BIT_30, VERSION_1, Served, close_all, ended, set_up
from tests.recorder import (
    PROTOCOL_FEATURES,
    TIMEOUT,
    Recorder,
    descriptors,
    mappings,
    serving,
)
from vionet.jit import LANE, Lane
from vionet.spec import vhost_user as vu
from vionet.spec.vhost_user import Request
from vionet.vhost_user.backend import Backend
from vionet.vhost_user.budget import Budget
from vionet.vhost_user.frontend import Closed, Frontend, Refused
from vionet.vhost_user.guest_memory import GuestMemory
from vionet.vhost_user.journal import LINES_BURST, LINES_PER_SECOND
from vionet.vhost_user.listener import SocketError
from vionet.vhost_user.message import Message
from vionet.vhost_user.peer import Cause


@pytest.fixture
def served(run_dir: Path) -> Iterator[Served]:
    """A back-end that listens."""
    device = Recorder(real=True)
    with serving(run_dir / "s", device) as (loop, backend):
        yield run_dir / "s", device, loop, backend


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    """Two regions of guest memory."""
    with GuestMemory((1 << 20, 1 << 20)) as memory:
        yield memory


# --- a session from beginning to end ----------------------------------------------------------
def test_a_whole_session_leaves_nothing(served: Served, memory: GuestMemory) -> None:
    """Set up, used, closed: the device saw it all, and every descriptor and mapping is gone."""
    path, device, _, _ = served
    before = descriptors(), mappings()
    with Frontend.connect(path) as frontend:
        fds = set_up(frontend, memory)
        assert [(True, True)] * 2 == [(r.ready, r.enabled) for r in device.rings.values()]
        for ring in device.rings.values():
            assert not os.get_blocking(ring.kick_fd) and not os.get_blocking(ring.call_fd)
        os.eventfd_write(fds[0], 1)
        assert 1 == os.eventfd_read(device.rings[0].kick_fd)
        assert mappings() == before[1] + 2
        ours, theirs = socket.socketpair()
        with ours, theirs:
            frontend.tell(Request.SET_BACKEND_REQ_FD, b"", [theirs.fileno()])
            assert 0 == frontend.vring_base(1)
        close_all(fds)
    assert "front-end closed the connection" == ended(served)
    assert before == (descriptors(), mappings())


def test_sessions_follow_each_other(served: Served, memory: GuestMemory) -> None:
    """The port is ready for the next front-end at once, also with other memory."""
    path = served[0]
    before = descriptors(), mappings()
    for _ in range(5):
        with GuestMemory() as other, Frontend.connect(path) as frontend:
            close_all(set_up(frontend, other))
        ended(served)
    assert before == (descriptors(), mappings())


def test_messages_byte_by_byte(served: Served) -> None:
    """spec VU-01."""
    with Frontend.connect(served[0]) as frontend:
        for byte in Message(Request.GET_FEATURES).pack():
            frontend.send_bytes(bytes([byte]))
        assert 8 == len(frontend.reply(Request.GET_FEATURES))


def test_header_and_payload_apart_with_descriptors_on_either(
    served: Served, memory: GuestMemory
) -> None:
    """The descriptors belong to the message whichever of its bytes they came with."""
    path, device, _, _ = served
    kick = os.eventfd(0)
    data = Message(Request.SET_VRING_KICK, vu.U64.pack(0)).pack()
    with Frontend.connect(path) as frontend:
        frontend.send_bytes(data[:12], [kick])
        frontend.send_bytes(data[12:])
        frontend.send_bytes(data[:12])
        frontend.send_bytes(data[12:], [kick])
        frontend.synchronise()
        assert 2 == sum(call[0] == "set_ring" for call in device.calls)
    os.close(kick)


# --- breaking the protocol --------------------------------------------------------------------
BROKEN = {
    "another version": struct.pack("=III", 1, 2, 0),
    "a huge payload": struct.pack("=III", 1, 1, 0xFFFFFFFF),
    "an unknown request": struct.pack("=III", 999, 1, 0),
    "half a message, then the end": struct.pack("=III", 2, 1, 8) + b"\0",
    "a ring that does not exist": Message(Request.SET_VRING_NUM, vu.VRING_STATE.pack(9, 8)).pack(),
}


@pytest.mark.parametrize("what", BROKEN)
def test_breaking_the_protocol_ends_that_session_only(
    run_dir: Path, memory: GuestMemory, what: str
) -> None:
    """One clear line with the reason; the port takes the next front-end; another never notices."""
    other, device = Recorder(real=True), Recorder(real=True)
    with (
        capture_logs() as logs,
        serving(run_dir / "other", other) as (_, _),
        serving(run_dir / "s", device) as (_, _),
        Frontend.connect(run_dir / "other") as neighbour,
    ):
        close_all(set_up(neighbour, memory))
        with Frontend.connect(run_dir / "s") as frontend:
            frontend.send_bytes(BROKEN[what])
            if "half" in what:
                frontend.socket.shutdown(socket.SHUT_WR)
            assert frontend.closed()
        device.await_event("opened")
        reason = device.await_event("closed")
        neighbour.synchronise()
        with Frontend.connect(run_dir / "s") as frontend:
            frontend.synchronise()
    ended = [line for line in logs if line["event"] == "session closed" and line["port"] == "s"]
    told = [(line["log_level"], line["cause"], line["reason"]) for line in ended[:1]]
    assert [("warning", "broke_rule", reason)] == told


def test_a_front_end_that_reads_nothing_is_dropped(served: Served) -> None:
    """Replies that nobody reads are not kept: the session ends."""
    path = served[0]
    with Frontend.connect(path, timeout=TIMEOUT) as frontend:
        question = Message(Request.GET_FEATURES).pack()
        with pytest.raises((Closed, BrokenPipeError)):
            for _ in range(100_000):
                frontend.send_bytes(question)
        assert "front-end does not read its replies" == ended(served)


def test_descriptors_never_leak(served: Served, memory: GuestMemory) -> None:
    """spec VU-20: surplus, missing, wrong and repeated descriptors are all closed again."""
    path, _, _, _ = served
    event = os.eventfd(0)
    with Frontend.connect(path) as frontend:
        frontend.negotiate(VERSION_1 | BIT_30, PROTOCOL_FEATURES)
        before = descriptors()
        for _ in range(20):
            frontend.send(Request.SET_OWNER, fds=[event] * 8)
            frontend.send(Request.SET_VRING_KICK, vu.U64.pack(vu.VRING_NOFD), [event])
            frontend.ask(Request.GET_FEATURES, fds=[event])
            frontend.set_vring_call(0, event)
            for wrong in ([], [event] * 2):
                with pytest.raises(Refused):
                    frontend.tell_u64(Request.SET_VRING_CALL, 0, wrong)
            with pytest.raises(Refused):
                frontend.tell_u64(Request.SET_VRING_CALL, 77, [event])
            with pytest.raises(Refused):
                frontend.tell(Request.SET_MEM_TABLE, vu.MEM_TABLE_HEAD.pack(0, 0), [event])
        assert before + 1 == descriptors()  # the call of ring 0
        frontend.send_bytes(b"\1", [event] * 8)  # a message that never ends
    os.close(event)


def test_more_descriptors_than_a_message_may_have(served: Served) -> None:
    """Nine, and a hundred: the session ends, and none of them stays."""
    path = served[0]
    before = descriptors()
    for count in (9, 100):
        with Frontend.connect(path) as frontend:
            frontend.send(Request.SET_OWNER, fds=[0] * count)
            assert frontend.closed()
        assert "file descriptors" in ended(served)
    assert before == descriptors()


@pytest.mark.parametrize(
    ("request_id", "good"),
    [
        (Request.SET_VRING_KICK, {"eventfd"}),
        (Request.SET_VRING_CALL, {"eventfd", "pipe", "socket"}),
        (Request.SET_VRING_ERR, {"eventfd", "pipe", "socket"}),
        (Request.SET_BACKEND_REQ_FD, {"socket"}),
    ],
)
def test_the_kind_of_descriptor_is_checked(
    served: Served, request_id: Request, good: set[str]
) -> None:
    """A file or an epoll instance is no notification; User Mode Linux's sockets are."""
    epoll = select.epoll()
    left, right = socket.socketpair()
    reading, writing = os.pipe()
    kinds = {
        "eventfd": os.eventfd(0),
        "pipe": writing,
        "socket": left.fileno(),
        "file": os.memfd_create("file"),
        "epoll": os.dup(epoll.fileno()),
    }
    payload = b"" if request_id == Request.SET_BACKEND_REQ_FD else vu.U64.pack(0)
    with Frontend.connect(served[0]) as frontend:
        frontend.negotiate(VERSION_1 | BIT_30, PROTOCOL_FEATURES)
        for kind, fd in kinds.items():
            code = frontend.acknowledgement(request_id, payload, [fd])
            assert (kind in good) == (code == 0), kind
    for thing in (epoll, left, right):
        thing.close()
    close_all([reading, *(fd for kind, fd in kinds.items() if kind != "socket")])


# --- one at a time ----------------------------------------------------------------------------
def test_a_second_front_end_is_turned_away(served: Served) -> None:
    """While one is connected; the first goes on, and one line says what happened."""
    path, device, _, _ = served
    with capture_logs() as logs, Frontend.connect(path) as first:
        first.synchronise()
        with Frontend.connect(path) as second:
            assert second.closed()
        first.synchronise()
    assert [("turned away", "another front-end is connected", os.getpid())] == [
        (line["event"], line["reason"], line["pid"])
        for line in logs
        if line["log_level"] == "warning"
    ]
    device.await_event("opened")
    device.await_event("closed")


def test_a_successor_is_not_kept_out_by_the_dead(served: Served) -> None:
    """A front-end that closed just before its successor connected is noticed in time."""
    path, device, loop, _ = served
    gate = threading.Event()
    first = Frontend.connect(path)
    first.synchronise()
    blocker = threading.Thread(target=lambda: loop.call(lambda: gate.wait(TIMEOUT)))
    blocker.start()  # the loop stands still: both events become visible at once
    first.close()
    with Frontend.connect(path) as second:
        gate.set()
        second.synchronise()
    blocker.join()
    for name in ("opened", "closed", "opened", "closed"):
        device.await_event(name)


def test_a_successor_is_not_kept_out_by_what_the_dead_said(served: Served) -> None:
    """Messages beyond the budget wait; those of a front-end that has hung up no longer count."""
    path, device, loop, backend = served
    loop.call(lambda: setattr(backend, "_messages", Budget(3, 3)))
    with Frontend.connect(path) as first:
        for _ in range(50):  # as many as its socket holds
            first.send(Request.SET_OWNER)
    with Frontend.connect(path) as second:
        second.synchronise()
    for name in ("opened", "closed", "opened", "closed"):
        device.await_event(name)


def test_messages_have_a_budget(served: Served) -> None:
    """Nearly each holds the worker: beyond the budget they wait, and then they are answered."""
    path, _, loop, backend = served
    loop.call(lambda: setattr(backend, "_messages", Budget(3, 0)))
    with Frontend.connect(path) as frontend:
        for _ in range(3):
            frontend.tell(Request.SET_OWNER)
        frontend.send(Request.GET_FEATURES)
        assert frontend.silent(0.1)
        loop.call(lambda: setattr(backend, "_messages", Budget(1, 0)))
        assert VERSION_1 & vu.U64.unpack(frontend.receive().payload)[0]


def test_log_lines_are_bounded(served: Served) -> None:
    """However often a front-end comes and goes, and the next line says how many were left out."""
    path, began = served[0], time.monotonic()
    with capture_logs() as logs:
        for _ in range(2 * LINES_BURST):
            with Frontend.connect(path) as frontend:
                frontend.synchronise()
            ended(served)
    allowed = LINES_BURST + LINES_PER_SECOND * (time.monotonic() - began) + 1
    assert LINES_BURST <= len(logs) <= allowed < 4 * LINES_BURST


def test_closing_and_dropping(run_dir: Path, memory: GuestMemory) -> None:
    """`drop` ends a session and keeps the port; `close` ends both and removes the path."""
    device = Recorder(real=True)
    before = descriptors(), mappings()
    with serving(run_dir / "s", device) as (loop, backend):
        for end in ("drop", "close"):
            with Frontend.connect(run_dir / "s") as frontend:
                close_all(set_up(frontend, memory))
                device.await_event("opened")
                if end == "drop":
                    loop.call(lambda: backend.drop("because", Cause.REMOVED))
                    assert "because" == device.await_event("closed")
                    loop.call(lambda: None)
                else:
                    loop.run(backend.close())
                    assert "port closed" == device.await_event("closed")
                assert frontend.closed()
        assert not (run_dir / "s").exists()
    assert before == (descriptors(), mappings())


def test_a_back_end_that_could_not_start_can_be_closed(served: Served) -> None:
    """Whoever started several closes them all; the one that is served is left alone."""
    path, device, loop, _ = served
    second = Backend(Recorder(), path)
    with pytest.raises(SocketError, match="another process serves"):
        loop.call(second.start)
    for _ in range(2):
        loop.run(second.close())
    with Frontend.connect(path) as frontend:
        frontend.synchronise()
        device.await_event("opened")


# --- faults -----------------------------------------------------------------------------------
@pytest.mark.skipif(LANE is Lane.INTERPRETED, reason="faults are survived by compiled code")
def test_a_truncated_memory_file_ends_its_session_only(run_dir: Path, memory: GuestMemory) -> None:
    """spec VU-54: the hole reads as zeros, the session ends with the reason, others go on."""
    other, device = Recorder(real=True), Recorder(real=True)
    with (
        serving(run_dir / "other", other) as (_, _),
        serving(run_dir / "s", device) as (loop, _),
        Frontend.connect(run_dir / "other") as neighbour,
        Frontend.connect(run_dir / "s") as frontend,
        GuestMemory((1 << 20,)) as own,
    ):
        close_all(set_up(neighbour, memory))
        close_all(set_up(frontend, own))
        device.await_event("opened")
        hva = device.rings[0].desc_hva
        os.ftruncate(own.regions[0].fd, 0)
        assert bytes(16) == loop.call(lambda: ctypes.string_at(hva, 16))
        assert "its memory file was cut short" == device.await_event("closed")
        assert frontend.closed()
        neighbour.synchronise()
