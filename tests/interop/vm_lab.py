"""Machines for tests of their life: firmware alone, and Debian's kernel with a shell.

The kernel is the one that `make packages` unpacked; its console is the machine's serial line.
"""

import asyncio
import contextlib
import lzma
import os
import select
import socket
from collections.abc import Callable
from pathlib import Path

from tests.tools import need, need_guest_kernel
from vionet.bench.guest.initramfs import begin
from vionet.bench.guest.machine import Kernel
from vionet.vm.command import QemuHost, qemu_command
from vionet.vm.keeping import Keeper
from vionet.vm.machine import Machine, State
from vionet.vm.model import Vm, VmPlaces

WAIT_S = 60  # until a guest has booted, on a busy host
MODULES = ("acpi/button", "input/evdev", "misc/pvpanic/pvpanic", "misc/pvpanic/pvpanic-mmio")
APPEND = "console=ttyS0 panic=-1 quiet no_timer_check tsc=reliable rootfstype=ramfs"
BUTTON = (
    "set -- /sys/devices/LNXSYSTM:00/LNXPWRBN:00/input/input*/event*; "
    "dd if=/dev/input/${1##*/} of=/dev/null bs=24 count=1 2>/dev/null; poweroff -f"
)
# Programs in QEMU's place, which wait for their first client.
LISTEN = "import json,socket,sys;s=socket.socket(1);s.bind(sys.argv[1]);s.listen();c=s.accept()[0];"
# Instead of QEMU: it answers twice, then it goes wild and stays.
_ANSWERS = """
def say(*what):
    c.sendall(b"".join(json.dumps(one).encode() + b"\\n" for one in what))
say({"QMP": {"version": {}, "capabilities": []}})
for answer in ({}, {"running": True, "status": "running"}):
    say({"return": answer, "id": json.loads(c.recv(1000)).get("id")})
"""
PANICS = (
    _ANSWERS
    + """
panics = [{"event": "GUEST_PANICKED", "data": {"action": "pause"}}] * 1000
say(*panics)
c.recv(1000)
say(*panics, {"event": "STOP"})
s.accept()
"""
)
TAKEN_OVER = (
    _ANSWERS
    + """
say({"event": "BLOCK_IO_ERROR", "data": {"action": "stop", "reason": "\\x1b[31m" * 5000}})
say({"event": 5}, {"event": "STOP", "data": 7}, {"event": "RESET", "data": {"guest": [1]}})
say({"event": "SHUTDOWN", "data": {"reason": {"a": 1}}}, {"event": "GUEST_PANICKED"})
for _ in range(500):
    say({"event": "STOP"}, {"event": "RESUME"}, {"event": "RESET"})
try:
    c.sendall(b"x" * (1 << 20))
finally:
    s.accept()
"""
)


def build_image(path: Path) -> Path:
    """Write the initramfs of `guest` to `path`."""
    kernel = Kernel(*need_guest_kernel())
    archive = begin(kernel, [need("busybox")])
    for module in MODULES:
        for file in kernel.modules.glob(f"kernel/drivers/{module}.ko*"):
            data = file.read_bytes()
            data = lzma.decompress(data) if file.suffix == ".xz" else data
            archive.file(f"/modules/{Path(module).name}.ko", data)
    path.write_bytes(archive.finish())
    return path


def places(folder: Path) -> VmPlaces:
    """Where the one machine of a test has its files."""
    return VmPlaces(
        monitor=folder / "one.qmp",
        console=folder / "one.console",
        agent=folder / "one.agent",
        log=folder / "one.log",
        stderr=folder / "one.stderr",
        seed=folder / "one.iso",
    )


def guest(image: Path) -> Vm:
    """Debian's kernel with a shell on the serial line; it knows the button and panics aloud."""
    kernel, _ = need_guest_kernel()
    names = ",".join(Path(module).name for module in MODULES)
    append = f"{APPEND} modules={names}"
    return Vm(name="one", memory_len=160 << 20, kernel=kernel, initrd=image, append=append)


FIRMWARE = Vm(name="one", memory_len=64 << 20)  # finds nothing to boot, knows no button


def machine(
    folder: Path,
    keeper: Keeper,
    vm: Vm = FIRMWARE,
    *,
    argv: list[str] | None = None,
    start_s: float = WAIT_S,
    told: Callable[[Machine], None] = lambda machine: None,
) -> Machine:
    """A machine that QEMU runs, or another program in its place."""
    host = QemuHost(program=need("qemu-system-x86_64"), accel="tcg")
    where = places(folder)

    async def command() -> list[str]:
        return argv or qemu_command(vm, where, host)

    return Machine(vm, where, keeper, command, told=told, start_s=start_s, backoff_s=0.1)


class Terminal:
    """Somebody at the console."""

    async def open(self, machine: Machine) -> "Terminal":
        """Attach."""
        near, far = socket.socketpair()
        self.reader, self.writer = await asyncio.open_connection(sock=near, limit=1 << 20)
        its_reader, self._far = await asyncio.open_connection(sock=far)
        self.task = asyncio.create_task(machine.console.attach(its_reader, self._far))
        return self

    async def until(self, text: str) -> str:
        """Read until `text` comes."""
        async with asyncio.timeout(WAIT_S):
            return (await self.reader.readuntil(text.encode())).decode(errors="replace")

    def type(self, line: str) -> None:
        """One line for the guest's shell."""
        self.writer.write(line.encode() + b"\n")

    async def close(self) -> None:
        """Detach."""
        self.writer.close()
        await self.task
        self._far.close()


class States:
    """The states that a machine went through; `until` waits for one."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._news = asyncio.Event()

    def __call__(self, machine: Machine) -> None:
        """What the machine tells."""
        self.seen.append(machine.state)
        self._news.set()

    async def until(self, state: State) -> None:
        """Wait until it is in `state`, from the last one that was waited for on."""
        async with asyncio.timeout(WAIT_S):
            while state not in self.seen:
                self._news.clear()
                await self._news.wait()
        del self.seen[: self.seen.index(state) + 1]


def until_gone(*pids: int) -> None:
    """Wait for the end of processes that may be anybody's children."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            try:
                assert select.select([pidfd], [], [], WAIT_S)[0], f"{pid} runs on"
            finally:
                os.close(pidfd)
