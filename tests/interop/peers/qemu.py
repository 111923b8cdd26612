"""QEMU guests without KVM: Debian's kernel, our initramfs, a virtio-net device on a socket.

How it works: memory is a shared memfd, the network device is vhost-user, and the guest's serial
console on standard input and output is the shell.  The device's properties are free: `csum`,
`guest_csum`, `mrg_rxbuf`, `event_idx`, `indirect_desc`, `disable-modern` and so on.
`vectors=0` because QEMU 7.2 without KVM crashes with vhost-user and MSI-X.
"""

import subprocess
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from tests.interop.peers import initramfs
from tests.interop.peers.process import Peer
from tests.interop.peers.shell import Console
from tests.tools import need, need_guest_kernel


def machine(memory: int, cpus: int, modules: str) -> list[str]:
    """The arguments of a machine that boots our initramfs on the serial line."""
    return [
        *("-accel", "tcg", "-cpu", "max"),
        *("-machine", "q35,memory-backend=m", "-smp", str(cpus), "-m", str(memory)),
        *("-object", f"memory-backend-memfd,id=m,size={memory}M,share=on"),
        *("-display", "none", "-monitor", "none", "-serial", "stdio"),
        *("-kernel", str(need_guest_kernel()[0]), "-initrd", str(initramfs.image())),
        "-append",
        f"console=ttyS0 panic=-1 quiet tsc=reliable rootfstype=ramfs modules={modules}",
    ]


class Qemu(Console):
    """One running QEMU guest."""

    def __init__(
        self,
        name: str,
        socket: Path | None,
        folder: Path,
        *,
        mac: str = "52:54:00:12:34:56",
        memory: int = 160,
        reconnect: bool = False,
        listens: bool = False,
        reboots: bool = False,
        properties: Mapping[str, str] | None = None,
        netdev: str = "",
        cpus: int = 1,
        queues: int = 1,
        program: str = "qemu-system-x86_64",
    ) -> None:
        """Start a guest; `properties` are those of the device, `netdev` makes another than ours.

        Several `queues` (pairs) are of use only with as many `cpus`.  A QEMU that `listens` waits
        for its back-end to connect, and for the next one when that is gone.
        """
        need(program)
        self.folder = folder
        modules = ",".join(Path(module).name for module in initramfs.MODULES)
        argv = [program, *machine(memory, cpus, modules)]
        argv += ["-nodefaults", "-no-user-config", *([] if reboots else ["-no-reboot"])]
        if socket is not None:
            again = ",reconnect=1" if reconnect else ",server=on" if listens else ""
            device = {"mac": mac, "vectors": "0", "romfile": "", **(properties or {})}
            text = ",".join(f"{key}={value}" for key, value in device.items())
            argv += ["-chardev", f"socket,id=c,path={socket}{again}"]
            argv += ["-netdev", f"vhost-user,id=n,chardev=c,queues={queues}"]
            several = ",mq=on" if queues > 1 else ""
            argv += ["-device", f"virtio-net-pci,netdev=n,{text}{several}"]
        if netdev:
            argv += ["-netdev", f"{netdev},id=n"]
            argv += ["-device", f"virtio-net-pci,netdev=n,mac={mac},romfile="]
        pipe = subprocess.PIPE
        launch = partial(Peer, argv, folder / f"{name}.log", stdin=pipe, stdout=pipe)
        super().__init__(name, launch, folder / f"{name}.console")
        self.python = initramfs.PYTHON
        self.endpoint_path = "/endpoint.pyc"

    def reboot(self, timeout: float) -> None:
        """Reboot the guest (its front-end stays) and wait until its shell listens again."""
        self.send("reboot -f")
        self.await_boot(timeout)
