"""Child processes: a group of their own, output kept in a file, ended by process id.

How it works: `setpriv`, where there is one, has the kernel kill a `Process` when this one dies,
whatever it dies of.  The output of a `Program` goes to a file, because a guest or a switch that
logs must never wait for somebody to read it.  The kernel does not kill a child's children: where
there are such (`family`), a shell waits for the end of a pipe from here and kills the group.

Invariants: no wait without a deadline; after `kill` the process has been reaped.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

SYSTEM_FOLDERS: Final = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
WATCH: Final = 'read -r _; kill -s KILL -- "-$1"'  # until the other end of its input is gone


class ProgramError(Exception):
    """A program did not do what it always does; the message carries its last output."""


def find(name: str) -> Path | None:
    """Where a program is, in PATH or in the system's folders."""
    path = shutil.which(name) or shutil.which(name, path=SYSTEM_FOLDERS)
    return Path(path) if path else None


def until(condition: Callable[[], object], timeout: float, what: str, step: float = 0.01) -> None:
    """Wait until `condition()` is true; for states of other processes that raise no event."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise ProgramError(f"no {what} within {timeout:g} s")
        time.sleep(step)


def call(*argv: str, timeout: float = 60, check: bool = True) -> str:
    """Run a short command and return its standard output; errors carry its standard error."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False)
    if check and done.returncode:
        raise ProgramError(f"{' '.join(argv)}: status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


class Process:
    """A process in a group of its own, which dies with this one."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        stdin: int = subprocess.DEVNULL,
        stdout: int | IO[bytes],
        stderr: int | IO[bytes],
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        guard = ["setpriv", "--pdeathsig", "KILL", "--"] if find("setpriv") else []
        self.argv = list(argv)
        self.process = subprocess.Popen(
            [*guard, *self.argv],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            process_group=0,
        )

    @property
    def pid(self) -> int:
        """Of the process, and of its group."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL the whole group and reap the process."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(30)
        self.collect_rest()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def collect_rest(self) -> None:
        """Take what a killed process has left in its pipes."""


class Program(Process):
    """One process; its standard output and error are kept in `log`."""

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
            out = sink if stdout is None else stdout
            super().__init__(argv, stdin=stdin, stdout=out, stderr=sink, env=env)
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
                status = self.process.returncode
                raise ProgramError(f"{self.argv[0]} ended with {status}: {self.tail()}")
            return False

        until(seen, timeout, f"{text!r} from {self.argv[0]}")

    def wait(self, timeout: float) -> int:
        """Wait for the end and return the exit status."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            what = f"{self.argv[0]} runs on after {timeout:g} s"
            raise ProgramError(f"{what}: {self.tail()}") from None
