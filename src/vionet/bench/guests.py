"""Real guests: TCP and UDP between two kernels through vionet, and through what they have today.

How it works: pairs of User Mode Linux guests, then pairs of QEMU guests, boot once each: on vionet
with offload=full, csum and off, on vde_switch, on QEMU's own `-netdev stream` and `dgram`.  Then
each pair in turn runs iperf3 for a few seconds, in the other direction every other round.  Guests
and switch share the machine's cores, so a figure says what all of them cost together; `detail` says
who had the processors, and how often vionet and the drivers had to wake each other.  `--realtime`
is nice -20 here: a guest that is not interrupted would not be a guest.

What is checked: the features that vionet and the guest's kernel say were negotiated are those of
the preset, large frames really went through whole, and no kernel counted a bad checksum.
"""

import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from vionet.bench.command import Common, bench_command, progress
from vionet.bench.guest.console import Console
from vionet.bench.guest.pair import Machines, Pair
from vionet.bench.guest.process import ProgramError
from vionet.bench.result import Figure, Result, compared
from vionet.spec import virtio

PRESETS: Final = ("full", "csum", "off")
NETDEVS: Final = ("stream", "dgram")
RIVALS: Final = {"UML": ("vde_switch",), "QEMU": NETDEVS}
SUMS: Final = {"VIRTIO_NET_F_CSUM", "VIRTIO_NET_F_GUEST_CSUM"}
SIZES: Final = {f"VIRTIO_NET_F_{end}_TSO{ip}" for end in ("HOST", "GUEST") for ip in (4, 6)}
NEGOTIATED: Final = {"full": SUMS | SIZES, "csum": SUMS, "off": set[str]()}
DATAGRAM_LEN: Final = 64  # bytes
# What iperf3 is told, and what is read from what it found.
TESTS: Final[dict[str, tuple[str, str]]] = {
    "TCP": ("", "Gbit/s"),
    f"UDP {DATAGRAM_LEN} B": (f"-u -b 0 -l {DATAGRAM_LEN}", "k datagrams/s"),
}
A_CORE: Final = ", a core"  # the same for each core that guests and switch had: no matter who else
TOLD: Final = ("kicks", "calls", "calls_suppressed", "wakeups")  # of the ledger, per 1000 frames
Boot = Callable[[ExitStack], Pair]


def processor_seconds(group: int) -> float:
    """What the processes of a group have had of the processors."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[2]) == group:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def run_once(pair: Pair, test: str, seconds: int, sender: Console, receiver: Console) -> None:
    """One run of iperf3; what it says is added to `pair`."""
    words, _ = TESTS[test]
    groups = {name: program.pid for name, program in pair.programs.items()}
    if sender is pair.guests[1]:
        groups["sender"], groups["receiver"] = groups["receiver"], groups["sender"]
    counted = test not in pair.detail and pair.control  # asking costs, so the first time only
    before = pair.ledger() if counted else {}
    serving = receiver.start("iperf3 -s -1 --forceflush")
    serving.await_output("listening")
    had = {name: processor_seconds(group) for name, group in groups.items()}
    command = f"iperf3 -c {receiver.address4} {words} -t {seconds} -i 0 -J"
    end = json.loads(sender.run(command, seconds + 60))["end"]
    cores = {
        name: round((processor_seconds(group) - had[name]) / seconds, 2)
        for name, group in groups.items()
    }
    serving.result(30)
    detail = pair.detail.setdefault(test, {})
    detail.setdefault("cores", []).append(cores)
    if test == "TCP":
        value = end["sum_received"]["bits_per_second"] / 1e9
    else:
        value = (end["sum"]["packets"] - end["sum"]["lost_packets"]) / end["sum"]["seconds"] / 1e3
        detail.setdefault("lost_percent", []).append(round(end["sum"]["lost_percent"], 1))
    pair.values.setdefault(test, []).append(value)
    pair.values.setdefault(test + A_CORE, []).append(value / max(sum(cores.values()), 0.01))
    if counted:
        after = pair.ledger()
        frames = max(after["tx_frames"] - before["tx_frames"], 1)
        per_frame = {key: (after[key] - before[key]) * 1000 / frames for key in TOLD}
        detail["per_1000_frames"] = {key: round(value) for key, value in per_frame.items()}


def judge_features(pair: Pair) -> Iterator[str]:
    """What vionet and the guests say was negotiated, where it is not what was offered."""
    preset = pair.subject.split()[1]
    for port, guest in zip(pair.ports(), pair.guests, strict=True):
        said = {
            "vionet": set(port["features"]),
            "the guest": {virtio.NAMES.get(bit, "") for bit in guest.features()},
        }
        for who, names in said.items():
            found = names & (SUMS | SIZES)
            pair.negotiated = sorted(found)
            if found != NEGOTIATED[preset]:
                shown = " ".join(pair.negotiated) or "no offload"
                yield f"{guest.name}: {who} says that {shown} was negotiated with offload={preset}"


def judge_end(pair: Pair) -> Iterator[str]:
    """What the kernels and vionet have counted and must not have."""
    for guest in pair.guests:
        for name, count in guest.bad_checksums().items():
            if count:
                yield f"{guest.name}: its kernel counted {count} {name}"
    if pair.control:
        ledger = pair.ledger()
        if ledger["csum_bad"]:
            yield f"{pair.family} {pair.subject}: {ledger['csum_bad']} bad checksums seen"
        if pair.subject == "vionet full" and not ledger["gso_passed"]:
            yield f"{pair.family} {pair.subject}: no large frame went through whole"


def chosen(machines: Machines, quick: bool, result: Result) -> dict[str, list[Boot]]:
    """How each family's pairs are booted; what cannot be is left out."""
    found: dict[str, list[Boot]] = {}
    for family, rivals in RIVALS.items():
        if lack := machines.lacking(family):
            result.left_out[f"{family} guests"] = lack
            continue
        presets = PRESETS[:1] if quick else PRESETS
        boots: list[Boot] = [partial(machines.on_vionet, family, preset) for preset in presets]
        if quick and family == "QEMU":
            result.left_out["QEMU's sockets"] = "--quick boots two QEMU guests"
        elif family == "QEMU":
            boots += [partial(machines.on_netdev, kind) for kind in rivals]
        elif lack := machines.lacking("vde_switch"):
            result.left_out["vde_switch"] = lack
        else:
            boots.append(machines.on_vde)
        found[family] = boots
    return found


def boot_all(boots: list[Boot], stack: ExitStack, nice: int, result: Result) -> list[Pair]:
    """All that boot, one pair after the other; `nice` is theirs from then on."""
    pairs = []
    for boot in boots:
        with warnings.catch_warnings(record=True) as deaths:
            warnings.simplefilter("always")
            try:
                pair = boot(stack)
            except ProgramError as error:
                result.faults.append(f"a guest did not boot: {error}")
                continue
        for death in deaths:
            progress(str(death.message))
            result.notes.append(str(death.message).splitlines()[0])
        progress(f"booted: {pair.family} on {pair.subject}")
        result.faults += judge_features(pair) if pair.control else ()
        pairs.append(pair)
        for program in pair.programs.values():
            os.setpriority(os.PRIO_PGRP, program.pid, nice)
    return pairs


def run_all(pairs: list[Pair], rounds: int, seconds: int, result: Result) -> None:
    """Every pair in turn, round after round."""
    for number in range(rounds):
        for pair in list(pairs):
            ends = pair.guests if number % 2 == 0 else pair.guests[::-1]
            try:
                for test in TESTS:
                    run_once(pair, test, seconds, *ends)
            except ProgramError as error:
                result.faults.append(f"{pair.family} on {pair.subject}: {error}")
                pairs.remove(pair)
        progress(f"round {number + 1} of {rounds}")
    for pair in pairs:
        result.faults += judge_end(pair)


def figures(pairs: list[Pair]) -> Iterator[Figure]:
    """Rows of one family: each against the first rival, full also against the others and off."""
    subjects = {pair.subject: pair for pair in pairs}
    rivals = [name for name in (*RIVALS[pairs[0].family], "vionet off") if name in subjects]
    for test in pairs[0].values:
        unit = TESTS[test.removesuffix(A_CORE)][1]
        for rival in rivals or [""]:
            for pair in pairs:
                first = rival == (rivals or [""])[0]
                if not first and pair.subject != "vionet full":
                    continue
                against = rival if rival != pair.subject else ""
                values = pair.values[test]
                base = subjects[against].values[test] if against else ()
                name = f"{pair.family} {test}"
                said = pair.detail.get(test, {}) | {"negotiated": pair.negotiated}
                yield compared(name, pair.subject, unit, values, base, against, detail=said)


@bench_command("guests", rounds=5)
@click.option("--seconds", type=click.IntRange(1, 60), default=2, show_default=True)
@click.option(
    "--kernel",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Of the QEMU guests; its modules are found by its version.",
)
def command(common: Common, seconds: int, kernel: Path | None) -> Result:
    """TCP and UDP between real kernels, against QEMU's own netdevs and vde_switch."""
    result = Result("guests")
    with tempfile.TemporaryDirectory(prefix="vn-") as text:
        machines = Machines(Path(text), kernel)
        for boots in chosen(machines, common.quick, result).values():
            with ExitStack() as stack:
                pairs = boot_all(boots, stack, -20 if common.real_time else 0, result)
                run_all(pairs, common.rounds, 1 if common.quick else seconds, result)
                result.figures += figures(pairs) if pairs else ()
                result.notes += [told(pair) for pair in pairs]
    cores = len(os.sched_getaffinity(0))
    result.notes.append(f"guests and switches share {cores} cores; QEMU runs without KVM")
    return result


def told(pair: Pair) -> str:
    """Who had the processors under TCP, and how often sides woke each other."""
    detail: dict[str, Any] = pair.detail["TCP"]
    cores = ", ".join(f"{who} {share}" for who, share in detail["cores"][0].items())
    rate = detail.get("per_1000_frames", {})
    woken = ", ".join(f"{key} {count}" for key, count in rate.items())
    said = f"{pair.family} on {pair.subject}, TCP: cores {cores}"
    return said + (f"; per 1000 frames {woken}" if woken else "")
