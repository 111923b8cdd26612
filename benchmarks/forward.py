"""Frames a second between two ports: vionet's switch and wire against DPDK's testpmd.

    PYTHONPATH=src python benchmarks/forward.py
    PYTHONPATH=src python benchmarks/forward.py --against vionet-switch --sizes 64 --rounds 3

One core forwards, another is the load (`vionet.bench`: a compiled driver with two ports).  All
peers are started first and stand still; each round then measures every one of them in turn with
fresh rings, so that whatever else the machine does falls on all alike.  The table has medians,
the ratio to testpmd first.  Hugepages and dpdk-testpmd are used where they are there; what could
not be measured is named.

--realtime puts the load and the peer before all other processes while a round runs: needed on
a machine that is shared, and it needs root.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

from vionet.bench.distance import round_trip_ns
from vionet.bench.frame import Csum
from vionet.bench.generator import Generator, directed, find_highest
from vionet.bench.layout import FLOOD, SATURATE
from vionet.bench.peer import KINDS, Peer, real_time
from vionet.bench.relay import Yardstick
from vionet.bench.round import FEATURES, Round, Setting
from vionet.spec import virtio

BASE = "testpmd"
WAYS = {"both": True, "one": False}
Key = tuple[int, str, str]  # size, way, kind


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Compare forwarding between two ports.")
    add = parser.add_argument
    add("--against", action="append", choices=[*KINDS, "relay"], help="peers (default: all)")
    add("--sizes", default="64,1500", help="frame sizes in bytes (default 64,1500)")
    add("--ways", default="both,one", help="both, one, or both,one")
    add("--rounds", type=int, default=5)
    add("--seconds", type=float, default=0.5, help="of one measurement (default 0.5)")
    add("--ring-size", type=int, default=1024)
    add("--parts", type=int, default=1, choices=(1, 2), help="descriptors a transmit chain")
    add("--csum", type=Csum, default=Csum.NONE, choices=list(Csum))
    add("--feature", action="append", default=[], help="+NAME or -NAME, as EVENT_IDX")
    add("--search", action="store_true", help="also seek the highest paced rate without loss")
    add("--flood", action="store_true", help="also show what arrives under overload")
    add("--core", type=int, default=0, help="of the peers")
    add("--load-core", type=int, default=1)
    add("--realtime", action="store_true")
    add("--json", action="store_true")
    return parser.parse_args()


def feature_word(changes: list[str]) -> int:
    """The features to acknowledge: the usual ones with `changes` applied."""
    word = FEATURES
    for change in changes:
        sign, name = change[:1], change[1:]
        bits = [bit for full, bit in virtio.BITS.items() if full.endswith(f"_F_{name}")]
        if sign not in "+-" or len(bits) != 1:
            raise SystemExit(f"forward.py: --feature {change}: write +NAME or -NAME")
        word = word | 1 << bits[0] if sign == "+" else word & ~(1 << bits[0])
    return word


def note(text: str) -> None:
    """Progress, beside the result."""
    print(text, file=sys.stderr, flush=True)


class Comparison:
    """Peers measured in turns, and what came of it."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Nothing is started yet."""
        self.options = options
        self.sizes = [int(size) for size in options.sizes.split(",")]
        self.ways = options.ways.split(",")
        self.setting = Setting(
            features=feature_word(options.feature),
            ring_size=options.ring_size,
            tx_parts=options.parts,
            frame_max=max(*self.sizes, 1518),
        )
        self.rounds: dict[Key, list[Round]] = defaultdict(list)
        self.extra: dict[Key, dict[str, Round]] = defaultdict(dict)
        self.features: dict[str, list[str]] = {}
        self.left_out: dict[str, str] = {}
        self.distances: list[float] = []

    def measure(self, folder: Path) -> None:
        """Start what there is, run all rounds, end everything."""
        kinds = self.options.against or [*KINDS]
        with ExitStack() as stack:
            peers = [
                peer
                for kind in kinds
                if kind != "relay" and (peer := self.open_peer(stack, kind, folder))
            ]
            for number in range(self.options.rounds):
                distance = round_trip_ns(self.options.load_core, self.options.core)
                self.distances.append(distance)
                note(f"round {number + 1}: core to core and back {distance:.0f} ns")
                last = number == self.options.rounds - 1
                for peer in peers:
                    self.measure_peer(peer, last)
                if "relay" in kinds:
                    self.measure_relay()

    def open_peer(self, stack: ExitStack, kind: str, folder: Path) -> Peer | None:
        """A started peer, or None with the reason noted."""
        peer = Peer(kind, folder, self.options.core)
        reason = peer.missing()
        if reason is None:
            try:
                note(f"starting {kind}")
                return stack.enter_context(peer)
            except RuntimeError as error:
                reason = str(error)
        self.left_out[kind] = reason
        note(f"left out: {kind}: {reason}")
        return None

    def measure_peer(self, peer: Peer, last: bool) -> None:
        """One round of one peer: attach, every size and way, detach."""
        peer.resume()
        try:
            with Generator(peer.paths, self.setting) as generator:
                self.features[peer.kind] = virtio.names(generator.features[0])
                for size in self.sizes:
                    generator.write_frames(size, self.options.csum)
                    for way in self.ways:
                        key = (size, way, peer.kind)
                        with real_time(peer) if self.options.realtime else nullcontext():
                            self.rounds[key].append(self.saturate(generator, way))
                        if last:
                            self.measure_extra(generator, key, peer)
        finally:
            peer.pause()

    def saturate(self, load: Any, way: str) -> Round:
        """The figure of the table."""
        rates = directed(SATURATE, WAYS[way])
        measured: Round = load.run(self.options.seconds, rates)
        return measured

    def measure_extra(self, generator: Generator, key: Key, peer: Peer) -> None:
        """What is asked for beside: the paced rate without loss, and the overload."""
        both = WAYS[key[1]]
        with real_time(peer) if self.options.realtime else nullcontext():
            if self.options.search:
                self.extra[key]["paced"] = find_highest(generator, both)
            if self.options.flood:
                rates = directed(FLOOD, both)
                self.extra[key]["overload"] = generator.run(self.options.seconds, rates)

    def measure_relay(self) -> None:
        """One round of the yardstick: what the load could drive at most."""
        with Yardstick(self.setting, self.options.core) as load:
            for size in self.sizes:
                load.write_frames(size, self.options.csum)
                for way in self.ways:
                    with real_time() if self.options.realtime else nullcontext():
                        self.rounds[size, way, "relay"].append(self.saturate(load, way))

    def row(self, key: Key) -> dict[str, Any]:
        """The medians of one cell."""
        size, way, kind = key
        rates = [r.rate for r in self.rounds[key]]
        pairs = zip(self.rounds[key], self.rounds.get((size, way, BASE), ()), strict=False)
        ratios = [ours.rate / base.rate for ours, base in pairs if base.rate]
        return {
            "size": size,
            "way": way,
            "peer": kind,
            "ratio": median(ratios) if ratios else None,
            "rate": median(rates),
            "rates": rates,
            "gbit": median(rates) * size * 8 / 1e9,
            "lost": sum(d.lost for r in self.rounds[key] for d in r.directions),
            "wrong": sum(r.wrong for r in self.rounds[key]),
            "partial": sum(d.partial for r in self.rounds[key] for d in r.directions),
            "load_busy": median(r.busy for r in self.rounds[key]),
            "load_ns": median(r.busy_ns for r in self.rounds[key]),
            "kicks": sum(r.kicks for r in self.rounds[key]),
            **{name: extra.document() for name, extra in self.extra[key].items()},
        }

    def document(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "options": vars(self.options),
            "core_to_core_ns": self.distances,
            "features": self.features,
            "left_out": self.left_out,
            "rows": [self.row(key) for key in sorted(self.rounds)],
        }

    def table(self) -> str:
        """For people."""
        lines = [
            f"core to core and back: {median(self.distances):.0f} ns "
            f"({min(self.distances):.0f} to {max(self.distances):.0f})",
            f"{'ratio':>6}  {'M frames/s':>10}  {'(from to)':>15}  {'Gbit/s':>7}  {'lost':>6}  "
            f"{'wrong':>5}  {'load busy':>9}  size  way   peer",
        ]
        for key in sorted(self.rounds):
            row = self.row(key)
            ratio = f"{row['ratio']:.2f}" if row["ratio"] else "-"
            span = f"({min(row['rates']) / 1e6:.2f} {max(row['rates']) / 1e6:.2f})"
            lines.append(
                f"{ratio:>6}  {row['rate'] / 1e6:>10.2f}  {span:>15}  {row['gbit']:>7.1f}  "
                f"{row['lost']:>6}  {row['wrong']:>5}  {row['load_busy']:>9.0%}  "
                f"{row['size']:>4}  {row['way']:<4}  {row['peer']}"
            )
            for name, extra in self.extra[key].items():
                lines.append(
                    f"{'':>6}  {extra.rate / 1e6:>10.2f}  {name}: "
                    f"{extra.missing:.2%} of the frames offered did not arrive"
                )
        lines += [f"{kind}: {' '.join(names)}" for kind, names in self.features.items()]
        lines += [f"left out: {kind}: {reason}" for kind, reason in self.left_out.items()]
        return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    options = read_arguments()
    os.sched_setaffinity(0, {options.load_core})
    comparison = Comparison(options)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="vionet-bench-") as folder:
        comparison.measure(Path(folder))
    note(f"took {time.monotonic() - start:.0f} s")
    print(json.dumps(comparison.document(), default=str) if options.json else comparison.table())


if __name__ == "__main__":
    main()
