"""vionet itself as a child process: `python -m vionet switch ...`, its status, its end.

How it works: started with its own control socket, ready when it prints `ready`.  `status` runs
`vionet status --json`, as an operator would.
"""

import contextlib
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import vionet
from tests.interop.peers.process import Peer, PeerError, call, until

SOURCE = Path(vionet.__file__).parent.parent


class Vionet:
    """One foreground vionet."""

    def __init__(
        self, fabric: str, ports: Sequence[str], folder: Path, enter: Sequence[str] = ()
    ) -> None:
        """Start `vionet FABRIC PORTS...` and wait until it is ready; `enter` goes before it."""
        name = "vionet"
        self.control = folder / f"{name}.control"
        self.log = folder / f"{name}.log"
        self.argv = [*enter, sys.executable, "-m", "vionet", fabric, "--control", str(self.control)]
        self.argv += ports
        self.child = self._start()

    def _start(self) -> Peer:
        before = self.log.stat().st_size if self.log.exists() else 0
        child = Peer(self.argv, self.log, env={"PYTHONPATH": str(SOURCE)})

        def ready() -> bool:
            if not child.running:
                raise PeerError(f"vionet ended with {child.process.returncode}: {child.tail()}")
            return "ready\n" in self.log.read_text()[before:]

        try:
            until(ready, 250, "ready from vionet", 0.02)  # a cold cache compiles first
        except PeerError:
            child.kill()
            raise
        return child

    @property
    def pid(self) -> int:
        """The process id."""
        return self.child.pid

    def status(self) -> dict[str, Any]:
        """The document of `vionet status --json`."""
        argv = [sys.executable, "-m", "vionet", "status", "--json", "--control", str(self.control)]
        path = f"PYTHONPATH={SOURCE}"
        document: dict[str, Any] = json.loads(call("env", path, *argv))
        return document

    def ports(self) -> dict[str, dict[str, Any]]:
        """The ports of the only fabric, by name."""
        (fabric,) = self.status()["fabrics"]
        return {port["name"]: port for port in fabric["ports"]}

    def set(self, port: str, *options: str) -> str:
        """`vionet port set PORT OPTION...`; a refusal is an error."""
        argv = [sys.executable, "-m", "vionet", "port", "set", "--control", str(self.control)]
        return call("env", f"PYTHONPATH={SOURCE}", *argv, port, *options)

    def resources(self) -> dict[str, int]:
        """Resident KiB, those of its own, open descriptors and log lines."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        values = dict(line.split(":", 1) for line in status.splitlines())
        return {
            "resident": int(values["VmRSS"].split()[0]),
            "anonymous": int(values["RssAnon"].split()[0]),
            "descriptors": len(list(Path(f"/proc/{self.pid}/fd").iterdir())),
            "log_lines": self.log.read_text().count("\n"),
        }

    def kill_and_restart(self) -> None:
        """SIGKILL, then the same command line again."""
        self.child.kill()
        self.child = self._start()

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        self.child.process.send_signal(signal.SIGTERM)
        return self.child.wait(60)


@contextlib.contextmanager
def fabric(
    kind: str, folder: Path, *ports: str, tidy: bool = True, enter: Sequence[str] = ()
) -> Iterator[Vionet]:
    """A running vionet; at the end it has to stop with status 0, unless `tidy` is false."""
    made = Vionet(kind, ports, folder, enter)
    try:
        yield made
        if tidy and (status := made.stop()):
            raise PeerError(f"vionet stopped with status {status}: {made.child.tail()}")
    finally:
        made.child.kill()
