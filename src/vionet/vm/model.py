"""One virtual machine as it is to be run: what becomes a QEMU command line.

Everything here is frozen and decided: paths are absolute, sizes are bytes (`_len`), addresses are
text as QEMU reads it.  Who may start it, and which switch a NIC is plugged into, is the
site's (`site.model`).
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class VmError(Exception):
    """The host refuses a machine something: one line, what, where, and how to mend it."""


class Boot(StrEnum):
    """What the firmware tries; AUTO: the kernel if there is one, else disk, cdrom, network."""

    AUTO = "auto"
    DISK = "disk"
    CDROM = "cdrom"
    NETWORK = "network"


class Restart(StrEnum):
    """When a machine that ended by itself is started again."""

    NEVER = "never"
    ON_FAILURE = "on-failure"  # QEMU died or the guest panicked; not after a power-off
    ALWAYS = "always"


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """One virtio disk."""

    path: Path
    format: str | None = None  # qcow2 or raw; None: as its first bytes say
    size_len: int | None = None  # made with this size where it does not exist
    read_only: bool = False
    block_device: bool = False  # filled in by `vm.image`


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """What cloud-init is told (NoCloud); the network part is written by `vm.seed`."""

    host_name: str
    ssh_keys: tuple[str, ...] = ()
    password: str | None = None  # of the image's user
    user_data: Path | None = None  # a file of the user's own, instead of what vionet writes


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    """One vhost-user NIC."""

    socket: Path  # vionet listens
    mac: str  # 52:54:00:12:34:56
    queues: int = 1
    mtu: int | None = None
    packed: bool = False
    device: tuple[str, ...] = ()  # more properties of the QEMU device, as csum=off
    optional: bool = False  # there may be no DHCP server; the guest's start does not wait for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Vm:
    """One machine."""

    name: str
    memory_len: int = 512 << 20
    cpus: int = 1
    arch: str = "x86_64"  # or aarch64
    machine: str | None = None  # q35, pc, microvm; aarch64: virt; None: the usual one
    accel: str = "auto"  # kvm, tcg; auto: KVM where it works
    kernel: Path | None = None
    initrd: Path | None = None
    append: str = ""
    firmware: Path | None = None
    disks: tuple[Disk, ...] = ()
    cdrom: Path | None = None
    boot: Boot = Boot.AUTO
    seed: Seed | None = None
    agent: bool = False  # a channel for the guest agent
    restart: Restart = Restart.NEVER
    stop_timeout_s: float = 30.0  # from asking the guest to stop until it is stopped by force
    arguments: tuple[str, ...] = ()  # more of QEMU's command line
    nics: tuple[Nic, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VmPlaces:
    """Where the files of one machine are."""

    monitor: Path  # QMP socket, QEMU listens
    console: Path  # socket of the serial line, QEMU listens
    agent: Path  # socket of the guest agent, QEMU listens
    log: Path  # what the serial line said; QEMU appends
    stderr: Path  # what QEMU itself said
    seed: Path  # image made for cloud-init
