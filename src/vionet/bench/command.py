"""What all benches have in common on the command line.

How it works: `bench_command` makes a click command of a function that takes `Common` and its own
options and returns a `Result`: progress goes to standard error, then comes a table, or JSON.
Exit status 1 says that something was wrong, never that something was slow.
"""

import functools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from vionet.bench.result import Result


@dataclass(frozen=True)
class Common:
    """The options of every bench."""

    quick: bool  # one short round each, which shows that everything works and nothing about speed
    rounds: int
    core: int  # of what is measured
    load_core: int
    real_time: bool  # before all other processes; needs root


def progress(text: str) -> None:
    """One line beside the result."""
    print(text, file=sys.stderr, flush=True)


def bench_command(
    name: str, *, rounds: int = 5
) -> Callable[[Callable[..., Result]], click.Command]:
    """A decorator: the function becomes the command `vionet bench NAME`."""

    def decorate(measure: Callable[..., Result]) -> click.Command:
        @click.option("--quick", is_flag=True, help="One short round: does it work at all?")
        @click.option("--rounds", type=click.IntRange(1, 100), default=rounds, show_default=True)
        @click.option("--core", type=click.IntRange(0), default=0, help="Of what is measured.")
        @click.option("--load-core", type=click.IntRange(0), default=1, help="Of the load.")
        @click.option("--realtime", is_flag=True, help="Before all other processes (needs root).")
        @click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")
        @click.option(
            "--plot",
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE",
            help="Also draw the figures (SVG).",
        )
        @functools.wraps(measure)
        def run(
            quick: bool,
            rounds: int,
            core: int,
            load_core: int,
            realtime: bool,
            as_json: bool,
            plot: Path | None,
            **own: Any,
        ) -> None:
            common = Common(quick, 1 if quick else rounds, core, load_core, realtime)
            result = measure(common, **own)
            if plot is not None:
                from vionet.bench.plot import draw

                draw([result], plot)
            if as_json:
                click.echo(json.dumps(result.document(), indent=1, default=str))
            else:
                from vionet.bench.table import write_table

                write_table(result, sys.stdout)
            if result.faults:
                raise click.ClickException(f"bench {name}: {result.faults[0]}")

        return click.command(name)(run)

    return decorate
