"""Socket paths: stale, taken, impossible; their mode; and that they are given back."""

import fcntl
import os
import socket
import stat
from pathlib import Path

import pytest

from tests.recorder import Recorder, descriptors, serving
from vionet.vhost_user.frontend import Frontend
from vionet.vhost_user.listener import Listener, SocketError


def test_a_stale_socket_is_replaced(run_dir: Path) -> None:
    """A path that nobody serves any more is taken over."""
    path = run_dir / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with serving(path, Recorder()) as (_, _), Frontend.connect(path) as frontend:
        frontend.synchronise()
    assert not path.exists()


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_the_mode_of_the_socket(run_dir: Path, mode: int) -> None:
    """As asked for, whatever the umask."""
    with serving(run_dir / "s", Recorder(), mode=mode, group="root") as (_, _):
        assert mode == stat.S_IMODE((run_dir / "s").stat().st_mode)


def test_paths_that_cannot_be_had(run_dir: Path) -> None:
    """Each error is one line that names the path and what to do; nothing is left open."""
    before = descriptors()
    (run_dir / "file").write_text("")
    taken = Listener(run_dir / "taken")
    for path, group, text in (
        (run_dir / "taken", None, "another process serves this socket"),
        (run_dir / "file", None, "is not a socket"),
        (run_dir / "no" / "s", None, "make the folder"),
        (run_dir / ("x" * 120), None, "choose a shorter path"),
        (run_dir / "s", "no-such-group", "group no-such-group does not exist"),
    ):
        with pytest.raises(SocketError, match=text) as caught:
            Listener(path, group=group)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not (run_dir / "s").exists()
    taken.close()
    assert before == descriptors()


def test_a_path_that_somebody_else_took_is_left_alone(run_dir: Path) -> None:
    """`close` removes the path only while it is ours."""
    listener = Listener(run_dir / "s")
    (run_dir / "s").unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(run_dir / "s"))
        listener.close()
        assert (run_dir / "s").exists()


def test_the_folder_is_locked_while_a_path_is_taken(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes cannot both find a socket stale; a lock that stays is an error in time."""
    monkeypatch.setattr("vionet.vhost_user.listener.LOCK_TIMEOUT", 0.05)
    folder = os.open(run_dir, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    with pytest.raises(SocketError, match="keeps it locked"):
        Listener(run_dir / "s")
    os.close(folder)
    Listener(run_dir / "s").close()
