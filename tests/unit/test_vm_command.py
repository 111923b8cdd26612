"""QEMU's command line as a function of the machine."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vionet.vm.command import QemuHost, faults, qemu_command
from vionet.vm.model import Boot, Disk, Nic, Seed, Vm, VmPlaces

RUN, STATE = Path("/run/vionet/lab"), Path("/var/lib/vionet/lab")
PLACES = VmPlaces(
    monitor=RUN / "web.qmp",
    console=RUN / "web.console",
    agent=RUN / "web.agent",
    log=STATE / "web.log",
    stderr=STATE / "web.stderr",
    seed=STATE / "web-seed.iso",
)
KVM = QemuHost(program=Path("/usr/bin/qemu-system-x86_64"), accel="kvm")
TCG = replace(KVM, accel="tcg")
ARM = QemuHost(program=Path("/usr/bin/qemu-system-aarch64"), accel="tcg")
NIC = Nic(socket=RUN / "web.0.sock", mac="52:54:00:12:34:56")
DISK = Disk(path=Path("/srv/web.qcow2"), format="qcow2")
KERNEL = Path("/boot/vmlinuz")


def lines(argv: list[str]) -> list[str]:
    """One option a line, with its value."""
    text = " ".join(f"\n{arg}" if arg.startswith("-") else arg or "''" for arg in argv)
    return [line.strip() for line in text.splitlines()]


def made(vm: Vm, host: QemuHost = TCG) -> list[str]:
    """The command of a machine that has no faults."""
    assert [] == faults(vm)
    return lines(qemu_command(vm, PLACES, host))


def only(start: str, vm: Vm, host: QemuHost = TCG) -> list[str]:
    """What the options that begin with `start` say."""
    return [line.removeprefix(start) for line in made(vm, host) if line.startswith(start)]


def test_q35_with_everything() -> None:
    """The whole command of a machine with one of everything, under KVM."""
    vm = Vm(
        name="web",
        memory_len=1 << 30,
        cpus=2,
        disks=(DISK, Disk(path=Path("/dev/vg/data"), format="raw", block_device=True)),
        cdrom=Path("/srv/debian.iso"),
        boot=Boot.CDROM,
        seed=Seed(host_name="web"),
        agent=True,
        nics=(NIC, replace(NIC, socket=RUN / "web.1.sock", queues=2, mtu=9000, packed=True)),
        arguments=("-vnc", "unix:/run/web.vnc"),
    )
    assert made(vm, KVM) == [
        "/usr/bin/qemu-system-x86_64",
        "-name guest=web,debug-threads=on",
        "-nodefaults",
        "-no-user-config",
        "-display none",
        "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-machine q35,accel=kvm,memory-backend=memory,graphics=off",
        "-object memory-backend-memfd,id=memory,size=1073741824,share=on",
        "-cpu host",
        "-smp 2",
        "-action panic=exit-failure",
        "-device pvpanic",
        "-chardev socket,id=monitor,path=/run/vionet/lab/web.qmp,server=on,wait=off",
        "-mon chardev=monitor,mode=control",
        "-chardev socket,id=console,path=/run/vionet/lab/web.console,server=on,wait=off,"
        "logfile=/var/lib/vionet/lab/web.log,logappend=on",
        "-serial chardev:console",
        "-boot strict=on",
        "-chardev socket,id=nic0,path=/run/vionet/lab/web.0.sock,reconnect=1",
        "-netdev vhost-user,id=nic0,chardev=nic0,queues=1",
        "-device virtio-net-pci,id=net0,netdev=nic0,mac=52:54:00:12:34:56,romfile=",
        "-chardev socket,id=nic1,path=/run/vionet/lab/web.1.sock,reconnect=1",
        "-netdev vhost-user,id=nic1,chardev=nic1,queues=2",
        "-device virtio-net-pci,id=net1,netdev=nic1,mac=52:54:00:12:34:56,mq=on,vectors=6,"
        "romfile=,host_mtu=9000,packed=on",
        "-blockdev driver=qcow2,node-name=disk0,discard=unmap,file.driver=file,"
        "file.filename=/srv/web.qcow2",
        "-device virtio-blk-pci,id=disk0-device,drive=disk0,bootindex=1",
        "-blockdev driver=raw,node-name=disk1,discard=unmap,file.driver=host_device,"
        "file.filename=/dev/vg/data",
        "-device virtio-blk-pci,id=disk1-device,drive=disk1,bootindex=2",
        "-blockdev driver=raw,node-name=seed,read-only=on,discard=unmap,file.driver=file,"
        "file.filename=/var/lib/vionet/lab/web-seed.iso",
        "-device virtio-blk-pci,id=seed-device,drive=seed",
        "-blockdev driver=raw,node-name=cdrom,read-only=on,file.driver=file,"
        "file.filename=/srv/debian.iso",
        "-device ide-cd,id=cdrom-device,drive=cdrom,bootindex=0",
        "-chardev socket,id=agent,path=/run/vionet/lab/web.agent,server=on,wait=off",
        "-device virtio-serial-pci",
        "-device virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
        "-object rng-random,id=rng,filename=/dev/urandom",
        "-device virtio-rng-pci,rng=rng",
        "-vnc unix:/run/web.vnc",
    ]


def test_microvm_with_a_kernel() -> None:
    """The whole command of a small emulated machine: modern virtio-mmio devices, no vectors."""
    vm = Vm(
        name="cell",
        machine="microvm",
        memory_len=128 << 20,
        kernel=KERNEL,
        initrd=Path("/boot/initrd"),
        append="quiet",
        disks=(Disk(path=Path("/srv/a.img"), format="raw", read_only=True),),
        nics=(replace(NIC, device=("csum=off", "guest_csum=off")),),
    )
    assert made(vm) == [
        "/usr/bin/qemu-system-x86_64",
        "-name guest=cell,debug-threads=on",
        "-nodefaults",
        "-no-user-config",
        "-display none",
        "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-machine microvm,accel=tcg,memory-backend=memory",
        "-object memory-backend-memfd,id=memory,size=134217728,share=on",
        "-cpu max",
        "-smp 1",
        "-action panic=exit-failure",
        "-device pvpanic",
        "-chardev socket,id=monitor,path=/run/vionet/lab/web.qmp,server=on,wait=off",
        "-mon chardev=monitor,mode=control",
        "-chardev socket,id=console,path=/run/vionet/lab/web.console,server=on,wait=off,"
        "logfile=/var/lib/vionet/lab/web.log,logappend=on",
        "-serial chardev:console",
        "-global virtio-mmio.force-legacy=false",
        "-kernel /boot/vmlinuz",
        "-initrd /boot/initrd",
        "-append console=ttyS0 quiet",
        "-chardev socket,id=nic0,path=/run/vionet/lab/web.0.sock,reconnect=1",
        "-netdev vhost-user,id=nic0,chardev=nic0,queues=1",
        "-device virtio-net-device,id=net0,netdev=nic0,mac=52:54:00:12:34:56,csum=off,"
        "guest_csum=off",
        "-blockdev driver=raw,node-name=disk0,read-only=on,discard=unmap,file.driver=file,"
        "file.filename=/srv/a.img",
        "-device virtio-blk-device,id=disk0-device,drive=disk0",
        "-object rng-random,id=rng,filename=/dev/urandom",
        "-device virtio-rng-device,rng=rng",
    ]


def test_aarch64() -> None:
    """What differs on ARM: the machine, its firmware, its serial line, a cdrom by SCSI."""
    vm = Vm(name="arm", arch="aarch64", cdrom=Path("/srv/a.iso"))
    host = replace(ARM, firmware=Path("/usr/share/qemu-efi-aarch64/QEMU_EFI.fd"))
    command = made(vm, host)
    assert "-machine virt,accel=tcg,memory-backend=memory,gic-version=max" in command
    assert "-cpu max,pauth-impdef=on" in command
    assert "-bios /usr/share/qemu-efi-aarch64/QEMU_EFI.fd" in command
    assert ["pvpanic-pci", "virtio-scsi-pci", "virtio-rng-pci,rng=rng"] == [
        text for text in only("-device ", vm, host) if not text.startswith("scsi-cd")
    ]
    assert "-device scsi-cd,id=cdrom-device,drive=cdrom,bootindex=0" in command
    with_kernel = Vm(name="arm", arch="aarch64", kernel=KERNEL)
    assert ["console=ttyAMA0"] == only("-append ", with_kernel, host)
    assert [] == only("-bios ", with_kernel, host), "its own kernel needs none"


@pytest.mark.parametrize(
    ("accel", "queues", "expected"),
    [
        ("kvm", 1, ""),
        ("kvm", 4, ",mq=on,vectors=10"),
        ("tcg", 1, ",vectors=0"),
        ("tcg", 4, ",mq=on,vectors=0"),
    ],
)
def test_vectors(accel: str, queues: int, expected: str) -> None:
    """A vector for each queue, the control queue and the configuration; none without KVM."""
    vm = Vm(name="web", disks=(DISK,), nics=(replace(NIC, queues=queues),))
    (device,) = only("-device virtio-net-pci,", vm, replace(KVM, accel=accel))
    assert f"id=net0,netdev=nic0,mac={NIC.mac}{expected},romfile=" == device


@pytest.mark.parametrize(
    ("boot", "order"),
    [
        (Boot.AUTO, ["disk0", "disk1", "cdrom"]),
        (Boot.DISK, ["disk0", "disk1", "cdrom"]),
        (Boot.CDROM, ["cdrom", "disk0", "disk1"]),
        (Boot.NETWORK, ["net0", "disk0", "disk1", "cdrom"]),
    ],
)
def test_boot_order(boot: Boot, order: list[str]) -> None:
    """The kind that is wanted comes first; a NIC brings its boot code only where it is wanted."""
    vm = Vm(name="web", disks=(DISK, DISK), cdrom=Path("/a.iso"), boot=boot, nics=(NIC,))
    devices = [text.split(",") for text in only("-device ", vm)]
    numbers = {
        option.removeprefix("bootindex="): device[1].removeprefix("id=").removesuffix("-device")
        for device in devices
        for option in device
        if option.startswith("bootindex=")
    }
    assert order == [numbers[str(number)] for number in range(len(numbers))]
    (nic,) = (device for device in devices if device[0] == "virtio-net-pci")
    assert ("romfile=" in nic) == (boot is not Boot.NETWORK)


def test_machine_without_anything_boots_from_the_network() -> None:
    """What has only a NIC boots from it."""
    (nic,) = only("-device virtio-net-pci,", Vm(name="web", nics=(NIC,)))
    assert nic.endswith("vectors=0,bootindex=0")


def test_kernel_decides_what_boots() -> None:
    """With a kernel there is no order, and its console is the serial line unless it says."""
    vm = Vm(name="web", kernel=KERNEL, disks=(DISK,), nics=(NIC,))
    assert "bootindex" not in " ".join(made(vm))
    assert ["console=ttyS0"] == only("-append ", vm)
    assert ["root=/dev/vda console=hvc0"] == only(
        "-append ", replace(vm, append="root=/dev/vda console=hvc0")
    )


def test_firmware() -> None:
    """UEFI is flash memory on a PC, without a place for variables; anything else is a BIOS."""
    uefi, bios = Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/srv/bios.bin")
    flash = f"driver=raw,node-name=firmware,read-only=on,file.driver=file,file.filename={uefi}"
    vm = Vm(name="web", disks=(DISK,), firmware=uefi)
    assert flash == only("-blockdev ", vm)[0]
    assert "pflash0=firmware" == only("-machine ", vm)[1]
    assert [] == only("-bios ", vm)
    assert [str(bios)] == only("-bios ", replace(vm, firmware=bios))
    assert [str(uefi)] == only("-bios ", replace(vm, machine="microvm"))
    assert [str(uefi)] == only("-bios ", replace(vm, arch="aarch64"), ARM)


def test_commas_do_not_end_an_option() -> None:
    """A path, a name or a property with a comma stays one value."""
    odd = Path("/srv/a,b.img")
    vm = Vm(
        name="a,b",
        disks=(Disk(path=odd, format="raw"),),
        cdrom=odd,
        nics=(replace(NIC, socket=odd, device=("x=1,vectors=3",)),),
    )
    text = "\n".join(made(vm))
    assert "guest=a,,b," in text
    assert 3 == text.count("=/srv/a,,b.img")
    assert "x=1,,vectors=3" in text
    assert "a,b" not in text


def test_versions() -> None:
    """Options that QEMU has renamed, or did not have yet."""
    vm = Vm(name="web", disks=(DISK,), nics=(NIC,))
    new, old = replace(KVM, version=(10, 0)), replace(KVM, version=(6, 2))
    assert only("-chardev socket,id=nic0,", vm, new)[0].endswith(",reconnect-ms=1000")
    assert ["panic=shutdown"] == only("-action ", vm, old)


def test_own_arguments_come_last_and_may_replace_the_filter() -> None:
    """A system call filter of the file's own is the only one."""
    vm = Vm(name="web", disks=(DISK,), arguments=("-sandbox", "off"))
    assert ["off"] == only("-sandbox ", vm)
    assert "-sandbox off" == made(vm)[-1]


WHOLE = Vm(name="web", disks=(DISK,), nics=(NIC,))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"arch": "vax"}, "arch: vax is not known; take x86_64 or aarch64"),
        ({"machine": "virt"}, "machine: x86_64 has no virt; take q35 or pc or microvm"),
        ({"accel": "xen"}, "accel: xen is not known; take auto, kvm or tcg"),
        ({"cpus": 0}, "cpus: 0 is not between 1 and the 288 of q35"),
        ({"memory_len": 1000}, "memory: not a whole number of MiB, at least 1"),
        (
            {"machine": "microvm", "cdrom": Path("/a.iso")},
            "cdrom: microvm has none; give it as a read-only disk or take q35",
        ),
        ({"initrd": Path("/i")}, "initrd: it belongs to a kernel; give kernel"),
        ({"append": "quiet"}, "append: it belongs to a kernel; give kernel"),
        (
            {"kernel": KERNEL, "boot": Boot.DISK},
            "boot: a kernel that is given is what boots; leave out kernel or boot",
        ),
        ({"boot": Boot.DISK, "disks": ()}, "boot: there is no disk; give one"),
        ({"boot": Boot.CDROM}, "boot: there is no cdrom; give one"),
        (
            {"boot": Boot.NETWORK, "nics": ()},
            "boot: there is no interface to boot from; give one",
        ),
        (
            {"machine": "microvm", "boot": Boot.NETWORK},
            "boot: microvm cannot boot from the network; take q35",
        ),
        (
            {"disks": (), "nics": ()},
            "boot: nothing there to boot; give kernel, disk, cdrom or interface",
        ),
        (
            {"disks": (), "machine": "microvm"},
            "boot: nothing there to boot; give kernel, disk, cdrom or interface",
        ),
        ({"disks": (DISK,) * 29}, "q35: 31 devices, and room for 30"),
        (
            {"disks": (replace(DISK, format="vmdk"),)},
            "disk 0: format vmdk is not known; take qcow2 or raw",
        ),
        (
            {"nics": (replace(NIC, device=("csum",)),)},
            "interface 0: device: csum: write NAME=VALUE",
        ),
    ],
)
def test_faults(changes: dict[str, Any], expected: str) -> None:
    """What no machine can have is said in a line, with how to mend it."""
    assert [expected] == faults(replace(WHOLE, **changes))


def test_all_faults_at_once() -> None:
    """One reading of a file finds all of them."""
    assert 3 == len(faults(replace(WHOLE, cpus=0, memory_len=1, append="quiet")))
