"""Several queue pairs with QEMU, which keeps the control queue and enables rings (spec FE-04)."""

import pytest

from tests.interop.lab import Lab
from tests.interop.peers.qemu import Qemu
from tests.interop.peers.shell import last_literal
from tests.interop.peers.traffic import check_datagrams, lasting
from tests.interop.peers.uml import Uml
from tests.interop.peers.vionet import Vionet
from tests.interop.test_restart import await_bytes

RATE = 300_000  # bytes a second
MQ = "VIRTIO_NET_F_MQ"
CTRL_VQ = "VIRTIO_NET_F_CTRL_VQ"


@pytest.fixture
def trio(lab: Lab) -> tuple[Vionet, Qemu, Uml]:
    """A QEMU guest with two pairs on two processors, and a guest with one."""
    vionet = lab.switch({"a": "queues=2", "b": ""})
    a, b = lab.qemu("a", queues=2), lab.uml("b")
    lab.boot(a, b)
    features = set(vionet.ports()["a"]["features"])
    assert {MQ} == features & {MQ, CTRL_VQ}, "the control queue is QEMU's"
    return vionet, a, b


def test_w30_queues_are_enabled_and_disabled_under_load(trio: tuple[Vionet, Qemu, Uml]) -> None:
    """TCP both ways goes on, byte for byte, while `ethtool -L` changes the number of queues."""
    vionet, a, b = trio
    jobs = [
        lasting(a, b, b.address4, RATE),
        lasting(b, a, a.address4, RATE, port=5202),
    ]
    for count in (2, 1, 2, 1, 2):
        a.run(f"ethtool -L eth0 combined {count}")
        ports = vionet.ports()
        assert count == ports["a"]["queues"]
        for name in "ab":  # they go on
            await_bytes(vionet, name, ports[name]["ledger"]["rx_bytes"] + RATE // 2)
    for job in jobs:
        job.check()
    drops = vionet.ports()["a"]["drops"]
    assert not {"ring_broken", "rx_ring_broken", "queue_unused"} & drops.keys()


def received(guest: Qemu) -> list[int]:
    """Frames that each receive queue has brought, by the driver's own count."""
    lines = guest.run("ethtool -S eth0").splitlines()
    values = dict(line.strip().split(": ") for line in lines if ": " in line)
    return [int(values[f"rx_queue_{i}_packets"]) for i in range(2)]


def test_a_flow_comes_back_on_the_queue_beside_its_own(trio: tuple[Vionet, Qemu, Uml]) -> None:
    """What a processor sends on its transmit queue is answered on its receive queue (CV-25)."""
    _, a, b = trio
    a.run("ethtool -L eth0 combined 2")
    # Or the first frame waits, and another processor sends it.
    a.run(f"ping -c 1 -W 2 {b.address4}")
    for queue in (0, 1):
        before = received(a)
        serving = b.start_endpoint(f"udp-serve {b.address4} 5201")
        endpoint = f"{a.python} -ISB {a.endpoint_path} udp-send {b.address4} 5201 largest=400"
        (asked,) = last_literal(a.run(f"taskset {1 << queue:x} {endpoint}", 60))
        (served,) = serving.results(60)
        check_datagrams(400, asked, served)
        counts = [after - first for first, after in zip(before, received(a), strict=True)]
        assert counts[queue] > 10 * counts[1 - queue], counts
