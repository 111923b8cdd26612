"""`vionet explain`: what happens to frames, and what a counter means."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from vionet.cli.group import Failure
from vionet.cli.which import running
from vionet.config.option import suggest
from vionet.daemon.control import ControlError, RequestError, ask_status
from vionet.spec.counter import counters
from vionet.vhost_user.listener import SocketError

WAIT_S: Final = 10.0
_HOW: Final = """\b
Examples:
  vionet explain web db
  vionet explain web --next --filter 'tcp port 80'
  vionet explain web db --pcap file.pcapng --frame 7
  vionet explain rx_ring_full
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_HOW)
@click.argument("words", nargs=-1, metavar="[NAME [NAME]|COUNTER]")
@click.option("--next", "next_", is_flag=True, help="The next frame of the port NAME.")
@click.option(
    "--filter", "expression", metavar="EXPR", default="", help="With --next: as of tcpdump."
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, 86400),
    metavar="S",
    help=f"With --next: how many seconds to wait for it, {WAIT_S:g} unless said.",
)
@click.option(
    "--pcap",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A frame of this file, as if the first NAME sent it to the second.",
)
@click.option(
    "--frame",
    "number",
    type=click.IntRange(1),
    metavar="N",
    help="With --pcap: which one, 1 unless said.",
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option(
    "--control", type=click.Path(path_type=Path), help="Ask the fabric with this control socket."
)
@click.option("--fabric", metavar="NAME", help="Ask this fabric.")
def explain(
    words: tuple[str, ...],
    next_: bool,
    expression: str,
    timeout: float | None,
    pcap: Path | None,
    number: int | None,
    as_json: bool,
    control: Path | None,
    fabric: str | None,
) -> None:
    """What happens to frames between two ports, to one frame, or why a counter grows.

    Two NAMES: what each port was offered and took, and what becomes of TCP and UDP between them,
    rule by rule.  One NAME: the counters of that port; with --next the whole way of one frame.  A
    COUNTER of the ledger or a drop reason: what it means, likely causes, how to mend it.
    """
    if next_ and (len(words) != 1 or pcap):
        raise click.UsageError("--next is for one port: vionet explain NAME --next")
    if pcap and len(words) == 1:
        raise click.UsageError("--pcap needs a sender and a receiver: NAME NAME --pcap FILE")
    if not pcap and not 1 <= len(words) <= 2:
        raise click.UsageError("name two ports, one port, or a counter")
    if len(set(words)) < len(words):
        raise click.UsageError(f"{words[0]} twice: name two ports")
    if not next_ and (expression or timeout is not None):
        raise click.UsageError("--filter and --timeout go with --next")
    if not pcap and number is not None:
        raise click.UsageError("--frame goes with --pcap")
    if timeout is None:
        timeout = WAIT_S
    elif math.isnan(timeout):
        raise click.UsageError("--timeout nan: give seconds, from 0 to 86400")
    with _told():
        if next_:
            _explain_next(*_found(control, fabric, *words), words[0], expression, timeout, as_json)
        elif pcap:
            _explain_file(control, fabric, words, pcap, number or 1, as_json)
        elif len(words) == 2:
            _explain_pair(*_found(control, fabric, *words), *words, as_json)
        elif (name := words[0].lower()) in counters():
            _explain_counter(name, as_json)
        else:
            _explain_port(control, fabric, words[0], as_json)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (ControlError, RequestError, SocketError) as error:
        raise Failure(str(error)) from None


def _found(control: Path | None, fabric: str | None, *names: str) -> tuple[Path, Mapping[str, Any]]:
    """The control socket and the part of the status document with all these ports."""
    found = [(control, x) for x in ask_status(control)["fabrics"]] if control else list(running())
    found = [(path, one) for path, one in found if fabric in (None, one["name"])]
    if not found:
        raise Failure(f"{fabric or 'no fabric'}: none runs; `vionet status` shows what does")
    known = [{port["name"] for port in one["ports"]} for _, one in found]
    hits = [one for one, names_there in zip(found, known, strict=True) if names_there >= {*names}]
    if len(hits) > 1:
        where = " and ".join(one["name"] for _, one in hits)
        raise Failure(f"{names[0]}: a port of {where}; say which by --fabric or --control")
    if hits:
        return hits[0]
    everywhere = set[str]().union(*known)
    missing = [name for name in names if name not in everywhere]
    if missing:
        raise Failure(f"{missing[0]}: no such port; {suggest(missing[0], sorted(everywhere))}")
    raise Failure(f"{' and '.join(names)}: not in one fabric, so nothing passes")


def _explain_pair(
    path: Path, fabric: Mapping[str, Any], one: str, other: str, as_json: bool
) -> None:
    from vionet.cli.progress import engine_loaded

    with engine_loaded():
        from vionet.explain.pair import pair
        from vionet.explain.text import pair_text
    document = pair(fabric, one, other)
    click.echo(json.dumps(document, indent=2) if as_json else pair_text(document))


def _explain_file(
    control: Path | None,
    fabric: str | None,
    words: Sequence[str],
    path: Path,
    number: int,
    as_json: bool,
) -> None:
    """A frame of a file, between the ports that are named or that its comment names."""
    from vionet.cli.progress import engine_loaded
    from vionet.explain.pcap import PcapError, pick

    try:
        picked = pick(path, number)
    except PcapError as error:
        raise Failure(str(error)) from None
    sender, *others = words or picked.ports or [""]
    if not sender:
        raise click.UsageError(f"{path} does not say between which ports; name them")
    _, here = _found(control, fabric, sender, *others)
    with engine_loaded():
        from vionet.explain.frame import life
        from vionet.explain.text import frame_text
    receiver, vid = next(iter(others), None), 0 if words else picked.vid
    document = life(here, sender, receiver, picked.data, picked.header, vid)
    click.echo(json.dumps(document, indent=2) if as_json else frame_text(document))


def _explain_next(
    path: Path,
    here: Mapping[str, Any],
    name: str,
    expression: str,
    timeout: float,
    as_json: bool,
) -> None:
    """The next frame that the port sends or gets."""
    from vionet.capture.expression import ExpressionError, compiled
    from vionet.cli.progress import engine_loaded

    try:
        code = compiled(expression)
    except ExpressionError as error:
        raise Failure(str(error)) from None
    with engine_loaded():
        from vionet.explain.frame import replay
        from vionet.explain.record import next_record
        from vionet.explain.text import frame_text
    record = next_record(path, here["name"], name, code, timeout)
    if record is None:
        raise Failure(f"{name}: no such frame within {timeout:g} s; send one, or raise --timeout")
    try:
        document = replay(_found(path, here["name"], name)[1], record)
    except LookupError as error:
        raise Failure(str(error)) from None
    click.echo(json.dumps(document, indent=2) if as_json else frame_text(document))


def _explain_counter(name: str, as_json: bool) -> None:
    counter = counters()[name]
    if as_json:
        click.echo(json.dumps(counter.document, indent=2))
        return
    from vionet.explain.counter import counter_text

    click.echo(counter_text(counter))


def _explain_port(control: Path | None, fabric: str | None, name: str, as_json: bool) -> None:
    """What was counted at a port, as far as it tells of more than frames that passed."""
    try:
        _, here = _found(control, fabric, name)
    except (Failure, SocketError) as error:
        hint = suggest(name, counters()) if suggest(name, counters()).startswith("did") else ""
        raise Failure(f"{name}: no counter; {hint}" if hint else str(error)) from None
    (port,) = (one for one in here["ports"] if one["name"] == name)
    counted = {key: n for key, n in {**port["ledger"], **port["drops"]}.items() if n}
    if as_json:
        found = [{**counters()[key].document, "count": n} for key, n in counted.items()]
        click.echo(json.dumps(found, indent=2))
        return
    from vionet.explain.counter import counter_text

    texts = [counter_text(counters()[key], n, name) for key, n in counted.items()]
    click.echo("\n\n".join(texts) or f"{name}: nothing was counted yet")
