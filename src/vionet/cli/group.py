"""The group of all commands: loaded late, and errors of one line.

Exit status: 0 for success, 1 for failure (a `Failure`, one line), 2 for wrong usage.
"""

import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, NamedTuple

import click
from click.exceptions import NoArgsIsHelpError

from vionet import __version__
from vionet.config.option import suggest


class Failure(click.ClickException):
    """Something that a person can do something about: what, where, how to mend it."""

    exit_code = 1


class Entry(NamedTuple):
    """Where a command is, and what it does in a few words."""

    module: str
    attribute: str
    summary: str


_COMMANDS: Final = {
    "demo": Entry("vionet.cli.demo", "demo", "A tour in under a minute, without root or QEMU."),
    "switch": Entry("vionet.cli.fabric", "switch", "Join many ports, in the foreground."),
    "wire": Entry("vionet.cli.fabric", "wire", "Join two ports and nothing else."),
    "up": Entry("vionet.cli.up", "up", "Run machines and switches that a file describes."),
    "status": Entry(
        "vionet.cli.status", "status", "Who is attached, what was negotiated, the ledger."
    ),
    "capture": Entry("vionet.cli.capture", "capture", "See frames, and what happened to each."),
    "web": Entry("vionet.cli.web", "web", "Show in a browser what running fabrics do, live."),
    "top": Entry("vionet.cli.top", "top", "What every port does in a second, live."),
    "explain": Entry(
        "vionet.cli.explain", "explain", "What happens to frames and why; what a counter means."
    ),
    "port": Entry("vionet.cli.port", "port", "Change a port while it is in use."),
    "vm": Entry("vionet.cli.vm", "vm", "Start and stop machines, attach to their consoles."),
    "reload": Entry("vionet.cli.vm", "reload", "Have a site follow its changed file."),
    "check": Entry(
        "vionet.check.command", "command", "Test a vhost-user network back-end, rule by rule."
    ),
    "bench": Entry("vionet.cli.bench", "bench", "Measure, against what else there is."),
}


class Commands(click.Group):
    """Imports a command when it is called; its summary is known without it."""

    entries: ClassVar[Mapping[str, Entry]] = _COMMANDS

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which a newcomer meets them."""
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command itself."""
        entry = self.entries.get(cmd_name)
        if entry is None:
            return None
        command = getattr(importlib.import_module(entry.module), entry.attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with a near name where there is no such command."""
        if args[0] not in self.entries and not args[0].startswith("-"):
            ctx.fail(f"{args[0]}: no such command; {suggest(args[0], self.entries)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `--help`, from the summaries here."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in self.entries.items()])

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run, and print any error as one line: `vionet switch: what, where, how to mend it`."""
        try:
            result = super().main(args, prog_name or "vionet", complete_var, False, **extra)
        except NoArgsIsHelpError as error:
            click.echo(error.ctx.get_help(), err=True)
            result = error.exit_code
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else "vionet"
            message = error.format_message().rstrip(".")
            click.echo(f"{path}: {message} (see {path} --help)", err=True)
            result = error.exit_code
        except click.ClickException as error:
            click.echo(f"vionet: {error.format_message()}", err=True)
            result = error.exit_code
        except click.Abort:
            click.echo("vionet: interrupted", err=True)
            result = 130
        if not standalone_mode:
            return result
        sys.exit(result if isinstance(result, int) else 0)


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="vionet %(version)s")
def main() -> None:
    """A network card and a switch for the guests of this machine.

    vionet is the back-end of virtio-net cards over vhost-user, for QEMU, User Mode Linux, DPDK and
    others.  Guests that agreed to it exchange frames whose checksums nobody computes; every end
    that did not agree gets finished ones.

    Start with: vionet demo
    """
