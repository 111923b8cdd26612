"""`vionet check`: the tester's command line."""

import json
import shlex
import sys
from pathlib import Path

import click

from vionet.check import report
from vionet.check.profile.guest import GUESTS
from vionet.check.profile.scenario import scenarios
from vionet.check.runner import Outcome, run
from vionet.check.scope import checks, coverage
from vionet.spec import virtio
from vionet.spec.rules import rules
from vionet.vhost_user.frontend import Closed
from vionet.vhost_user.message import ProtocolError


def _chosen(only: tuple[str, ...]) -> list[str]:
    """The rule ids of all `--only`, each with a check."""
    ids = [part.strip().upper() for words in only for part in words.split(",") if part.strip()]
    for rule_id in ids:
        if rule_id not in rules():
            raise click.UsageError(f"no rule {rule_id}; `vionet check --list` names them all")
        if rule_id not in checks():
            raise click.UsageError(f"rule {rule_id} has no check; `vionet check --list` says why")
    return ids


def _list(as_json: bool) -> None:
    """What becomes of every rule."""
    if as_json:
        click.echo(json.dumps(report.listing(coverage()), indent=1, ensure_ascii=False))
    else:
        report.write_listing(coverage(), sys.stdout)


def _report(
    sockets: tuple[str, ...], outcomes: list[Outcome], as_json: bool, junit: Path | None
) -> None:
    """What came of the run, in every form that was asked for."""
    if junit is not None:
        junit.write_bytes(report.junit(outcomes))
    if as_json:
        document = report.document(sockets, outcomes)
        click.echo(json.dumps(document, indent=1, ensure_ascii=False))
    else:
        report.write_text(outcomes, sys.stdout)


@click.command("check")
@click.argument("sockets", nargs=-1, metavar="SOCKET [SOCKET]")
@click.option("--list", "list_only", is_flag=True, help="Name every rule and what becomes of it.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")
@click.option(
    "--junit",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write JUnit XML to FILE as well.",
)
@click.option(
    "--as",
    "guest",
    type=click.Choice(list(GUESTS)),
    metavar="GUEST",
    help="Play this guest, and say what it would have concluded; --list names them.",
)
@click.option(
    "--packed", is_flag=True, help="Use packed rings where a check is not about split ones."
)
@click.option(
    "--link",
    metavar="COMMAND",
    help="Takes the link of the first port up or down, which stands where COMMAND has {}.",
)
@click.option("--only", multiple=True, metavar="ID,…", help="Check these rules only.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1),
    default=20.0,
    show_default=True,
    metavar="SECONDS",
    help="Give up on a check after so long.",
)
def command(
    sockets: tuple[str, ...],
    list_only: bool,
    as_json: bool,
    junit: Path | None,
    guest: str | None,
    packed: bool,
    link: str | None,
    only: tuple[str, ...],
    timeout: float,
) -> None:
    """Test a vhost-user network back-end against the rules.

    SOCKET is where the back-end listens; two SOCKETs are two ports of one switch or wire, and most
    checks need both. The tester is a front-end and a driver of its own, obedient or hostile: do
    not run it on a back-end that somebody needs.

    Exits with 1 if a MUST, a must or a RULE is broken. What a driver must not do is tried too, and
    reported apart.
    """
    if list_only:
        _list(as_json)
        return
    if not 1 <= len(sockets) <= 2:
        raise click.UsageError("one or two sockets, please (or --list)")
    if guest and only:
        raise click.UsageError("--as has checks of its own; leave --only out")
    ids = _chosen(only)
    is_terminal = sys.stderr.isatty() and not as_json

    def progress(outcome: Outcome) -> None:
        if is_terminal:
            click.echo(f"\r{outcome.rule.id:8}", nl=False, err=True)

    try:
        outcomes = run(
            sockets,
            ids,
            timeout=timeout,
            progress=progress,
            chosen=scenarios(guest) if guest else (),
            extra=packed << virtio.VIRTIO_F_RING_PACKED,
            link_command=shlex.split(link or ""),
        )
    except (OSError, Closed, ProtocolError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "connection closed"
        raise click.ClickException(
            f"{sockets[0]}: {reason}; is a vhost-user back-end running and listening there?"
        ) from error
    if is_terminal:
        click.echo("\r        \r", nl=False, err=True)
    _report(sockets, outcomes, as_json, junit)
    if any(outcome.decides for outcome in outcomes):
        sys.exit(1)
