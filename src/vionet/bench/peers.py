"""`vionet bench peers`: vionet's wire and switch against DPDK's testpmd and Open vSwitch.

How it works: `comparison` measures all of them in turns; a ratio is taken within a round.  The
load is our own generator, closed loop: no more frames under way than a ring holds, so that what a
back-end delivers is what it can do.  Afterwards DPDK's virtio-user is attached as another load,
to see that the ratios are not our generator's making.  Its own work limits it sooner.

What is fair: one core for each back-end, nothing else on it; huge pages for DPDK and, if there
are any, for the guests' memory; each back-end negotiates what it offers of the same features, and
vionet never fewer than another.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, Final

import click

from vionet.bench import dpdk
from vionet.bench.command import SECONDS, Common, bench_command, chosen
from vionet.bench.comparison import Case, Comparison
from vionet.bench.frame import FRAME_MIN, PLAIN_MAX
from vionet.bench.goals import GOALS
from vionet.bench.ovs import FLOWS, OpenVSwitch
from vionet.bench.peer import NAMES, OURS, Peer
from vionet.bench.result import Figure, Result, compared
from vionet.spec import virtio
from vionet.spec import virtio_net as net

UNIT: Final = "M frames/s"
GUEST_MB: Final = 32  # huge pages for the memory of our generator
QUICK_SECONDS: Final = 0.05
WAYS: Final = ("both", "one")
# (who, against whom, goal where frames go both ways)
COMPARED: Final = (
    ("vionet-wire", "testpmd", "forward-{size}-wire"),
    ("vionet-switch", "testpmd", "forward-{size}-switch"),
    ("vionet-switch", "ovs-normal", "ovs-{size}"),
    ("vionet-switch", "ovs-flows", ""),
)
VIRTIO_USER: Final = (*OURS, "testpmd")  # what DPDK's own driver is attached to
SUMS: Final = virtio.mask((net.VIRTIO_NET_F_CSUM, net.VIRTIO_NET_F_GUEST_CSUM))
Features = Mapping[tuple[str, bool], int]  # [kind, under DPDK's driver]


def figures_of(
    case: Case, rates: Mapping[str, Sequence[float]], details: Mapping[tuple[Case, str], Any]
) -> list[Figure]:
    """The rows of one case: those with a ratio first, then everybody's rate that has none."""

    def row(kind: str, against: str = "", goal: str = "") -> Figure:
        values = rates[kind]
        said = {"gbit_s": median(values) * case.size * 8 / 1e3, **details.get((case, kind), {})}
        judged = goal if goal in GOALS and case.way == "both" and not case.foreign else ""
        base, name = rates.get(against, ()), NAMES.get(against, "")
        return compared(case.name, NAMES[kind], UNIT, values, base, name, judged, said)

    found = [
        row(kind, base, goal.format(size=case.size))
        for kind, base, goal in COMPARED
        if kind in rates and base in rates
    ]
    shown = {figure.subject for figure in found}
    return found + [row(kind) for kind in rates if NAMES[kind] not in shown]


def feature_faults(features: Features) -> list[str]:
    """Where the comparison is not fair: vionet negotiated less than another, or lacks sums."""
    faults = []
    for (kind, foreign), word in features.items():
        if kind in OURS:
            others = [w for (k, f), w in features.items() if f == foreign and k not in OURS]
            lacking = SUMS & ~word
            for other in others:
                lacking |= other & ~word
            if lacking:
                faults.append(f"{NAMES[kind]}: not negotiated: {names_of(lacking)}")
    return faults


def feature_notes(features: Features) -> list[str]:
    """Who negotiated what, those together that negotiated the same."""
    together: dict[tuple[bool, int], list[str]] = {}
    for (kind, foreign), word in features.items():
        together.setdefault((foreign, word), []).append(NAMES[kind])
    return [
        f"negotiated{' under virtio-user' if foreign else ''} by {'; '.join(kinds)}: "
        + names_of(word)
        for (foreign, word), kinds in together.items()
    ]


def names_of(word: int) -> str:
    """Features as they are usually called."""
    return " ".join(name.rpartition("_F_")[2] for name in virtio.names(word))


@bench_command("peers")
@click.option("--sizes", default="64,1500", show_default=True, help="Frame sizes in bytes.")
@click.option("--ways", default=",".join(WAYS), show_default=True, help="Directions at a time.")
@click.option("--seconds", type=SECONDS, default=0.3, show_default=True, help="Of one measurement.")
@click.option("--kinds", default=",".join(NAMES), show_default=True, help="Who is measured.")
@click.option("--no-virtio-user", is_flag=True, help="Without DPDK's driver as another load.")
def command(
    common: Common, sizes: str, ways: str, seconds: float, kinds: str, no_virtio_user: bool
) -> Result:
    """The same load through vionet, DPDK's testpmd, and Open vSwitch with DPDK."""
    wanted = chosen("--kinds", kinds, tuple(NAMES))
    lengths = [int(size) for size in chosen("--sizes", sizes)]
    if not all(FRAME_MIN <= length <= PLAIN_MAX for length in lengths):
        message = f"{sizes!r}: numbers from {FRAME_MIN} to {PLAIN_MAX}"
        raise click.BadParameter(message, param_hint="--sizes")
    seconds = QUICK_SECONDS if common.quick else seconds
    with tempfile.TemporaryDirectory(prefix="vionet-bench-") as name, ExitStack() as stack:
        run = Comparison(common, lengths, chosen("--ways", ways, WAYS), seconds, Path(name))
        stack.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
        if not run.has_cores():
            return run.result
        measure(run, stack, wanted, [] if no_virtio_user else VIRTIO_USER)
        for case, rates in run.rates.items():
            run.result.figures += figures_of(case, rates, run.details)
        run.result.notes += feature_notes(run.features)
        run.result.faults += feature_faults(run.features)
        return run.result


def measure(
    run: Comparison, stack: ExitStack, kinds: Sequence[str], bounced: Sequence[str]
) -> None:
    """Start everybody, then all rounds of both loads."""
    core, result = run.common.core, run.result
    made = [
        run.open(stack, (OpenVSwitch if kind in FLOWS else Peer)(kind, run.folder, core))
        for kind in kinds
    ]
    peers = [peer for peer in made if peer is not None]
    try:
        stack.enter_context(dpdk.huge_pages(GUEST_MB))
    except dpdk.MissingError as error:
        result.left_out["huge pages for guests"] = str(error)
    run.generate(peers)
    run.bounce([peer for peer in peers if peer.kind in bounced])
