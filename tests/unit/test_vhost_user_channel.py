"""What a back-end tells its front-end by itself: configuration, link; and the control queue."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.front_end import BIT_30, VERSION_1, Served, close_all, ended, set_up
from tests.recorder import (
    PROTOCOL_FEATURES,
    TIMEOUT,
    Recorder,
    serving,
)
from vionet.spec import vhost_user as vu
from vionet.spec.vhost_user import Request
from vionet.vhost_user.frontend import Frontend
from vionet.vhost_user.guest_memory import GuestMemory


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


def test_a_change_of_the_configuration_is_told_once_rings_run(
    served: Served, memory: GuestMemory
) -> None:
    """spec VU-78, VU-37: over the channel, when a ring is ready; and what is read is new."""
    path, device, loop, _ = served
    ours, theirs = socket.socketpair()
    with Frontend.connect(path) as frontend, ours, theirs:
        frontend.negotiate(VERSION_1 | BIT_30, PROTOCOL_FEATURES)
        frontend.tell(Request.SET_BACKEND_REQ_FD, b"", [theirs.fileno()])
        front_end = device.front_end
        assert front_end is not None and front_end.reads_config
        down, up = bytes(6) + b"\0\0", bytes(6) + b"\1\0"
        ours.setblocking(False)
        loop.call(lambda: front_end.show_config(down, changed=True))
        assert down == frontend.config(0, 8)
        fds = set_up(frontend, memory)
        loop.call(lambda: front_end.show_config(up, changed=False))
        with pytest.raises(BlockingIOError):
            ours.recv(100)
        loop.call(lambda: front_end.show_config(up, changed=True))
        assert vu.HEADER.pack(2, 1, 0) == ours.recv(100)
        assert up == frontend.config(0, 8)
        close_all(fds)


def test_a_channel_that_nobody_reads_blocks_nothing(served: Served, memory: GuestMemory) -> None:
    """A front-end that does not listen finds the change when it reads."""
    path, device, loop, _ = served
    ours, theirs = socket.socketpair()
    with Frontend.connect(path) as frontend, ours, theirs:
        frontend.tell(Request.SET_PROTOCOL_FEATURES, vu.U64.pack(PROTOCOL_FEATURES))
        fds = set_up(frontend, memory)
        frontend.tell(Request.SET_BACKEND_REQ_FD, b"", [theirs.fileno()])
        theirs.setblocking(True)  # the description is shared
        front_end = device.front_end
        assert front_end is not None

        def change() -> None:
            for number in range(3000):
                front_end.show_config(bytes(6) + number.to_bytes(2, "little"), changed=True)

        loop.call(change)
        assert bytes(6) + (2999).to_bytes(2, "little") == frontend.config(0, 8)
        close_all(fds)


def test_a_front_end_is_turned_away_without_a_link(served: Served) -> None:
    """It is no fault of the front-end, and the next one is served when the link is up.  The first
    time it goes when its driver starts, as QEMU waits for one handshake; after that at once."""
    path, device, _, _ = served
    device.link_down = True
    with capture_logs() as logs:
        for last in ("features", "protocol features"):
            with Frontend.connect(path) as frontend:
                frontend.set_protocol_features(0)
                if last == "features":
                    assert frontend.features()
                    frontend.set_features(0)
                assert frontend.closed(TIMEOUT)
            assert "the port's link is down" == ended(served)
    assert ["info"] * 2 == [log["log_level"] for log in logs if "reason" in log]
    device.link_down = False
    with Frontend.connect(path) as frontend:
        assert frontend.features()


def test_a_kicked_control_queue_is_served_again_while_more_is_left(served: Served) -> None:
    """`look` asks the device, and asks again in a moment where there was too much."""
    _, device, loop, backend = served
    again = threading.Event()
    answers = [True, True, False]

    def serve() -> bool:
        more = answers.pop(0)
        if not more:
            again.set()
        return more

    device.control_kicked = True
    device.serve_control = serve  # type: ignore[method-assign]
    loop.call(backend.look)
    assert again.wait(TIMEOUT)
    assert [] == answers


def test_connecting_and_connecting_again(run_dir: Path, memory: GuestMemory) -> None:
    """spec VU-21: the back-end waits for a front-end that listens, and returns when it is lost."""
    device = Recorder(real=True)
    with serving(run_dir / "s", device, connect=True) as (_, _):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(run_dir / "s"))
            listener.listen(1)
            listener.settimeout(TIMEOUT)
            for _ in range(2):
                with Frontend(listener.accept()[0]) as frontend:
                    close_all(set_up(frontend, memory))
                device.await_event("opened")
                device.await_event("closed")
        (run_dir / "s").unlink()
        with socket.socket(socket.AF_UNIX) as listener:  # the front-end was started anew
            listener.bind(str(run_dir / "s"))
            listener.listen(1)
            listener.settimeout(TIMEOUT)
            with Frontend(listener.accept()[0]) as frontend:
                frontend.synchronise()
            device.await_event("opened")
