"""`vionet bench forward`: frames a second through switch and wire, by size, way and kind of ring.

How it works: `passage` measures; here are the command line and the rows of the table.  Of each
case there is the rate of a closed loop, and of some the highest paced rate without loss and what
arrives under overload, both as ratios to the first.  Large frames are held against `memcpy`.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import click

from vionet.bench.command import SECONDS, Common, bench_command, chosen
from vionet.bench.frame import GSO_LEN, PLAIN_MAX, Csum
from vionet.bench.passage import MAIN, NAMES, RINGS, WAYS, Case, Choice, Passage
from vionet.bench.peer import KINDS, OURS
from vionet.bench.result import Figure, Result, compared
from vionet.bench.round import FEATURES, Round, Setting
from vionet.spec import virtio

UNIT: Final = "M frames/s"
SIZES: Final = (64, 128, 256, 512, 1024, 1500, 9000, GSO_LEN)
BASE: Final = "testpmd"
QUICK_SECONDS: Final = 0.03
WHICH: Final = click.Choice(["main", "all", "none"])


def conclude(run: Passage) -> Result:
    """All figures, in the order of the cases."""
    for case in sorted({case for case, _ in run.found}):
        for kind in (*KINDS, "relay"):
            if (case, kind) in run.found:
                run.result.figures += figures(run, case, kind)
    return run.result


def figures(run: Passage, case: Case, kind: str) -> list[Figure]:
    """The rows of one case and one back-end."""
    done, name = run.found[case, kind], NAMES.get(kind, kind)
    rates = tuple(r.rate / 1e6 for r in done)
    base = [r.rate / 1e6 for r in run.found.get((case, BASE), ())] if kind in OURS else []
    copied = run.copied.get((case, kind), [])
    against = "memcpy" if copied else NAMES[BASE]
    goal = "gso-64k" if case.large and not case.note and kind in OURS else ""
    said = detail(case, done[-1], rates)
    found = [compared(case.name, name, UNIT, rates, copied or base, against, goal, said)]
    for what, one in run.extra.get((case, kind), {}).items():
        rate = (one.rate / 1e6,)
        said = detail(case, one, rate)
        found.append(
            compared(case.name, f"{name}, {what}", UNIT, rate, rates[-1:], name, detail=said)
        )
    if copied:
        said = {"gbit_s": gbit_s(case, median(copied))}
        found.append(compared(case.name, "memcpy", UNIT, copied, detail=said))
    return found


def gbit_s(case: Case, rate: float) -> float:
    """Of frames, from their rate in millions."""
    return rate * case.size * 8 / 1e3


def detail(case: Case, done: Round, rates: Sequence[float]) -> dict[str, Any]:
    """What else is known of a row."""
    return {
        "gbit_s": gbit_s(case, median(rates)),
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
@click.option(
    "--seconds", type=SECONDS, default=0.15, show_default=True, help="Of one measurement."
)
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
    if ring_size & (ring_size - 1):
        raise click.BadParameter(f"{ring_size} is no power of two", param_hint="--ring-size")
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
    if not run.has_cores():
        return run.result
    with tempfile.TemporaryDirectory(prefix="vionet-bench-") as folder:
        run.measure(Path(folder))
    return conclude(run)
