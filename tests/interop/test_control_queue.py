"""The control queue and the configuration space in the hands of a real driver.

User Mode Linux passes both to the back-end raw; QEMU keeps them, so that all it can see of a link
is its connection.
"""

from collections.abc import Callable, Iterator

import pytest

from tests.interop.lab import Lab
from tests.interop.peers.process import PeerError, until
from tests.interop.peers.shell import Shell
from tests.interop.peers.traffic import converse, transfer
from tests.interop.peers.uml import NET_MODULES, VLAN_MODULES, Uml
from tests.interop.peers.vionet import Vionet
from tests.interop.story import lasting_lab

MAC = "52:54:00:aa:bb:0c"
CONTROL = {
    "VIRTIO_NET_F_CTRL_VQ",
    "VIRTIO_NET_F_CTRL_RX",
    "VIRTIO_NET_F_CTRL_VLAN",
    "VIRTIO_NET_F_CTRL_MAC_ADDR",
    "VIRTIO_NET_F_CTRL_GUEST_OFFLOADS",
    "VIRTIO_NET_F_GUEST_ANNOUNCE",
}
WAIT = 60
IP = "/sbin/ip"  # that of busybox, which `ip` alone means, knows less


@pytest.fixture(scope="module")
def booted() -> Iterator[tuple[Vionet, Uml, Uml]]:
    """Two guests that talk to each other; `a` has an address, two queue pairs and a speed."""
    with lasting_lab() as lab:
        vionet = lab.switch({"a": f"mac={MAC},queues=2,speed=10000", "b": ""})
        a, b = (lab.uml(name, modules=(*NET_MODULES, *VLAN_MODULES)) for name in "ab")
        lab.boot(a, b)
        yield vionet, a, b


@pytest.fixture
def pair(booted: tuple[Vionet, Uml, Uml]) -> tuple[Vionet, Uml, Uml]:
    """The two, with drivers that have just started."""
    vionet, *guests = booted
    for number, guest in enumerate(guests, 1):
        start_over(guest)
        guest.configure(number)
    assert CONTROL | {"VIRTIO_NET_F_MQ"} <= set(vionet.ports()["a"]["features"])
    assert CONTROL <= set(vionet.ports()["b"]["features"])
    return booted


def start_over(guest: Uml) -> None:
    """Take the driver off its device, with all that it and its interface were told, and back."""
    guest.run("cd /sys/bus/virtio/drivers/virtio_net && echo virtio0 >unbind && echo virtio0 >bind")


def attribute(guest: Shell, name: str) -> str:
    """One file of the interface's folder in sysfs; none where reading it fails."""
    return guest.run(f"cat /sys/class/net/eth0/{name} 2>/dev/null || true").strip()


def carrier(guest: Shell, wanted: str) -> Callable[[], bool]:
    """A condition for `until`."""
    return lambda: attribute(guest, "carrier") == wanted


def dropped(vionet: Vionet, port: str, reason: str) -> int:
    """A drop counter."""
    count: int = vionet.ports()[port]["drops"].get(reason, 0)
    return count


def test_w67_driver_reads_speed_and_sets_the_number_of_queues(
    pair: tuple[Vionet, Uml, Uml],
) -> None:
    """SPEED_DUPLEX and max_virtqueue_pairs are read; `ethtool -L` reaches the back-end (CV-26)."""
    vionet, a, b = pair
    assert ["10000", "full", MAC] == [attribute(a, x) for x in ("speed", "duplex", "address")]
    assert 1 == vionet.ports()["a"]["queues"]
    for count in (2, 1, 2):
        a.run(f"ethtool -L eth0 combined {count}")
        assert count == vionet.ports()["a"]["queues"]
        transfer(b, a, a.address4, 200_000).check()
    with pytest.raises(PeerError):
        a.run("ethtool -L eth0 combined 3")
    assert 2 == vionet.ports()["a"]["queues"]
    assert "" == a.run("dmesg | grep 'eth0: Fail' || true")


def test_groups_are_delivered_once_joined(pair: tuple[Vionet, Uml, Uml]) -> None:
    """Receive modes follow the interface: a group not joined is kept away (CV-04, CV-14)."""
    vionet, a, b = pair
    b.run("ip route add 224.0.0.0/4 dev eth0")
    send = "ping -c 3 -i 0.1 -W 1 239.1.2.3 || true"

    def arrived() -> bool:
        before = dropped(vionet, "a", "address_filtered")
        count = int(attribute(a, "statistics/rx_packets"))
        b.run(send)
        kept_away = dropped(vionet, "a", "address_filtered") - before
        delivered = int(attribute(a, "statistics/rx_packets")) - count >= 3
        assert delivered is (kept_away < 3)
        return delivered

    assert not arrived()
    a.run(f"{IP} maddr add 01:00:5e:01:02:03 dev eth0")
    assert arrived()
    a.run(f"{IP} maddr del 01:00:5e:01:02:03 dev eth0")
    assert not arrived()
    a.run("ip link set eth0 promisc on")
    assert arrived()
    a.run(f"ip link set eth0 promisc off ; {IP} link set eth0 allmulticast on")
    assert arrived()
    a.run(f"{IP} link set eth0 allmulticast off")
    assert not arrived()
    many = " ; ".join(
        f"{IP} maddr add 01:00:5e:7f:{i >> 8:02x}:{i & 255:02x} dev eth0" for i in range(40)
    )
    a.run(many)
    a.run(many.replace(":7f:", ":7e:"))  # more than the back-end keeps: all of them pass
    assert arrived()
    converse(a, b, size=200_000, largest=64)


def test_vlans_are_delivered_once_they_have_an_interface(pair: tuple[Vionet, Uml, Uml]) -> None:
    """CTRL_VLAN: tagged frames come with the VLAN's interface, and go with it (CV-17, CV-19)."""
    vionet, a, b = pair
    add = "ip link add link eth0 name eth0.10 type vlan id 10 && ip link set eth0.10 up"
    b.run(f"{add} && ip addr add 198.51.100.2/24 dev eth0.10")
    before = dropped(vionet, "a", "vlan_filtered")
    b.run("ping -c 2 -i 0.1 -W 1 198.51.100.1 || true")
    assert before < dropped(vionet, "a", "vlan_filtered")
    a.run(f"{add} && ip addr add 198.51.100.1/24 dev eth0.10")
    before = dropped(vionet, "a", "vlan_filtered")
    b.run("ping -c 3 -i 0.1 -W 2 198.51.100.1")
    transfer(b, a, "198.51.100.1", 500_000).check()
    assert before == dropped(vionet, "a", "vlan_filtered")
    a.run("ip link del eth0.10")
    b.run("ping -c 2 -i 0.1 -W 1 198.51.100.1 || true")
    assert before < dropped(vionet, "a", "vlan_filtered")
    converse(a, b, size=200_000, largest=64)


def test_driver_changes_its_address(pair: tuple[Vionet, Uml, Uml]) -> None:
    """CTRL_MAC_ADDR: frames to the new address arrive, those to the old one no longer (CV-13)."""
    vionet, a, b = pair
    other = "52:54:00:aa:bb:1c"
    a.run(f"ip link set eth0 down && ip link set eth0 address {other} && ip link set eth0 up")
    b.run(f"{IP} neigh flush dev eth0 ; ping -c 3 -i 0.1 -W 2 {a.address4}")
    assert other in b.run(f"{IP} neigh show dev eth0")
    before = dropped(vionet, "a", "address_filtered")
    b.run(f"{IP} neigh replace 192.0.2.9 lladdr {MAC} dev eth0")
    b.run("ping -c 3 -i 0.1 -W 1 192.0.2.9 || true")  # nobody is there: flooded
    assert 3 <= dropped(vionet, "a", "address_filtered") - before


def test_w29_w31_offloads_are_switched_at_run_time(pair: tuple[Vionet, Uml, Uml]) -> None:
    """CTRL_GUEST_OFFLOADS: after `rx-gro-hw off` nothing large arrives any more (CV-30, W31)."""
    vionet, a, b = pair

    def passed() -> int:
        before = vionet.ports()["a"]["ledger"]["gso_passed"]
        transfer(b, a, a.address4, 2_000_000).check()
        count: int = vionet.ports()["a"]["ledger"]["gso_passed"]
        return count - before

    assert "rx-gro-hw: on" in a.run("ethtool -k eth0")
    assert 0 < passed()
    a.run("ethtool -K eth0 rx-gro-hw off")
    assert 0 == passed()
    a.run("ethtool -K eth0 rx-gro-hw on")
    assert 0 < passed()
    assert set() == {name for name, count in a.bad_checksums().items() if count}


def test_link_is_seen_down_and_up(pair: tuple[Vionet, Uml, Uml]) -> None:
    """STATUS: the driver sees both changes, and announces itself after the second (CV-21)."""
    vionet, a, b = pair
    assert "1" == attribute(a, "carrier")
    vionet.set("a", "link=down")
    until(carrier(a, "0"), WAIT, "link down", 0.1)
    assert "attached" == vionet.ports()["a"]["state"]
    with pytest.raises(PeerError):
        b.run(f"ping -c 2 -i 0.2 -W 1 {a.address4}")
    b.run(f"{IP} neigh flush dev eth0")
    b.run("echo 1 >/proc/sys/net/ipv4/conf/eth0/arp_accept")
    vionet.set("a", "link=up")
    until(carrier(a, "1"), WAIT, "link up", 0.1)
    until(lambda: MAC in b.run(f"{IP} neigh show dev eth0"), WAIT, "announcement", 0.1)
    transfer(b, a, a.address4, 200_000).check()


def test_driver_that_starts_over_finds_everything_reset(pair: tuple[Vionet, Uml, Uml]) -> None:
    """Unbind and bind: pairs and filters are those of a fresh device (CV-11, CV-26)."""
    vionet, a, b = pair
    a.run("ethtool -L eth0 combined 2 && ip link set eth0 address 52:54:00:aa:bb:2c")
    assert 2 == vionet.ports()["a"]["queues"]
    start_over(a)
    a.configure(1)
    assert MAC == attribute(a, "address")
    assert 1 == vionet.ports()["a"]["queues"]
    b.run(f"{IP} neigh flush dev eth0")
    transfer(b, a, a.address4, 200_000).check()


def test_locked_guest_is_told_that_its_address_stays(lab: Lab) -> None:
    """The command is refused, the interface keeps its address, and everything works on."""
    vionet = lab.switch({"a": f"mac={MAC},locked", "b": ""})
    a, b = lab.uml("a"), lab.uml("b")
    lab.boot(a, b)
    a.run("ip link set eth0 down")
    with pytest.raises(PeerError):
        a.run("ip link set eth0 address 52:54:00:aa:bb:0d")
    a.run("ip link set eth0 up")
    assert MAC == attribute(a, "address")
    transfer(b, a, a.address4, 200_000).check()
    assert 0 == dropped(vionet, "a", "source_mac_locked")


def test_qemu_sees_the_link_by_its_connection(lab: Lab) -> None:
    """QEMU keeps STATUS to itself: the link goes down with the session, and comes with the next."""
    vionet = lab.switch({"a": "", "b": ""})
    a, b = lab.qemu("a", reconnect=True), lab.uml("b")
    lab.boot(a, b)
    assert not CONTROL - {"VIRTIO_NET_F_GUEST_ANNOUNCE"} & set(vionet.ports()["a"]["features"])
    vionet.set("a", "link=down")
    assert "waiting" == vionet.ports()["a"]["state"]
    until(carrier(a, "0"), WAIT, "link down", 0.1)
    vionet.set("a", "link=up")
    until(carrier(a, "1"), WAIT, "link up", 0.1)
    until(lambda: "attached" == vionet.ports()["a"]["state"], WAIT, "session", 0.1)
    a.run(f"ping -c 2 -i 0.2 -W 2 {b.address4}")
    transfer(a, b, b.address4, 200_000).check()
