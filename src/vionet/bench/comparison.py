"""Back-ends measured in turns under two loads, and what came of it.

How it works: in each round every one (`rivals`) runs under our generator with fresh rings; later,
again in rounds, under DPDK's own driver, which stays attached.  Rates, what was negotiated and what
was wrong are kept by case and kind.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from vionet.bench.command import Common
from vionet.bench.generator import Generator, directed
from vionet.bench.layout import SATURATE
from vionet.bench.peer import Peer
from vionet.bench.result import Result
from vionet.bench.rivals import Rivals
from vionet.bench.round import Setting
from vionet.bench.virtio_user import VirtioUser
from vionet.vhost_user.frontend import Closed, Refused
from vionet.vhost_user.message import ProtocolError

FRAME_MAX: Final = 1518  # the room of a receive buffer, if no larger frames are asked for
ATTACHES: Final = 20
SETTLE_RATE: Final = 1000  # frames a second that are offered until they pass
SETTLE_SECONDS: Final = 0.05
SETTLE_TIMEOUT: Final = 30.0
STARVED_MAX: Final = 100  # measurements in which somebody never had a core: they are none
LENGTH_TOLERANCE: Final = 0.01  # DPDK counts frames and bytes one after the other


class Case(NamedTuple):
    """One thing that all back-ends do."""

    size: int
    way: str  # "both" or "one"
    foreign: bool = False  # under DPDK's driver

    @property
    def name(self) -> str:
        """For people."""
        ways = "both ways" if self.way == "both" else "one way"
        return f"{self.size} B virtio-user" if self.foreign else f"{self.size} B {ways}"


@dataclass
class Comparison(Rivals):
    """Back-ends measured in turns, and what came of it."""

    common: Common
    sizes: Sequence[int]
    ways: Sequence[str]
    seconds: float
    folder: Path
    result: Result = field(default_factory=lambda: Result("peers"))
    rates: dict[Case, dict[str, list[float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    details: dict[tuple[Case, str], dict[str, Any]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    features: dict[tuple[str, bool], int] = field(default_factory=dict)  # [kind, foreign]

    # --- our own load -------------------------------------------------------------------------
    def generate(self, peers: Sequence[Peer]) -> None:
        """All rounds of our generator."""
        for _ in self.rounds():
            for peer in peers:
                with self.attended(peer):
                    self.generate_round(peer)

    @contextmanager
    def attended(self, peer: Peer) -> Iterator[None]:
        """Measure `peer`, which stands still before and after; what ends it is a fault."""
        try:
            peer.resume()
            yield
        except (RuntimeError, OSError, Closed, Refused, ProtocolError) as error:
            self.fault(f"{peer.name}: {error}; its last words: {peer.log_end()}")
        finally:
            peer.pause()

    def generate_round(self, peer: Peer) -> None:
        """One round of one peer: attach, every size and way, detach."""
        with attach(peer, max(*self.sizes, FRAME_MAX)) as generator:
            settle(generator, self.sizes[0])
            for size in self.sizes:
                generator.write_frames(size)
                for way in self.ways:
                    case = Case(size, way)
                    with self.urgent(peer):
                        rates = directed(SATURATE, way == "both")
                        done = unstarved(partial(generator.run, self.seconds, rates))
                    self.rates[case][peer.kind].append(done.rate / 1e6)
                    details = self.details[case, peer.kind]
                    details["lost"].append(done.lost)
                    details["load_busy"].append(round(done.busy, 3))
                    self.check(f"{peer.name}: {case.name}", done, lossless=False)
            self.note_features(peer, False, generator.features)

    def note_features(self, peer: Peer, foreign: bool, acknowledged: Sequence[int] = ()) -> None:
        """Note what was negotiated, after the back-end itself (the first time only)."""
        if (peer.kind, foreign) in self.features:
            return
        words = peer.features()
        self.features[peer.kind, foreign] = words[0]
        if len({*words, *acknowledged}) != 1:
            listed = ", ".join(f"{word:#x}" for word in (*words, *acknowledged))
            self.fault(f"{peer.name}: not the same features at both ends: {listed}")

    # --- DPDK's driver as the load ------------------------------------------------------------
    def bounce(self, peers: Sequence[Peer]) -> None:
        """All rounds of the cross-check."""
        with ExitStack() as stack:
            loads: list[tuple[Peer, VirtioUser]] = []
            for peer in peers:
                load = VirtioUser(peer, self.folder, self.common.load_core)
                peer.resume()
                if self.open(stack, load):
                    loads.append((peer, load))
                    self.note_features(peer, True)
                peer.pause()
            for _ in range(self.common.rounds if loads else 0):
                for peer, load in loads:
                    with self.attended(peer):
                        load.resume()
                        self.bounce_round(peer, load)
                    load.pause()

    def bounce_round(self, peer: Peer, load: VirtioUser) -> None:
        """One round of one peer under DPDK's driver."""
        for size in self.sizes:
            with self.urgent(peer, load):
                found = unstarved(partial(load.run, size, self.seconds))
            self.rates[Case(size, "both", foreign=True)][peer.kind].append(found.rate / 1e6)
            if not found.rate or abs(found.frame_len / size - 1) > LENGTH_TOLERANCE:
                what = f"frames of {found.frame_len:.1f} B" if found.rate else "no frame"
                self.fault(f"{peer.name} under virtio-user: {what}, not of {size} B")


class Rated(Protocol):
    """What a measurement gave."""

    @property
    def rate(self) -> float:
        """Frames a second."""
        ...


R = TypeVar("R", bound=Rated)


def unstarved(measure: Callable[[], R]) -> R:
    """The first measurement in which a frame passed; if there is none, the last."""
    done = measure()
    for _ in range(STARVED_MAX):
        if done.rate:
            break
        done = measure()
    return done


def attach(peer: Peer, frame_max: int) -> Generator:
    """Our generator, attached to `peer`; ours may not refuse, others may at first.

    When its first guest comes, Open vSwitch tries how large a pool of frames it can have, and has
    no memory for anything else meanwhile.
    """
    for _ in range(0 if peer.ours else ATTACHES):
        try:
            return Generator(peer.paths, Setting(frame_max=frame_max))
        except (OSError, Closed, Refused):
            time.sleep(SETTLE_SECONDS)
    return Generator(peer.paths, Setting(frame_max=frame_max))


def settle(generator: Generator, size: int) -> None:
    """Wait until frames pass both ways: Open vSwitch connects its threads to a port afterwards."""
    generator.write_frames(size)
    deadline = time.monotonic() + SETTLE_TIMEOUT
    rates = directed(SETTLE_RATE, both=True)
    while not all(way.received for way in generator.run(SETTLE_SECONDS, rates).directions):
        if time.monotonic() > deadline:
            raise RuntimeError(f"no frame passed for {SETTLE_TIMEOUT:g} s")
    # What found no way at first is lost or late; the next round begins when all is quiet.
    generator.run(SETTLE_SECONDS, directed(0, both=True))
