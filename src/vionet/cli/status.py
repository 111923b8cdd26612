"""`vionet status`: ask running fabrics what they do."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from vionet.cli.group import Failure
from vionet.daemon.control import ControlError, ask_status
from vionet.daemon.place import control_sockets, runtime_folder
from vionet.daemon.status import VERSION
from vionet.vhost_user.listener import SocketError


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--json", "as_json", is_flag=True, help="The stable document, for programs.")
@click.option(
    "--control",
    type=click.Path(path_type=Path),
    help="Ask the fabric with this control socket; without it, all that can be found.",
)
def status(as_json: bool, control: Path | None) -> None:
    """Who is attached, what was negotiated, and the ledger.

    Without --control every fabric with a control socket in $XDG_RUNTIME_DIR/vionet (for root
    without it: /run/vionet) is asked.
    """
    try:
        paths = [control] if control else control_sockets()
        where = str(control or runtime_folder())
    except SocketError as error:
        raise Failure(str(error)) from None
    fabrics: list[Any] = []
    failed = False
    for path in paths:
        try:
            fabrics += ask_status(path)["fabrics"]
        except ControlError as error:
            # A socket that a killed process left behind is no failure of those that run.
            if control:
                raise Failure(str(error)) from None
            failed = failed or not error.stale
            click.echo(f"vionet: {error}", err=True)
    document = {"version": VERSION, "fabrics": fabrics}
    if as_json:
        click.echo(json.dumps(document, indent=2))
    elif fabrics:
        from vionet.cli.table import print_status

        print_status(document)
    else:
        click.echo(f"nothing runs: no control socket answers in {where}")
    if failed:
        sys.exit(1)
