"""`vionet bench scale`: what more ports, more addresses and a second worker change.

How it works: for ports and addresses there is a switch for each case, all started first; an idle
one sleeps.  Two of its ports carry 64-byte frames both ways (`generator`), in turns within each
round, so that whatever else the machine does falls on all alike:

* ports: 2, 8, 32, 64 of them, the others with guests attached that never send;
* addresses: each of the two ports has up to half of them and goes through them frame by frame, so
  that every frame is from another to another; what a port may not hold (`FDB_PORT_MAX`) is
  learnt from two more ports, which then are silent.  Beside it stands what a full table alone
  costs, where but one address of each port is used.

Workers are measured without sockets, on as many cores as workers (`simulated`).
"""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

import click

from vionet.bench.command import SECONDS, Common, bench_command, progress
from vionet.bench.daemon import Daemon
from vionet.bench.generator import Generator
from vionet.bench.result import Result, compared
from vionet.bench.rivals import Rivals
from vionet.bench.round import Setting
from vionet.bench.simulated import Crew
from vionet.engine.layout import FDB_PORT_MAX

UNIT: Final = "M frames/s"
PORTS: Final = (2, 8, 32, 64)
ADDRESSES: Final = (2, 20, 200, 2000, 10_000)
RING: Final = 4096  # as many chains as one port may have addresses
WORKERS: Final = (1, 2)
QUICK_SECONDS: Final = 0.02
SIZE: Final = 64


@dataclass
class Row:
    """One case: its load, and what every round of it gave."""

    name: str
    group: str  # rows of which each is held against the first
    load: Generator
    addresses: int = 1  # of each port
    goal: str = ""
    rates: list[float] = field(default_factory=list)


@dataclass
class Scale(Rivals):
    """All cases, measured in turns."""

    common: Common
    seconds: float
    stack: ExitStack
    result: Result = field(default_factory=lambda: Result("scale"))
    rows: list[Row] = field(default_factory=list)
    daemons: list[tuple[str, Daemon]] = field(default_factory=list)

    def switch(self, name: str, guests: int) -> Daemon:
        """A running switch on the core of what is measured."""
        progress(f"starting a switch: {name}")
        daemon = self.stack.enter_context(Daemon(guests, real_time=self.common.real_time))
        self.daemons.append((name, daemon))
        for thread in daemon.threads():
            os.sched_setaffinity(thread, {self.common.core})
        return daemon

    def load(self, daemon: Daemon, first: int = 0, ring: int = 1024) -> Generator:
        """A generator at two ports of it."""
        setting = Setting(ring_size=ring)
        return self.stack.enter_context(
            Generator([str(path) for path in daemon.paths[first : first + 2]], setting)
        )

    # --- what is set up -----------------------------------------------------------------------
    def add_ports(self, counts: Sequence[int]) -> None:
        """Two ports that send, and silent ones."""
        for count in counts:
            name = f"{count} ports"
            daemon = self.switch(name, count)
            for number in range(2, count):
                daemon.attach(number)
            goal = "silent-ports" if count == max(PORTS) else ""
            self.rows.append(Row(name, "ports", self.load(daemon), goal=goal))

    def add_addresses(self, counts: Sequence[int]) -> None:
        """Two ports that go through so many addresses, and two that only teach some."""
        for count in counts:
            name = f"{count} addresses"
            daemon = self.switch(name, 4)
            each = min(count // 2, FDB_PORT_MAX)
            more = self.load(daemon, 2)
            if rest := count // 2 - each:
                more.write_frames(SIZE, addresses=rest, first=FDB_PORT_MAX)
                more.introduce()
            load = self.load(daemon, ring=RING)
            self.rows.append(Row(name, "addresses", load, each))
        known = f"{count:,} in the table, 2 used"
        self.rows.append(Row(known, "addresses", load, goal="addresses"))

    # --- rounds -------------------------------------------------------------------------------
    def measure(self) -> None:
        """All rounds of every case."""
        for _ in self.rounds():
            for row in self.rows:
                row.load.write_frames(SIZE, addresses=row.addresses)
                row.load.introduce()
                with self.urgent():
                    done = row.load.saturate(self.seconds, both=True)
                row.rates.append(done.rate / 1e6)
                self.check(row.name, done)

    def measure_workers(self) -> None:
        """One worker and two, in turns."""
        cores = [self.common.core, self.common.load_core]
        crews = [Crew(workers, SIZE) for workers in WORKERS]
        rates: list[list[float]] = [[] for _ in crews]
        try:
            for _ in range(self.common.rounds):
                for crew, found in zip(crews, rates, strict=True):
                    with self.urgent():
                        rounds = crew.run(self.seconds, cores)
                    found.append(sum(done.rate for done in rounds) / 1e6)
                    for done in rounds:
                        self.check(f"{len(crew.pairs)} workers", done)
        finally:
            for crew in crews:
                crew.close()
        base, both = rates
        self.result.figures += [
            compared("1 worker", "simulated", UNIT, base),
            compared("2 workers", "simulated", UNIT, both, base, "the first", "workers"),
        ]

    # --- what came of it ----------------------------------------------------------------------
    def conclude(self) -> None:
        """Figures of ports and addresses, and what the switches say of themselves."""
        firsts: dict[str, Row] = {}
        for row in self.rows:
            first = firsts.setdefault(row.group, row)
            base = [] if row is first else first.rates
            said = {"addresses_of_a_port": row.addresses}
            self.result.figures.append(
                compared(row.name, "switch", UNIT, row.rates, base, "the first", row.goal, said)
            )
        for name, daemon in self.daemons:
            ports = daemon.ports().values()
            states = [port["state"] for port in ports]
            if states.count("attached") != len(states):
                self.result.faults.append(f"{name}: {states.count('attached')} are attached")
            full = sum(port["drops"].get("fdb_full", 0) for port in ports)
            if full:
                self.result.notes.append(f"{name}: {full} frames whose source found no place")


@bench_command("scale")
@click.option(
    "--only",
    type=click.Choice(["ports", "addresses", "workers"]),
    multiple=True,
    help="Not everything.",
)
@click.option("--seconds", type=SECONDS, default=0.2, show_default=True, help="Of one measurement.")
def command(common: Common, only: tuple[str, ...], seconds: float) -> Result:
    """2 to 64 ports, 2 to 10,000 addresses, 1 and 2 workers."""
    seconds = QUICK_SECONDS if common.quick else seconds
    with ExitStack() as stack:
        run = Scale(common, seconds, stack)
        if not run.has_cores():
            return run.result
        chosen = only or ("ports", "addresses", "workers")
        if "ports" in chosen:
            run.add_ports((PORTS[0], PORTS[-1]) if common.quick else PORTS)
        if "addresses" in chosen:
            run.add_addresses((ADDRESSES[0], ADDRESSES[-1]) if common.quick else ADDRESSES)
        run.measure()
        run.conclude()
        if "workers" in chosen:
            run.measure_workers()
        return run.result
