"""Back-ends measured in turns under the same load: what `vionet bench forward` does in a run.

How it works: each round measures all of them in turn (`rivals`), with fresh rings.  The load is
a compiled driver with two ports on a core of its own (`driver`), which compares what arrives with
what it sent.  Three rates are found of a case:

* in a closed loop: no more frames under way than the receive ring holds, so what the back-end
  delivers is what it can do (every case, every round);
* the highest paced rate of which not one frame is missing, by search (once);
* under overload: what still arrives when more is offered than passes (once).

Large frames (64 KB, TSO) are sent as Linux does: headers and pages in an indirect chain, received
in mergeable buffers of a page.  They are compared with `memcpy` over the same pieces of the same
memory, alone on the back-end's core in the same round (`copying`): far beyond the cache, and
within it.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from vionet.bench.command import Common
from vionet.bench.copying import Copying, last_level_cache
from vionet.bench.frame import GSO_LEN, PLAIN_MAX, Csum
from vionet.bench.generator import Generator, directed, find_highest
from vionet.bench.layout import FLOOD
from vionet.bench.memory import PAGE
from vionet.bench.peer import OURS, Peer
from vionet.bench.relay import Yardstick
from vionet.bench.result import Result
from vionet.bench.rivals import Rivals
from vionet.bench.round import LARGE_PARTS, Round, Rounds, Setting
from vionet.spec import virtio
from vionet.spec import virtio_net as net

MAIN: Final = (64, 1500, GSO_LEN)  # of which more is found out
NAMES: Final = {"vionet-switch": "switch", "vionet-wire": "wire", "testpmd": "testpmd io"}
CACHED: Final = "cached"
WAYS: Final = {"both": True, "one": False}
RINGS: Final = {"split": 0, "packed": 1 << virtio.VIRTIO_F_RING_PACKED}
TSO: Final = virtio.mask((net.VIRTIO_NET_F_HOST_TSO4, net.VIRTIO_NET_F_GUEST_TSO4))
FILL_SECONDS: Final = 0.15  # until all memory of large frames was touched once
QUICK_FRAMES: Final = 64
LAPS_MAX: Final = 1024  # frames in a ring of large ones; more than that no driver keeps


@dataclass(frozen=True, order=True)
class Case:
    """One row of the table, but for who is measured."""

    size: int
    way: str
    ring: str
    note: str = ""

    @property
    def large(self) -> bool:
        """It is sent to be segmented."""
        return self.size > PLAIN_MAX

    @property
    def name(self) -> str:
        """For people."""
        size = "64 KB" if self.large else f"{self.size} B"
        return f"{size} {self.way}, {self.ring}" + (f", {self.note}" if self.note else "")


@dataclass(frozen=True)
class Choice:
    """What a person chose."""

    kinds: Sequence[str]
    sizes: Sequence[int]
    ways: Sequence[str]
    rings: Sequence[str]
    seconds: float
    setting: Setting
    csum: Csum
    search: str
    flood: str


class BackEnd(Peer):
    """A peer whose ports, where they are ours, offer packed rings too."""

    def argv(self) -> list[str]:
        """The command line of what forwards."""
        return [f"{a},+ring_packed" if self.ours and "guest:" in a else a for a in super().argv()]


@dataclass
class Passage(Rivals):
    """Back-ends measured in turns, and what came of it."""

    common: Common
    choice: Choice
    result: Result
    found: dict[tuple[Case, str], list[Round]] = field(default_factory=lambda: defaultdict(list))
    extra: dict[tuple[Case, str], dict[str, Round]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    copied: dict[tuple[Case, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    def measure(self, folder: Path) -> None:
        """Start what there is, run all rounds, end everything."""
        with ExitStack() as stack:
            made = [
                self.open(stack, BackEnd(kind, folder, self.common.core))
                for kind in self.choice.kinds
                if kind != "relay"
            ]
            peers = [peer for peer in made if peer]
            for number in self.rounds():
                for ring in self.choice.rings:
                    for peer in peers:
                        self.measure_peer(peer, ring, number == self.common.rounds - 1)
                if "relay" in self.choice.kinds:
                    self.measure_relay()

    def settings(self, ring: str) -> Iterator[tuple[Setting, list[int], str]]:
        """How the ports are made for sizes that can share them."""
        usual = self.choice.setting
        usual = replace(usual, features=usual.features | RINGS[ring])
        small = [size for size in self.choice.sizes if size <= usual.frame_max]
        if small:
            yield usual, small, ""
        for size in self.choice.sizes:
            if usual.frame_max < size <= PLAIN_MAX:
                yield replace(usual, frame_max=size), [size], ""
        if GSO_LEN in self.choice.sizes:
            yield (
                large_setting(usual, QUICK_FRAMES if self.common.quick else beyond_cache()),
                [GSO_LEN],
                "",
            )
            yield large_setting(usual, 16), [GSO_LEN], CACHED

    # --- one round of one peer ----------------------------------------------------------------
    def measure_peer(self, peer: Peer, ring: str, last: bool) -> None:
        """Attach, every size and way, detach."""
        peer.resume()
        try:
            for setting, sizes, note in self.settings(ring):
                with Generator(peer.paths, setting) as generator:
                    if self.agreed(peer, setting, generator, sizes[0], ring):
                        for size in sizes:
                            self.measure_size(peer, generator, size, ring, note, last)
        finally:
            peer.pause()

    def agreed(self, peer: Peer, setting: Setting, load: Generator, size: int, ring: str) -> bool:
        """Whether everything was negotiated that the case is about."""
        lacking = setting.features & ~(load.features[0] & load.features[1])
        names = " ".join(virtio.names(lacking))
        where = f"{NAMES[peer.kind]}, {Case(size, 'both', ring).name}"
        if lacking and peer.kind in OURS:
            self.fault(f"{where}: not negotiated: {names}")
        elif lacking & (TSO | RINGS[ring]):
            self.result.left_out[where] = f"it does not offer {names}"
            return False
        return True

    def measure_size(
        self, peer: Peer, load: Generator, size: int, ring: str, note: str, last: bool
    ) -> None:
        """Frames of one size, in every way."""
        load.write_frames(size, self.choice.csum)
        with self.urgent(peer):
            load.introduce(FILL_SECONDS if size > PLAIN_MAX else 0.01)
        for way in self.choice.ways:
            case = Case(size, way, ring, note)
            with self.urgent(peer):
                done = load.saturate(self.choice.seconds, WAYS[way])
            self.found[case, peer.kind].append(done)
            self.judge(case, peer.kind, done)
            if last and note != CACHED:
                self.measure_more(case, peer, load)
            if case.large:
                self.measure_copy(case, peer, load)

    def measure_copy(self, case: Case, peer: Peer, load: Rounds) -> None:
        """What memcpy does on the peer's core with the same pieces."""
        copying = Copying(load, WAYS[case.way])
        peer.pause()
        with self.urgent():
            rate = copying.rate(self.choice.seconds, self.common.core)
        peer.resume()
        frame_len = load.frame_len + load.load.ends[0].header_len
        self.copied[case, peer.kind].append(rate / frame_len / 1e6)
        small = copying.working_set < 4 * last_level_cache()
        if small and not case.note and not self.common.quick:
            self.note(f"{case.name}: the working set is {copying.working_set >> 20} MiB only")

    def measure_more(self, case: Case, peer: Peer, load: Rounds) -> None:
        """The paced rate without loss, and the overload."""
        both = WAYS[case.way]
        chosen = {"all": True, "main": case.size in MAIN and both, "none": False}
        with self.urgent(peer):
            if chosen[self.choice.search]:
                steps = 2 if self.common.quick else 7
                done = find_highest(load, both, self.choice.seconds, steps)
                self.extra[case, peer.kind]["no loss"] = done
                self.judge(case, peer.kind, done, lossless=False)
            if chosen[self.choice.flood]:
                done = load.run(self.choice.seconds, directed(FLOOD, both))
                self.extra[case, peer.kind]["overload"] = done
                self.judge(case, peer.kind, done, lossless=False)

    def measure_relay(self) -> None:
        """The yardstick: what the load could drive at most."""
        with Yardstick(self.choice.setting, self.common.core) as load:
            for size in self.choice.sizes:
                if size <= self.choice.setting.frame_max:
                    load.write_frames(size, self.choice.csum)
                    for way in self.choice.ways:
                        with self.urgent():
                            done = load.saturate(self.choice.seconds, WAYS[way])
                        self.found[Case(size, way, "split"), "relay"].append(done)

    # --- what came of it ----------------------------------------------------------------------
    def note(self, text: str) -> None:
        """Something to know; once is enough."""
        if text not in self.result.notes:
            self.result.notes.append(text)

    def judge(self, case: Case, kind: str, done: Round, *, lossless: bool = True) -> None:
        """Were the frames those that were sent, and, of ours, all of them?"""
        where, ours = f"{NAMES[kind]}, {case.name}", kind in OURS
        self.check(where, done, lossless=lossless and ours)
        arrived = sum(way.sent - way.lost for way in done.directions)
        if ours and case.large and sum(way.partial for way in done.directions) != arrived:
            self.fault(f"{where}: large frames came without NEEDS_CSUM")


def beyond_cache() -> int:
    """Large frames in a ring, of which the copies are at least 4 times the last-level cache."""
    frames = -(-4 * max(last_level_cache(), 1 << 20) // GSO_LEN)
    return min(1 << frames.bit_length(), LAPS_MAX)


def large_setting(usual: Setting, frames: int) -> Setting:
    """Rings for so many large frames under way."""
    return replace(
        usual,
        features=usual.features | TSO,
        ring_size=frames,
        rx_size=16 * frames,
        rx_len=PAGE,
        tx_parts=LARGE_PARTS,
        tx_indirect=True,
        frame_max=GSO_LEN,
    )
