"""From a site to what runs: addresses, names, sockets, fabrics."""

import textwrap
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Network, ip_address, ip_interface, ip_network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vionet.config.fabric import FabricConfig
from vionet.config.port import Kind, PortConfig
from vionet.engine.layout import RULES_MAX
from vionet.ports.tap import name_fault
from vionet.site.across import local_names, local_room
from vionet.site.layout import Host, Layout, SitePlaces, lay_out
from vionet.site.model import Site, SiteError
from vionet.site.slots import Slots
from vionet.site.toml import read_toml
from vionet.vm.model import Disk

PLACES = SitePlaces(runtime=Path("/run/s"), state=Path("/var/s"))
FRESH = Slots(numbers={}, prefix6=IPv6Network("fd01:2:3::/48"))
ROOT = Host(taps=True, resolvers=(ip_address("192.0.2.53"), ip_address("2001:db8::53")))
USER = Host(taps=False)
WEB = """
[vm.web]
disk = {size = "1G"}
[[vm.web.interface]]
local = true
"""


def site(text: str) -> Site:
    """A site that is all right."""
    return read_toml(Path("/etc/s.toml"), textwrap.dedent(text))


def laid(text: str, host: Host = ROOT, places: SitePlaces = PLACES, slots: Slots = FRESH) -> Layout:
    """The layout of a site, whose local interfaces get numbers first."""
    read = site(text)
    numbered = slots.with_names(local_names(read), local_room(read.local))
    return lay_out(read, places, numbered, host)


def ports(layout: Layout) -> dict[str, PortConfig]:
    """All ports by name."""
    return {port.name: port for fabric in layout.fabrics for port in fabric.ports}


def fabric(layout: Layout, name: str) -> FabricConfig:
    """The one fabric of that name."""
    (found,) = (fabric for fabric in layout.fabrics if fabric.name == name)
    return found


def test_local_interface_is_a_fabric_of_three() -> None:
    """Guest, host and service, with the addresses of its number and nothing else in reach."""
    layout = laid('[local]\ninet6 = true\ndomains = ["example.org"]\n' + WEB)
    guest, host, service = fabric(layout, "web.0").ports
    assert [("web.0", Kind.GUEST), ("web.0-host", Kind.TAP), ("web.0-dhcp", Kind.SERVICE)] == [
        (port.name, port.kind) for port in (guest, host, service)
    ]
    assert ("/run/s/web.0.sock", True) == (guest.where, guest.locked)
    assert (ip_network("100.64.0.3/32"), ip_network("fd01:2:3::/64")) == guest.ip
    assert (ip_network("100.64.0.0/10"), ip_network("fd01:2:3::/48")) == guest.keep_off
    assert (ip_network("100.64.0.2/32"),) == guest.reach
    gateway = ("100.64.0.2/31", "fe80::1/64", "fd01:2:3::1/64")
    assert tuple(map(ip_interface, gateway)) == host.address
    assert not name_fault(host.where)
    assert (None, None) == (host.netns, host.ifgroup)
    lease = service.lease
    assert lease is not None
    assert (guest.mac, host.mac) == (lease.mac, lease.gateway_mac)
    assert guest.mac is not None
    assert 0x525400 == guest.mac >> 24
    assert host.mac is not None
    assert (0x02, True) == (host.mac >> 40, host.mac != guest.mac)
    assert (ip_interface("100.64.0.3/31"), IPv4Address("100.64.0.2")) == (
        *(lease.address, lease.gateway),
    )
    assert lease.address6 is not None
    assert ip_network("fd01:2:3::/64") == lease.address6.network
    assert ((ip_address("192.0.2.53"),), (ip_address("2001:db8::53"),)) == (
        *(lease.resolvers, lease.resolvers6),
    )
    assert (("example.org",), "web", None) == (lease.domains, lease.host_name, lease.boot_file)


def test_machine_is_ready_to_run() -> None:
    """NICs have their sockets, disks their paths, and every file of a machine its place."""
    layout = laid(
        """
        [switch.lan]
        [vm.web]
        disk = ["/a.img", {size = "1G"}, {size = "2G", format = "raw"}]
        enabled = false
        [[vm.web.interface]]
        switch = "lan"
        mac = "52:54:00:00:00:01"
        queues = 2
        mtu = 9000
        features = ["+ring_packed"]
        device = ["csum=off"]
        [[vm.web.interface]]
        local = true
        [[vm.web.interface]]
        """
    )
    (machine,) = layout.machines
    assert machine.entry.vm.nics == ()
    lan, local, idle = machine.vm.nics
    assert ("/run/s/web.0.sock", "52:54:00:00:00:01", 2, 9000, True, ("csum=off",), True) == (
        *(str(lan.socket), lan.mac, lan.queues, lan.mtu, lan.packed, lan.device, lan.optional),
    )
    assert ("/run/s/web.1.sock", False, False) == (str(local.socket), local.packed, local.optional)
    found = ports(layout)
    assert [found[f"web.{k}"].mac_text for k in range(3)] == [nic.mac for nic in machine.vm.nics]
    assert str(idle.socket) == found["web.2"].where
    assert (True, True, False) == tuple(found[f"web.{k}"].link_up for k in range(3))
    assert (found["web.2"],) == fabric(layout, "web.2").ports
    assert machine.vm.disks == (
        Disk(path=Path("/a.img")),
        Disk(path=Path("/var/s/web-1.qcow2"), format="qcow2", size_len=1 << 30),
        Disk(path=Path("/var/s/web-2.raw"), format="raw", size_len=2 << 30),
    )
    places = machine.places
    assert ["/run/s/web.qmp", "/run/s/web.console", "/run/s/web.agent"] == (
        [str(path) for path in (places.monitor, places.console, places.agent)]
    )
    assert ["/var/s/web.log", "/var/s/web.stderr", "/var/s/web-seed.iso"] == (
        [str(path) for path in (places.log, places.stderr, places.seed)]
    )


def test_switch_has_its_ports_and_its_machines() -> None:
    """Ports of the file come first; what the switch says holds for those that say nothing."""
    text = """
        [switch.lan]
        locked = true
        netns = "blue"
        group = "guests"
        [port.t]
        switch = "lan"
        tap = "t"
        [port.u]
        switch = "lan"
        tap = "u"
        netns = "red"
        ifgroup = "own"
        [port.i]
        switch = "lan"
        interface = "i"
        [port.g]
        switch = "lan"
        guest = "/g"
        [vm.a]
        disk = {size = "1G"}
        [[vm.a.interface]]
        switch = "lan"
        ip = "192.0.2.1"
        """
    lan = fabric(laid(text), "lan")
    t, u, i, g, a = lan.ports
    assert ["t", "u", "i", "g", "a.0"] == [port.name for port in lan.ports]
    assert ["blue", "red", "blue", None, None] == [port.netns for port in lan.ports]
    assert ["guests", "own", None] == [t.ifgroup, u.ifgroup, i.ifgroup]
    assert (False, True) == (g.locked, a.locked)
    assert ((ip_network("192.0.2.1"),), ()) == (a.ip, a.keep_off)
    down = fabric(laid(text.replace("locked = true", "enabled = false\nlocked = true")), "lan")
    assert not any(port.link_up for port in down.ports)


def tap_of(text: str, host: Host = ROOT) -> tuple[PortConfig, bool]:
    """The host's side of web.0, and whether a namespace is wanted."""
    layout = laid(text, host)
    return ports(layout)["web.0-host"], layout.wants_namespace


def test_uplinks() -> None:
    """A tap where taps may be made, else in a namespace; passt by its socket; or nothing."""
    tap, wants = tap_of(WEB)
    assert (None, False) == (tap.netns, wants)
    tap, wants = tap_of(WEB, USER)
    assert (None, True) == (tap.netns, wants)
    held = replace(USER, namespace="/proc/7/ns/net")
    tap, wants = tap_of(WEB, held)
    assert ("/proc/7/ns/net", True) == (tap.netns, wants)
    tap, wants = tap_of(WEB + 'uplink = "namespace"', replace(ROOT, namespace="/proc/7/ns/net"))
    assert ("/proc/7/ns/net", True) == (tap.netns, wants)
    tap, wants = tap_of(WEB + 'netns = "blue"\ntap = "t"\ngroup = "g"\nmtu = 1400', held)
    assert ("blue", False, "t", "g", 1400) == (tap.netns, wants, tap.where, tap.ifgroup, tap.mtu)
    passt = laid('[local]\nuplink = "passt"' + WEB, USER, replace(PLACES, passt=Path("/tmp/p")))
    _, stream, service = fabric(passt, "web.0").ports
    assert ("web.0-host", Kind.STREAM, "/tmp/p/web.0.passt", True) == (
        *(stream.name, stream.kind, stream.where, stream.client),
    )
    (one,) = passt.passts
    assert ("web.0", Path("/tmp/p/web.0.passt"), service.lease) == (one.name, one.socket, one.lease)
    assert service.lease is not None
    assert ((ip_address("100.64.0.2"),), ()) == (service.lease.resolvers, service.lease.resolvers6)
    assert not passt.wants_namespace
    none = laid(WEB + 'uplink = "none"', USER)
    assert ["web.0", "web.0-dhcp"] == [port.name for port in fabric(none, "web.0").ports]
    assert (False, ()) == (none.wants_namespace, none.passts)


def test_resolvers_and_isolation_of_the_file() -> None:
    """What `[local]` says replaces what the host has; without isolation nothing is kept off."""
    text = '[local]\nisolated = false\nresolvers = ["198.51.100.1"]' + WEB + 'ip = "10.0.0.0/8"'
    guest, _, service = fabric(laid(text, replace(ROOT, domains=("lan",))), "web.0").ports
    assert service.lease is not None
    assert ((ip_address("198.51.100.1"),), (), ("lan",)) == (
        *(service.lease.resolvers, service.lease.resolvers6, service.lease.domains),
    )
    assert ((), ()) == (guest.keep_off, guest.reach)
    assert (ip_network("100.64.0.3/32"), ip_network("10.0.0.0/8")) == guest.ip
    boots = laid(WEB.replace("[[", 'boot = "network"\nseed = {host_name = "w"}\n[[', 1))
    lease = ports(boots)["web.0-dhcp"].lease
    assert lease is not None
    assert ("auto_install", "w") == (lease.boot_file, lease.host_name)


def test_nothing_moves_when_a_machine_is_added_in_front() -> None:
    """Addresses, Ethernet addresses and names of taps of one machine do not depend on others."""
    numbers = FRESH.with_names(["web.0"], 100)
    before = ports(laid(WEB, slots=numbers))
    after = ports(laid(WEB.replace("web", "new") + WEB, slots=numbers))
    assert before.items() <= after.items()
    assert after["new.0"].ip == (ip_network("100.64.0.5/32"),)
    assert after["new.0"].mac != after["web.0"].mac
    assert after["new.0-host"].where != after["web.0-host"].where
    other = read_toml(Path("/etc/other.toml"), WEB)
    elsewhere = ports(lay_out(other, PLACES, numbers, ROOT))
    assert elsewhere["web.0"].mac != before["web.0"].mac
    assert elsewhere["web.0-host"].where != before["web.0-host"].where


def test_address_that_a_file_gives_is_not_given_again() -> None:
    """Where the hash meets an address that is taken, another one is made."""
    made = ports(laid(WEB))["web.0"].mac_text
    text = WEB + f'[[vm.web.interface]]\nmac = "{made}"'
    found = ports(laid(text))
    assert made == found["web.1"].mac_text
    assert found["web.0"].mac not in (None, found["web.1"].mac)


def test_socket_path_that_is_too_long() -> None:
    """A path that no socket can have is refused, with how to mend it; all of them at once."""
    long = "w" * 25
    places = replace(PLACES, runtime=Path("/" + "r" * 74), passt=Path("/" + "p" * 100))
    text = f'[vm.{long}]\ndisk = {{size = "1G"}}\n{WEB}uplink = "passt"\n'
    with pytest.raises(SiteError) as caught:
        laid(text, ROOT, places)
    rest = "bytes, and a socket's path has 107 at most; give it or the site a shorter name"
    mend = f"{rest}, or set XDG_RUNTIME_DIR to a shorter path"
    assert caught.value.problems == (
        f"{long}: {places.runtime}/{long}.console: 109 {mend}",
        f"web.0-host: {places.passt}/web.0.passt: 113 {mend}",
    )
    assert laid(text, ROOT, replace(PLACES, runtime=Path("/" + "r" * 72))).machines


def test_taps_of_one_name() -> None:
    """Two taps of one name in the same namespace are refused, also where one was made up."""
    made = ports(laid(WEB))["web.0-host"].where
    text = f'{WEB}[switch.lan]\n[port.t]\nswitch = "lan"\ntap = "{made}"\n'
    with pytest.raises(SiteError) as caught:
        laid(text)
    assert (f"web.0-host: tap {made} is t's too; give one of them tap=",) == caught.value.problems
    assert laid(text + 'netns = "n"').machines
    assert laid(text.replace("[switch.lan]", '[switch.lan]\nnetns = "n"')).machines


def test_interface_without_its_number() -> None:
    """A number that is missing, or that has no addresses, is a problem and not a wrong address."""
    read = site('[local]\nprefix = "192.0.2.0/30"' + WEB)
    for numbers in ({}, {"web.0": 2}):
        with pytest.raises(SiteError, match=r"web\.0: number .* take a larger prefix"):
            lay_out(read, PLACES, replace(FRESH, numbers=numbers), ROOT)
    last = ports(lay_out(read, PLACES, replace(FRESH, numbers={"web.0": 1}), ROOT))
    assert (ip_network("192.0.2.3/32"),) == last["web.0"].ip


@given(st.integers(1, 20), st.booleans(), st.integers(48, 64), st.integers(8, 26))
@settings(max_examples=30, deadline=None)
def test_addresses_are_all_different(count: int, random6: bool, length6: int, length: int) -> None:
    """However many interfaces fit: no address twice, none outside, and the engine has room."""
    inet6 = "true" if random6 else f'"fd01:2:3::/{length6}"'
    count = min(count, 1 << 64 - length6, 1 << 16)
    nics = "[[vm.web.interface]]\nlocal = true\n" * (count - 1)
    text = f'[local]\nprefix = "10.0.0.0/{length}"\ninet6 = {inet6}\n{WEB}{nics}'
    guests = [port for port in ports(laid(text)).values() if port.kind is Kind.GUEST]
    assert count == len(guests) == len({port.ip for port in guests})
    assert len({port.mac for port in guests}) == count
    for port in guests:
        for own, local in zip(port.ip, port.keep_off, strict=True):
            assert own.network_address in local
            assert own.broadcast_address in local
        assert len(port.ip + port.keep_off + port.reach) <= RULES_MAX
