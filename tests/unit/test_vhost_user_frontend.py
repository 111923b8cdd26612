"""The front-end: bounded waits, checked replies, and every request against a real back-end."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.recorder import CONFIG, PROTOCOL_FEATURES, Recorder, descriptors, serving
from vionet.spec import vhost_user as vu
from vionet.spec import virtio
from vionet.spec.vhost_user import Request
from vionet.vhost_user.frontend import Closed, Frontend, Refused
from vionet.vhost_user.guest_memory import GuestMemory
from vionet.vhost_user.message import Message, ProtocolError

FEATURES = virtio.mask((virtio.VIRTIO_F_VERSION_1, virtio.VHOST_USER_F_PROTOCOL_FEATURES))
REPLY = vu.VERSION | vu.FLAG_REPLY
WAIT_S = 60


@contextlib.contextmanager
def scripted(*replies: Message, fds: tuple[int, ...] = ()) -> Iterator[Frontend]:
    """A front-end whose back-end has said all it will ever say."""
    ours, theirs = socket.socketpair()
    with theirs, Frontend(ours, timeout=WAIT_S if replies else 0.05) as frontend:
        for reply in replies:
            socket.send_fds(theirs, [reply.pack()], list(fds))
        yield frontend


def test_every_request_of_its_own(run_dir: Path) -> None:
    """Each convenience sends what a back-end accepts, and understands what comes back."""
    device = Recorder(real=True)
    with (
        serving(run_dir / "s", device) as (_, _),
        GuestMemory((1 << 16, 1 << 16)) as memory,
        Frontend.connect(run_dir / "s") as frontend,
    ):
        assert (FEATURES, PROTOCOL_FEATURES) == frontend.negotiate(FEATURES, PROTOCOL_FEATURES)
        assert FEATURES == device.features
        assert (1, 32) == (frontend.queue_num(), frontend.max_mem_slots())
        for region in memory.regions:
            frontend.add_mem_reg(region)
        frontend.rem_mem_reg(memory.regions[1])
        assert [memory.regions[0].gpa] == [region.gpa for region in device.regions]
        frontend.set_mtu(1500)
        assert ("set_mtu", 1500) == device.calls[-1]
        assert CONFIG[:6] == frontend.config(0, 6)
        assert b"" == frontend.config(255, 2)
        with pytest.raises(Refused, match="SET_CONFIG was acknowledged with 1"):
            frontend.set_config(0, b"\0" * 6)
        frontend.set_vring_err(0, None)
        frontend.set_vring_base(1, 77)
        assert 77 == frontend.vring_base(1)
        frontend.reset_device()
        assert frontend.silent(0.01)


def test_status() -> None:
    """SET_STATUS is acknowledged and GET_STATUS answered by a back-end that has them."""
    acknowledged = Message(Request.SET_STATUS, vu.U64.pack(0), (), REPLY)
    answer = Message(Request.GET_STATUS, vu.U64.pack(3), (), REPLY)
    with scripted(acknowledged, answer) as frontend:
        frontend.acknowledged = 1 << vu.VHOST_USER_PROTOCOL_F_REPLY_ACK
        frontend.set_status(3)
        assert 3 == frontend.status()


def test_waits_are_bounded() -> None:
    """A back-end that says nothing: TimeoutError, silence, and not closed."""
    with scripted() as frontend:
        with pytest.raises(TimeoutError):
            frontend.features()
        assert frontend.silent(0.01)
        assert not frontend.closed(0.01)


def test_half_a_reply_does_not_extend_the_wait() -> None:
    """The deadline is for the whole message."""
    ours, theirs = socket.socketpair()
    with theirs, Frontend(ours, timeout=0.05) as frontend:
        theirs.send(Message(Request.GET_FEATURES, bytes(8), (), REPLY).pack()[:13])
        with pytest.raises(TimeoutError):
            frontend.features()


@pytest.mark.parametrize(
    "reply",
    [
        Message(Request.GET_QUEUE_NUM, bytes(8), (), REPLY),
        Message(Request.GET_FEATURES, bytes(8), (), vu.VERSION),
        Message(Request.GET_FEATURES, bytes(8), (), REPLY | vu.FLAG_NEED_REPLY),
        Message(Request.GET_FEATURES, bytes(7), (), REPLY),
        Message(Request.GET_FEATURES, bytes(8), (), vu.FLAG_REPLY | 2),
    ],
    ids=["another request", "no reply flag", "need_reply", "too short", "version 2"],
)
def test_wrong_replies_are_seen(reply: Message) -> None:
    """spec VU-03: request, reply flag, version and length of a reply are checked."""
    with scripted(reply) as frontend, pytest.raises(ProtocolError):
        frontend.features()


def test_a_base_for_another_ring_is_seen() -> None:
    """GET_VRING_BASE echoes its ring."""
    reply = Message(Request.GET_VRING_BASE, vu.VRING_STATE.pack(1, 0), (), REPLY)
    with scripted(reply) as frontend, pytest.raises(ProtocolError, match="answered for ring 1"):
        frontend.vring_base(0)


def test_descriptors_in_replies_are_closed() -> None:
    """Also when more come than a message may carry, and when the front-end is closed early."""
    before = descriptors()
    reply = Message(Request.GET_FEATURES, bytes(8), (), REPLY)
    with scripted(reply, fds=(0, 0)) as frontend:
        frontend.features()
        assert before + 2 == descriptors()  # the two ends of the socket
    for message in (reply, Message(Request.GET_FEATURES, b"", (), REPLY)):
        with scripted(message, fds=(0,) * 9) as frontend, pytest.raises(ProtocolError):
            frontend.receive()
    assert before == descriptors()


def test_the_end_of_the_connection_is_an_error_of_its_own() -> None:
    """`Closed` on reading and on writing; `closed` says so."""
    ours, theirs = socket.socketpair()
    with Frontend(ours) as frontend:
        theirs.close()
        with pytest.raises(Closed):
            frontend.features()
        with pytest.raises(Closed):
            frontend.receive()
        assert frontend.closed()


def test_nobody_listens(run_dir: Path) -> None:
    """`connect` gives up in time, and says what was wrong."""
    with pytest.raises(FileNotFoundError):
        Frontend.connect(run_dir / "none", timeout=0.02)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(run_dir / "dead"))
        with pytest.raises(ConnectionRefusedError):
            Frontend.connect(run_dir / "dead", timeout=0.02)
