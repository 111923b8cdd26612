"""`vionet vm`: the machines of a site that runs, for who runs it and for their owners."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from vionet.cli.group import Failure
from vionet.cli.which import site_of, sites
from vionet.daemon.control import Answer, ControlError, RequestError, ask, connected
from vionet.daemon.status import VERSION

_SETTINGS: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 80}
_START_S: Final = 90.0  # QEMU is given 60
_STOP_S: Final = 620.0  # a wait is at most 600
_FOLLOW_S: Final = 0.5  # between looks at a log that has nothing new
_NOT_TO_TERMINAL: Final = dict.fromkeys(
    [*range(9), *range(11, 13), *range(14, 32), *range(127, 160)]
)


@click.group(context_settings=_SETTINGS)
def vm() -> None:
    """List, start, stop machines; attach to their consoles.

    Machines are described by the file of `vionet up`, or started without one.
    Who does not run vionet sees and commands the machines that name them as
    owner.
    """


def _where(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--site", metavar="NAME", help="Of the site with this name."),
        click.option(
            "--control",
            type=click.Path(path_type=Path),
            help="Of the site with this control socket.",
        ),
    ):
        command = option(command)
    return command


@contextmanager
def told() -> Iterator[None]:
    """A line for each thing that is wrong."""
    try:
        yield
    except RequestError as error:
        *others, last = error.problems
        for problem in others:
            click.echo(f"vionet: {problem}", err=True)
        raise Failure(last) from None
    except ControlError as error:
        raise Failure(str(error)) from None


def _verb(name: str, help_text: str) -> None:
    @vm.command(name, context_settings=_SETTINGS, help=help_text, short_help=help_text)
    @_where
    @click.argument("name", metavar="NAME")
    def verb(control: Path | None, site: str | None, **given: str) -> None:
        machine = given["name"]
        with told():
            answer = ask(site_of(control, site, machine), f"vm.{name}", name=machine)
        click.echo(f"{machine}: {answer['vm']['state']}")


_verb("pause", "Stop its processors.")
_verb("unpause", "Let them go on.")
_verb("reset", "Press its reset button.")


@vm.command("list", context_settings=_SETTINGS, short_help="Machines and their state.")
@_where
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.argument("name", required=False)
def listing(control: Path | None, site: str | None, as_json: bool, name: str | None) -> None:
    """The machines that you may see, or the one called NAME."""
    found = [
        {**answer, "vms": [one for one in answer["vms"] if name in (None, one["name"])]}
        for answer in sites(control, site).values()
    ]
    if name and not any(answer["vms"] for answer in found):
        raise Failure(f"{name}: no such machine; `vionet vm list` shows them")
    if as_json:
        shown = [{"site": answer["site"], "vms": answer["vms"]} for answer in found]
        click.echo(json.dumps({"version": VERSION, "sites": shown}, indent=2))
        return
    from vionet.cli.table import print_machines

    print_machines(found, time.time())


vm.add_command(listing, "status")


def _table(given: Mapping[str, Any]) -> dict[str, Any]:
    """The description of a machine from options."""
    table = {key: given[key] for key in ("append", "boot", "cpus", "memory") if given[key]}
    table |= {
        key: str(Path.cwd() / given[key]) for key in ("kernel", "initrd", "cdrom") if given[key]
    }
    if given["disk"]:
        table["disk"] = [_disk(text) for text in given["disk"]]
    interfaces = [{"switch": name} for name in given["switch"]]
    interfaces += [{"local": True}] * given["local"]
    interfaces += [{}] * max(0, given["interfaces"] - len(interfaces))
    return {**table, "interface": interfaces} if interfaces else table


def _disk(text: str) -> dict[str, Any]:
    """PATH, or key=value pairs with commas between them."""
    disk: dict[str, Any] = {}
    for piece in text.split(",") if "=" in text else [f"path={text}"]:
        key, _, value = piece.partition("=")
        disk[key] = True if key == "read_only" and value in ("", "true") else value
    if "path" in disk:
        disk["path"] = str(Path.cwd() / disk["path"])
    return disk


@vm.command(context_settings=_SETTINGS, short_help="Start one, of the file or not.")
@_where
@click.option("-b", "--kernel", metavar="FILE", help="Kernel that is booted without firmware.")
@click.option("--initrd", metavar="FILE", help="Its first root folder.")
@click.option("--append", metavar="TEXT", help="Its command line.")
@click.option(
    "-d", "--disk", metavar="DISK", multiple=True,
    help="PATH, or size=10G for one that is made; also path=P,format=raw,read_only. Repeatable.",
)  # fmt: skip
@click.option("-r", "--cdrom", metavar="FILE", help="An ISO image.")
@click.option("-B", "--boot", metavar="DEVICE", help="What is booted: disk, cdrom or network.")
@click.option("-m", "--memory", metavar="SIZE", help="As 512M or 2G.")
@click.option("--cpus", type=int, metavar="N", help="Processors.")
@click.option("-n", "--switch", metavar="NAME", multiple=True, help="An interface on this switch.")
@click.option("-L", "--local", count=True, help="A local interface. Repeatable.")
@click.option(
    "-i", "--interfaces", type=int, default=0, metavar="N",
    help="How many interfaces at least; the rest is plugged in nowhere.",
)  # fmt: skip
@click.option("-t", "--template", metavar="OTHER", help="An instance of that machine.")
@click.option("-c", "--console", is_flag=True, help="Attach to the console at once.")
@click.argument("name")
def start(
    control: Path | None, site: str | None, template: str | None, console: bool, name: str,
    **given: Any,
) -> None:  # fmt: skip
    """Start the machine NAME of the file, or one that is in no file.

    A machine that is described by options is gone when it has stopped; disks
    that were made for it stay.

    \b
    Example: a machine with an address of its own, from an installer
      vionet vm start try --cdrom debian.iso --disk size=10G --local --console
    """
    table = _table(given)
    described = {"machine": table} if table else {}
    with told():
        path = site_of(control, site, template or name)
        more = {**described, **({"template": template} if template else {})}
        answer = ask(path, "vm.start", wait_s=_START_S, name=name, **more)
        if console:
            _attach(path, name)
            return
    click.echo(f"{name}: {answer['vm']['state']}")
    for interface in answer["vm"]["interfaces"]:
        if interface["addresses"]:
            click.echo(f"{interface['name']}: {', '.join(interface['addresses'])}")


@vm.command(context_settings=_SETTINGS, short_help="Stop one, by its power button or by force.")
@_where
@click.option("--force", is_flag=True, help="Do not ask the guest.")
@click.option("--wait", is_flag=True, help="Come back when it has stopped.")
@click.option("--timeout", type=float, metavar="SECONDS", help="Until it is stopped by force.")
@click.argument("name")
def stop(
    control: Path | None,
    site: str | None,
    force: bool,
    wait: bool,
    timeout: float | None,
    name: str,
) -> None:
    """Ask the guest of NAME to power off; by force when it has not after its time."""
    more = {} if timeout is None else {"timeout": timeout}
    with told():
        path = site_of(control, site, name)
        answer = ask(path, "vm.stop", wait_s=_STOP_S, name=name, force=force, wait=wait, **more)
    click.echo(f"{name}: {answer['vm']['state']}")


@vm.command(context_settings=_SETTINGS, short_help="Attach to the serial line.")
@_where
@click.argument("name")
def console(control: Path | None, site: str | None, name: str) -> None:
    """The serial line of NAME in this terminal.

    Leave with Ctrl-] or, at the beginning of a line, with ~. as in cu and ssh.
    Several people may be attached at once.  Without a terminal, bytes go both
    ways as they are.
    """
    with told():
        _attach(site_of(control, site, name), name)


def _attach(path: Path, name: str) -> None:
    from vionet.cli.console import HOW_TO_LEAVE, converse

    terminal = sys.stdin.isatty()
    with connected(path, "vm.console", name=name) as (line, _, first):
        if terminal:
            click.echo(f"vionet: console of {name}; leave with {HOW_TO_LEAVE}", err=True)
        try:
            left = converse(line, first)
        except BrokenPipeError:
            return
    if terminal:
        click.echo(f"\nvionet: {'left the' if left else 'end of the'} console of {name}", err=True)


@vm.command(context_settings=_SETTINGS, short_help="What the serial line said.")
@_where
@click.option("-f", "--follow", is_flag=True, help="Go on with what it says from now on.")
@click.argument("name")
def log(control: Path | None, site: str | None, follow: bool, name: str) -> None:
    """The last 64 kB that the serial line of NAME said.

    A terminal is spared what would control it; a pipe gets every byte.
    """
    out = sys.stdout.buffer
    with told():
        path = site_of(control, site, name)
        answer: Answer = {}
        while True:
            since = {"from": answer["next"]} if answer else {}
            answer = ask(path, "vm.log", name=name, **since)
            text = answer["text"]
            if sys.stdout.isatty():
                text = text.translate(_NOT_TO_TERMINAL)
            out.write(text.encode("latin-1"))
            out.flush()
            if not follow:
                return
            if not answer["text"]:
                time.sleep(_FOLLOW_S)


@click.command(context_settings=_SETTINGS)
@_where
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def reload(control: Path | None, site: str | None, as_json: bool) -> None:
    """Have a running site read its file again and follow it.

    Machines and ports that are the same in both do not notice.
    """
    with told():
        changes = ask(site_of(control, site), "reload", wait_s=_STOP_S)["changes"]
    if as_json:
        click.echo(json.dumps({"version": VERSION, "changes": changes}, indent=2))
        return
    lines = [
        f"{what.replace('_', ' ')}: {', '.join(names)}" for what, names in changes.items() if names
    ]
    click.echo("\n".join(lines) or "nothing changed")
