"""A machine of a site, started as `vionet up` would: files prepared, QEMU's command line made.

How it works: nobody keeps it but the test; its shell is behind the socket of its serial line.  It
boots the kernel of the tests and an initramfs with the modules for disks, seeds and virtio-mmio.
"""

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from qemu.qmp import QMPClient

from tests.interop.peers import initramfs
from tests.interop.peers.process import until
from tests.interop.peers.shell import Console
from tests.tools import need
from vionet.bench.guest.console import ConsoleClosedError
from vionet.bench.guest.initramfs import begin
from vionet.bench.guest.process import Program
from vionet.vm import command, host, image
from vionet.vm.model import Vm, VmPlaces

MODULES = (
    *("net/core/failover", "drivers/net/net_failover", "drivers/virtio/virtio_ring"),
    *("drivers/virtio/virtio", "drivers/virtio/virtio_pci_modern_dev"),
    *("drivers/virtio/virtio_pci_legacy_dev", "drivers/virtio/virtio_pci"),
    *("drivers/virtio/virtio_mmio", "drivers/net/virtio_net", "drivers/block/virtio_blk"),
    *("drivers/cdrom/cdrom", "fs/isofs/isofs", "drivers/misc/pvpanic/pvpanic"),
    "drivers/misc/pvpanic/pvpanic-mmio",
)
# Late timers are this machine's, not the guest's: a kernel that checks them may panic, and one that
# measures its clock by them, without another clock (microvm), may stand still.
APPEND = "panic=0 quiet no_timer_check tsc=reliable tsc_early_khz={khz} rootfstype=ramfs"
T = TypeVar("T")


def places(folder: Path, name: str) -> VmPlaces:
    """Where the files of machine `name` are, all in `folder`."""
    names = ("monitor", "console", "agent", "log", "stderr", "seed")
    return VmPlaces(**{kind: folder / f"{name}.{kind}" for kind in names})


def direct_boot(vm: Vm, folder: Path) -> Vm:
    """`vm` with the tests' kernel, and an initramfs that is made in `folder`."""
    kernel = initramfs.kernel()
    files = [kernel.modules / "kernel" / f"{module}.ko" for module in MODULES]
    files = [file for file in files if file.exists()]  # some may be built in
    archive = begin(kernel, [need("busybox")])
    for file in files:
        archive.file(f"/modules/{file.name}", file)
    initramfs.add_python(archive)
    path = folder / "initrd"
    path.write_bytes(archive.finish())
    modules = ",".join(file.stem for file in files)
    found = re.search(r"cpu MHz\s*: (\d+)\.(\d{3})", Path("/proc/cpuinfo").read_text())
    append = APPEND.format(khz=found[1] + found[2] if found else 0)
    return replace(vm, kernel=kernel.image, initrd=path, append=f"{append} modules={modules}")


class SiteVm(Console):
    """A running machine."""

    def __init__(self, vm: Vm, folder: Path, **changes: Any) -> None:
        """Prepare `vm` and start it; `changes` are those of what the host is found to have."""
        self.places = places(folder, vm.name)
        self.vm = asyncio.run(image.prepare(vm, self.places)).vm
        assert [] == command.faults(self.vm)
        need(f"qemu-system-{vm.arch}")
        found = replace(host.find(replace(vm, accel="tcg")), **changes)
        self.argv = command.qemu_command(self.vm, self.places, found)
        super().__init__(vm.name, self._start, folder / f"{vm.name}.record")
        self.python, self.endpoint_path = initramfs.PYTHON, "/endpoint.pyc"

    def _start(self) -> Program:
        program = Program(self.argv, self.places.stderr)
        line = socket.socket(socket.AF_UNIX)

        def connected() -> bool:
            assert program.running, program.tail()
            return line.connect_ex(str(self.places.console)) == 0

        until(connected, 60, "serial line")
        program.process.stdin = os.fdopen(os.dup(line.fileno()), "wb", 0)
        program.process.stdout = os.fdopen(line.detach(), "rb", 0)
        return program

    def end(self, command: str) -> int:
        """Run a command that ends the guest, and return QEMU's exit status.

        The serial line is read all the time: with nobody at its socket's other end it is thrown
        away, but with somebody who does not read, the guest waits for ever.
        """
        self.send(command)
        with contextlib.suppress(ConsoleClosedError):
            self._read_until(b"@@never", 60)
        return self.child.wait(60)

    def ask(self, question: Callable[[QMPClient], Coroutine[Any, Any, T]]) -> T:
        """What `question` finds out over QMP."""

        async def asked() -> T:
            client = QMPClient(self.name)
            await asyncio.wait_for(client.connect(str(self.places.monitor)), 60)
            try:
                return await asyncio.wait_for(question(client), 60)
            finally:
                with contextlib.suppress(EOFError):  # a QEMU that was told to quit may be faster
                    await client.disconnect()

        return asyncio.run(asked())
