"""VLANs with real kernels at their ends: access ports, trunks, stacked tags, large frames in all.

Two guests with interfaces of their own VLANs (8021q) on trunks, one guest on an access port for
each of the VLANs 10 and 20; TCP through every pair that shares one.
"""

from collections.abc import Iterator

import pytest

from tests.interop.peers.shell import Console
from tests.interop.peers.traffic import Transfer, no_bad_checksums, transfer
from tests.interop.peers.uml import NET_MODULES, VLAN_MODULES, Uml
from tests.interop.peers.vionet import Vionet
from tests.interop.story import lasting_lab

SIZE = 6_000_000
Net = tuple[Vionet, dict[str, Uml]]
LARGE = {"VIRTIO_NET_F_HOST_TSO4", "VIRTIO_NET_F_GUEST_TSO4", "VIRTIO_NET_F_GUEST_CSUM"}


def add_vlan(guest: Console, over: str, vid: int, address: str, protocol: str = "802.1Q") -> str:
    """Give `guest` an interface in VLAN `vid` over another; returns its name."""
    name = f"{over}.{vid}"
    guest.run(
        f"ip link add link {over} name {name} type vlan protocol {protocol} id {vid} && "
        f"ip addr add {address}/24 dev {name} && ip link set {name} up"
    )
    return name


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    """Guests a (VLAN 10), b (VLAN 20), t and u (trunks), with their VLANs' interfaces; one boot."""
    with lasting_lab() as lab:
        vionet = lab.switch(
            {"a": "vlan=10", "b": "vlan=20", "t": "trunk=10+20", "u": "trunk=10+20,vlan=10"}
        )
        modules = (*NET_MODULES, *VLAN_MODULES)
        guests = {name: lab.uml(name, modules=modules) for name in "abtu"}
        prepare(vionet, guests)
        yield vionet, guests
        no_bad_checksums(*guests.values())


def prepare(vionet: Vionet, guests: dict[str, Uml]) -> None:
    """Have everybody in its VLANs."""
    for guest in guests.values():
        guest.await_boot()
    for name, address in (("a", "198.51.100.1"), ("b", "203.0.113.1"), ("u", "198.51.100.4")):
        guests[name].run(f"ip addr add {address}/24 dev eth0 && ip link set eth0 up")
    guests["t"].run("ip link set eth0 up")
    add_vlan(guests["t"], "eth0", 10, "198.51.100.3")
    add_vlan(guests["t"], "eth0", 20, "203.0.113.3")
    add_vlan(guests["u"], "eth0", 20, "203.0.113.4")
    for port in vionet.ports().values():
        assert set(port["features"]) >= LARGE


def send(net: Net, sender: str, receiver: str, address: str) -> None:
    """Every byte of a transfer arrives."""
    _, guests = net
    moving: Transfer = transfer(guests[sender], guests[receiver], address, SIZE)
    moving.check()


def test_access_ports_and_trunks(net: Net) -> None:
    """W51: each VLAN's members reach each other over pushed and popped tags, nobody else; large
    frames pass whole, with the tag counted in their header's length."""
    vionet, guests = net
    send(net, "a", "t", "198.51.100.3")
    send(net, "t", "a", "198.51.100.1")
    send(net, "b", "t", "203.0.113.3")
    send(net, "t", "b", "203.0.113.1")
    send(net, "u", "t", "198.51.100.3")  # u's untagged frames are of VLAN 10
    send(net, "t", "u", "203.0.113.4")
    guests["a"].run("ip route add 203.0.113.0/24 dev eth0")
    assert "100% packet loss" in guests["a"].run("ping -c 2 -W 1 203.0.113.1 || true")
    guests["a"].run("ip link add link eth0 name eth0.20 type vlan id 20 && ip link set eth0.20 up")
    guests["a"].run("ip addr add 203.0.113.9/24 dev eth0.20")
    before = vionet.ports()["a"]["drops"].get("vlan_not_allowed", 0)
    assert "100% packet loss" in guests["a"].run("ping -I eth0.20 -c 2 -W 1 203.0.113.1 || true")
    ports = vionet.ports()
    assert before < ports["a"]["drops"]["vlan_not_allowed"]
    for name in "abtu":
        assert 10 < ports[name]["ledger"]["gso_passed"]
        assert 0 == ports[name]["ledger"]["segments"]
    guests["a"].run("ip link del eth0.20 && ip route del 203.0.113.0/24 dev eth0")


@pytest.mark.parametrize("outer", ["802.1Q", "802.1ad"])
def test_stacked_tags_pass(net: Net, outer: str) -> None:
    """A tag inside the VLAN's, or around it (a provider's, which is no VLAN of this switch and
    belongs to the VLAN of untagged frames), passes; TCP goes through two tags both ways."""
    _, guests = net
    if outer == "802.1Q":
        over = {"t": "eth0.20", "u": "eth0.20"}
        for name, end in (("t", 3), ("u", 4)):
            add_vlan(guests[name], over[name], 30, f"192.0.2.{end}")
        send(net, "t", "u", "192.0.2.4")
        send(net, "u", "t", "192.0.2.3")
        for name in "tu":
            guests[name].run("ip link del eth0.20.30")
    else:
        for name, end in (("a", 1), ("u", 4)):
            over_name = add_vlan(guests[name], "eth0", 40, f"192.0.3.{end}", "802.1ad")
            add_vlan(guests[name], over_name, 41, f"192.0.2.{end}")
        send(net, "a", "u", "192.0.2.4")
        send(net, "u", "a", "192.0.2.1")
        for name in "au":
            guests[name].run("ip link del eth0.40")


def test_vlans_change_while_frames_pass(net: Net) -> None:
    """`vionet port set` moves a guest to another VLAN; its peers there are reached at once."""
    vionet, guests = net
    send(net, "a", "t", "198.51.100.3")
    vionet.set("a", "vlan=20")
    guests["a"].run("ip addr add 203.0.113.9/24 dev eth0")
    send(net, "a", "b", "203.0.113.1")
    send(net, "t", "a", "203.0.113.9")
    assert "100% packet loss" in guests["a"].run("ping -c 2 -W 1 198.51.100.3 || true")
    guests["a"].run("ip addr del 203.0.113.9/24 dev eth0")
    vionet.set("a", "vlan=10")
