"""`vionet bench`: the group of all measurements.

Each is a module of `vionet.bench`, imported when it is called; most contain kernels, and the
first use of a version compiles them.  Who only asks for help compiles nothing: the module is then
imported in the interpreted lane, and nothing of it is run.
"""

import os
from collections.abc import Mapping
from typing import ClassVar

import click

from vionet.bench.catalogue import BENCHES
from vionet.cli.group import Commands, Entry
from vionet.cli.progress import compilation_shown


class Benches(Commands):
    """Those of the catalogue, and all of them in turn."""

    entries: ClassVar[Mapping[str, Entry]] = {
        name: Entry(f"vionet.bench.{name}", "command", words) for name, words in BENCHES.items()
    } | {"all": Entry("vionet.bench.suite", "command", "Everything above; writes a report.")}

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As ever; of words that ask for help, nothing else is left."""
        asked = set(ctx.help_option_names) & set(args[1:])
        if not asked or args[0] not in BENCHES:
            return super().resolve_command(ctx, args)
        before = dict(os.environ)
        os.environ["VIONET_LANE"] = "interpreted"
        try:
            name, command, _ = super().resolve_command(ctx, args)
        finally:
            os.environ.clear()
            os.environ.update(before)
        return name, command, [asked.pop()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command itself, however long its kernels take."""
        if cmd_name not in BENCHES:
            return super().get_command(ctx, cmd_name)
        with compilation_shown():
            return super().get_command(ctx, cmd_name)


@click.command(cls=Benches, context_settings={"help_option_names": ["-h", "--help"]})
def bench() -> None:
    """Measure vionet against what else there is, in one run, as ratios.

    One core does what is measured, another is the load. Every bench takes --quick (does it work
    at all?), --json and --plot FILE. What could not be measured is named; exit status 1 says that
    a result is wrong, never that it is slow.
    """
