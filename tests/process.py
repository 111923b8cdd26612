"""Child processes of tests: hard timeouts, ended by process id.

How it works: a `Child` is a `Process`, which dies with the tests, and its output comes through
pipes that every wait reads with a deadline, so waiting for a line is waiting for an event.  A child
that writes much while no test waits for it would block on a full pipe: such ones write to a file
(`tests.interop.peers.process.Peer`).

Invariants: every wait has a deadline; after `Children.end` all were reaped.
"""

import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from vionet.bench.guest.process import Process

TAIL = 2000  # characters of output shown when something fails


class ChildError(AssertionError):
    """A child did not do in time what the test waits for; the message carries its output."""


class Child(Process):
    """One process; its standard output and error are pipes that `read` collects."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], cwd: Path | None) -> None:
        self.stdout = ""
        self.stderr = ""
        pipe = subprocess.PIPE
        super().__init__(argv, stdin=pipe, stdout=pipe, stderr=pipe, env=env, cwd=cwd)
        self._open = {self._pipe("stdout"): "stdout", self._pipe("stderr"): "stderr"}

    def _pipe(self, name: str) -> int:
        pipe: IO[bytes] = getattr(self.process, name)
        os.set_blocking(pipe.fileno(), False)
        return pipe.fileno()

    def read(self, timeout: float) -> bool:
        """Collect output that comes within `timeout`; False when there will be no more."""
        if not self._open:
            return False
        for fd in select.select(list(self._open), [], [], max(timeout, 0))[0]:
            data = os.read(fd, 1 << 16)
            if data:
                name = self._open[fd]
                setattr(self, name, getattr(self, name) + data.decode(errors="replace"))
            else:
                del self._open[fd]
        return bool(self._open)

    def wait_for(self, pattern: str, timeout: float = 60) -> re.Match[str]:
        """Wait until a line of either output matches; an end before that is an error."""
        deadline = time.monotonic() + timeout
        expression = re.compile(pattern, re.MULTILINE)
        while True:
            if match := expression.search(self.stdout) or expression.search(self.stderr):
                return match
            left = deadline - time.monotonic()
            if left <= 0:
                raise ChildError(f"no {pattern!r} within {timeout:g} s from {self}")
            if not self.read(left) and not expression.search(self.stdout + self.stderr):
                self.wait(left)
                raise ChildError(f"ended before {pattern!r}: {self}")

    def wait(self, timeout: float = 60) -> int:
        """Wait for the end, reading all output; returns the exit status."""
        deadline = time.monotonic() + timeout
        while self.read(deadline - time.monotonic()):
            if time.monotonic() > deadline:
                raise ChildError(f"still running after {timeout:g} s: {self}")
        try:
            return self.process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            raise ChildError(f"still running after {timeout:g} s: {self}") from None

    def close_input(self) -> None:
        """End of file on its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def stop(self, timeout: float = 30, with_signal: int = signal.SIGTERM) -> int:
        """Ask it to end, wait for that, return the exit status."""
        self.process.send_signal(with_signal)
        return self.wait(timeout)

    def collect_rest(self) -> None:
        """Take what a killed child has left in its pipes; a grandchild may still hold them."""
        while self._open and self.read(0):
            if not select.select(list(self._open), [], [], 0)[0]:
                break
        self._open = {}

    def __str__(self) -> str:
        out, err = self.stdout[-TAIL:], self.stderr[-TAIL:]
        return f"{' '.join(self.argv)} [{self.process.returncode}]\n{out}\n--- stderr\n{err}"


class Children:
    """Starts children and ends them all; what the fixture `start` hands to a test."""

    def __init__(self) -> None:
        self.all: list[Child] = []

    def __call__(
        self, *argv: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> Child:
        """Start `argv` in a process group of its own."""
        child = Child([str(arg) for arg in argv], env or {}, cwd)
        self.all.append(child)
        return child

    def end(self) -> None:
        """Kill what still runs; reap all."""
        for child in reversed(self.all):
            child.kill()
