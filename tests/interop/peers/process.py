"""Peers as child processes: their output goes to files, because nobody reads it while they work.

How it works: each is a `tests.process.Process`; but a guest or a switch that logs must never wait
for a test to read it.  The kernel kills a process when the tests die, but not that one's children:
where there are such (`family`), a shell waits for the end of a pipe from here and kills the group.

Invariants: no wait without a deadline; after `kill` the process has been reaped.
"""

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.process import Process

WATCH = 'read -r _; kill -s KILL -- "-$1"'  # until the other end of its input is gone


class PeerError(Exception):
    """A peer did not do what it always does; the message carries its last output."""


def until(condition: Callable[[], object], timeout: float, what: str, step: float = 0.01) -> None:
    """Wait until `condition()` is true; for states of other processes that raise no event."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise PeerError(f"no {what} within {timeout:g} s")
        time.sleep(step)


def call(*argv: str, timeout: float = 20, check: bool = True) -> str:
    """Run a short command and return its standard output; errors carry its standard error."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False)
    if check and done.returncode:
        raise PeerError(f"{' '.join(argv)}: status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


class Peer(Process):
    """One peer; its standard output and error are kept in `log`."""

    def __init__(
        self,
        argv: Sequence[str],
        log: Path,
        *,
        stdin: int = subprocess.DEVNULL,
        stdout: int | None = None,
        env: Mapping[str, str] | None = None,
        family: bool = False,
    ) -> None:
        """Start `argv`; `stdout` given as PIPE is the caller's to read, the rest goes to `log`.

        `family` says that it has children which do not end with it.
        """
        self.log = log
        with log.open("ab") as sink:
            super().__init__(
                argv,
                stdin=stdin,
                stdout=sink if stdout is None else stdout,
                stderr=sink,
                env=env,
            )
        self._watch = (
            subprocess.Popen(
                ["sh", "-c", WATCH, "watch", str(self.pid)], stdin=subprocess.PIPE, process_group=0
            )
            if family
            else None
        )

    def kill(self) -> None:
        """SIGKILL the whole group and reap the process."""
        super().kill()
        if self._watch is not None and self._watch.stdin is not None:
            self._watch.kill()
            self._watch.wait(10)
            self._watch.stdin.close()

    def output(self) -> str:
        """Everything logged so far."""
        return self.log.read_text(errors="replace")

    def tail(self, characters: int = 1500) -> str:
        """The end of the log, for error messages."""
        return self.output()[-characters:]

    def await_line(self, text: str, timeout: float) -> None:
        """Wait until `text` is in the log; a process that ends before is an error."""

        def seen() -> bool:
            if text in self.output():
                return True
            if not self.running:
                raise PeerError(
                    f"{self.argv[0]} ended with {self.process.returncode}: {self.tail()}"
                )
            return False

        until(seen, timeout, f"{text!r} from {self.argv[0]}")

    def wait(self, timeout: float) -> int:
        """Wait for the end and return the exit status."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise PeerError(f"{self.argv[0]} runs on after {timeout:g} s: {self.tail()}") from None
