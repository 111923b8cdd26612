"""`vionet bench start`: how long a switch takes to be ready, and how much memory it needs.

How it works: a warm start takes the engine from its image, from the first instruction of the
process to the line `ready`.  A cold one begins with an empty cache and has to say so on standard
error meanwhile; it stays at ordinary priority, whatever --realtime says, for it takes long.
Memory is what is resident with guests attached, without the mappings that are shared with them.
Processor time beside each is what a machine without other work would need.
"""

import resource
import tempfile
from pathlib import Path
from typing import Final

import click

from vionet.bench.command import Common, bench_command, progress
from vionet.bench.daemon import Daemon
from vionet.bench.result import Figure, Result

GUESTS: Final = 16
MIB: Final = 1 << 20
SAYS: Final = "compiling the engine"


@click.option("--guests", type=click.IntRange(1, 64), default=GUESTS, show_default=True)
@click.option(
    "--cold/--no-cold", default=True, help="Compile everything once, which takes a while."
)
def measure(common: Common, guests: int, cold: bool) -> Result:
    """How long a switch takes to be ready, warm and cold, and how much memory it needs."""
    result = Result("start")
    with Daemon(guests):  # which compiles, where nobody has
        pass
    warm = [start(guests, common.real_time)[:2] for _ in range(common.rounds)]
    result.figures += _figures("warm", f"{guests} ports", warm, "warm-start")
    _measure_memory(result, guests)
    if common.quick or not cold:
        result.left_out["cold compile"] = "a quick run" if common.quick else "--no-cold"
    else:
        _measure_cold(result)
    return result


def start(guests: int, real_time: bool, cache: Path | None = None) -> tuple[float, float, str]:
    """Seconds until a switch is ready, and of processor time in its whole life; what it said."""
    before = _children()
    with Daemon(guests, cache=cache, real_time=real_time) as daemon:
        seconds, said = daemon.seconds, daemon.process.output()
    return seconds, _children() - before, said


def _figures(kind: str, ports: str, found: list[tuple[float, float]], goal: str) -> list[Figure]:
    """How long it took, and how much of that was work."""
    elapsed, worked = zip(*found, strict=True)
    return [
        Figure(f"{kind} start", ports, "s", elapsed, goal=goal),
        Figure(f"{kind} start, processor", ports, "s", worked),
    ]


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _measure_memory(result: Result, guests: int) -> None:
    with Daemon(guests) as daemon:
        for number in range(guests):
            daemon.attach(number)
        result.faults += daemon.faults()
        memory = daemon.memory()
    if not memory.shared:
        result.faults.append("no guest's memory is mapped")
    result.figures.append(
        Figure(
            "resident memory",
            f"{guests} guests",
            "MiB",
            (memory.own / MIB,),
            goal="memory",
            detail={"shared with guests": memory.shared / MIB},
        )
    )


def _measure_cold(result: Result) -> None:
    progress("start: compiling everything")
    with tempfile.TemporaryDirectory(prefix="vionet-bench-") as cache:
        *found, said = start(2, False, Path(cache))
    if SAYS not in said:
        result.faults.append("a cold start did not say that it compiles")
    result.figures += _figures("cold", "2 ports", [(found[0], found[1])], "cold-compile")


command = bench_command("start")(measure)
