"""Two guests of a kind on one network: vionet's, QEMU's own sockets, or vde_switch's.

How it works: `Machines` knows what is installed and starts guests; a `Pair` is two of them that
have booted and have addresses, with what joins them.  All ends with the stack that it is given.
"""

import platform
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from vionet.bench.guest import initramfs, machine
from vionet.bench.guest.console import Console
from vionet.bench.guest.process import Program, ProgramError, find, until
from vionet.bench.ours import ports_of, vionet

BOOT_TIMEOUT: Final = 120.0  # seconds; 2 for User Mode Linux, 5 for QEMU on a machine that is idle
START_TIMEOUT: Final = 300.0  # of vionet, which may have to compile
PACKAGES: Final = {  # of Debian
    "busybox": "busybox-static",
    "ip": "iproute2",
    "iperf3": "iperf3",
    "linux.uml": "user-mode-linux",
    "qemu-system-x86_64": "qemu-system-x86",
    "vde_switch": "vde2",
}
NEEDED: Final = {
    "UML": ("linux.uml", "busybox", "ip", "iperf3"),
    "QEMU": ("qemu-system-x86_64", "busybox", "iperf3"),
    "vde_switch": ("vde_switch",),
}


@dataclass
class Pair:
    """Two guests, `joint` between them, and what they have been seen to do."""

    family: str
    subject: str
    guests: tuple[Console, Console]
    joint: Program | None = None  # vionet or vde_switch; QEMU's sockets need none
    control: Path | None = None  # of vionet
    values: dict[str, list[float]] = field(default_factory=dict)  # by test, one a round
    detail: dict[str, dict[str, Any]] = field(default_factory=dict)  # by test

    negotiated: list[str] = field(default_factory=list)  # offloads, as vionet and the guests say

    @property
    def programs(self) -> dict[str, Program]:
        """What has to run for a frame to arrive; the first guest is called the sender."""
        found = {"sender": self.guests[0].child, "receiver": self.guests[1].child}
        return found | ({self.subject.split()[0]: self.joint} if self.joint else {})

    def ports(self) -> list[dict[str, Any]]:
        """What vionet says of its two ports."""
        assert self.control
        try:
            return list(ports_of(self.control).values())
        except (OSError, RuntimeError) as error:
            raise ProgramError(f"vionet does not answer: {error}") from None

    def ledger(self) -> dict[str, int]:
        """The ledgers of both ports together."""
        one, other = (port["ledger"] for port in self.ports())
        return {key: one[key] + other[key] for key in one}


class Machines:
    """What can be booted here."""

    def __init__(self, folder: Path, kernel: Path | None) -> None:
        """Keep sockets and records in `folder`; boot QEMU guests with `kernel`, if it is given."""
        self.folder = folder
        self.kernel = machine.find_kernel(kernel)
        self._image: Path | None = None

    def lacking(self, what: str) -> str:
        """Why there can be no `what` of NEEDED here; empty if there can."""
        for program in NEEDED[what]:
            if not find(program):
                return f"{program} is not installed (Debian: {PACKAGES[program]})"
        if what == "QEMU" and platform.machine() != "x86_64":
            return "its guest runs programs of this machine, which is no x86-64"
        if what == "QEMU" and not self.kernel:
            return (
                "no kernel: give --kernel FILE, with its lib/modules/VERSION beside, above or in /"
            )
        return ""

    def boot(
        self, stack: ExitStack, family: str, subject: str, names: tuple[str, str], **options: Any
    ) -> Pair:
        """Two booted guests; each of `options` is a pair of values, one a guest."""
        guests = []
        for number, name in enumerate(names):
            own = {key: pair[number] for key, pair in options.items()}
            launch = self._launch(family, name, own.pop("socket", None), own)
            guest = Console(name, launch, self.folder / f"{name}.console")
            stack.callback(guest.kill)
            guests.append(guest)
            if subject == "stream":  # the second one connects to the first
                until((self.folder / "stream").exists, 10, "socket of QEMU's")
        for number, guest in enumerate(guests, 1):
            guest.await_boot(BOOT_TIMEOUT)
            guest.configure(number)
        return Pair(family, subject, (guests[0], guests[1]))

    def _launch(
        self, family: str, name: str, socket: Path | None, own: dict[str, Any]
    ) -> machine.Launch:
        if family == "UML":
            return machine.uml(name, socket, self.folder, **own)
        assert self.kernel
        if self._image is None:
            programs = [path for name in NEEDED["QEMU"][1:] if (path := find(name))]
            self._image = self.folder / "initramfs"
            self._image.write_bytes(initramfs.begin(self.kernel, programs).finish())
        mac = f"52:54:00:00:00:{1 + (name[-1] == 'b'):02x}"
        return machine.qemu(name, socket, self.folder, self.kernel, self._image, mac=mac, **own)

    def on_vionet(self, family: str, preset: str, stack: ExitStack) -> Pair:
        """Two guests on a switch of their own, with what `preset` offers them."""
        names = (f"{family}-{preset}-a", f"{family}-{preset}-b")
        sockets = tuple(self.folder / name for name in names)
        control = self.folder / f"{family}-{preset}.control"
        ports = [f"{p.name[-1]}=guest:{p},offload={preset}" for p in sockets]
        switch = Program(vionet("switch", control, ports), control.with_suffix(".log"))
        stack.callback(switch.kill)
        switch.await_line("ready\n", START_TIMEOUT)
        pair = self.boot(stack, family, f"vionet {preset}", names, socket=sockets)
        pair.joint, pair.control = switch, control
        return pair

    def on_vde(self, stack: ExitStack) -> Pair:
        """Two User Mode Linux guests on a vde_switch, which ends with its standard input."""
        folder = self.folder / "vde"
        argv = ["vde_switch", "--sock", str(folder)]
        switch = Program(argv, self.folder / "vde.log", stdin=subprocess.PIPE)
        stack.callback(switch.kill)
        until((folder / "ctl").exists, 10, "socket of vde_switch's")
        device = tuple(f"eth0=vde,{folder},52:54:00:00:00:{number:02x}" for number in (1, 2))
        pair = self.boot(stack, "UML", "vde_switch", ("vde-a", "vde-b"), device=device)
        pair.joint = switch
        return pair

    def on_netdev(self, kind: str, stack: ExitStack) -> Pair:
        """Two QEMU guests joined by QEMU's own `-netdev stream` or `dgram`."""
        a, b = self.folder / kind, self.folder / f"{kind}-b"
        netdev = tuple(
            f"stream,server={server},addr.type=unix,addr.path={a}"
            if kind == "stream"
            else f"dgram,local.type=unix,local.path={x},remote.type=unix,remote.path={y}"
            for server, x, y in (("on", a, b), ("off", b, a))
        )
        return self.boot(stack, "QEMU", kind, (f"qemu-{kind}-a", f"qemu-{kind}-b"), netdev=netdev)
