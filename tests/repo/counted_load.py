"""A fixed load through the worker's own loop in the interpreted lane; what it cost is counted.

How it works: the functions that kernels call in the C library are wrapped before the engine is
imported, so each system call is seen.  The loop is `engine.worker.run`; before each of its rounds
drivers that never tire take what was delivered, post it again and offer the next burst, in
lockstep: they ask for every interrupt and look whether they would have had to kick.

Prints one JSON object: per load, counts for 1000 frames.  Nothing in it depends on the machine.
"""

import json
import os
import select
from collections import Counter
from collections.abc import Callable
from typing import Any

from vionet.jit import LANE, Lane, libc

assert LANE is Lane.INTERPRETED
system_calls: Counter[str] = Counter()


def _counting(name: str, call: Callable[..., int]) -> Callable[..., int]:
    def counted(*args: int) -> int:
        system_calls[name] += 1
        return call(*args)

    return counted


for _name in libc.__all__:
    if _name != "errno":
        setattr(libc, _name, _counting(_name, getattr(libc, _name)))

from tests.reference.guest import Guest  # noqa: E402 - what is wrapped has to be imported first
from tests.reference.network import Network  # noqa: E402
from tests.reference.plug import EVENT_IDX, FULL, PLAIN  # noqa: E402
from vionet.engine import worker  # noqa: E402
from vionet.engine.status import FabricKind  # noqa: E402

FRAMES, BURST, SIZE = 1000, 50, 256
ETHERTYPE = 0x88B5  # for experiments


def frame_of(length: int, source: int, destination: int) -> bytes:
    """A frame of a protocol that nobody has to sum."""
    return (
        destination.to_bytes(6, "big")
        + source.to_bytes(6, "big")
        + b"\x88\xb5"
        + bytes(length - 14)
    )


class Load:
    """One fabric in which port 0 sends to port 1; either may be a guest or a tap."""

    def __init__(self, kind: FabricKind, ends: str, length: int) -> None:
        self.network = Network(kind)
        self.epoll = select.epoll()
        self.network.state.epoll_fds[0] = self.epoll.fileno()
        self.ends: list[Any] = [
            self.network.guest(FULL | EVENT_IDX, size=SIZE, data_len=1 << 21)
            if end == "g"
            else self.network.tap()
            for end in ends
        ]
        self.data = frame_of(length, 0x020000000001, 0x020000000002)
        self.left = FRAMES
        self.delivered = self.kicks = 0

    def counts(self) -> dict[str, int]:
        """Learn where the receiver is, run, count."""
        sink = self.ends[1]
        self._teach(sink)
        if isinstance(sink, Guest):
            for _ in range(SIZE):
                sink.post(12 + len(self.data))
        drops = int(self.network.work.drops.sum())
        before = {key: self.network.total(key) for key in ("calls", "rx_bytes", *BYTES)}
        system_calls.clear()
        real = worker.serve
        worker.serve = self._round(real)  # type: ignore[assignment]
        try:
            worker.run(self.network.state, self.network.work)
        finally:
            worker.serve = real
            self.network.state.stop = 0
        found = {key: self.network.total(key) - count for key, count in before.items()}
        assert self.delivered == FRAMES and found.pop("rx_bytes") == FRAMES * len(self.data)
        assert drops == int(self.network.work.drops.sum()), "nothing is lost"
        found |= {"kicks": self.kicks, "system_calls": system_calls.total()}
        self.epoll.close()
        self.network.__exit__(None, None, None)
        return dict(sorted(found.items()))

    def _teach(self, sink: Any) -> None:
        """On a switch the receiver has said a word before, so that nothing is flooded."""
        hello = frame_of(60, 0x020000000002, 0x0180C2000000)
        if self.network.state.kind == FabricKind.SWITCH:
            sink.send(hello)
            assert 1 == self.network.run(sink)
            sink.tx.take_used()

    def _round(self, serve: Callable[..., int]) -> Callable[..., int]:
        def turn(state: Any, work: Any) -> int:
            source, sink = self.ends
            if self.left == 0 and self.delivered == FRAMES:
                state.stop = 1
            elif self.left:
                self._offer(source)
            done = serve(state, work)
            self._take(sink)
            return done

        return turn

    def _offer(self, source: Any) -> None:
        count = min(BURST, self.left)
        self.left -= count
        if not isinstance(source, Guest):
            for _ in range(count):
                source.give(self.data)
            return
        before = source.tx.next_idx
        source.tx.take_used()
        source.next_gpa = source.end_gpa - (1 << 20)  # what was sent is used again
        for _ in range(count):
            source.send(self.data, PLAIN, publish=False)
        source.tx.publish()
        # Whoever offers kicks where the device's event index lies in what was offered.
        self.kicks += (source.tx.avail_event - before) & 0xFFFF < count

    def _take(self, sink: Any) -> None:
        if not isinstance(sink, Guest):
            self.delivered += len(sink.taken())
            return
        before = sink.rx.next_idx
        found = sink.rx.take_used()
        self.delivered += len(found)
        for entry in found:
            (buffer,) = sink.posted.pop(entry.head)
            head = sink.rx.add([buffer], True, publish=False)
            sink.posted[head] = [buffer]
        sink.rx.publish()
        sink.rx.want_event(sink.rx.used_idx)
        self.kicks += (sink.rx.avail_event - before) & 0xFFFF < len(found)
        sink.calls()


BYTES = ("header_bytes", "payload_bytes_copied", "payload_bytes_summed")
LOADS = {
    "guest_to_guest_64_switch": (FabricKind.SWITCH, "gg", 64),
    "guest_to_guest_1500_switch": (FabricKind.SWITCH, "gg", 1514),
    "guest_to_guest_1500_wire": (FabricKind.WIRE, "gg", 1514),
    "guest_to_tap_1500_wire": (FabricKind.WIRE, "gt", 1514),
    "tap_to_guest_1500_wire": (FabricKind.WIRE, "tg", 1514),
}

if __name__ == "__main__":
    assert os.environ["VIONET_LANE"] == "interpreted"
    print(json.dumps({name: Load(*what).counts() for name, what in LOADS.items()}))
