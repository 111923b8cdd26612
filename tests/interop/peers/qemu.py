"""QEMU guests without KVM: Debian's kernel, our initramfs, a virtio-net device on a socket."""

from pathlib import Path
from typing import Any

from tests.interop.peers import initramfs
from tests.interop.peers.shell import Console
from tests.tools import need
from vionet.bench.guest import machine


class Qemu(Console):
    """One running QEMU guest."""

    def __init__(
        self, name: str, socket: Path | None, folder: Path, *, program: str = "", **options: Any
    ) -> None:
        """Start a guest with `options` of `machine.qemu`."""
        program = program or str(need("qemu-system-x86_64"))
        self.folder = folder
        kernel, image = initramfs.kernel(), initramfs.image()
        launch = machine.qemu(name, socket, folder, kernel, image, program=program, **options)
        super().__init__(name, launch, folder / f"{name}.console")
        self.python = initramfs.PYTHON
        self.endpoint_path = "/endpoint.pyc"

    def reboot(self, timeout: float = 120) -> None:
        """Reboot the guest (its front-end stays) and wait until its shell listens again."""
        self.send("reboot -f")
        self.await_boot(timeout)
