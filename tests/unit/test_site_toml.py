"""A site from TOML."""

import textwrap
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from types import MappingProxyType

import pytest

from vionet.config.port import Kind, parse_port
from vionet.engine.status import Policy
from vionet.site.model import Owner, Site, SiteError, Uplink
from vionet.site.toml import read_toml
from vionet.site.toml_vm import vm_from_table
from vionet.spec.virtio import VIRTIO_F_RING_PACKED
from vionet.spec.virtio_net import VIRTIO_NET_F_HOST_USO
from vionet.vm.model import Boot, Disk, Restart, Seed

PATH = Path("/etc/vionet/office.toml")
BOOTS = 'disk = {size = "1G"}\n'


def read(text: str) -> Site:
    """The site of a file that is all right."""
    return read_toml(PATH, textwrap.dedent(text))


def test_nothing_is_a_site() -> None:
    """An empty file describes nothing, under the file's name."""
    assert read("") == Site(name="office")


def test_machine_has_what_its_table_says() -> None:
    """Each key of a machine becomes the field that it is about."""
    (entry,) = read(
        """
        [vm.web]
        memory = "2G"
        cpus = 2
        arch = "aarch64"
        machine = "virt"
        accel = "tcg"
        kernel = "vmlinuz"
        initrd = "/boot/initrd"
        append = "quiet splash"
        firmware = "../fw.bin"
        disk = ["a.qcow2", {path = "b.raw", format = "raw", read_only = true}, {size = "10G"}]
        cdrom = "x.iso"
        seed = {host_name = "www", ssh_keys = ["ssh-ed25519 AAAA me"], user_data = "u.yaml"}
        agent = true
        restart = "on-failure"
        stop_timeout = 2.5
        arguments = ["-rtc", "base=utc"]
        enabled = false
        owner = "root:root"
        allow_instance = ["memory", "disk", "cpus"]
        instance_owner = ":0"
        """
    ).vms
    vm = entry.vm
    folder = Path("/etc/vionet")
    assert (2 << 30, 2, "aarch64", "virt", "tcg") == (
        *(vm.memory_len, vm.cpus, vm.arch, vm.machine, vm.accel),
    )
    assert (folder / "vmlinuz", Path("/boot/initrd"), "quiet splash", folder / "../fw.bin") == (
        *(vm.kernel, vm.initrd, vm.append, vm.firmware),
    )
    assert vm.disks == (
        Disk(path=folder / "a.qcow2"),
        Disk(path=folder / "b.raw", format="raw", read_only=True),
        Disk(path=Path(), size_len=10 << 30),
    )
    assert vm.cdrom == folder / "x.iso"
    keys = ("ssh-ed25519 AAAA me",)
    assert vm.seed == Seed(host_name="www", ssh_keys=keys, user_data=folder / "u.yaml")
    assert (True, Restart.ON_FAILURE, 2.5) == (vm.agent, vm.restart, vm.stop_timeout_s)
    assert ("-rtc", "base=utc") == vm.arguments
    assert (False, Owner(user="root", group="root")) == (entry.enabled, entry.owner)
    assert frozenset({"memory", "disk", "cpus"}) == entry.allow_instance
    assert Owner(group="0") == entry.instance_owner


def test_interfaces_are_ports_in_their_order() -> None:
    """Each interface has the options of a port, and its name has its number."""
    (entry,) = read(
        """
        [switch.lan]
        [vm.web]
        [[vm.web.interface]]
        local = true
        uplink = "passt"
        device = ["csum=off", "rx_queue_size=1024"]
        [[vm.web.interface]]
        local = true
        uplink = "tap"
        tap = "web-out"
        netns = "blue"
        group = 7
        mtu = 1400
        [[vm.web.interface]]
        switch = "lan"
        mac = "52:54:00:00:00:01"
        locked = true
        ip = ["192.0.2.1", "2001:db8::/64"]
        isolated = true
        policy = "natural"
        vlan = 10
        trunk = "20+30-31"
        link = "down"
        queues = 2
        speed = 1000
        features = ["-host_uso", "+ring_packed"]
        """
    ).vms
    passt, tap, lan = entry.interfaces
    assert ["web.0", "web.1", "web.2"] == [one.port.name for one in entry.interfaces]
    assert (True, None, Uplink.PASST) == (passt.local, passt.switch, passt.uplink)
    assert ("csum=off", "rx_queue_size=1024") == passt.device
    assert ("web-out", "blue", "7", 1400) == (tap.tap, tap.rdomain, tap.group, tap.port.mtu)
    assert (False, "lan") == (lan.local, lan.switch)
    port = lan.port
    assert (0x525400000001, True, True, False) == (
        *(port.mac, port.locked, port.isolated, port.link_up),
    )
    assert (ip_network("192.0.2.1"), ip_network("2001:db8::/64")) == port.ip
    assert (Policy.NATURAL, 10, 1 << 20 | 3 << 30) == (port.policy, port.vlan, port.trunk)
    assert (2, 1000) == (port.queues, port.speed)
    assert (0, 1) == (
        port.features >> VIRTIO_NET_F_HOST_USO & 1,
        port.features >> VIRTIO_F_RING_PACKED & 1,
    )


def test_ports_are_those_of_the_command_line() -> None:
    """A port from keys equals the one of the same PORT text, and is plugged into its switch."""
    site = read(
        """
        [switch.lan]
        reserved = "none"
        workers = 2
        enabled = false
        locked = true
        netns = "blue"
        group = "guests"
        [port.out]
        switch = "lan"
        tap = "vio0"
        address = ["192.0.2.1/24", "fd00::1/64"]
        ifgroup = "wide"
        [port.uml]
        switch = "lan"
        guest = "uml.sock"
        mode = "0660"
        mac = "52:54:00:00:00:03"
        locked = true
        isolated = false
        offload = "csum"
        [port.peer]
        switch = "lan"
        stream = "/run/p.sock"
        client = true
        """
    )
    (switch,) = site.switches
    out, uml, peer = switch.fabric.ports
    tap = parse_port("out", "tap:vio0,address=192.0.2.1/24,address=fd00::1/64")
    assert out == replace(tap, ifgroup="wide")
    mac = "mac=52:54:00:00:00:03"
    assert uml == parse_port(
        "uml", f"guest:/etc/vionet/uml.sock,mode=0660,{mac},locked,offload=csum"
    )
    assert peer == parse_port("peer", "stream:/run/p.sock,client")
    assert (0, 2) == (switch.fabric.reserved, switch.fabric.workers)
    assert (False, True, "blue", "guests") == (
        *(switch.enabled, switch.locked, switch.rdomain, switch.group),
    )


def test_local_has_what_its_table_says() -> None:
    """`[local]` is about all local interfaces."""
    local = read(
        """
        [local]
        prefix = "192.0.2.0/24"
        inet6 = "2001:db8::/56"
        uplink = "none"
        isolated = false
        resolvers = ["192.0.2.53", "2001:db8::53"]
        domains = ["example.org"]
        """
    ).local
    assert (IPv4Network("192.0.2.0/24"), IPv6Network("2001:db8::/56"), False) == (
        *(local.prefix, local.prefix6, local.random6),
    )
    assert (Uplink.NONE, False, ("example.org",)) == (
        *(local.uplink, local.isolated, local.domains),
    )
    assert (ip_address("192.0.2.53"), ip_address("2001:db8::53")) == local.resolvers
    random = read("[local]\ninet6 = true\n").local
    assert (True, None, None) == (random.random6, random.prefix6, random.resolvers)


def test_instance_replaces_what_it_says_and_shares_nothing_that_is_one() -> None:
    """A template may stand below; addresses, taps and disks written to are not taken over."""
    site = read(
        """
        [switch.lan]
        [vm.two]
        instance = "one"
        memory = "1G"
        [vm.one]
        memory = "256M"
        cpus = 3
        kernel = "k"
        disk = ["w.qcow2", {path = "r.img", read_only = true}, {size = "1G"}]
        seed = true
        enabled = false
        owner = "root"
        allow_instance = ["memory"]
        [[vm.one.interface]]
        switch = "lan"
        mac = "52:54:00:00:00:01"
        locked = true
        ip = "192.0.2.1"
        [[vm.one.interface]]
        local = true
        tap = "t"
        """
    )
    two, one = site.vms
    assert ("two", 1 << 30, 3) == (two.vm.name, two.vm.memory_len, two.vm.cpus)
    assert one.vm.disks[1:] == two.vm.disks
    assert ("one", "two") == (one.vm.seed and one.vm.seed.host_name, two.vm.seed.host_name)  # type: ignore[union-attr]
    assert (True, Owner(user="root"), None) == (two.enabled, two.owner, two.allow_instance)
    lan, local = two.interfaces
    assert ("two.0", None, (), True, "lan") == (
        *(lan.port.name, lan.port.mac, lan.port.ip, lan.port.locked, lan.switch),
    )
    assert ("two.1", None, True) == (local.port.name, local.tap, local.local)


def test_what_is_dubious_is_a_warning() -> None:
    """Files that are not there, accounts that do not exist and idle NICs are told, not refused."""
    site = read(
        """
        [vm.a]
        disk = "no.qcow2"
        owner = "nobody-at-all:root"
        [[vm.a.interface]]
        """
    )
    assert site.warnings == (
        f"{PATH}:3: vm.a.disk: /etc/vionet/no.qcow2: there is no such file to read; "
        "the machine will not start without it",
        f"{PATH}:4: vm.a.owner: there is no user nobody-at-all on this host; "
        "nobody is meant until there is",
        f"{PATH}:5: vm.a.interface[0]: plugged in nowhere, so without link; "
        'add switch="NAME" or local=true',
    )


def test_machine_without_a_file() -> None:
    """The same keys from elsewhere, by themselves, on a template, or on the machine as it was."""
    folder = Path("/srv")
    entry = vm_from_table(
        "x", MappingProxyType({"kernel": "k", "interface": [{"local": True}]}), None, folder
    )
    assert (folder / "k", True) == (entry.vm.kernel, entry.interfaces[0].local)
    assert entry.interfaces[0].port.name == "x.0"
    assert entry.interfaces[0].port.kind is Kind.GUEST
    made = vm_from_table("y", {"memory": "1G"}, entry, folder)
    assert ("y", 1 << 30, folder / "k") == (made.vm.name, made.vm.memory_len, made.vm.kernel)
    assert made.interfaces[0].port.name == "y.0"
    again = vm_from_table("x", {"boot": "auto", "append": "single"}, entry, folder)
    assert ("single", Boot.AUTO) == (again.vm.append, again.vm.boot)
    assert entry.interfaces == again.interfaces


def test_machine_without_a_file_is_judged_the_same() -> None:
    """All mistakes at once, each with its key, and values of any kind that JSON has."""
    table: dict[str, object] = {
        "kernel": None,
        "memory": 5,
        "interface": [{"mac": "x"}, 3],
        "seed": {"a": {}},
        "disks": [],
    }
    with pytest.raises(SiteError) as caught:
        vm_from_table("x", table, None, Path("/"))
    assert caught.value.problems == (
        'vm.x.kernel: nothing, where text belongs; write kernel="…"',
        'vm.x.memory: a number, where text belongs; write memory="…"',
        "vm.x.seed.a: no such key; use one of host_name, ssh_keys, password, user_data",
        "vm.x.disks: no such key; did you mean disk?",
        "vm.x.interface[0].mac: x: not an Ethernet address; write six octets as 52:54:00:12:34:56",
        "vm.x.interface[1]: a number, where a table belongs; write [[vm.x.interface]] above it",
    )
    with pytest.raises(SiteError, match=r"^vm.a b: 'a b' cannot be a name"):
        vm_from_table("a b", {"kernel": "k"}, None, Path("/"))
