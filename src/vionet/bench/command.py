"""What all benches have in common on the command line.

How it works: `bench_command` makes a click command of a function that takes `Common` and its own
options and returns a `Result`: progress goes to standard error, then comes a table, or JSON.
Exit status 1 says that something was wrong, never that something was slow.
"""

import functools
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from vionet.bench.result import Result


@dataclass(frozen=True)
class Common:
    """The options of every bench."""

    quick: bool  # one short round each, which shows that everything works and nothing about speed
    rounds: int
    core: int  # of what is measured
    load_core: int
    real_time: bool  # before all other processes; needs root


def chosen(option: str, text: str, among: Sequence[str] = ()) -> list[str]:
    """The words of a list with commas: some `among` these, or numbers."""
    words = text.split(",")
    for word in words:
        if (word not in among) if among else not word.isdecimal():
            allowed = f"not one of {', '.join(among)}" if among else "not a number"
            raise click.BadParameter(f"{word!r} is {allowed}", param_hint=option)
    return words


# How long one measurement takes.
SECONDS: Final = click.FloatRange(0, 60, min_open=True)


def progress(text: str) -> None:
    """One line beside the result."""
    print(text, file=sys.stderr, flush=True)


def _core(ctx: click.Context, parameter: click.Parameter, core: int) -> int:
    """A core that somebody named is there; whether the usual ones are, each bench says itself."""
    here = os.sched_getaffinity(0)
    named = ctx.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
    if named and core not in here:
        raise click.BadParameter(f"no core {core} here; there are {', '.join(map(str, here))}")
    return core


def _real_time(_: click.Context, __: click.Parameter, wanted: bool) -> bool:
    """Whether this process may come before others is known by trying."""
    if wanted:
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        except PermissionError:
            raise click.BadParameter("not allowed here; run it as root, or leave it out") from None
    return wanted


def common_options(rounds: int | None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """How it is measured; `all` has no number of rounds of its own, but hands one on."""
    options = (
        click.option("--quick", is_flag=True, help="One short round: does it work at all?"),
        click.option(
            "--rounds",
            type=click.IntRange(1, 100),
            default=rounds,
            show_default=rounds is not None,
            help="Medians are of so many.",
        ),
        click.option(
            "--core", type=int, default=0, callback=_core, help="Of what is measured (0)."
        ),
        click.option("--load-core", type=int, default=1, callback=_core, help="Of the load (1)."),
        click.option(
            "--realtime",
            is_flag=True,
            callback=_real_time,
            help="Before all other processes (needs root).",
        ),
        click.option("--json", "as_json", is_flag=True, help="Write one JSON document."),
    )
    return lambda function: functools.reduce(lambda f, add: add(f), reversed(options), function)


def bench_command(
    name: str, *, rounds: int = 5
) -> Callable[[Callable[..., Result]], click.Command]:
    """A decorator: the function becomes the command `vionet bench NAME`."""

    def decorate(measure: Callable[..., Result]) -> click.Command:
        @common_options(rounds)
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
            draw = drawing() if plot else None  # rather now than after minutes
            if plot and not plot.parent.is_dir():
                raise click.BadParameter(f"no folder {plot.parent} is there", param_hint="--plot")
            common = Common(quick, 1 if quick else rounds, core, load_core, realtime)
            result = measure(common, **own)
            result.quick = quick
            if draw and plot:
                draw(result, plot)
            if as_json:
                click.echo(json.dumps(result.document(), indent=1, default=str))
            else:
                from vionet.bench.table import write_table

                write_table(result, sys.stdout)
            if result.faults:
                raise click.ClickException(f"bench {name}: {result.faults[0]}")

        return click.command(name, context_settings={"help_option_names": ["-h", "--help"]})(run)

    return decorate


def drawing() -> Callable[[Result, Path], None]:
    """`plot.draw`, or how to come by it."""
    try:
        from vionet.bench.plot import draw
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"bench --plot needs {error.name}: pip install 'vionet[bench]'"
        ) from None
    return draw
