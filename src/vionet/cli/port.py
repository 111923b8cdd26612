"""`vionet port set`: change a port while it is in use."""

import json
from pathlib import Path
from typing import Any

import click

from vionet.cli.group import Failure
from vionet.daemon.control import ControlError, RequestError, ask_status, set_port
from vionet.daemon.place import SUFFIX, control_sockets, runtime_folder
from vionet.vhost_user.listener import SocketError

# Everything behind NAME is an option of the port, also `-host_uso`.
_SETTINGS = {"help_option_names": ["-h", "--help"], "allow_interspersed_args": False}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def port() -> None:
    """Change a port while it is in use."""


@port.command("set", context_settings=_SETTINGS, short_help="Change options of a port.")
@click.option("--json", "as_json", is_flag=True, help="The port afterwards, as in status --json.")
@click.option(
    "--control",
    type=click.Path(path_type=Path),
    help="Ask the fabric with this control socket.",
)
@click.option("--fabric", metavar="NAME", help="Ask the fabric with this name.")
@click.argument("name")
@click.argument("options", nargs=-1, required=True, metavar="OPTION[=VALUE]...")
def set_options(
    as_json: bool, control: Path | None, fabric: str | None, name: str, options: tuple[str, ...]
) -> None:
    """Change options of the port NAME; all of them, or none where one is wrong.

    \b
    policy=uniform|natural|complete
    offload=full|csum|off, single features by name: +guest_tso4 -host_uso
    link=up|down
    vlan=10|none  trunk=10+20+30-40|all|none
    isolated=on|off

    What is delivered follows at once.  What a driver may send was agreed with
    it, and follows when it attaches again.  Without --control or --fabric the
    fabric that has a port NAME is found.
    """
    try:
        path = control or (_named(fabric) if fabric else _found(name))
        state = set_port(path, name, options)
    except RequestError as error:
        raise click.UsageError(str(error)) from None
    except (ControlError, SocketError) as error:
        raise Failure(str(error)) from None
    click.echo(json.dumps(state, indent=2) if as_json else _line(state))


def _named(fabric: str) -> Path:
    return runtime_folder() / f"{fabric}{SUFFIX}"


def _found(name: str) -> Path:
    """The control socket of the only fabric that has a port of that name."""
    found: dict[str, Path] = {}
    for path in control_sockets():
        try:
            fabrics = ask_status(path)["fabrics"]
        except ControlError as error:
            if not error.stale:
                raise
            continue
        for fabric in fabrics:
            if any(one["name"] == name for one in fabric["ports"]):
                found[fabric["name"]] = path
    if not found:
        problem = f"no fabric in {runtime_folder()} has such a port"
        raise Failure(f"{name}: {problem}; `vionet status` shows what runs, or give --control")
    if len(found) > 1:
        raise Failure(f"{name}: a port of {' and '.join(found)}; say which by --fabric")
    return next(iter(found.values()))


def _line(state: dict[str, Any]) -> str:
    shown = ", ".join(f"{key} {state[key] or 'none'}" for key in ("vlan", "trunk"))
    isolated = "on" if state["isolated"] else "off"
    return (
        f"{state['name']}: {state['state']}, policy {state['policy']}, offload {state['offload']},"
        f" link {state['link']}, {shown}, isolated {isolated}"
    )
