"""User Mode Linux guests on the host's folder, read-only, with a virtio-net device on a socket.

How it works: see `vionet.bench.guest.machine`.  Boot takes about two seconds.  It never reconnects
a device whose socket closed (environment of the tests, not of vionet).
"""

import os
import sys
from pathlib import Path

from tests.interop.peers.shell import Console
from tests.tools import need
from vionet.bench.guest import machine
from vionet.bench.guest.machine import NET_MODULES as NET_MODULES

VLAN_MODULES = (
    "kernel/net/llc/llc",
    "kernel/net/802/stp",
    "kernel/net/802/garp",
    "kernel/net/802/mrp",
    "kernel/net/8021q/8021q",
)


class Uml(Console):
    """One running User Mode Linux guest."""

    def __init__(
        self,
        name: str,
        socket: Path | None,
        folder: Path,
        *,
        modules: tuple[str, ...] = NET_MODULES,
        device: str = "",
        program: str = "linux.uml",
    ) -> None:
        """Start a guest (see `machine.uml`), which boots; see `await_boot`."""
        for tool in (program, "busybox", "ip"):
            need(tool)
        launch = machine.uml(name, socket, folder, modules=modules, device=device, program=program)
        super().__init__(name, launch, folder / f"{name}.console")
        self.python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
