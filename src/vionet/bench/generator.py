"""The load attached to a back-end's two sockets, and the search for the highest rate.

Three figures of one setting:

* saturated (rate SATURATE): no more frames under way than the receive ring holds, so a back-end
  that is merely slow loses nothing; what it delivers is what it can do.
* paced: an open loop.  Frames that were due while the ring had no room count as not delivered;
  `find_highest` seeks the highest rate of which nothing is missing.
* overload (rate FLOOD): as many as the transmit ring takes.
"""

import os
from collections.abc import Sequence
from typing import Final, Self

from vionet.bench.layout import SATURATE
from vionet.bench.memory import GuestRing
from vionet.bench.round import Round, Rounds, Setting
from vionet.spec import vhost_user as vu
from vionet.spec import virtio
from vionet.spec import virtio_net as net
from vionet.vhost_user.frontend import Frontend

PROTOCOL_FEATURES: Final = virtio.mask(
    (vu.VHOST_USER_PROTOCOL_F_MQ, vu.VHOST_USER_PROTOCOL_F_REPLY_ACK)
)
PACKED_BASE: Final = 0x8000_8000  # both positions at the start of their first lap (spec VU-45)


class Generator(Rounds):
    """Two driver ports attached to a back-end's two sockets."""

    def __init__(self, paths: Sequence[str], setting: Setting | None = None) -> None:
        """Connect, negotiate and start the rings; raises what `Frontend` raises."""
        super().__init__(setting or Setting())
        self.features = [0, 0]
        self._frontends: list[Frontend] = []
        self._fds: list[int] = []
        try:
            for i, path in enumerate(paths):
                self._attach(i, path)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the rings, close the connections, and give everything back."""
        for frontend in self._frontends:
            frontend.close()
        for fd in self._fds:
            os.close(fd)
        self._frontends, self._fds = [], []
        self.release()

    def _attach(self, i: int, path: str) -> None:
        frontend = Frontend.connect(path)
        self._frontends.append(frontend)
        features, _ = frontend.negotiate(self.setting.features, PROTOCOL_FEATURES)
        self.features[i] = features
        self.prepare(i, features)
        rx, tx = self.rings[i]
        frontend.set_mem_table(self.memories[i])
        for index, ring in ((net.RECEIVEQ1, rx), (net.TRANSMITQ1, tx)):
            self._start_ring(frontend, index, ring)
        if features >> virtio.VHOST_USER_F_PROTOCOL_FEATURES & 1:
            for index in (net.RECEIVEQ1, net.TRANSMITQ1):
                frontend.set_vring_enable(index)
        frontend.synchronise()

    def _start_ring(self, frontend: Frontend, index: int, ring: GuestRing) -> None:
        kick_fd, call_fd = os.eventfd(0, os.EFD_NONBLOCK), os.eventfd(0, os.EFD_NONBLOCK)
        self._fds += kick_fd, call_fd
        ring.ring.kick_fd = kick_fd
        places = map(ring.memory.uva, (ring.desc_gpa, ring.avail_gpa, ring.used_gpa))
        frontend.set_vring_num(index, ring.size)
        frontend.set_vring_base(index, PACKED_BASE if ring.shape.packed else 0)
        frontend.set_vring_addr(index, *places)
        frontend.set_vring_call(index, call_fd)
        frontend.set_vring_kick(index, kick_fd)
        os.eventfd_write(kick_fd, 1)


def directed(rate: int, both: bool) -> tuple[int, int]:
    """Rates for both directions, or for frames from A to B alone."""
    return (rate, rate) if both else (rate, 0)


def find_highest(rounds: Rounds, both: bool, seconds: float = 0.15, steps: int = 7) -> Round:
    """The paced round of the highest rate found of which nothing is missing.

    A rate that fails is tried a second time: the load itself may have lost its core.
    """
    ceiling = rounds.run(seconds, directed(SATURATE, both)).rate / (2 if both else 1)
    low, high = 0.0, ceiling * 1.05
    best = None
    rate = ceiling * 0.9
    for _ in range(steps):
        trial = rounds.run(seconds, directed(int(rate), both))
        if trial.missing:
            trial = rounds.run(seconds, directed(int(rate), both))
        if trial.missing:
            high = rate
        else:
            low, best = rate, trial
        rate = (low + high) / 2
    return best or trial
