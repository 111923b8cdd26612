"""Back-ends measured in turns: what every bench that compares processes has in common.

How it works: all are started first and stand still.  In each round every one of them runs alone,
so that whatever else the machine does falls on all alike; how far apart the two cores are is
measured with each round.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from statistics import median

from vionet.bench.command import Common, progress
from vionet.bench.distance import round_trip_ns
from vionet.bench.peer import Peer, real_time
from vionet.bench.result import Result
from vionet.bench.round import Round


class Rivals:
    """How they are measured, and what came of it."""

    common: Common
    result: Result

    def has_cores(self) -> bool:
        """Whether load and rivals have a core each; this thread then is on the load's."""
        cores = self.common.core, self.common.load_core
        if len({*cores} & os.sched_getaffinity(0)) < 2:
            words = f"cores {cores[0]} and {cores[1]}: two that exist are needed"
            self.result.left_out["everything"] = words
            return False
        os.sched_setaffinity(0, {self.common.load_core})
        return True

    def rounds(self) -> Iterator[int]:
        """The number of each round; afterwards a note says how far apart the cores were."""
        found = []
        for number in range(self.common.rounds):
            found.append(round_trip_ns(self.common.load_core, self.common.core))
            progress(f"round {number + 1}: core to core and back {found[-1]:.0f} ns")
            yield number
        usual = f"{median(found):.0f} ns ({min(found):.0f} to {max(found):.0f})"
        self.result.notes.insert(0, f"core to core and back: {usual}")

    def open(self, stack: ExitStack, peer: Peer) -> Peer | None:
        """A started peer, or None with the reason noted."""
        try:
            progress(f"starting {peer.kind}")
            return stack.enter_context(peer)
        except RuntimeError as error:
            self.result.left_out[peer.name] = str(error)
            return None

    def urgent(self, *peers: Peer) -> AbstractContextManager[None]:
        """Before all other processes, if that is wanted."""
        return real_time(*peers) if self.common.real_time else nullcontext()

    def fault(self, text: str) -> None:
        """Something is wrong; once is enough."""
        if text not in self.result.faults:
            self.result.faults.append(text)

    def check(self, where: str, done: Round, *, lossless: bool = True) -> None:
        """Were the frames those that were sent, and, unless some may be lost, all of them?"""
        if done.wrong:
            self.fault(f"{where}: {done.wrong} frames were not as they were sent")
        first = done.directions[0]
        if first.sent == first.lost:  # not in the time after the round either
            self.fault(f"{where}: no frame arrived")
        if lossless and done.lost:
            self.fault(f"{where}: {done.lost} frames lost, though there was room for all")
