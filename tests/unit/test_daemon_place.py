"""Where control sockets live, and which names fabrics get."""

import os
import socket
import stat
from pathlib import Path

import pytest

from vionet.daemon import place
from vionet.vhost_user.listener import SocketError


def test_runtime_folder(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """XDG_RUNTIME_DIR first, then /run for root, else a line that says what to give."""
    assert run_dir / "vionet" == place.runtime_folder()
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert Path("/run/vionet") == place.runtime_folder()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SocketError, match="set it to a folder of yours"):
        place.runtime_folder()


def test_runtime_folder_that_cannot_be_made(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the folder cannot be, the line says so and how to do without."""
    (run_dir / "file").touch()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(run_dir / "file"))
    with pytest.raises(SocketError, match="give --control PATH"):
        place.listen_as("switch", exact=False)


def test_fabrics_without_names_are_numbered(run_dir: Path) -> None:
    """The second switch of a user is switch-2; both are found; the sockets are private."""
    first, one = place.listen_as("switch", exact=False)
    second, two = place.listen_as("switch", exact=False)
    assert ("switch", "switch-2") == (first, second)
    assert [one.path, two.path] == sorted(place.control_sockets(), key=lambda path: len(path.name))
    assert 0o600 == stat.S_IMODE(one.path.stat().st_mode)
    assert 0o700 == stat.S_IMODE(one.path.parent.stat().st_mode)
    one.close()
    two.close()
    assert [] == place.control_sockets()


def test_name_that_was_given_is_kept_or_refused(run_dir: Path) -> None:
    """A name that a person chose is not changed behind their back."""
    _, held = place.listen_as("lan", exact=True)
    with pytest.raises(SocketError, match="another process serves"):
        place.listen_as("lan", exact=True)
    held.close()


def test_stale_name_is_used_again(run_dir: Path) -> None:
    """What a killed fabric left behind does not count as running."""
    _, held = place.listen_as("switch", exact=False)
    held.socket.close()
    assert not place.answers(held.path)
    name, again = place.listen_as("switch", exact=False)
    assert "switch" == name
    assert place.answers(again.path)
    again.close()


def test_a_full_backlog_counts_as_running(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who is too busy to accept is there all the same."""
    monkeypatch.setattr(place, "_TRY_S", 0.01)
    listener = place.listen_at(run_dir / "s")
    clients = []
    for _ in range(40):
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)
        clients.append(client)
        if client.connect_ex(str(run_dir / "s")):
            break
    assert place.answers(run_dir / "s")
    for client in clients:
        client.close()
    listener.close()
