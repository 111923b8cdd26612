"""A site for tests: `vionet up FILE` in a namespace, its machines' shells, and what it leaves.

How it works: everything runs in one network namespace, which is the host of the site.  A machine's
shell is behind `vionet vm console`, as a user's would be; what the site is, is asked over its
control socket.  Runtime and state folders are the test's own, and everything that vionet starts
has the runtime folder in its environment: by that it is found when it should be gone.
"""

import contextlib
import copy
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.interop.peers import initramfs
from tests.interop.peers.netns import Namespace
from tests.interop.peers.process import until
from tests.interop.peers.shell import Console
from tests.interop.peers.vionet import SOURCE, Vionet
from vionet.bench.guest import machine
from vionet.daemon.control import ask, ask_status

WAIT_S = 120


class Machine(Console):
    """The shell of a machine of a site, behind its serial line."""

    def __init__(self, name: str, site: "Site") -> None:
        """Attach; see `await_boot`."""
        argv = [*site.vionet, "vm", "console", "--control", str(site.control), name]
        folder = site.folder
        launch = machine.start(argv, f"{name}-console", folder)
        super().__init__(name, launch, folder / f"{name}.record")
        self.python, self.endpoint_path = initramfs.PYTHON, "/endpoint.pyc"

    def attach_again(self) -> None:
        """After the other end of the line was gone; what was said before comes again."""
        self.kill()
        self._open()
        self.run("true", WAIT_S)

    def use(self, interface: str, address4: str, address6: str) -> None:
        """What traffic is by way of from now on."""
        self.interface, self.address4, self.address6 = interface, address4, address6


class Site(Vionet):
    """`vionet up FILE`."""

    def __init__(
        self,
        file: Path,
        folder: Path,
        *,
        enter: Sequence[str] = (),
        python: Sequence[str] = (sys.executable,),
    ) -> None:
        """Start it in `folder` and wait until it is ready; `enter` goes before the command."""
        self.file, self.folder = file, folder
        self.name = file.stem
        self.runtime = folder / "run"
        self.control = self.runtime / "vionet" / f"{self.name}.control"
        self.state = folder / "state" / "vionet" / self.name
        self.log = folder / "vionet.log"
        places = f"XDG_RUNTIME_DIR={self.runtime}", f"XDG_STATE_HOME={folder / 'state'}"
        self.vionet = ["env", f"PYTHONPATH={SOURCE}", sys.executable, "-m", "vionet"]
        self.argv = [*enter, "env", *places, *python, "-m", "vionet", "up", str(file)]
        self.child = self._start()

    def call(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `vionet COMMAND ARGUMENTS...` for this site."""
        argv = [*self.vionet, *command.split(), "--control", str(self.control), *arguments]
        return subprocess.run(argv, capture_output=True, text=True, timeout=WAIT_S, check=False)

    def reload(self) -> dict[str, Any]:
        """`vionet reload`; what changed, without what did not."""
        done = self.call("reload", "--json")
        assert 0 == done.returncode, done.stderr
        changes: dict[str, Any] = json.loads(done.stdout)["changes"]
        return {what: names for what, names in changes.items() if names}

    def machines(self) -> dict[str, dict[str, Any]]:
        """What runs, by name, as the control socket tells it."""
        return {one["name"]: one for one in ask(self.control, "vm.list")["vms"]}

    def pids(self) -> dict[str, int]:
        """The process of each machine that runs."""
        return {name: one["pid"] for name, one in self.machines().items() if one["pid"]}

    def port(self, name: str) -> dict[str, Any]:
        """The port of this name, of whichever fabric."""
        for fabric in ask_status(self.control)["fabrics"]:
            for port in fabric["ports"]:
                if port["name"] == name:
                    found: dict[str, Any] = port
                    return found
        raise AssertionError(f"no port {name}")

    def ledgers(self) -> dict[str, dict[str, int]]:
        """The ledger of every port."""
        fabrics = ask_status(self.control)["fabrics"]
        return {port["name"]: port["ledger"] for one in fabrics for port in one["ports"]}

    def await_log(self, text: str, since: int = 0, timeout: float = WAIT_S) -> None:
        """Wait until vionet has logged `text` behind the first `since` characters."""
        until(lambda: text in self.log.read_text()[since:], timeout, f"{text!r} in the log")

    def processes(self) -> dict[int, str]:
        """Everything that runs for this site, whoever's child it is, but for the test's own."""
        mark = f"XDG_RUNTIME_DIR={self.runtime}".encode()
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    words = (folder / "cmdline").read_bytes().split(b"\0")
                    if words != [b""]:  # of one that is being reaped
                        found[int(folder.name)] = b" ".join(words).decode(errors="replace")
        return found

    def namespaces(self) -> set[str]:
        """The network namespaces of its processes, but for that in which it was started."""
        return held_namespaces(*self.processes()) - held_namespaces(self.pid)

    def restart(self, with_signal: signal.Signals) -> None:
        """End vionet by this signal, and start it again."""
        self.child.process.send_signal(with_signal)
        status = self.child.wait(WAIT_S)
        assert status == (-with_signal if with_signal is signal.SIGKILL else 0)
        self.child.kill()
        self.child = self._start()

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        self.child.process.send_signal(signal.SIGTERM)
        return self.child.wait(WAIT_S)

    def kill(self) -> None:
        """End everything by force."""
        self.child.kill()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: not self.processes(), 60, "end of all processes", 0.05)


def host_of(place: Namespace, address4: str, address6: str) -> Namespace:
    """`place` as the gateway of one local interface."""
    other = copy.copy(place)
    other.address4, other.address6 = address4, address6
    return other


def taps(place: Namespace) -> dict[str, int]:
    """The index of each tap there, by its name."""
    links = json.loads(place.run("ip -j -d link show"))
    return {
        link["ifname"]: link["ifindex"]
        for link in links
        if link.get("linkinfo", {}).get("info_kind") == "tun"
    }


def held_namespaces(*pids: int) -> set[str]:
    """The network namespaces that these processes hold, or that all do."""
    found = set()
    for folder in [Path(f"/proc/{pid}") for pid in pids] or Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found.add(str((folder / "ns" / "net").readlink()))
    return found
