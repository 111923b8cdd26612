"""What each statement of a vm.conf becomes in the model."""

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest

from tests.vmconf import mistakes, site, warnings
from vionet.config.option import mac_text
from vionet.config.port import Kind
from vionet.site.model import Interface, Local, Owner, VmEntry
from vionet.vm.model import Boot, Disk

BASE = 'vm "a" {{\n  disk "/a.img"\n{}\n}}\n'
LAN = 'switch "lan" { up }\n'


def entry(*lines: str, head: str = LAN) -> VmEntry:
    """The machine a, with a disk and what the lines say."""
    return site(head + BASE.format("\n".join(lines))).vms[0]


def interfaces(*lines: str) -> tuple[Interface, ...]:
    """Its interfaces."""
    return entry(*lines).interfaces


def test_smallest_machine() -> None:
    """A machine that says nothing but its disk has vmd's defaults: 512 MiB, started, one CPU."""
    found = entry()
    assert ("a", 512 << 20, 1) == (found.vm.name, found.vm.memory_len, found.vm.cpus)
    assert (Disk(path=Path("/a.img")),) == found.vm.disks
    assert (True, None, None, ()) == (
        found.enabled,
        found.owner,
        found.allow_instance,
        found.interfaces,
    )


def test_site_is_called_after_its_file() -> None:
    """/etc/vm.conf is the site vm."""
    assert "vm" == site("").name


@pytest.mark.parametrize(
    ("size", "megabytes"),
    [
        ("512M", 512),
        ("2G", 2048),
        ("1.5g", 1536),
        ("1073741824", 1024),
        ('"1 G"', 1024),
        ("1048576B", 1),
        ("2048K", 2),
        ("1t", 1 << 20),
        ("0.5G", 512),
    ],
)
def test_memory(size: str, megabytes: int) -> None:
    """Sizes are scaled as scan_scaled(3) does: powers of 1024, either case, with fractions."""
    assert megabytes << 20 == entry(f"memory {size}").vm.memory_len


def test_memory_is_whole_megabytes() -> None:
    """A size between two megabytes is rounded down, which is told."""
    text = BASE.format("memory 1048577")
    assert 1 << 20 == site(text).vms[0].vm.memory_len
    assert ["3: memory: 1048577 is rounded down to 1M; write that"] == warnings(text)


def test_disks_in_order_and_format() -> None:
    """Disks keep their order; a format is one of two, in either case; strings side by side join."""
    found = entry('disk "/b" ".qcow2" format qcow2', "disk /c format RAW").vm.disks[1:]
    assert (
        Disk(path=Path("/b.qcow2"), format="qcow2"),
        Disk(path=Path("/c"), format="raw"),
    ) == found


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    """A relative path starts at the folder of the file that names it, included ones too."""
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "b.conf").write_text('vm "b" { disk "b.img" }\n')
    text = 'vm "a" { disk "a.img"\n cdrom "../a.iso" }\ninclude "more/b.conf"\n'
    found = site(text, tmp_path / "vm.conf").vms
    assert [tmp_path / "a.img", tmp_path / "more" / "b.img"] == [v.vm.disks[0].path for v in found]
    assert tmp_path / "../a.iso" == found[0].vm.cdrom


@pytest.mark.parametrize(
    ("head", "kernel"),
    [
        (b"\x7fELF" + bytes(600), True),
        (bytes(0x202) + b"HdrS" + bytes(8), True),
        (b"MZ" + bytes(0x36) + b"ARM\x64" + bytes(8), True),
        (bytes(0x200), False),
        (b"", False),
    ],
)
def test_boot_is_kernel_or_firmware(tmp_path: Path, head: bytes, kernel: bool) -> None:
    """The first bytes of `boot`'s file tell a kernel from firmware."""
    (tmp_path / "image").write_bytes(head)
    found = site('vm "a" { boot "image" }', tmp_path / "vm.conf").vms[0].vm
    image = tmp_path / "image"
    assert ((image, None) if kernel else (None, image)) == (found.kernel, found.firmware)


def test_boot_that_is_not_there_is_a_kernel(tmp_path: Path) -> None:
    """A missing image is warned of, and taken for a kernel."""
    found = site('vm "a" { boot "image" }', tmp_path / "vm.conf")
    assert tmp_path / "image" == found.vms[0].vm.kernel
    assert f"{tmp_path}/vm.conf:1: {tmp_path}/image: there is no such file" in found.warnings[0]


@pytest.mark.parametrize(
    ("lines", "boot"),
    [
        (["boot device disk"], Boot.DISK),
        (["boot device cdrom", "cdrom /c.iso"], Boot.CDROM),
        (["boot device net", "interface { switch lan }"], Boot.NETWORK),
        (["boot device net", "interface { switch lan }", "boot /bsd.rd"], Boot.NETWORK),
    ],
)
def test_boot_device(lines: list[str], boot: Boot) -> None:
    """cdrom, disk and net."""
    assert boot is entry(*lines).vm.boot


def test_cpus_owner_disable() -> None:
    """The number of CPUs, whose it is, and that it is not started."""
    found = entry("cpus 4", "owner root", "disable")
    assert (4, Owner(user="root"), False) == (found.vm.cpus, found.owner, found.enabled)


@pytest.mark.parametrize(
    ("text", "owner"),
    [
        ("root", Owner(user="root")),
        ("root:daemon", Owner(user="root", group="daemon")),
        (":daemon", Owner(group="daemon")),
        ("0", Owner(user="0")),
        ('"root:"', Owner(user="root")),
    ],
)
def test_owner(text: str, owner: Owner) -> None:
    """A user, a group or both, by name; a user by number."""
    assert owner == entry(f"owner {text}").owner


def test_the_last_of_two_opposites_holds() -> None:
    """`disable` then `enable` starts the machine, as vmd has it, and is warned of."""
    text = BASE.format("disable\nenable")
    assert site(text).vms[0].enabled
    assert ["3: disable: the one at /etc/vm.conf:4 holds; leave this one out"] == warnings(text)


def test_interface_of_a_switch() -> None:
    """A NIC is plugged into a switch, with its address and its lock."""
    (found,) = interfaces("interface { switch lan\n locked lladdr fe:e1:bb:d1:2:3 }")
    port = found.port
    assert ("a.0", Kind.GUEST, "fe:e1:bb:d1:02:03") == (port.name, port.kind, port.mac_text)
    assert (True, True, "lan", False) == (port.locked, port.link_up, found.switch, found.local)


def test_interface_without_braces() -> None:
    """Options may stand on the interface's own line, with commas or without."""
    (found,) = interfaces('interface tap switch "lan", lladdr 52:54:00:00:00:01 down')
    assert found.port.mac is not None
    assert ("52:54:00:00:00:01", False) == (mac_text(found.port.mac), found.port.link_up)


def test_locked_without_an_address() -> None:
    """`locked lladdr` alone locks to the address that vionet chooses."""
    (found,) = interfaces("interface { switch lan locked lladdr }")
    assert (None, True) == (found.port.mac, found.port.locked)


def test_local_interface() -> None:
    """A local interface has its tap's name, group and namespace."""
    (found,) = interfaces("local interface tap7 { group vms\n rdomain 4\n}")
    assert (True, "tap7", "vms", "rdomain4") == (found.local, found.tap, found.group, found.rdomain)
    (found,) = interfaces("local interface tap { rdomain 0 }")
    assert (True, None, None) == (found.local, found.tap, found.rdomain)


def test_interfaces_is_a_minimum() -> None:
    """`interfaces` adds NICs that are plugged in nowhere, never takes one away."""
    assert ["a.0", "a.1", "a.2"] == [
        one.port.name for one in interfaces("interface { switch lan }", "interfaces 3")
    ]
    assert 2 == len(interfaces("interfaces 1", *["interface { switch lan }"] * 2))


def test_switch() -> None:
    """A switch, its way outside, its lock, its namespace; without a statement it is up."""
    text = 'switch "uplink" { locked lladdr }\nswitch c { down }\n'
    text += "switch b {\n interface eth1\n rdomain 5\n group vms\n}\n"
    first, third, second = site(text).switches
    assert ("uplink", True, True, ()) == (
        first.fabric.name,
        first.locked,
        first.enabled,
        first.fabric.ports,
    )
    assert [("eth1", Kind.INTERFACE, "eth1")] == [
        (one.name, one.kind, one.where) for one in second.fabric.ports
    ]
    assert ("rdomain5", "vms", False) == (second.rdomain, second.group, second.locked)
    assert not third.enabled


def test_switch_may_follow_who_uses_it() -> None:
    """Switches stand anywhere in the file."""
    assert (
        "lan"
        == site('vm a { disk /a\n interface { switch "lan" } }\n' + LAN).switches[0].fabric.name
    )


def test_local_prefix() -> None:
    """The networks of local interfaces; IPv6 only where it is asked for."""
    assert Local() == site("").local
    found = site("local prefix 10.0.0.0/16\nlocal inet6 prefix fd00:1::/48\n").local
    assert (IPv4Network("10.0.0.0/16"), IPv6Network("fd00:1::/48"), False) == (
        found.prefix,
        found.prefix6,
        found.random6,
    )
    assert site("local inet6\n").local.random6


def test_allow_instance() -> None:
    """Who may make what of a machine; `owner` says who, the other words what."""
    found = entry("allow instance { boot, cdrom\n memory, owner root:daemon\n}")
    assert frozenset({"boot", "cdrom", "memory"}) == found.allow_instance
    assert Owner(user="root", group="daemon") == found.instance_owner
    assert frozenset() == entry("allow instance owner root").allow_instance


def test_allow_instance_without_owner() -> None:
    """Who owns a machine may not make instances of it unless that is said, as vmd has it."""
    found = entry("owner daemon", "allow instance disk")
    assert (None, None) == (found.allow_instance, found.instance_owner)
    assert ["3: allow instance: whom? as in vmd nobody but who runs vionet; add owner NAME"] == (
        warnings(BASE.format("allow instance disk"))
    )


PARENT = """
vm "a" {
  memory 1G
  cpus 2
  disk "/a.img"
  cdrom "/a.iso"
  boot device cdrom
  owner root
  disable
  interface { switch lan locked lladdr 52:54:00:00:00:01 }
  local interface tap3 { group vms }
  ALLOW
}
"""


def instance(text: str, allow: str = "") -> VmEntry:
    """The machine b, made of a."""
    return site(LAN + PARENT.replace("ALLOW", allow) + f'vm "a" instance "b" {{ {text} }}').vms[1]


def test_instance_inherits() -> None:
    """An instance is as its template, but for disks, addresses, taps and being disabled."""
    found = instance('disk "/b.img"')
    vm = found.vm
    assert ("b", 1 << 30, 2, Boot.CDROM) == (vm.name, vm.memory_len, vm.cpus, vm.boot)
    assert (Path("/a.iso"), (Disk(path=Path("/b.img")),)) == (vm.cdrom, vm.disks)
    assert (True, Owner(user="root")) == (found.enabled, found.owner)
    first, second = found.interfaces
    assert ("b.0", None, True, "lan") == (
        first.port.name,
        first.port.mac,
        first.port.locked,
        first.switch,
    )
    assert ("b.1", True, None, "vms") == (
        second.port.name,
        second.local,
        second.tap,
        second.group,
    )


def test_instance_overrides() -> None:
    """What an instance says itself holds; interfaces one by one."""
    found = instance("memory 2G\n owner daemon\n interface { switch lan down }")
    assert (2 << 30, Owner(user="daemon")) == (found.vm.memory_len, found.owner)
    first, second = found.interfaces
    assert (False, False, True) == (first.port.link_up, first.port.locked, second.local)


def test_instance_of_an_instance() -> None:
    """Permissions go on to instances only where the template allows them to be templates."""
    assert None is instance("enable", "allow instance { memory, owner root }").allow_instance
    found = instance("enable", "allow instance { memory, instance, owner root }")
    assert frozenset({"memory", "instance"}) == found.allow_instance
    assert Owner(user="root") == found.instance_owner
    assert [
        "17: allow instance: an instance takes this from what it is made of; write it there"
    ] == (
        mistakes(LAN + PARENT.replace("ALLOW", "") + "vm a instance b {\n\n allow instance disk\n}")
    )
