"""Command lines in guests and namespaces, and traffic between any two of them.

How it works: a `Shell` is a place with a network stack.  `run` gives a command line to its `sh` and
returns the output; `start` leaves one running, `Job.result` waits for it.  `Console` is the Shell
behind a guest's serial console: an `sh` that reads standard input runs each line that arrives, and
a marker with the exit status ends each answer.

A kernel that ends before its shell listened even once is started again, once, with a warning:
on a busy host a guest's first fork may fail, and that is not what a test is about.

Invariants: one command at a time per console (a `start`ed one does not count); every wait bounded.
"""

import ast
import itertools
import os
import re
import select
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.interop.peers.process import Peer, PeerError

READY = b"@@ready\n"  # what init.sh prints when its shell listens
ENDPOINT = Path(__file__).resolve().parent.parent / "endpoint.py"


class Job(ABC):
    """A command that runs beside the others."""

    @abstractmethod
    def result(self, timeout: float = 30) -> str:
        """Wait for the end and return the output; a status other than 0 is an error."""

    @abstractmethod
    def await_output(self, text: str, timeout: float = 20) -> None:
        """Wait until the command has printed `text`."""

    def results(self, timeout: float = 30) -> list[Any]:
        """What the traffic endpoint's commands returned."""
        found: list[Any] = last_literal(self.result(timeout))
        return found


def last_literal(output: str) -> Any:
    """The Python literal on the last line of `output`."""
    lines = output.strip().splitlines()
    try:
        return ast.literal_eval(lines[-1])
    except (IndexError, ValueError, SyntaxError):
        raise PeerError(f"no literal in {output!r}") from None


class Shell(ABC):
    """A place with a network stack where command lines can be run."""

    name: str
    interface: str = "eth0"
    address4: str = ""
    address6: str = ""
    python: str = "python3"
    endpoint_path: str = str(ENDPOINT)

    @abstractmethod
    def run(self, command: str, timeout: float = 20) -> str:
        """Run `command` in `sh` and return its output; a status other than 0 is an error."""

    @abstractmethod
    def start(self, command: str) -> Job:
        """Start `command` and return at once."""

    def endpoint(self, arguments: str, timeout: float = 30) -> Any:
        """Run one command of the traffic endpoint; returns its result."""
        (result,) = last_literal(self.run(f"{self._endpoint} {arguments}", timeout))
        return result

    def start_endpoint(self, arguments: str) -> Job:
        """Start the traffic endpoint beside other commands."""
        return self.start(f"{self._endpoint} {arguments}")

    @property
    def _endpoint(self) -> str:
        return f"{self.python} -ISB {self.endpoint_path}"

    def features(self) -> set[int]:
        """The bits that this guest's driver negotiated, as the guest's kernel shows them."""
        bits = self.run("cat /sys/class/net/" + self.interface + "/device/features").strip()
        return {bit for bit, value in enumerate(bits) if value == "1"}

    def bad_checksums(self) -> dict[str, int]:
        """The kernel's counters of bad checksums: all of them, by name."""
        lines = self.run("cat /proc/net/snmp /proc/net/snmp6").splitlines()
        found = {}
        for names, values in itertools.pairwise(lines):
            if "InCsumErrors" in names and (protocol := names.split(":")[0]) in values:
                pairs = zip(names.split()[1:], values.split()[1:], strict=True)
                found[f"{protocol}InCsumErrors"] = int(dict(pairs)["InCsumErrors"])
        for line in lines:
            if re.match(r"\w*6InCsumErrors", line):
                found[line.split()[0]] = int(line.split()[1])
        return found

    def configure(self, number: int, mac: str = "") -> None:
        """Give the interface the test network's addresses of host `number`, and set it up."""
        self.address4 = f"192.0.2.{number}"
        self.address6 = f"fd00:76::{number:x}"
        link = f"ip link set {self.interface}"
        self.run(
            (f"{link} address {mac} ; " if mac else "")
            + f"echo 0 >/proc/sys/net/ipv6/conf/{self.interface}/accept_dad ; {link} up && "
            f"ip addr add {self.address4}/24 dev {self.interface} && "
            f"ip -6 addr add {self.address6}/64 dev {self.interface}"
        )

    def uptime(self) -> float:
        """Seconds since this kernel booted."""
        return float(self.run("cat /proc/uptime").split()[0])


class ConsoleClosedError(PeerError):
    """A guest's kernel has ended."""


class Console(Shell):
    """A shell behind the standard input and output of a child process (a guest's console)."""

    def __init__(self, name: str, launch: Callable[[], Peer], record: Path) -> None:
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
                error = ConsoleClosedError if ready else PeerError
                said = f"{self._pending[-1500:].decode(errors='replace')}{self.child.tail()}"
                raise error(f"{what} before {marker!r}: {said}")
            with self._record.open("ab") as record:
                record.write(data)
            self._pending += data.replace(b"\r", b"")
        before, _, self._pending = self._pending.partition(marker)
        return before

    def await_boot(self, timeout: float) -> None:
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

    def run(self, command: str, timeout: float = 20) -> str:
        """Run `command` in the guest's shell (see `Shell.run`)."""
        self._count += 1
        marker = f"@@{self._count}:"
        line = f'{{ {command} ; }} </dev/null 2>&1 ; echo "{marker}$?"\n'
        if len(line) > 3500 or "\n" in command:
            raise PeerError(f"a console takes one line of less than 3500 characters: {line!r}")
        self.send(line.rstrip())
        output = self._read_until(marker.encode(), timeout).decode(errors="replace")
        status = int(self._read_until(b"\n", 5))
        if status:
            raise PeerError(f"{self.name}: {command}: status {status}: {output}")
        return output

    def send(self, line: str) -> None:
        """Type `line` and wait for nothing."""
        assert self.child.process.stdin is not None
        os.write(self.child.process.stdin.fileno(), f"{line}\n".encode())

    def start(self, command: str) -> Job:
        """Start `command` in the guest's background (see `Shell.start`)."""
        self._jobs += 1
        file = f"/dev/shm/job{self._jobs}"
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

    def result(self, timeout: float = 30) -> str:
        """Wait for the end (see `Job.result`)."""
        file = self.file
        return self.console.run(
            f"wait $(cat {file}.pid) ; status=$? ; cat {file}.out ; (exit $status)", timeout
        )

    def await_output(self, text: str, timeout: float = 20) -> None:
        """Wait until it has printed `text` (see `Job.await_output`)."""
        loop = f"until grep -q '{text}' {self.file}.out ; do usleep 20000 ; done"
        self.console.run(loop, timeout)
