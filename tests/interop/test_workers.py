"""Two workers between real guests, and ports that come and go while TCP runs."""

import pytest

from tests.interop.lab import Lab
from tests.interop.peers.traffic import converse, lasting, transfer
from vionet.daemon.control import RequestError, ask_port

WORKERS = ("--workers", "2")
OFFLOADS = {"VIRTIO_NET_F_CSUM", "VIRTIO_NET_F_GUEST_CSUM", "VIRTIO_NET_F_HOST_TSO4"}


def test_guests_of_two_workers_talk(lab: Lab) -> None:
    """TCP and datagrams of every size between guests that different threads serve, both ways."""
    vionet = lab.switch({"a": "", "b": ""}, *WORKERS)
    a, b = lab.uml("a"), lab.uml("b")
    lab.boot(a, b)
    assert [0, 1] == [port["worker"] for port in vionet.ports().values()]
    assert all(OFFLOADS <= set(port["features"]) for port in vionet.ports().values())
    converse(a, b, largest=256)
    for port in vionet.ports().values():
        assert {"rx_ring_full", "address_filtered"} >= set(port["drops"])
        assert 0 == port["ledger"]["csum_bad"]


def test_ports_come_and_go_while_tcp_runs(lab: Lab) -> None:
    """While one guest sends to another through two workers, ports are added and removed, one of
    them with a guest that talks; every byte arrives."""
    vionet = lab.switch({"a": "", "b": ""}, *WORKERS)
    a, b = lab.uml("a"), lab.uml("b")
    lab.boot(a, b)
    assert all(OFFLOADS <= set(port["features"]) for port in vionet.ports().values())
    under_way = lasting(a, b, b.address4, 2_000_000)
    text = f"c={lab.guest('c')}"
    for _ in range(20):
        assert "waiting" == ask_port(vionet.control, "add", text)["state"]
        with pytest.raises(RequestError, match="the name c is taken"):
            ask_port(vionet.control, "add", text)
        assert lab.socket("c").exists()
        ask_port(vionet.control, "remove", "c")
        assert not lab.socket("c").exists()
    assert ["a", "b"] == list(vionet.ports())
    ask_port(vionet.control, "add", text)
    c = lab.uml("c")
    c.await_boot()
    c.configure(3)
    transfer(c, b, b.address4, 1_000_000, port=5202).check()
    assert "attached" == ask_port(vionet.control, "remove", "c")["state"]
    under_way.check()
    transfer(b, a, a.address4, 1_000_000, port=5203).check()
