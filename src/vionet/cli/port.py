"""`vionet port`: change a port while it is in use, plug one in, unplug one."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from vionet.cli.group import Failure
from vionet.cli.which import fabric_of
from vionet.config import ConfigError, Kind
from vionet.config.fabric import parse_named
from vionet.daemon.control import ControlError, RequestError, ask_port
from vionet.vhost_user.listener import SocketError

# Everything behind NAME is an option of the port, also `-host_uso`.
_SETTINGS = {"help_option_names": ["-h", "--help"], "allow_interspersed_args": False}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def port() -> None:
    """Add, remove, or change a port while others are in use."""


def _where(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--fabric", metavar="NAME", help="Ask the fabric with this name."),
        click.option(
            "--control",
            type=click.Path(path_type=Path),
            help="Ask the fabric with this control socket.",
        ),
        click.option("--json", "as_json", is_flag=True, help="The port's part of status --json."),
    ):
        command = option(command)
    return command


@port.command("set", context_settings=_SETTINGS, short_help="Change options of a port.")
@_where
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
    ip=192.0.2.2|none, repeated for several

    What is delivered follows at once.  What a driver may send was agreed with
    it, and follows when it attaches again.  Without --control or --fabric the
    fabric that has a port NAME is found.
    """
    with _told(RequestError):
        path, more = fabric_of(control, fabric, name)
        state = ask_port(path, "set", name, options=list(options), **more)
    click.echo(json.dumps(state, indent=2) if as_json else _line(state))


@port.command(short_help="Plug in one more port.")
@_where
@click.argument("text", metavar="NAME=PORT")
def add(as_json: bool, control: Path | None, fabric: str | None, text: str) -> None:
    """Plug one more port into a switch that runs; PORT as `vionet switch --help` has it.

    Without --control or --fabric there must be one fabric only.
    """
    with _told(ConfigError):
        config = parse_named(text)
        path, more = fabric_of(control, fabric)
        if config.kind in (Kind.GUEST, Kind.STREAM):  # as seen from here
            before = len(f"{config.name}={config.kind}:")
            text = (
                text[:before] + f"{Path.cwd() / config.where}" + text[before + len(config.where) :]
            )
        state = ask_port(path, "add", text, **more)
    click.echo(json.dumps(state, indent=2) if as_json else _line(state))


@port.command(short_help="Unplug a port.")
@_where
@click.argument("name")
def remove(as_json: bool, control: Path | None, fabric: str | None, name: str) -> None:
    """Unplug the port NAME from a switch that runs; its session ends, its socket goes.

    With --json the port is shown as it was, for the last time.
    """
    with _told(RequestError):
        path, more = fabric_of(control, fabric, name)
        state = ask_port(path, "remove", name, **more)
    click.echo(json.dumps(state, indent=2) if as_json else f"{name}: removed")


@contextmanager
def _told(mistake: type[Exception]) -> Iterator[None]:
    """One line for what goes wrong: `mistake` is the person's own, anything else a failure."""
    try:
        yield
    except mistake as error:
        raise click.UsageError(str(error)) from None
    except (ControlError, RequestError, SocketError) as error:
        raise Failure(str(error)) from None


def _line(state: dict[str, Any]) -> str:
    shown = ", ".join(f"{key} {state[key] or 'none'}" for key in ("vlan", "trunk"))
    isolated = "on" if state["isolated"] else "off"
    return (
        f"{state['name']}: {state['state']}, policy {state['policy']}, offload {state['offload']},"
        f" link {state['link']}, {shown}, isolated {isolated}"
    )
