"""A front-end for the tests of a back-end on real sockets: what it sends, and when it is over."""

import os
from pathlib import Path

from tests.recorder import PROTOCOL_FEATURES, Loop, Recorder
from vionet.spec import virtio
from vionet.vhost_user.backend import Backend
from vionet.vhost_user.frontend import Frontend
from vionet.vhost_user.guest_memory import GuestMemory

VERSION_1 = 1 << virtio.VIRTIO_F_VERSION_1
BIT_30 = 1 << virtio.VHOST_USER_F_PROTOCOL_FEATURES
Served = tuple[Path, Recorder, Loop, Backend]


def set_up(frontend: Frontend, memory: GuestMemory) -> list[int]:
    """Everything a VMM sends until both rings run; the eventfds, to be closed by the caller."""
    frontend.negotiate(VERSION_1 | BIT_30, PROTOCOL_FEATURES)
    frontend.set_mem_table(memory)
    fds = []
    for index in (0, 1):
        base = memory.uva(memory.allocate(3 * 4096, 4096))
        kick, call = (os.eventfd(0, os.EFD_CLOEXEC) for _ in range(2))
        fds += [kick, call]
        frontend.set_vring_num(index, 64)
        frontend.set_vring_base(index, 0)
        frontend.set_vring_addr(index, base, base + 4096, base + 8192)
        frontend.set_vring_kick(index, kick)
        frontend.set_vring_call(index, call)
        frontend.set_vring_enable(index)
    return fds


def close_all(fds: list[int]) -> None:
    """Close descriptors of the test's own."""
    for fd in fds:
        os.close(fd)


def ended(served: Served) -> str:
    """Wait for the end of the session, and for the last of it; return the reason."""
    _, device, loop, _ = served
    device.await_event("opened")
    reason = device.await_event("closed")
    loop.call(lambda: None)
    return reason
