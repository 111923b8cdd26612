"""Peers as child processes: their output goes to files, because nobody reads it while they work.

How it works: like `tests.process`, a group of its own, killed by the kernel when the tests die and
by `kill` otherwise; but a guest or a switch that logs must never wait for a test to read it.

Invariants: no wait without a deadline; after `end` the process has been reaped.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.tools import find


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


class Child:
    """One child process; its standard output and error are kept in `log`."""

    def __init__(
        self,
        argv: Sequence[str],
        log: Path,
        *,
        stdin: int = subprocess.DEVNULL,
        stdout: int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start `argv`; `stdout` given as PIPE is the caller's to read, the rest goes to `log`."""
        guard = ["setpriv", "--pdeathsig", "KILL", "--"] if find("setpriv") else []
        self.argv = list(argv)
        self.log = log
        with log.open("ab") as sink:
            self.process = subprocess.Popen(
                [*guard, *self.argv],
                stdin=stdin,
                stdout=sink if stdout is None else stdout,
                stderr=sink,
                env=None if env is None else {**os.environ, **env},
                process_group=0,
            )

    @property
    def pid(self) -> int:
        """The process id, also of the process group."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether the process has not ended yet."""
        return self.process.poll() is None

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

    def kill(self) -> None:
        """SIGKILL the process and its group, and reap it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(10)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
