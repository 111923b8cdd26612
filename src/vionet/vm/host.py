"""What this host has for a machine: which QEMU, which version of it, and KVM or not."""

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

from vionet.vm import kvm
from vionet.vm.command import QemuHost
from vionet.vm.model import Vm, VmError

VERSION_MIN: Final = (6, 0)  # -action, and packed rings over vhost-user
PACKAGES: Final = {"x86_64": "qemu-system-x86", "aarch64": "qemu-system-arm"}
# UEFI for machine types without any firmware: Debian (two packages), Fedora, Arch.
FIRMWARE: Final = {
    "aarch64": (
        "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd",
        "/usr/share/AAVMF/AAVMF_CODE.fd",
        "/usr/share/edk2/aarch64/QEMU_EFI.fd",
        "/usr/share/edk2/aarch64/QEMU_CODE.fd",
    )
}


@cache
def version(program: Path) -> tuple[int, int]:
    """What `program --version` says."""
    try:
        argv = [str(program), "--version"]
        said = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VmError(f"{program}: it does not start: {error}") from None
    found = re.search(r"version (\d+)\.(\d+)", said)
    if found is None:
        raise VmError(f"{program}: it does not say its version; is it QEMU?")
    return int(found[1]), int(found[2])


def find(vm: Vm) -> QemuHost:
    """What runs `vm` here, or `VmError`.  May block for seconds, the first time."""
    name = f"qemu-system-{vm.arch}"
    if (place := shutil.which(name)) is None:
        package = PACKAGES.get(vm.arch, name)
        raise VmError(f"{vm.name}: {name} is not installed (Debian: {package})")
    program = Path(place)
    if (found := version(program)) < VERSION_MIN:
        wanted = ".".join(map(str, VERSION_MIN))
        raise VmError(f"{vm.name}: {program} is {found[0]}.{found[1]}; install {wanted} or later")
    note = "" if vm.accel == "tcg" else kvm.refusal(program, vm.arch)
    if note and vm.accel == "kvm":
        raise VmError(f"{vm.name}: KVM does not work: {note}; mend that, or take accel tcg")
    firmware = next((Path(path) for path in FIRMWARE.get(vm.arch, ()) if Path(path).exists()), None)
    if not (vm.kernel or vm.firmware or firmware) and vm.arch in FIRMWARE:
        raise VmError(f"{vm.name}: no UEFI to boot with (Debian: qemu-efi-aarch64), or give kernel")
    accel = "tcg" if note or vm.accel == "tcg" else "kvm"
    note = note and f"emulated, so slow, as KVM does not work: {note}"
    return QemuHost(program=program, accel=accel, version=found, firmware=firmware, note=note)
