"""A capture that the page asked for: what may be asked, and the end of its child."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from vionet.web import recording
from vionet.web.recording import Recording, RecordingError, Wanted

SOCKETS = [Path("/run/s.control")]
ASKED = {
    "socket": "/run/s.control",
    "fabric": "s",
    "port": "a",
    "seconds": 10,
    "filter": "",
    "as_delivered": False,
}


def wanted(**changes: Any) -> Wanted:
    """From what a page sends."""
    return Wanted.parse(json.dumps(ASKED | changes).encode(), SOCKETS)


def test_command_line_of_the_child() -> None:
    """Whatever the name and the filter are, they stay a name and a filter."""
    argv = wanted(port="--write=x", filter="-w /etc/x; rm", as_delivered=True).argv
    assert ["--filter=-w /etc/x; rm", "--as-delivered", "--", "--write=x"] == argv[-4:]
    assert {"--control=/run/s.control", "--fabric=s", "--duration=10"} <= set(argv)
    assert "--" not in wanted(port=None).argv
    assert "--as-delivered" not in wanted(as_delivered="no").argv
    assert not any(one.startswith("--filter") for one in wanted().argv)
    assert "vionet-_etc_pass_wd.pcapng" == wanted(port='../etc/pass"wd').file_name
    assert "vionet-s.pcapng" == wanted(port=None).file_name


@pytest.mark.parametrize(
    "changes",
    [
        {"socket": "/run/other.control"},
        {"socket": 7},
        {"port": "a\n"},
        {"port": "a\0"},
        {"port": ["a"]},
        {"port": 0},
        {"port": "n" * 129},
        {"fabric": None},
        {"fabric": "s\n"},
        {"filter": "x" * 1025},
        {"filter": "tcp\n-w x"},
        {"filter": None},
        {"seconds": 0},
        {"seconds": 301},
        {"seconds": 1.5},
        {"seconds": "1"},
        {"seconds": True},
    ],
)
def test_other_requests_are_refused(changes: dict[str, Any]) -> None:
    """A socket that is not shown, what is no text, what is too long."""
    with pytest.raises(RecordingError):
        wanted(**changes)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff", b"[" * 4000, b"null"])
def test_what_is_no_request_is_refused(body: bytes) -> None:
    """Whatever JSON it is."""
    with pytest.raises(RecordingError, match="not a request"):
        Wanted.parse(body, SOCKETS)


async def recorded(script: str, **changes: Any) -> bytes:
    """The file that a child writes, a shell's script in the place of `vionet capture`."""
    made = await Recording.start(wanted(**changes), ["sh", "-c", script])
    try:
        return b"".join([piece async for piece in made.pieces()])
    finally:
        await made.close()


async def test_file_is_passed_on_to_its_end() -> None:
    """As it comes, also if it is large."""
    assert b"0" * 300_000 == await recorded("printf 0; head -c 299999 /dev/zero | tr '\\0' 0")


async def test_child_that_fails_says_why() -> None:
    """Its last line is the answer; one that says nothing is an error all the same."""
    with pytest.raises(RecordingError, match=r"^no such port$"):
        await recorded("echo a warning >&2; echo no such port >&2; exit 1")
    with pytest.raises(RecordingError, match="without a word"):
        await recorded("exit 0")


async def test_file_that_gets_too_large_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child is told where to end; of one that goes on no more is read."""
    assert f"--max-size={recording.BYTES_MAX}" in wanted().argv
    monkeypatch.setattr(recording, "BYTES_MAX", 100_000)
    with pytest.raises(RecordingError, match="more comes"):
        await recorded("while :; do printf %01000d 0; done")


async def test_file_that_breaks_off_is_no_file() -> None:
    """A child that ends with an error in the middle, or is killed, is not the end of a file."""
    with pytest.raises(RecordingError, match=r"^the ring is broken$"):
        await recorded("printf begin; echo the ring is broken >&2; exit 1")
    with pytest.raises(RecordingError, match="was killed"):
        await recorded("printf begin; kill -9 $$")


async def test_child_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its time it is told to end, and then killed, also while nobody reads."""
    monkeypatch.setattr(recording, "_GRACE_S", 60)
    polite = "trap 'printf the-end; exit 0' TERM; printf begin; sleep 60 >/dev/null 2>&1 & wait"
    made = await Recording.start(wanted(), ["sh", "-c", polite])
    made._end_after(0)
    assert b"beginthe-end" == b"".join([piece async for piece in made.pieces()])
    await made.close()
    monkeypatch.setattr(recording, "_GRACE_S", 0.1)
    stubborn = "trap '' TERM; printf begin; sleep 60 & wait; wait"
    made = await Recording.start(wanted(seconds=1), ["sh", "-c", stubborn])
    await made._process.wait()
    with pytest.raises(RecordingError, match="was killed"):
        assert b"begin" == b"".join([piece async for piece in made.pieces()])
    await made.close()


async def test_closing_leaves_no_child() -> None:
    """A browser that went away leaves nothing behind."""
    made = await Recording.start(wanted(), ["sh", "-c", "printf $$; exec sleep 60"])
    pid = int(await anext(aiter(made.pieces())))
    await made.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with suppress(RecordingError):
        await made.close()
