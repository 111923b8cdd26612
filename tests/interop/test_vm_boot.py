"""QEMU's command line, taken by the real QEMU: every machine type, and guests that boot with it."""

from dataclasses import replace
from typing import Any

import pytest
from qemu.qmp import QMPClient

from tests.interop.lab import Lab
from tests.interop.peers.site_vm import SiteVm, direct_boot
from tests.interop.peers.traffic import converse
from vionet.vm import seed
from vionet.vm.model import Boot, Disk, Nic, Seed, Vm

MAC = "52:54:00:00:00:61"
MIB = 1 << 20


def start(lab: Lab, vm: Vm, **changes: Any) -> SiteVm:
    """A machine that ends with the test."""
    guest = SiteVm(vm, lab.folder, **changes)
    lab.stack.callback(guest.kill)
    return guest


async def everything(client: QMPClient) -> dict[str, Any]:
    """What QEMU says it has made, before it is told to quit."""
    names = ("status", "memory-size-summary", "cpus-fast", "block", "chardev", "name")
    found = {name: await client.execute(f"query-{name}") for name in names}
    await client.execute("quit")
    return found


@pytest.mark.parametrize(
    ("arch", "machine"),
    [("x86_64", "q35"), ("x86_64", "pc"), ("x86_64", "microvm"), ("aarch64", "virt")],
)
def test_real_qemu_takes_the_command(lab: Lab, arch: str, machine: str) -> None:
    """A machine with one of everything that its type has is made by QEMU as it was meant."""
    lab.switch({"a": "", "b": "queues=2"})
    (lab.folder / "a,b.iso").write_bytes(bytes(MIB))
    (lab.folder / "firmware").write_bytes(bytes(MIB // 4))
    nic = Nic(socket=lab.socket("a"), mac=MAC, mtu=1400, packed=True, device=("csum=off",))
    disk = Disk(path=lab.folder / "a.qcow2", size_len=64 * MIB)
    raw = replace(disk, path=lab.folder / "b,c.img")
    vm = Vm(
        name="odd,name",
        arch=arch,
        machine=machine,
        memory_len=128 * MIB,
        cpus=2,
        disks=(disk, raw, replace(raw, read_only=True, path=lab.folder / "d.img")),
        cdrom=None if machine == "microvm" else lab.folder / "a,b.iso",
        firmware=lab.folder / "firmware" if arch == "aarch64" else None,
        seed=Seed(host_name="odd"),
        agent=True,
        nics=(nic, replace(nic, socket=lab.socket("b"), queues=2)),
        arguments=("-S",),
    )
    guest = start(lab, vm)
    said = guest.ask(everything)
    assert 0 == guest.child.wait(20), guest.child.tail()
    # What vionet offers for front-ends that let it answer the configuration.
    expected = "warning: vhost-user backend supports VHOST_USER_PROTOCOL_F_CONFIG but QEMU does not"
    assert [] == [x for x in guest.child.output().splitlines() if expected not in x]
    assert ("odd,name", "prelaunch") == (said["name"]["name"], said["status"]["status"])
    assert 128 * MIB == said["memory-size-summary"]["base-memory"]
    assert 2 == len(said["cpus-fast"])
    drives = {
        device["inserted"]["node-name"]: (
            device["inserted"]["drv"],
            device["inserted"]["ro"],
            device["inserted"]["image"]["virtual-size"],
        )
        for device in said["block"]
        if "inserted" in device
    }
    size = guest.places.seed.stat().st_size
    assert {
        "disk0": ("qcow2", False, 64 * MIB),
        "disk1": ("raw", False, 64 * MIB),
        "disk2": ("raw", True, 64 * MIB),
        "seed": ("raw", True, size),
        **({"cdrom": ("raw", True, MIB)} if vm.cdrom else {}),
    } == drives
    assert {"monitor", "console", "agent", "nic0", "nic1"} <= {
        chardev["label"] for chardev in said["chardev"]
    }


@pytest.mark.parametrize("machine", ["q35", "pc", "microvm"])
def test_guest_boots_and_talks(lab: Lab, machine: str) -> None:
    """A Debian kernel finds its disks and its seed, in their order, and exchanges bulk TCP and
    datagrams with another guest; its power-off ends QEMU with status 0."""
    vionet = lab.switch({"a": f"mac={MAC},locked", "b": ""})
    peer = lab.uml("b")
    disk = Disk(path=lab.folder / "a.qcow2", size_len=64 * MIB)
    vm = Vm(
        name="guest",
        machine=machine,
        memory_len=192 * MIB,
        disks=(disk, replace(disk, path=lab.folder / "b.img", size_len=3 * MIB)),
        seed=Seed(host_name="guest", ssh_keys=("ssh-ed25519 AAAA me",)),
        nics=(Nic(socket=lab.socket("a"), mac=MAC),),
    )
    guest = start(lab, direct_boot(vm, lab.folder))
    lab.boot(guest, peer)
    assert MAC == guest.run("cat /sys/class/net/eth0/address").strip()
    assert 32 in guest.features(), "VIRTIO_F_VERSION_1"
    agreed = set(vionet.ports()["a"]["features"])
    assert {"VIRTIO_F_VERSION_1", "VIRTIO_NET_F_CSUM", "VIRTIO_NET_F_GUEST_CSUM"} <= agreed
    sizes = [int(guest.run(f"cat /sys/block/vd{letter}/size")) * 512 for letter in "abc"]
    assert [64 * MIB, 3 * MIB, guest.places.seed.stat().st_size] == sizes
    guest.run("echo hello >/dev/vdb && sync")
    assert (lab.folder / "b.img").read_bytes().startswith(b"hello\n")
    guest.run("mount -t iso9660 -o ro /dev/vdc /tmp")
    for name, data in seed.documents(guest.vm).items():
        assert data.decode() == guest.run(f"cat /tmp/{name}")
    assert "1" == guest.run("cat /sys/block/vdc/ro").strip()
    converse(guest, peer, size=1_500_000)
    (a, b) = (vionet.ports()[name]["ledger"] for name in ("a", "b"))
    assert a["csum_elided"] > 100 < b["csum_elided"]
    assert 0 == guest.end("poweroff -f")
    assert "@@ready" in guest.places.log.read_text()


@pytest.mark.parametrize("machine", ["q35", "microvm"])
def test_panic_ends_with_a_status(lab: Lab, machine: str) -> None:
    """A guest whose kernel panics, and would stand still for ever, ends QEMU; not with 0."""
    vm = Vm(name="guest", machine=machine, memory_len=192 * MIB, boot=Boot.AUTO)
    guest = start(lab, direct_boot(vm, lab.folder))
    guest.await_boot()
    assert 1 == guest.end("echo c >/proc/sysrq-trigger")
