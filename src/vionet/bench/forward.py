"""`vionet bench forward`: frames a second through switch and wire, by size, way and kind of ring.

How it works: `passage` measures; here are the command line and the rows of the table.  Of each
case there is the rate of a closed loop, and of some the highest paced rate without loss and what
arrives under overload, both as ratios to the first.  Large frames are held against `memcpy`.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click

from vionet.bench.command import Common, bench_command
from vionet.bench.frame import GSO_LEN, PLAIN_MAX, Csum
from vionet.bench.passage import MAIN, NAMES, OURS, RINGS, WAYS, Case, Choice, Passage
from vionet.bench.peer import KINDS
from vionet.bench.result import Figure, Result, ratios
from vionet.bench.round import FEATURES, Round, Setting
from vionet.spec import virtio

UNIT: Final = "M frames/s"
SIZES: Final = (64, 128, 256, 512, 1024, 1500, 9000, GSO_LEN)
BASE: Final = "testpmd"
QUICK_SECONDS: Final = 0.03
WHICH: Final = click.Choice(["main", "all", "none"])


def conclude(run: Passage) -> Result:
    """All figures, in the order of the cases."""
    where = f"{min(run.distances):.0f} to {max(run.distances):.0f} ns"
    run.result.notes.insert(0, f"core to core and back: {where}")
    for case in sorted({case for case, _ in run.rounds}):
        for kind in (*KINDS, "relay"):
            if (case, kind) in run.rounds:
                run.result.figures += figures(run, case, kind)
    return run.result


def figures(run: Passage, case: Case, kind: str) -> list[Figure]:
    """The rows of one case and one back-end."""
    done, name = run.rounds[case, kind], NAMES.get(kind, kind)
    rates = tuple(r.rate / 1e6 for r in done)
    base = [r.rate / 1e6 for r in run.rounds.get((case, BASE), ())] if kind in OURS else []
    copied = run.copied.get((case, kind), [])
    goal = "gso-64k" if case.large and not case.note and kind in OURS else ""
    found = [
        Figure(
            case.name,
            name,
            UNIT,
            rates,
            ratio=ratios(rates, copied or base),
            against="memcpy" if copied else NAMES[BASE] if base else "",
            goal=goal,
            detail=detail(case, done[-1], rates),
        )
    ]
    for what, one in run.extra.get((case, kind), {}).items():
        rate = (one.rate / 1e6,)
        found.append(
            Figure(
                case.name,
                f"{name}, {what}",
                UNIT,
                rate,
                ratio=ratios(rate, rates[-1:]),
                against=name,
                detail=detail(case, one, rate),
            )
        )
    if copied:
        row = Figure(case.name, "memcpy", UNIT, tuple(copied))
        found.append(replace(row, detail={"gbit_s": gbit_s(case, row.value)}))
    return found


def gbit_s(case: Case, rate: float) -> float:
    """Of frames, from their rate in millions."""
    return rate * case.size * 8 / 1e3


def detail(case: Case, done: Round, rates: Sequence[float]) -> dict[str, Any]:
    """What else is known of a row."""
    return {
        "gbit_s": gbit_s(case, sorted(rates)[len(rates) // 2]),
        "missing": done.missing,
        "load_busy": done.busy,
        "compared": sum(way.compared for way in done.directions),
        "kicks": done.kicks,
    }


def feature_word(changes: Sequence[str]) -> int:
    """The features to acknowledge: the usual ones with `changes` applied."""
    word = FEATURES
    for change in changes:
        sign, name = change[:1], change[1:].upper()
        bits = [bit for full, bit in virtio.BITS.items() if full.endswith(f"_F_{name}")]
        if sign not in "+-" or len(bits) != 1:
            raise click.BadParameter(
                f"{change!r}: write +NAME or -NAME, as -event_idx", param_hint="--feature"
            )
        word = word | 1 << bits[0] if sign == "+" else word & ~(1 << bits[0])
    return word


def chosen(option: str, text: str, among: Sequence[str]) -> list[str]:
    """The words of a list with commas."""
    words = text.split(",")
    for word in words:
        if word not in among:
            message = f"{word!r} is not one of {', '.join(among)}"
            raise click.BadParameter(message, param_hint=option)
    return words


def sizes_of(text: str) -> list[int]:
    """Frame sizes; `gso` stands for 64 KB to be segmented."""
    try:
        sizes = [GSO_LEN if word == "gso" else int(word) for word in text.split(",")]
    except ValueError:
        sizes = [0]
    if not all(60 <= size <= PLAIN_MAX or size == GSO_LEN for size in sizes):
        message = f"{text!r}: numbers from 60 to {PLAIN_MAX}, or gso"
        raise click.BadParameter(message, param_hint="--sizes")
    return sizes


@bench_command("forward")
@click.option(
    "--against",
    multiple=True,
    help=f"Who is measured, of {', '.join((*KINDS, 'relay'))} (switch and wire).",
)
@click.option("--sizes", default="", help="Frame sizes in bytes, or gso (all of them).")
@click.option("--ways", default="both,one", show_default=True, help="both, one, or both,one.")
@click.option("--rings", default="split,packed", show_default=True, help="Kinds of ring.")
@click.option("--seconds", default=0.15, show_default=True, help="Of one measurement.")
@click.option("--ring-size", type=click.IntRange(16, 32768), default=1024, show_default=True)
@click.option("--parts", type=click.IntRange(1, 2), default=1, help="2: headers apart.")
@click.option(
    "--csum", type=click.Choice([str(csum) for csum in Csum]), default="none", help="Of the frames."
)
@click.option("--feature", multiple=True, help="+NAME or -NAME, as -mrg_rxbuf.")
@click.option("--search", type=WHICH, default="main", help="Of which the rate without loss.")
@click.option("--flood", type=WHICH, default="main", help="Of which the rate under overload.")
def command(
    common: Common,
    against: tuple[str, ...],
    sizes: str,
    ways: str,
    rings: str,
    seconds: float,
    ring_size: int,
    parts: int,
    csum: str,
    feature: tuple[str, ...],
    search: str,
    flood: str,
) -> Result:
    """Frames a second through switch and wire, by frame size, way and kind of ring."""
    lengths = sizes_of(sizes) if sizes else SIZES
    setting = Setting(features=feature_word(feature), ring_size=ring_size, tx_parts=parts)
    choice = Choice(
        kinds=chosen("--against", ",".join(against or OURS), (*KINDS, "relay")),
        sizes=[size for size in lengths if size in MAIN] if common.quick and not sizes else lengths,
        ways=chosen("--ways", ways, list(WAYS)),
        rings=chosen("--rings", rings, list(RINGS)),
        seconds=QUICK_SECONDS if common.quick else seconds,
        setting=setting,
        csum=Csum(csum),
        search=search,
        flood=flood,
    )
    run = Passage(common, choice, Result("forward"))
    if common.core == common.load_core or len(os.sched_getaffinity(0)) < 2:
        run.result.left_out["everything"] = "needs a second core, for the load"
        return run.result
    os.sched_setaffinity(0, {common.load_core})
    with tempfile.TemporaryDirectory(prefix="vionet-bench-") as folder:
        run.measure(Path(folder))
    return conclude(run)
