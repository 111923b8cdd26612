"""User Mode Linux guests on the host's folder, read-only, with a virtio-net device on a socket.

How it works: Debian's `linux.uml` boots `/` through hostfs with `init.sh` as its init, so every
program of the host runs in the guest.  Boot takes about two seconds.  It ignores SIGTERM and never
reconnects a device whose socket closed (environment of the tests, not of vionet).
"""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from tests.interop.peers.process import Peer
from tests.interop.peers.shell import Console
from tests.tools import need

INIT = Path(__file__).with_name("init.sh")
MODULES = Path("/usr/lib/uml/modules")
# In the order in which they depend on each other.
NET_MODULES = (
    "kernel/net/core/failover",
    "kernel/drivers/net/net_failover",
    "kernel/drivers/net/virtio_net",
    "kernel/lib/crc-ccitt",
    "kernel/net/ipv6/ipv6",
)
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
        memory: int = 96,
        modules: tuple[str, ...] = NET_MODULES,
        device: str = "",
        program: str = "linux.uml",
    ) -> None:
        """Start a guest whose eth0 is served by the back-end on `socket`; see `await_boot`.

        `device` is a kernel parameter that makes another eth0, as `eth0=vde,FOLDER`; `program` is
        the kernel.
        """
        need(program)
        need("busybox")
        need("ip")
        release = next(MODULES.iterdir())
        argv = [
            program,
            f"mem={memory}M",
            "rootfstype=hostfs",
            "rootflags=/",
            "ro",
            f"init={INIT}",
            "con=null",
            "con0=fd:0,fd:1",
            "quiet",
            "panic=-1",
            f"uml_dir={folder}",
            f"umid={name}",
            f"modulefolder={release}",
            f"modules={','.join(modules)}",
        ]
        if socket is not None:
            argv.append(f"virtio_uml.device={socket}:1")
        if device:
            argv.append(device)
        launch = partial(
            Peer,
            argv,
            folder / f"{name}.log",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"TMPDIR": "/dev/shm"},  # where the guest's memory file is made
            family=True,
        )
        super().__init__(name, launch, folder / f"{name}.console")
        self.python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
