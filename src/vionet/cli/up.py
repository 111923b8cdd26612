"""`vionet up`: everything that a file describes, in the foreground."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from vionet.cli.fabric import configure_log, log_options, metrics_option, say_ready
from vionet.cli.group import Failure
from vionet.daemon.endpoint import Address
from vionet.site.model import Site, SiteError


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--check", is_flag=True, help="Only judge the file.")
@click.option(
    "--control",
    type=click.Path(path_type=Path),
    help="Path of the control socket.  [default: NAME.control in $XDG_RUNTIME_DIR/vionet, for"
    " root without it in /run/vionet]",
)
@metrics_option
@log_options
def up(
    file: Path, check: bool, control: Path | None, metrics: Address | None, **logging: Any
) -> None:
    """Run what FILE describes: switches, machines, local interfaces.

    FILE is a vionet.toml (docs/vionet.toml.md) or a vm.conf (docs/vm.conf.md).
    Prints `ready` on standard output when all is set up.  SIGINT or SIGTERM
    stops the machines and ends; SIGHUP, or `vionet reload`, reads FILE again;
    SIGUSR2 ends and leaves the machines to a successor, which has 20 seconds.

    \b
    Example: one machine with an address of its own
      [vm.web]
      disk = "debian.qcow2"
      seed = true
      [[vm.web.interface]]
      local = true
    """
    site = _read(file)
    if check:
        _check(file, site)
        return
    from vionet.cli.progress import engine_loaded
    from vionet.daemon.foreground import RunError
    from vionet.daemon.up import run_site

    configure_log(**logging)
    try:
        run_site(
            file, site, control=control, metrics=metrics, loading=engine_loaded, ready=say_ready
        )
    except SiteError as error:
        _refuse(error.problems)
    except RunError as error:
        _refuse(str(error).splitlines())


def _read(file: Path) -> Site:
    from vionet.site.source import read_site

    try:
        site = read_site(file)
    except SiteError as error:
        _refuse(error.problems)
    except OSError as error:
        raise Failure(f"{file}: {error.strerror}; give a file that can be read") from None
    for warning in site.warnings:
        click.echo(f"vionet: warning: {warning}", err=True)
    return site


def _refuse(problems: Sequence[str]) -> NoReturn:
    *others, last = problems
    for problem in others:
        click.echo(f"vionet: {problem}", err=True)
    raise Failure(last)


def _check(file: Path, site: Site) -> None:
    from vionet.daemon.up import folders, lay_out_here
    from vionet.vhost_user.listener import SocketError

    try:
        layout = lay_out_here(folders(site.name), keep=False)(site, None)
    except SiteError as error:
        _refuse(error.problems)
    except SocketError as error:
        raise Failure(str(error)) from None
    counts = {"machines": len(layout.machines), "switches": len(site.switches)}
    click.echo(f"{file}: " + ", ".join(f"{what} {count}" for what, count in counts.items()))
