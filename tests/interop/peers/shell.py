"""Command lines in guests and namespaces, and traffic between any two of them.

How it works: a `Shell` is a place with a network stack; what it can do is in `vionet.bench.guest`.
Added here is the traffic endpoint, the program of the tests that runs in any of them.
"""

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.interop.peers.process import PeerError
from vionet.bench.guest import console, shell
from vionet.bench.guest.shell import Job

ENDPOINT = Path(__file__).resolve().parent.parent / "endpoint.py"


def last_literal(output: str) -> Any:
    """The Python literal on the last line of `output`."""
    lines = output.strip().splitlines()
    try:
        return ast.literal_eval(lines[-1])
    except (IndexError, ValueError, SyntaxError):
        raise PeerError(f"no literal in {output!r}") from None


@dataclass(frozen=True)
class EndpointJob(Job):
    """The traffic endpoint at work."""

    job: Job

    def result(self, timeout: float = 90) -> str:
        """Wait for the end (see `Job.result`)."""
        return self.job.result(timeout)

    def await_output(self, text: str, timeout: float = 60) -> None:
        """Wait until it has printed `text` (see `Job.await_output`)."""
        self.job.await_output(text, timeout)

    def results(self, timeout: float = 90) -> list[Any]:
        """What the traffic endpoint's commands returned."""
        found: list[Any] = last_literal(self.result(timeout))
        return found


class Shell(shell.Shell):
    """A place with a network stack, where the traffic endpoint can be run."""

    python: str = "python3"
    endpoint_path: str = str(ENDPOINT)

    def endpoint(self, arguments: str, timeout: float = 90) -> Any:
        """Run one command of the traffic endpoint; returns its result."""
        (result,) = last_literal(self.run(f"{self._endpoint} {arguments}", timeout))
        return result

    def start_endpoint(self, arguments: str) -> EndpointJob:
        """Start the traffic endpoint beside other commands."""
        return EndpointJob(self.start(f"{self._endpoint} {arguments}"))

    @property
    def _endpoint(self) -> str:
        return f"{self.python} -ISB {self.endpoint_path}"

    def uptime(self) -> float:
        """Seconds since this kernel booted."""
        return float(self.run("cat /proc/uptime").split()[0])


class Console(Shell, console.Console):
    """A shell behind a guest's console."""
