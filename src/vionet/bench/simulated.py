"""Workers and their guests without sockets: each core forwards, and drives what it forwards.

How it works: one state block with two ports for each worker, whose rings are those of a load
(`round`).  A thread for each worker, on a core of its own, takes turns: the drivers' (`take_turn`)
and the worker's (`serve`).  So no cache line of a ring moves between cores; what two workers cost
each other is what they share: the state block, the forwarding table, the ports' locks.

Threads: a `Pair`'s load and work belong to its thread while it runs.
"""

import threading
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from vionet.bench.clock import now_ns
from vionet.bench.driver import take_turn
from vionet.bench.frame import mac_of
from vionet.bench.layout import LOAD, RX, SATURATE, TX, Load
from vionet.bench.memory import GuestRing
from vionet.bench.place import beside
from vionet.bench.plug import plug_in, start_ring
from vionet.bench.round import FEATURES, Round, Rounds, Setting
from vionet.engine.fdb import note
from vionet.engine.kick import settle
from vionet.engine.layout import STATE, WORK, State, Work
from vionet.engine.status import Accepts, FabricKind
from vionet.engine.worker import PEEK_ROUNDS, enlist, read_clock, serve
from vionet.fabric.fabric import prepare_state, prepared_work
from vionet.jit.kernel import INT, kernel
from vionet.jit.record import allocate
from vionet.spec.virtio_net import RECEIVEQ1, TRANSMITQ1

ADDRESSES: Final = 16  # numbers of addresses from one pair to the next


@kernel(INT, STATE, WORK, LOAD, INT)
def forward_and_drive(state: State, work: Work, load: Load, duration_ns: int) -> int:
    """Be guests and worker in turns for so long.  *returns* how many frames were forwarded."""
    enlist(state, work)
    total = 0
    rounds = 0
    start = now_ns(load.clock_hva)
    now = start
    while now - start < duration_ns:
        take_turn(load, now - start)
        if rounds % PEEK_ROUNDS == 0:
            read_clock(work)
        rounds += 1
        total += serve(state, work)
        now = now_ns(load.clock_hva)
    load.elapsed_ns = now - start
    return total


class Pair(Rounds):
    """Two simulated guests at ports 2n and 2n + 1 of a state block, and worker n."""

    def __init__(self, state: State, number: int, setting: Setting) -> None:
        """Make the ports; requires that nobody runs yet."""
        super().__init__(setting)
        self.state, self.number = state, number
        self.work: Work = prepared_work(state, number)
        for end in range(2):
            self.prepare(end, setting.features)
            self._plug_in(2 * number + end, self.rings[end])

    def _plug_in(self, index: int, rings: tuple[GuestRing, GuestRing]) -> None:
        """Make the port's record, as `ports.guest` does after a front-end's messages."""
        port: Any = self.state.ports[index]
        (region,) = rings[RX].memory.regions
        plug_in(port, self.load.ends[index % 2].header_len, region.gpa, region.hva, region.size)
        port.worker, port.tx_pairs, port.accepts = self.number, 1, int(Accepts.UNIFORM)
        for queue, kind in ((RECEIVEQ1, RX), (TRANSMITQ1, TX)):
            ring = rings[kind].ring
            start_ring(port, queue, ring, ring.used_hva, ring.entries, 0)
        number = ADDRESSES * self.number
        mac = int.from_bytes(mac_of(index % 2, number), "big")
        note(self.state, mac, index, read_clock(self.work))

    def _drive(self, duration_ns: int) -> None:
        forward_and_drive(self.state, self.work, self.load, duration_ns)


class Crew:
    """So many workers in one fabric, each with its pair of guests."""

    def __init__(self, workers: int, length: int) -> None:
        """Frames of `length` bytes go both ways in each pair."""
        self.state: Any = allocate(State)
        prepare_state(self.state, FabricKind.SWITCH)
        self.state.n_workers, self.state.n_ports = workers, 2 * workers
        setting = Setting(features=FEATURES, interval_ns=0)
        self.pairs = [Pair(self.state, number, setting) for number in range(workers)]
        settle(self.state)
        for pair in self.pairs:
            pair.write_frames(length, first=ADDRESSES * pair.number)

    def close(self) -> None:
        """Give the memory back."""
        for pair in self.pairs:
            pair.release()

    def run(self, seconds: float, cores: Sequence[int]) -> list[Round]:
        """All workers at once, each on its core."""
        together = threading.Barrier(len(self.pairs))

        def work(pair: Pair) -> None:
            together.wait()
            done.append(pair.run(seconds, (SATURATE, SATURATE)))

        done: list[Round] = []
        threads = [
            beside(core, partial(work, pair)) for pair, core in zip(self.pairs, cores, strict=False)
        ]
        for thread in threads:
            thread.join()
        return done
