"""`vionet top` in a terminal: its screens, keys, signals, and how it leaves."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.unit.test_cli import answering
from tests.unit.test_cli_top import hanging
from vionet.daemon import place
from vionet.vhost_user.listener import Listener

WAIT_S = 20
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[(\d+;)*[349][0-7][;m]")
LEAVING = "\x1b[?25h\x1b[?1049l"  # the cursor shown, the ordinary screen


class Screen:
    """`vionet top` in a terminal."""

    def __init__(
        self, columns: int, arguments: tuple[str, ...], code: str, env: Mapping[str, str]
    ) -> None:
        self.near, self.far = pty.openpty()
        termios.tcsetwinsize(self.far, (24, columns))
        self.before = termios.tcgetattr(self.near)
        kept = {
            key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS")
        }
        command = ["-c", code] if code else ["-m", "vionet", "top"]
        self.child = subprocess.Popen(
            [sys.executable, *command, *arguments],
            stdin=self.far, stdout=self.far, stderr=self.far,
            env={**kept, "TERM": "xterm-256color", **env}, start_new_session=True,
        )  # fmt: skip
        self.raw = ""

    def read(self, seen: Callable[[str], object], what: str = "") -> None:
        """Take what is shown until that is seen on a whole screen."""
        deadline = time.monotonic() + WAIT_S
        while not any(seen(one) for one in self.screens[-2:]):
            left = deadline - time.monotonic()
            assert left > 0 and select.select([self.near], [], [], left)[0], (
                what,
                self.raw[-3000:],
            )
            self.raw += os.read(self.near, 1 << 16).decode()

    @property
    def screens(self) -> list[str]:
        """What was shown, one after the other, without colours; the last may be half a screen."""
        parts = self.raw.split("\x1b[H")
        return [ESCAPE.sub("", part).replace("\r", "") for part in parts[1:]]

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self.near, keys.encode())

    def await_end(self, status: int) -> None:
        """It ends with that status, and the terminal is as it was."""
        deadline = time.monotonic() + WAIT_S
        while (more := select.select([self.near], [], [], 0.01)[0]) or self.child.poll() is None:
            assert time.monotonic() < deadline, self.raw[-3000:]
            if more:
                self.raw += os.read(self.near, 1 << 16).decode()
        assert status == self.child.wait(WAIT_S), self.raw[-3000:]
        assert self.before == termios.tcgetattr(self.near)
        assert LEAVING in self.raw
        assert "\x1b[?1049h" not in self.raw.rpartition(LEAVING)[2]


@contextmanager
def shown(
    *arguments: str, columns: int = 80, code: str = "", env: Mapping[str, str] | None = None
) -> Iterator[Screen]:
    """`vionet top` in a terminal until the end of the block."""
    screen = Screen(columns, arguments, code, env or {})
    try:
        yield screen
    finally:
        screen.child.kill()
        screen.child.wait(WAIT_S)
        os.close(screen.near)
        os.close(screen.far)


@pytest.fixture
def lan(run_dir: Path) -> Iterator[Listener]:
    """A fabric that runs."""
    _, listener = place.listen_as("lan", exact=True)
    with answering(listener):
        yield listener


@pytest.mark.parametrize("columns", [40, 80, 140])
def test_screen_of_a_terminal(lan: Listener, columns: int) -> None:
    """Every line of every screen has at most the terminal's columns, every screen at most its
    lines; q ends."""
    with shown("--interval", "0.1", columns=columns) as top:
        top.read(lambda screen: "only-lan " in screen and " 0" in screen)
        top.press("q")
        top.await_end(0)
        for screen in top.screens:
            lines = screen.split("\n")
            assert len(lines) <= 24
            assert all(len(line) <= columns for line in lines)
        assert ("verified" in top.raw) == (columns == 140)


def test_keys_in_a_terminal(lan: Listener) -> None:
    """A filter is seen while it is typed and narrows the table at once, long before the next look;
    Escape and s are heard too."""
    with shown("--interval", "3600") as top:
        top.read(lambda screen: "only-lan" in screen)
        top.press("/only")
        top.read(lambda screen: "filter: only_" in screen and "a-port" not in screen)
        top.press("\r")
        top.read(lambda screen: "/ filter: only   q quit" in screen)
        top.press("\x1b")
        top.read(lambda screen: "/ filter: -" in screen and "a-port" in screen)
        top.press("s")
        top.read(lambda screen: "s sort: tx " in screen)
        assert top.before != termios.tcgetattr(top.near)  # no echo meanwhile
        top.press("q")
        top.await_end(0)


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGQUIT, 131)],
)
def test_signals_leave_a_whole_terminal(lan: Listener, number: int, status: int) -> None:
    """^C is how one ends; other signals are told by the status; nothing is left of the screen."""
    with shown() as top:
        top.read(lambda screen: "only-lan" in screen)
        top.child.send_signal(number)
        top.await_end(status)


def test_mistake_of_ours_leaves_a_whole_terminal(lan: Listener) -> None:
    """An exception at any later screen is told below, on the ordinary one."""
    code = (
        "import sys; from vionet.cli import main, top\n"
        "def broken(*rest, kept=top.picture, **named):\n"
        "    main.calls += 1\n"
        "    assert main.calls < 3, 'our'\n"
        "    return kept(*rest, **named)\n"
        "main.calls = 0; top.picture = broken; main(['top', '--interval', '0.1'])"
    )
    with shown(code=code) as top:
        top.read(lambda screen: "only-lan" in screen)
        top.await_end(1)
        assert "AssertionError: our" in top.raw.rpartition(LEAVING)[2]


def test_size_of_the_terminal_is_followed(lan: Listener) -> None:
    """A terminal that is made narrower has other columns at once."""
    with shown("--interval", "3600") as top:
        top.read(lambda screen: "only-lan" in screen and " segs " in screen)
        termios.tcsetwinsize(top.far, (24, 40))
        top.child.send_signal(signal.SIGWINCH)  # which a terminal does
        top.read(lambda screen: "only-lan" in screen and " segs " not in screen)
        assert all(len(line) <= 40 for line in top.screens[-1].split("\n"))


@pytest.mark.parametrize(
    ("env", "has_colour"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_colours(lan: Listener, env: dict[str, str], has_colour: bool) -> None:
    """They are there in a terminal that has them, and not where a person wants none; a dumb
    terminal gets a table at each interval and no control sequence at all.  Who hangs is red."""
    with hanging(), shown("--interval", "0.1", env=env) as top:
        if "TERM" in env:
            while 2 > top.raw.count("only-lan"):
                assert select.select([top.near], [], [], WAIT_S)[0], top.raw
                top.raw += os.read(top.near, 1 << 16).decode()
            assert "\x1b" not in top.raw
        else:
            top.read(lambda screen: "hung.control: does not answer" in screen)
            assert has_colour == bool(COLOUR.search(top.raw))


def test_hung_vionet_does_not_keep_keys_waiting(run_dir: Path) -> None:
    """One that does not answer is a line; q is heard while it is waited for."""
    with hanging(), shown("--interval", "0.1") as top:
        top.read(lambda screen: "hung.control: does not answer" in screen)
        top.press("/x")
        top.read(lambda screen: "filter: x_" in screen)
        top.press("\x1bq")
        top.await_end(0)


def test_fabrics_come_and_go(run_dir: Path) -> None:
    """One that is started while it runs is shown, beside others under its name; one that ends is
    gone; what a killed one leaves behind is nothing."""
    with shown("--interval", "0.1") as top:
        top.read(lambda screen: "nothing runs in" in screen)
        _, first = place.listen_as("lan", exact=True)
        with answering(first):
            top.read(lambda screen: "switch lan, ports 3" in screen and "only-lan" in screen)
            _, second = place.listen_as("dmz", exact=True)
            with answering(second, "dmz"):
                top.read(lambda screen: "lan/only-lan" in screen and "dmz/only-dmz" in screen)
            top.read(lambda screen: "dmz" not in screen and "only-lan" in screen)
        stale = Listener(run_dir / "vionet" / "old.control", 0o600)
        stale.socket.close()
        top.read(lambda screen: "nothing runs in" in screen and "old" not in screen)
        top.press("q")
        top.await_end(0)
        stale.path.unlink()


def test_pipe_that_is_closed(lan: Listener) -> None:
    """`vionet top | head -1` ends soon and without a traceback."""
    done = subprocess.run(
        f"{sys.executable} -m vionet top --interval 0.1 | head -1",
        shell=True, capture_output=True, text=True, timeout=WAIT_S, check=True,
    )  # fmt: skip
    assert ("switch lan, ports 3, worker load 0% 0%\n", "") == (done.stdout, done.stderr)
