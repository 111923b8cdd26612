"""Port options as real guests see them: the configuration space, the lock."""

import pytest

from tests.interop.lab import Lab
from tests.interop.peers.process import PeerError, until
from tests.interop.peers.traffic import converse, transfer
from tests.interop.peers.vionet import Vionet

MAC = "52:54:00:aa:bb:0c"


def test_guest_reads_mac_and_mtu_from_the_back_end(lab: Lab) -> None:
    """User Mode Linux reads the configuration from the back-end: address, MTU and link are ours."""
    vionet = lab.switch({"a": f"mac={MAC},mtu=1400", "b": ""})
    a, b = lab.uml("a"), lab.uml("b")
    lab.boot(a, b)
    wanted = {"VIRTIO_NET_F_MAC", "VIRTIO_NET_F_MTU", "VIRTIO_NET_F_STATUS"}
    assert wanted <= set(vionet.ports()["a"]["features"])
    read = [a.run(f"cat /sys/class/net/eth0/{name}").strip() for name in ("address", "mtu")]
    assert [MAC, "1400"] == read
    assert "1" == a.run("cat /sys/class/net/eth0/carrier").strip()
    transfer(a, b, b.address4, 1_000_000).check()


def test_qemu_starts_without_a_link(lab: Lab) -> None:
    """QEMU does not come up before a back-end has served it; so one whose port has no link is
    served until its driver starts.  The guest sees no carrier, and one when the link is up."""
    vionet = lab.switch({"a": "link=down", "b": ""})
    a, b = lab.qemu("a", reconnect=True), lab.uml("b")
    a.await_boot()
    b.await_boot()
    a.run("ip link set eth0 up")
    carrier = "until [ $(cat /sys/class/net/eth0/carrier) = {} ]; do usleep 20000; done"
    a.run(carrier.format(0))
    until(lambda: 3 <= vionet.log.read_text().count("link is down"), 60, "it came again")
    assert "0" == a.run("cat /sys/class/net/eth0/carrier").strip()
    vionet.set("a", "link=up")
    a.run(carrier.format(1))
    a.configure(1)
    b.configure(2)
    transfer(a, b, b.address4, 100_000).check()


def test_locked_guest_cannot_take_another_address(lab: Lab) -> None:
    """With its own address it talks; with another every frame is dropped and counted."""
    vionet = lab.switch({"a": "mac=52:54:00:00:00:61,locked", "b": ""})
    a, b = lab.qemu("a"), lab.uml("b")  # QEMU grants its driver any address
    lab.boot(a, b)
    converse(a, b, size=500_000, largest=64)
    assert {} == refused(vionet)
    a.run("ip link set eth0 down && ip link set eth0 address 52:54:00:aa:bb:0d")
    a.run("ip link set eth0 up")
    with pytest.raises(PeerError, match="status"):
        a.run(f"ping -c 3 -i 0.2 -W 1 {b.address4}")
    drops = refused(vionet)
    assert {"source_mac_locked"} == drops.keys()
    assert 1 <= drops["source_mac_locked"]


def refused(vionet: Vionet) -> dict[str, int]:
    """What guest `a` sent in vain; of what others send it, a slow guest may have no room for."""
    drops = vionet.ports()["a"]["drops"]
    return {reason: count for reason, count in drops.items() if reason != "rx_ring_full"}
