"""The engine served from inside this process: a fabric's worker loop without sessions or sockets.

How it works: `Inside` fills a `State` with two guest ports that look at the rings of a load, as
the control plane would after the sessions had set them up, and runs the worker's loop in a thread
on another core.  What it moves is what the engine itself can do; a difference to a peer in a
process of its own is not the engine's.
"""

import os
import threading
from typing import Self

from vionet.bench.layout import RX, TX
from vionet.bench.memory import GuestRing, publish_receive_buffers
from vionet.bench.round import Rounds, Setting
from vionet.engine.layout import Port, State
from vionet.engine.split import adopt, refresh
from vionet.engine.status import LEDGER_KEYS, Accepts, FabricKind, PortKind
from vionet.engine.worker import run
from vionet.fabric.fabric import prepare_state, prepared_work
from vionet.jit.record import allocate
from vionet.spec import virtio
from vionet.spec import virtio_net as net


class Inside(Rounds):
    """A load served by the engine in a thread on `core`."""

    def __init__(
        self, setting: Setting, core: int, kind: FabricKind, accepts: Accepts = Accepts.UNIFORM
    ) -> None:
        """Start the worker."""
        super().__init__(setting)
        self.state = allocate(State)
        self.work = prepared_work(self.state)
        prepare_state(self.state, kind)
        self.state.n_ports = 2
        self.state.spin_ns = 1 << 62  # never sleep: there is nothing to sleep on
        for i in range(2):
            self.prepare(i, setting.features)
            publish_receive_buffers(self.rings[i][RX])
            port = self.state.ports[i]
            port.accepts = int(accepts)
            self._fill_port(port, setting.features, i)
        self._thread = threading.Thread(target=self._serve, args=(core,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.state.stop = 1
        self._thread.join()
        self.release()

    def ledger(self, port: int) -> dict[str, int]:
        """What the engine counted at `port`."""
        return dict(zip(LEDGER_KEYS, map(int, self.state.ledger[port]), strict=True))

    def _serve(self, core: int) -> None:
        os.sched_setaffinity(0, {core})
        run(self.state, self.work)

    def _fill_port(self, port: Port, features: int, i: int) -> None:
        region = self.memories[i].regions[0]
        port.kind, port.up, port.features = int(PortKind.GUEST), 1, features
        port.header_len = net.header_len(features)
        port.mergeable = features >> net.VIRTIO_NET_F_MRG_RXBUF & 1
        port.event_idx = features >> virtio.VIRTIO_F_EVENT_IDX & 1
        port.indirect = features >> virtio.VIRTIO_F_INDIRECT_DESC & 1
        port.offers_partial = features >> net.VIRTIO_NET_F_CSUM & 1
        port.fd, port.n_regions = -1, 1
        here = port.regions[0]
        here.gpa, here.region_len, here.hva = region.gpa, region.size, region.hva
        for index, ring in ((net.RECEIVEQ1, RX), (net.TRANSMITQ1, TX)):
            _fill_queue(port, index, self.rings[i][ring])


def _fill_queue(port: Port, index: int, ring: GuestRing) -> None:
    queue, seen = port.queues[index], ring.ring
    queue.desc_hva, queue.avail_hva, queue.used_hva = (
        seen.desc_hva,
        seen.avail_hva,
        seen.used_hva,
    )
    queue.entries = ring.size
    queue.ready = queue.started = queue.enabled = 1
    queue.kick_fd = queue.call_fd = queue.err_fd = -1
    adopt(port, queue)
    refresh(queue)
