"""The shell behind a guest's console.

How it works: an `sh` in the guest reads standard input and runs each line that arrives; a marker
with the exit status ends each answer.  A kernel that ends before its shell listened even once is
started again, once, with a warning: on a busy host a guest's first fork may fail, and that is not
what anybody boots it for.  A kernel that hangs is not: that may be the network device's fault.

Invariants: one command at a time per console (a `start`ed one does not count); every wait bounded.
"""

import os
import select
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vionet.bench.guest.process import Program, ProgramError
from vionet.bench.guest.shell import Job, Shell

READY: Final = b"@@ready\n"  # what init.sh prints when its shell listens


class ConsoleClosedError(ProgramError):
    """A guest's kernel has ended."""


class Console(Shell):
    """A shell behind the standard input and output of a child process (a guest's console)."""

    def __init__(self, name: str, launch: Callable[[], Program], record: Path) -> None:
        """Start a guest with `launch`, as a child whose stdin and stdout are pipes.

        All that it says is kept in `record`.
        """
        self.name = name
        self._launch = launch
        self._record = record
        self._count = 0
        self._jobs = 0
        self._booted = False  # or started a second time
        self._open()

    def _open(self) -> None:
        self._pending = b""
        self.child = self._launch()
        assert self.child.process.stdout is not None
        os.set_blocking(self.child.process.stdout.fileno(), False)

    def _read_until(self, marker: bytes, timeout: float) -> bytes:
        """All output before `marker`, which may be split over reads; `marker` itself is eaten."""
        assert self.child.process.stdout is not None
        descriptor = self.child.process.stdout.fileno()
        deadline = time.monotonic() + timeout
        while marker not in self._pending:
            remaining = deadline - time.monotonic()
            ready = remaining > 0 and select.select([descriptor], [], [], remaining)[0]
            data = os.read(descriptor, 65536) if ready else b""
            if not data:
                what = f"{self.name} ended" if ready else f"{self.name}: {timeout:g} s are over"
                error = ConsoleClosedError if ready else ProgramError
                said = f"{self._pending[-4000:].decode(errors='replace')}{self.child.tail()}"
                raise error(f"{what} before {marker!r}: {said}")
            with self._record.open("ab") as record:
                record.write(data)
            self._pending += data.replace(b"\r", b"")
        before, _, self._pending = self._pending.partition(marker)
        return before

    def await_boot(self, timeout: float = 120) -> None:
        """Wait for the line that the guest's init prints when its shell listens.

        A guest that ends at its first boot is started again, once.
        """
        try:
            self._read_until(READY, timeout)
        except ConsoleClosedError as error:
            if self._booted:
                raise
            warnings.warn(f"a guest died at boot and is started again: {error}", stacklevel=2)
            self.child.kill()
            self._open()
            self._read_until(READY, timeout)
        self._booted = True

    def run(self, command: str, timeout: float = 60) -> str:
        """Run `command` in the guest's shell (see `Shell.run`)."""
        self._count += 1
        marker = f"@@{self._count}:"
        line = f'{{ {command} ; }} </dev/null 2>&1 ; echo "{marker}$?"\n'
        if len(line) > 3500 or "\n" in command:
            raise ProgramError(f"a console takes one line of less than 3500 characters: {line!r}")
        self.send(line.rstrip())
        output = self._read_until(marker.encode(), timeout).decode(errors="replace")
        status = int(self._read_until(b"\n", timeout))
        if status:
            raise ProgramError(f"{self.name}: {command}: status {status}: {output}")
        return output

    def send(self, line: str) -> None:
        """Type `line` and wait for nothing."""
        assert self.child.process.stdin is not None
        os.write(self.child.process.stdin.fileno(), f"{line}\n".encode())

    def start(self, command: str) -> Job:
        """Start `command` in the guest's background (see `Shell.start`)."""
        self._jobs += 1
        file = f"/dev/shm/job{self._jobs}"  # noqa: S108 of the guest
        self.run(f"{{ {command} ; }} >{file}.out 2>&1 & echo $! >{file}.pid")
        return ConsoleJob(self, file)

    def kill(self) -> None:
        """End the guest with SIGKILL."""
        self.child.kill()


@dataclass(frozen=True)
class ConsoleJob(Job):
    """A background job of a guest's shell; its output waits in a file of the guest."""

    console: Console
    file: str

    def result(self, timeout: float = 90) -> str:
        """Wait for the end (see `Job.result`)."""
        file = self.file
        return self.console.run(
            f"wait $(cat {file}.pid) ; status=$? ; cat {file}.out ; (exit $status)", timeout
        )

    def await_output(self, text: str, timeout: float = 60) -> None:
        """Wait until it has printed `text` (see `Job.await_output`)."""
        loop = f"until grep -q '{text}' {self.file}.out ; do usleep 20000 ; done"
        self.console.run(loop, timeout)
