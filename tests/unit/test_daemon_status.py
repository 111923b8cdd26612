"""What the status document says of a running fabric besides its ports."""

import threading
import time
from pathlib import Path
from typing import Any

from tests.unit.still_fabric import Plugs, StillPort
from vionet.config import parse_switch
from vionet.daemon.status import fabric_document
from vionet.engine.layout import TALK_BYTES, TALK_COMPUTED, TALK_ELIDED, TALK_FRAMES
from vionet.fabric import Fabric
from vionet.spec import virtio
from vionet.spec import virtio_net as net

NAMES = ("vionet-worker-0", "vionet-worker-1")


def kernel_ns(thread: threading.Thread) -> int:
    """How long a thread ran, as the kernel's scheduler says."""
    path = Path(f"/proc/self/task/{thread.native_id}/schedstat")
    return int(path.read_text().split()[0])


def test_document_says_when_it_was_made() -> None:
    """`time_ns` is the host's monotonic clock, from before the counters were read."""
    config, plugs = parse_switch("lan", ["a=guest:/a"]), Plugs({"a": StillPort()})
    before = time.monotonic_ns()
    assert before <= fabric_document(config, plugs)["time_ns"] <= time.monotonic_ns()


def test_workers_time_is_the_kernels() -> None:
    """Of every worker's own thread, asked while it runs, and standing still once it has ended."""
    fabric = Fabric(workers=2)
    assert [0, 0] == fabric.cpu_ns()
    fabric.start()
    threads = {one.name: one for one in threading.enumerate() if one.name in NAMES}
    try:
        for number, name in enumerate(NAMES):
            before = fabric.cpu_ns()[number]
            asked = kernel_ns(threads[name])
            # The scheduler's own sum lags behind its clock by a tick at most.
            assert before <= asked + 20_000_000
            assert asked <= fabric.cpu_ns()[number]
    finally:
        fabric.close()
    ended = fabric.cpu_ns()
    assert all(ended)
    assert ended == fabric.cpu_ns()


def test_offloads_are_those_in_effect() -> None:
    """Of what a guest agreed to, what a person lets it have now; what it may send is not among
    them."""
    fabric = Fabric()
    allowed, less = (
        parse_switch("lan", [f"a=guest:/a{option}"]).ports[0] for option in ("", ",-guest_csum")
    )
    port = fabric.add_guest(allowed)
    assert 0 == port.offloads
    port.opened()
    port.set_features(virtio.mask([net.VIRTIO_NET_F_CSUM, net.VIRTIO_NET_F_GUEST_CSUM]))
    assert 1 << net.VIRTIO_NET_F_GUEST_CSUM == port.offloads
    port.change(less)
    assert 0 == port.offloads
    fabric.close()


def test_talks_are_the_workers_sums() -> None:
    """What each worker counted from one port to another is added up; pairs without frames are left
    out; with a port its talks are gone."""
    fabric = Fabric(workers=2)
    config = parse_switch("lan", ["a=guest:/a", "b=guest:/b", "c=guest:/c"])
    a, b, c = (fabric.add_guest(port) for port in config.ports)
    works: Any = fabric._works
    for work, frames in zip(works, (3, 4), strict=True):
        work.talks[0, 2, TALK_FRAMES] = frames
        work.talks[0, 2, TALK_BYTES] = 100 * frames
        work.talks[0, 2, TALK_ELIDED] = 1
        work.talks[0, 2, TALK_COMPUTED] = 2
    works[1].talks[2, 1, TALK_FRAMES] = 1
    assert [("a", "c", 7, 700, 2, 4), ("c", "b", 1, 0, 0, 0)] == list(fabric.talks())
    fabric.remove(b)
    assert [("a", "c", 7, 700, 2, 4)] == list(fabric.talks())
    fabric.remove(a)
    assert [] == list(fabric.talks())
    assert 3 == c.serial
    fabric.close()
