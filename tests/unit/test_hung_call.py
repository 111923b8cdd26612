"""A front-end shares the flags of its descriptors, and may make its call descriptor block."""

import os
import sys
from contextlib import ExitStack, closing
from pathlib import Path

from tests.process import Children
from tests.serving import READY_S
from vionet.check.driver import Broken, Port
from vionet.check.packet import BROADCAST, Flow
from vionet.spec import virtio

MODERN = 1 << virtio.VIRTIO_F_VERSION_1
COUNTER_MAX = 2**64 - 2


def heard(sender: Port, receiver: Port, flow: Flow) -> bool:
    """Whether a frame arrives within a second; one that meets a ring not yet started is lost."""
    token = os.urandom(16)
    sender.send(flow.udp(token).data)
    sender.sent()
    try:
        return token in receiver.collect(token, 1).frame
    except Broken:
        return False


def test_a_call_descriptor_that_blocks_costs_only_its_owner(start: Children, run_dir: Path) -> None:
    """The worker is freed from the write, the session ends with its reason, others go on."""
    names = ("a", "b", "c")
    sockets = [run_dir / f"{name}.sock" for name in names]
    ports = [f"{name}=guest:{path}" for name, path in zip(names, sockets, strict=True)]
    control = ["--control", str(run_dir / "ctl")]
    switch = start(sys.executable, "-m", "vionet", "switch", *control, *ports)
    switch.wait_for("^ready$", READY_S)
    with ExitStack() as stack:
        bad, sender, receiver = (
            stack.enter_context(closing(Port.open(path, MODERN).start())) for path in sockets
        )
        call = bad.events[0].call
        bad.events[0].calls()
        os.eventfd_write(call, COUNTER_MAX)
        os.set_blocking(call, True)
        flow = Flow(bytes.fromhex("525400000002"), BROADCAST)
        # The frame goes to `bad` too, and interrupting it hangs until its session is ended.
        sender.send(flow.udp(os.urandom(16)).data)
        switch.wait_for("call descriptor blocks")
        assert any(heard(sender, receiver, flow) for _ in range(20))
        os.set_blocking(call, False)
    assert 0 == switch.stop()
