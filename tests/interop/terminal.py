"""Terminals in which a person types: bash on a pty, in a host of its own.

How it works: `Host` is a process with new network, process and mount namespaces; whatever is
started there ends with it, and `pkill` there reaches nothing else.  A `Terminal` is bash in that
host; its text is what the screen has shown, without colours and cursor movements.  A command is
over when a prompt is the last thing on the screen.
"""

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.interop.peers.process import Peer, PeerError
from tests.tools import need

PROMPT = re.compile(r"^([\w-]*[$#>]) \Z", re.MULTILINE)
ESCAPE = re.compile(r"\x1bc|\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\a|\r+(?=\n)")
REPLACED = re.compile(r"[^\n]*\r")  # by what comes behind it
COLUMNS = 100


class Host:
    """Namespaces of its own, with a loopback and an empty /run."""

    def __init__(self, folder: Path) -> None:
        """Make them; `end` ends all that runs there."""
        need("unshare")
        need("nsenter")
        self.folder = folder
        argv = ["unshare", "--net", "--pid", "--mount-proc", "--fork", "--kill-child"]
        commands = "ip link set lo up && mount -t tmpfs tmpfs /run && echo up && exec sleep 600"
        self._child = Peer([*argv, "sh", "-c", commands], folder / "host.log")
        self._child.await_line("up", 60)
        pid = self._child.process.pid
        (self._inside,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()

    @property
    def enter(self) -> list[str]:
        """The words before a command line that runs it here, in the folder."""
        into = ["nsenter", "-t", self._inside, "-n", "-p", "-m", "sh", "-c"]
        return [*into, 'cd "$0" && exec "$@"', str(self.folder)]

    def run(self, *argv: str) -> str:
        """What a command that ends says."""
        done = subprocess.run(
            [*self.enter, *argv], capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout

    def end(self) -> None:
        """End everything."""
        self._child.kill()


class Terminal:
    """One of them."""

    def __init__(self, host: Host, env: Mapping[str, str]) -> None:
        """Start bash and wait for its prompt."""
        self._keyboard, line = pty.openpty()
        os.set_blocking(self._keyboard, False)
        settings = {"PS1": "$ ", "PS2": "> ", "TERM": "dumb"}
        settings |= {"COLUMNS": str(COLUMNS), "LINES": "40"}  # with one alone some take 80 by 25
        argv = ["setsid", "-c", *host.enter, "bash", "--norc", "--noprofile", "--noediting"]
        environment = {**os.environ, **env, **settings}
        try:
            self._child = subprocess.Popen(
                argv, stdin=line, stdout=line, stderr=line, env=environment
            )
        finally:
            os.close(line)
        self._raw = b""
        self._shown = self._typed = 0
        self.await_prompt("$", 60)

    @property
    def text(self) -> str:
        """All that the screen has shown."""
        return REPLACED.sub("", ESCAPE.sub("", self._raw.decode(errors="replace")))

    def type(self, keys: str) -> None:
        """Press keys."""
        self._typed = len(self.text)
        os.write(self._keyboard, keys.encode())

    def await_prompt(self, prompt: str, timeout: float) -> None:
        """Wait until what was typed last has led to this prompt."""

        def seen() -> bool:
            found = PROMPT.search(self.text, self._typed)
            return found is not None and found[1] == prompt

        self._await(seen, timeout, f"prompt {prompt}")

    def await_line(self, line: str, timeout: float) -> None:
        """Wait until what was not taken yet has this line, whole."""
        self._await(lambda: f"{line}\n" in self._fresh.splitlines(True), timeout, repr(line))

    def take(self) -> list[str]:
        """The lines since the last call, without the prompt that waits."""
        fresh = self._fresh
        taken = fresh[: found.start()] if (found := PROMPT.search(fresh)) else fresh
        self._shown += len(taken)
        return [line.rstrip() for line in taken.splitlines()]

    @property
    def _fresh(self) -> str:
        return self.text[self._shown :]

    def close(self) -> None:
        """End the shell; what it has started is the host's to end."""
        self._child.kill()
        self._child.wait(30)
        os.close(self._keyboard)

    def _await(self, seen: Callable[[], bool], timeout: float, what: str) -> None:
        deadline = time.monotonic() + timeout
        while not seen():
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._keyboard], [], [], left)[0]:
                raise PeerError(f"{what} did not come in {timeout:g} s: {self.text[-2000:]}")
            self._raw += os.read(self._keyboard, 1 << 16)
