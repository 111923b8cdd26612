"""The command line of QEMU for one machine: a pure function of the model.

How it works: `_BOARDS` says what differs between the machine types; everything else is the same
for all.  Each value is quoted for QEMU, to which a comma ends an option.  NICs come first, so that
their places on the bus, and with them their names in the guest, depend on nothing but their number.

What the life cycle may rely on: QMP is at `places.monitor`; a guest that powers off ends QEMU with
status 0, one that panics with another status; a reboot does not end it.  With NICs QMP answers
only when vionet has accepted all of them.  Ids: `nicN` (chardev, netdev) and `netN` (device),
`diskN`, `cdrom`, `seed`, `agent`, `console`.

Firmware that is UEFI (a name that ends in `.fd`) is flash memory on a PC, and has nowhere to keep
variables: guests boot by the path that removable media have.

Without KVM a NIC has no MSI-X vectors: QEMU 7.2 crashes with them on vhost-user.

Trust: the file that describes a site is its owner's, and so are `arguments` and `device`; guests
are not trusted, and QEMU's own system call filter is on.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vionet.vm.model import Boot, Disk, Nic, Vm, VmPlaces

MIB: Final = 1 << 20
FORMATS: Final = ("qcow2", "raw")
_SANDBOX: Final = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_READ_ONLY: Final = "read-only=on,file.driver=file,file.filename="
_NAME: Final = re.compile(r"[\w.+-]+=")


@dataclass(frozen=True, slots=True, kw_only=True)
class QemuHost:
    """The QEMU that is to run a machine."""

    program: Path
    accel: str  # kvm or tcg
    version: tuple[int, int] = (7, 2)
    firmware: Path | None = None  # where the machine type has none of its own
    note: str = ""  # why it is not KVM; worth a line in the log


@dataclass(frozen=True, slots=True, kw_only=True)
class _Board:
    """What one machine type has."""

    options: str = ""
    cpus_max: int
    devices_max: int  # that QEMU finds room for
    transport: str = "pci"
    cdrom: tuple[str, ...] = ()  # devices
    panic: str = "pvpanic"
    serial: str = "ttyS0"
    strict: tuple[str, ...] = ("-boot", "strict=on")
    flash: bool = False  # UEFI for it has sizes that `-bios` refuses


# graphics=off: the BIOS speaks on the serial line.
_PC: Final[Any] = dict(options=",graphics=off", devices_max=30, cdrom=("ide-cd",), flash=True)
_BOARDS: Final = {
    "x86_64": {
        "q35": _Board(cpus_max=288, **_PC),
        "pc": _Board(cpus_max=255, **_PC),
        "microvm": _Board(cpus_max=288, devices_max=24, transport="device"),
    },
    "aarch64": {
        "virt": _Board(
            options=",gic-version=max",
            cpus_max=512,
            devices_max=31,
            cdrom=("virtio-scsi-pci", "scsi-cd"),
            panic="pvpanic-pci",
            serial="ttyAMA0",
            strict=(),
        )
    },
}
ARCHITECTURES: Final = tuple(_BOARDS)


def machine_type(vm: Vm) -> str:
    """The machine type: what the file says, else the first one of the architecture."""
    return vm.machine or next(iter(_BOARDS[vm.arch]))


def _join(*parts: str) -> str:
    """One argument out of those that are not empty."""
    return ",".join(part for part in parts if part)


def _quote(value: object) -> str:
    """A value as QEMU reads it back."""
    return str(value).replace(",", ",,")


def faults(vm: Vm) -> list[str]:
    """What no machine can have, each `what: why; how to mend it`."""
    if vm.arch not in _BOARDS:
        return [f"arch: {vm.arch} is not known; take {' or '.join(_BOARDS)}"]
    boards = _BOARDS[vm.arch]
    if (machine := machine_type(vm)) not in boards:
        return [f"machine: {vm.arch} has no {machine}; take {' or '.join(boards)}"]
    board = boards[machine]
    network = vm.nics and board.transport == "pci"
    bootable = vm.kernel or vm.firmware or vm.disks or vm.cdrom or network
    cases = {
        f"accel: {vm.accel} is not known; take auto, kvm or tcg": (
            vm.accel not in ("auto", "kvm", "tcg")
        ),
        f"cpus: {vm.cpus} is not between 1 and the {board.cpus_max} of {machine}": (
            not 1 <= vm.cpus <= board.cpus_max
        ),
        "memory: not a whole number of MiB, at least 1": vm.memory_len < MIB or vm.memory_len % MIB,
        f"cdrom: {machine} has none; give it as a read-only disk or take q35": (
            vm.cdrom and not board.cdrom
        ),
        "initrd: it belongs to a kernel; give kernel": vm.initrd and not vm.kernel,
        "append: it belongs to a kernel; give kernel": vm.append and not vm.kernel,
        "boot: a kernel that is given is what boots; leave out kernel or boot": (
            vm.kernel and vm.boot not in (Boot.AUTO, Boot.NETWORK)  # told by DHCP, as vmd does
        ),
        "boot: there is no disk; give one": vm.boot is Boot.DISK and not vm.disks,
        "boot: there is no cdrom; give one": vm.boot is Boot.CDROM and not vm.cdrom,
        "boot: there is no interface to boot from; give one": (
            vm.boot is Boot.NETWORK and not vm.nics
        ),
        f"boot: {machine} cannot boot from the network; take q35": (
            vm.boot is Boot.NETWORK and not vm.kernel and board.transport != "pci"
        ),
        "boot: nothing there to boot; give kernel, disk, cdrom or interface": not bootable,
        f"{machine}: {_devices(vm, board)} devices, and room for {board.devices_max}": (
            _devices(vm, board) > board.devices_max
        ),
    }
    found = [text for text, wrong in cases.items() if wrong]
    for number, disk in enumerate(vm.disks):
        if disk.format not in (None, *FORMATS):
            found.append(f"disk {number}: format {disk.format} is not known; take qcow2 or raw")
    for number, nic in enumerate(vm.nics):
        if bad := [text for text in nic.device if not _NAME.match(text)]:
            found.append(f"interface {number}: device: {bad[0]}: write NAME=VALUE")
    return found


def _devices(vm: Vm, board: _Board) -> int:
    """How many places on the bus are taken."""
    pci = board.transport == "pci"
    more = [
        vm.seed,
        vm.agent,
        pci and board.panic.endswith("pci"),
        vm.cdrom and len(board.cdrom) > 1,
    ]
    return len(vm.nics) + len(vm.disks) + 1 + sum(map(bool, more))


def qemu_command(vm: Vm, places: VmPlaces, host: QemuHost) -> list[str]:
    """The arguments that start `vm`, which has no faults and has been prepared (`vm.image`)."""
    machine = machine_type(vm)
    board = _BOARDS[vm.arch][machine]
    panic = "exit-failure" if host.version >= (7, 1) else "shutdown"
    argv = [str(host.program), "-name", f"guest={_quote(vm.name)},debug-threads=on"]
    argv += ["-nodefaults", "-no-user-config", "-display", "none"]
    argv += [] if "-sandbox" in vm.arguments else ["-sandbox", _SANDBOX]
    argv += ["-machine", f"{machine},accel={host.accel},memory-backend=memory{board.options}"]
    argv += ["-object", f"memory-backend-memfd,id=memory,size={vm.memory_len},share=on"]
    argv += ["-cpu", _cpu(vm, host), "-smp", str(vm.cpus)]
    argv += ["-action", f"panic={panic}", "-device", board.panic]
    argv += [*_serving("monitor", places.monitor), "-mon", "chardev=monitor,mode=control"]
    argv += _serving("console", places.console, f"logfile={_quote(places.log)}", "logappend=on")
    argv += ["-serial", "chardev:console"]
    if board.transport == "device":  # or devices are legacy ones
        argv += ["-global", "virtio-mmio.force-legacy=false"]
    argv += _boot(vm, board, host)
    boot = _boot_order(vm)
    for number, nic in enumerate(vm.nics):
        argv += _nic(number, nic, board, host, boot.get(f"net{number}", ""))
    for number, disk in enumerate(vm.disks):
        argv += _disk(f"disk{number}", disk, board, boot.get(f"disk{number}", ""))
    if vm.seed:
        argv += _disk("seed", Disk(path=places.seed, read_only=True), board, "")
    if vm.cdrom:
        argv += _cdrom(vm.cdrom, board, boot.get("cdrom", ""))
    if vm.agent:
        argv += [*_serving("agent", places.agent), "-device", f"virtio-serial-{board.transport}"]
        argv += ["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]
    argv += ["-object", "rng-random,id=rng,filename=/dev/urandom"]
    argv += ["-device", f"virtio-rng-{board.transport},rng=rng"]
    return [*argv, *vm.arguments]


def _cpu(vm: Vm, host: QemuHost) -> str:
    if host.accel == "kvm":
        return "host"
    # Emulated, the architecture's own pointer authentication takes half of the time.
    return "max,pauth-impdef=on" if vm.arch == "aarch64" else "max"


def _serving(name: str, path: Path, *more: str) -> list[str]:
    """A socket on which QEMU listens, and does not wait for anybody."""
    place = f"path={_quote(path)}"
    return ["-chardev", _join(f"socket,id={name}", place, "server=on", "wait=off", *more)]


def _boot(vm: Vm, board: _Board, host: QemuHost) -> list[str]:
    """Firmware; then the kernel, or that only what is in the order is tried."""
    firmware = vm.firmware or (None if vm.kernel else host.firmware)
    argv: list[str] = []
    if firmware and board.flash and firmware.suffix == ".fd":
        node = f"driver=raw,node-name=firmware,{_READ_ONLY}{_quote(firmware)}"
        argv = ["-blockdev", node, "-machine", "pflash0=firmware"]
    elif firmware:
        argv = ["-bios", str(firmware)]
    if not vm.kernel:
        return [*argv, *board.strict]
    argv += ["-kernel", str(vm.kernel)] + (["-initrd", str(vm.initrd)] if vm.initrd else [])
    named = re.search(r"(^|\s)console=", vm.append)
    return [*argv, "-append", vm.append if named else f"console={board.serial} {vm.append}".strip()]


def _boot_order(vm: Vm) -> dict[str, str]:
    """What the firmware tries, by device: the kind that is wanted first, then the others."""
    kinds = {
        Boot.DISK: [f"disk{number}" for number in range(len(vm.disks))],
        Boot.CDROM: ["cdrom"] if vm.cdrom else [],
        Boot.NETWORK: [f"net{number}" for number in range(len(vm.nics))],
    }
    if vm.kernel:
        return {}
    if vm.boot is not Boot.NETWORK and (vm.disks or vm.cdrom):
        del kinds[Boot.NETWORK]  # its boot code is for those who ask for it
    names = [*kinds.pop(vm.boot, []), *(name for kind in kinds.values() for name in kind)]
    return {name: f"bootindex={number}" for number, name in enumerate(names)}


def _nic(number: int, nic: Nic, board: _Board, host: QemuHost, boot: str) -> list[str]:
    again = "reconnect-ms=1000" if host.version >= (9, 2) else "reconnect=1"
    many, kvm, pci = nic.queues > 1, host.accel == "kvm", board.transport == "pci"
    device = _join(
        f"virtio-net-{board.transport},id=net{number},netdev=nic{number},mac={nic.mac}",
        "mq=on" if many else "",
        f"vectors={2 * nic.queues + 2 if kvm else 0}" if pci and (many or not kvm) else "",
        "romfile=" if pci and not boot else boot,
        f"host_mtu={nic.mtu}" if nic.mtu else "",
        "packed=on" if nic.packed else "",
        *map(_quote, nic.device),
    )
    return [
        *("-chardev", f"socket,id=nic{number},path={_quote(nic.socket)},{again}"),
        *("-netdev", f"vhost-user,id=nic{number},chardev=nic{number},queues={nic.queues}"),
        *("-device", device),
    ]


def _disk(name: str, disk: Disk, board: _Board, boot: str) -> list[str]:
    node = _join(
        f"driver={disk.format or 'raw'},node-name={name}",  # the guest could lead QEMU's own guess
        "read-only=on" if disk.read_only else "",
        f"discard=unmap,file.driver={'host_device' if disk.block_device else 'file'}",
        f"file.filename={_quote(disk.path)}",
    )
    device = f"virtio-blk-{board.transport},id={name}-device,drive={name}"
    return ["-blockdev", node, "-device", _join(device, boot)]


def _cdrom(path: Path, board: _Board, boot: str) -> list[str]:
    argv = ["-blockdev", f"driver=raw,node-name=cdrom,{_READ_ONLY}{_quote(path)}"]
    for name in board.cdrom[:-1]:
        argv += ["-device", name]
    return [*argv, "-device", _join(f"{board.cdrom[-1]},id=cdrom-device,drive=cdrom", boot)]
