"""Machines that boot in a few seconds: what starts User Mode Linux, and QEMU.

How it works: Debian's `linux.uml` boots the host's `/` through hostfs, read-only, so every program
of the host runs in the guest.  QEMU boots a kernel of the distribution and an archive of ours;
memory is a shared memfd, for vhost-user.  Either has `init.sh` for its init and a shell on standard
input and output.  Nothing is started here: the result is what `Console` starts a guest with.

What the programs want: User Mode Linux ignores SIGTERM, leaves children, and keeps the guest's
memory in a file below TMPDIR.  QEMU 7.2 without KVM crashes with vhost-user and MSI-X, so a device
on vhost-user gets no vectors there.
"""

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import vionet
from vionet.bench.guest.process import Program

INIT: Final = Path(__file__).with_name("init.sh")
UML_MODULES: Final = Path("/usr/lib/uml/modules")
FETCHED: Final = Path(vionet.__file__).parents[2] / ".cache" / "guest-kernel"  # in a checkout
# In the order in which they depend on each other; a kernel may have some built in.
NET_MODULES: Final = (
    "kernel/net/core/failover",
    "kernel/drivers/net/net_failover",
    "kernel/drivers/net/virtio_net",
    "kernel/lib/crc-ccitt",
    "kernel/net/ipv6/ipv6",
)
PCI_MODULES: Final = (
    "kernel/net/core/failover",
    "kernel/drivers/net/net_failover",
    "kernel/drivers/virtio/virtio_ring",
    "kernel/drivers/virtio/virtio",
    "kernel/drivers/virtio/virtio_pci_modern_dev",
    "kernel/drivers/virtio/virtio_pci_legacy_dev",
    "kernel/drivers/virtio/virtio_pci",
    "kernel/drivers/net/virtio_net",
)
Launch = Callable[[], Program]


@dataclass(frozen=True)
class Kernel:
    """A kernel image and the folder of its modules."""

    image: Path
    modules: Path

    @property
    def present(self) -> list[Path]:
        """Those of PCI_MODULES that are files."""
        names = (
            self.modules / f"{module}.ko{end}" for module in PCI_MODULES for end in ("", ".xz")
        )
        return [path for path in names if path.exists()]


def release(image: Path) -> str:
    """The version that a bzImage says it is; empty for anything else."""
    with image.open("rb") as file:
        data = file.read(1 << 16)
    start = 0x200 + int.from_bytes(data[0x20E:0x210], "little")
    return (
        data[start:].split(b" ")[0].decode("ascii", "replace")
        if data[0x202:0x206] == b"HdrS"
        else ""
    )


def find_kernel(given: Path | None) -> Kernel | None:
    """The kernel `given`, else the newest that `scripts/guest-kernel` fetched, with its modules."""
    for image in (given,) if given else sorted(FETCHED.glob("boot/vmlinuz-*"), reverse=True):
        version = release(image)
        for folder in (image.parent, image.parent.parent, Path("/")):
            if version and (modules := folder / "lib" / "modules" / version).is_dir():
                return Kernel(image, modules)
    return None


def start(argv: list[str], name: str, folder: Path, *, family: bool = False) -> Launch:
    """What starts `argv` with its console on pipes."""
    pipe = subprocess.PIPE
    env = {"TMPDIR": "/dev/shm"}  # noqa: S108 in memory, and unlinked at once
    log = folder / f"{name}.log"
    return partial(Program, argv, log, stdin=pipe, stdout=pipe, env=env, family=family)


def uml(
    name: str,
    socket: Path | None,
    folder: Path,
    *,
    memory: int = 96,
    modules: tuple[str, ...] = NET_MODULES,
    device: str = "",
    program: str = "linux.uml",
) -> Launch:
    """A guest whose eth0 is served by the back-end on `socket`.

    `device` is a kernel parameter that makes another eth0, as `eth0=vde,FOLDER`; `program` is the
    kernel.
    """
    argv = [program, f"mem={memory}M", "rootfstype=hostfs", "rootflags=/", "ro", f"init={INIT}"]
    argv += ["con=null", "con0=fd:0,fd:1", "quiet", "panic=-1", f"uml_dir={folder}", f"umid={name}"]
    argv += [f"modulefolder={next(UML_MODULES.iterdir())}", f"modules={','.join(modules)}"]
    argv += [f"virtio_uml.device={socket}:1"] if socket is not None else []
    return start([*argv, *([device] if device else [])], name, folder, family=True)


def qemu(
    name: str,
    socket: Path | None,
    folder: Path,
    kernel: Kernel,
    image: Path,
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
    accel: str = "tcg",
    program: str = "qemu-system-x86_64",
) -> Launch:
    """A guest that boots `kernel` and the initramfs `image`, its device served on `socket`.

    `properties` are those of the device: `csum`, `guest_csum`, `mrg_rxbuf`, `disable-modern` and so
    on; `netdev` makes another than ours.  Several `queues` (pairs) are of use only with as many
    `cpus`.  A QEMU that `listens` waits for its back-end to connect, and for the next one when that
    is gone.
    """
    modules = ",".join(path.name.partition(".")[0] for path in kernel.present)
    argv = [program, "-accel", accel, "-cpu", "max", "-smp", str(cpus), "-m", str(memory)]
    argv += ["-machine", "q35,memory-backend=m", "-object"]
    argv += [f"memory-backend-memfd,id=m,size={memory}M,share=on", "-display", "none"]
    argv += ["-monitor", "none", "-serial", "stdio", "-nodefaults", "-no-user-config"]
    argv += ["-kernel", str(kernel.image), "-initrd", str(image), "-append"]
    # Late timers are this machine's, not the guest's: a kernel that checks them may panic.
    late = "no_timer_check tsc=reliable"
    argv += [f"console=ttyS0 panic=-1 quiet {late} rootfstype=ramfs modules={modules}"]
    argv += [] if reboots else ["-no-reboot"]
    if socket is not None:
        again = ",reconnect=1" if reconnect else ",server=on" if listens else ""
        device = {"mac": mac, "romfile": "", **({"vectors": "0"} if accel == "tcg" else {})}
        device |= {"mq": "on"} if queues > 1 else {}
        text = ",".join(
            f"{key}={value}" for key, value in (device | dict(properties or {})).items()
        )
        argv += ["-chardev", f"socket,id=c,path={socket}{again}"]
        argv += ["-netdev", f"vhost-user,id=n,chardev=c,queues={queues}"]
        argv += ["-device", f"virtio-net-pci,netdev=n,{text}"]
    if netdev:
        argv += ["-netdev", f"{netdev},id=n"]
        argv += ["-device", f"virtio-net-pci,netdev=n,mac={mac},romfile="]
    return start(argv, name, folder)
