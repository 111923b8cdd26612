"""What the machines of a site boot: Debian's kernel, an initramfs with DHCP clients, an ISO image.

How it works: the initramfs is that of the other tests (`peers.initramfs`) with ISC's client, the
driver of the power button, and one script that both DHCP clients run with what they were told.  A
vm.conf names no initramfs, as OpenBSD's kernel needs none; so there is a CD with ISOLINUX, too.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.interop.peers import initramfs
from tests.interop.peers.process import call
from tests.tools import need
from vionet.bench.guest.initramfs import begin

BUTTON = ("acpi/button", "input/evdev")  # some kernels have them built in
# Late timers are this machine's, not the guest's.
APPEND = "panic=-1 quiet no_timer_check tsc=reliable rootfstype=ramfs"
UDHCPC = "udhcpc -n -q -f -i {nic} -s /told"
DHCLIENT = "/sbin/dhclient -4 -1 -d -sf /told -lf /run/leases -pf /run/pid -cf /dev/null {nic}"
TOLD = """#!/bin/busybox sh
# busybox's client says what happened in $1, ISC's in $reason; each has names of its own.
case $1$reason in
PREINIT) busybox ip link set $interface up ;;
bound | BOUND)
	busybox ifconfig $interface ${ip-$new_ip_address} netmask ${subnet-$new_subnet_mask}
	busybox ip route add default via ${router-$new_routers} dev $interface
	;;
esac
"""
ISOLINUX = """serial 0
default guest
label guest
	kernel /vmlinuz
	append initrd=/initrd console=ttyS0 {append}
"""


@dataclass(frozen=True)
class Images:
    """Files that a machine can boot."""

    kernel: Path
    initrd: Path
    append: str
    iso: Path


def build(folder: Path) -> Images:
    """Make them in `folder`."""
    kernel = initramfs.kernel()
    archive = begin(kernel, [need("busybox")])
    archive.program("/sbin/dhclient", need("dhclient"))
    archive.file("/told", TOLD.encode())
    initramfs.add_python(archive)
    drivers = [kernel.modules / "kernel" / "drivers" / f"{name}.ko" for name in BUTTON]
    drivers = [path for path in drivers if path.exists()]
    for path in drivers:
        archive.file(f"/modules/{path.name}", path)
    names = ",".join(path.name.partition(".")[0] for path in (*kernel.present, *drivers))
    append = f"{APPEND} modules={names}"
    tree = folder / "iso"
    tree.mkdir()
    (tree / "initrd").write_bytes(archive.finish())
    shutil.copy(kernel.image, tree / "vmlinuz")
    for file in ("/usr/lib/ISOLINUX/isolinux.bin", "/usr/lib/syslinux/modules/bios/ldlinux.c32"):
        shutil.copy(need(file), tree)
    (tree / "isolinux.cfg").write_text(ISOLINUX.format(append=append))
    iso = folder / "guest.iso"
    boot = ("-b", "isolinux.bin", "-c", "boot.cat", "-no-emul-boot", "-boot-load-size", "4")
    call(str(need("genisoimage")), "-quiet", "-o", str(iso), *boot, "-boot-info-table", str(tree))
    return Images(tree / "vmlinuz", tree / "initrd", append, iso)
