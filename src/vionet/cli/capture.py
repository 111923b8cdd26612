"""`vionet capture`: see the frames of a port or of a fabric, with what happened to each."""

import os
import platform
import re
from pathlib import Path
from typing import Any

import click

from vionet import __version__
from vionet.cli.group import Failure
from vionet.cli.which import running
from vionet.config.option import suggest
from vionet.daemon.capture import captured
from vionet.daemon.control import ControlError, RequestError, ask_status
from vionet.vhost_user.listener import SocketError

SIZE_MIN = 65536  # bytes that a limit is at least


class _Number(click.ParamType[float]):
    """A number with a unit."""

    def __init__(self, name: str, units: dict[str, float], least: float) -> None:
        self.name, self._units, self._least = name, units, least

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([a-zA-Z]*)", str(value))
        if not found or found[2] not in self._units:
            self.fail(f"{value}: a number and {', '.join(filter(None, self._units))}", param, ctx)
        number = float(found[1]) * self._units[found[2]]
        if not self._least <= number < 1 << 40:
            self.fail(f"{value}: at least {self._least}", param, ctx)
        return number


SIZE = _Number("SIZE", {"": 1, "k": 1000, "K": 1000, "M": 10**6, "G": 10**9}, SIZE_MIN)
TIME = _Number("TIME", {"": 1, "s": 1, "ms": 0.001, "m": 60, "h": 3600}, 0)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name", required=False)
@click.option("-w", "where", metavar="FILE", help="Write pcapng; - is standard output.")
@click.option("--filter", "expression", metavar="EXPR", default="", help="As of tcpdump.")
@click.option("--snap", type=click.IntRange(1, 65535), metavar="N", help="Bytes of each packet.")
@click.option("--as-delivered", "delivered", is_flag=True, help="The bytes that receivers got.")
@click.option("--segment", is_flag=True, help="Large frames as the segments they stand for.")
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after N packets.")
@click.option("--duration", type=TIME, help="End after 10s, 2m, 1h.")
@click.option("--max-size", type=SIZE, help="End when the file has 100M.")
@click.option("--rotate", type=SIZE, help="Go on in a new file after 100M.")
@click.option("--keep", type=click.IntRange(1), metavar="N", help="Of those, the newest N.")
@click.option("--buffer", type=SIZE, default="32M", show_default=True, help="For what waits.")
@click.option("--fabric", metavar="NAME", help="Ask the fabric with this name.")
@click.option("--control", type=click.Path(path_type=Path), help="Ask at this control socket.")
@click.option("-q", "quiet", is_flag=True, help="Say nothing besides.")
def capture(name: str | None, fabric: str | None, control: Path | None, **asked: Any) -> None:
    """Capture what passes the port NAME, or all ports of the fabric NAME.

    Without -w a line is printed for each packet.  Files show finished packets:
    no checksum is bad in them that is not really bad; a comment beside each
    says what happened to it.

    \b
    vionet capture web -w web.pcapng
    vionet capture lan -w - | wireshark -k -i -
    vionet capture web --filter 'tcp port 443' --duration 10s
    """
    _check(asked)
    try:
        path, document, port = _target(name, fabric, control)
        _capture(path, document, port, **asked)
    except (ControlError, RequestError, SocketError) as error:
        raise Failure(str(error)) from None
    except OSError as error:
        raise Failure(f"{error.filename or asked['where']}: {error.strerror or error}") from None


def _check(asked: dict[str, Any]) -> None:
    """What does not go together."""
    where, rotate, limit = asked["where"], asked["rotate"], asked["max_size"]
    if where is not None and not Path(where).name:
        raise click.UsageError(f"-w {where}: names no file")
    if asked["delivered"] and asked["segment"]:
        raise click.UsageError("--segment is for finished packets; leave out --as-delivered")
    if (rotate and where in (None, "-")) or (limit and where is None):
        raise click.UsageError("--rotate and --max-size are for files; give -w FILE")
    if rotate and limit:
        raise click.UsageError("--max-size ends what --rotate goes on with; give one of them")
    if asked["keep"] and not rotate:
        raise click.UsageError("--keep is for the files of --rotate; give both")
    if where == "-" and os.isatty(1):
        raise Failure("standard output is a terminal; use -w FILE, or a pipe behind -w -")


def _target(
    name: str | None, fabric: str | None, control: Path | None
) -> tuple[Path, dict[str, Any], str | None]:
    """Where to ask, the fabric's status, and the port; None: all of them."""
    if control:
        found = [(control, one) for one in ask_status(control)["fabrics"]]
    else:
        found = list(running())
    found = [(path, one) for path, one in found if fabric in (None, one["name"])]
    if not found:
        raise Failure(f"{fabric or 'no fabric'}: none runs; `vionet status` shows what does")
    ports = [(*one, name) for one in found if any(name == p["name"] for p in one[1]["ports"])]
    whole = [(*one, None) for one in found if name in (None, one[1]["name"])]
    hits = ports or whole
    if not hits:
        known = [one["name"] for _, one in found]
        known += [port["name"] for _, one in found for port in one["ports"]]
        raise Failure(f"{name}: no such port or fabric; {suggest(str(name), known)}")
    if len(hits) > 1 or (ports and whole and not fabric and name):
        names = " and ".join(one["name"] for _, one, _ in hits)
        what = "a port of" if ports else "fabrics"
        raise Failure(f"{name or 'which'}: {what} {names}; say which by --fabric or --control")
    return hits[0]


def _capture(
    path: Path, document: dict[str, Any], port: str | None, *, quiet: bool, **asked: Any
) -> None:
    from vionet.capture.expression import ExpressionError, compiled
    from vionet.cli.progress import engine_loaded

    try:
        code = compiled(asked["expression"])
    except ExpressionError as error:
        raise Failure(str(error)) from None
    with engine_loaded():
        from vionet.capture.reader import View
        from vionet.capture.session import Session

    ring_len = 1 << (int(asked["buffer"]) - 1).bit_length()
    shown = asked["delivered"], asked["segment"], asked["count"] or 0, asked["expression"]
    view = View(asked["snap"] or 0, *shown)
    with captured(path, document, port, view, code, ring_len) as (reader, line_fd):
        session = Session(reader, _output(asked), line_fd)
        begun = f"capturing {port or document['name']}; ^C ends it"
        session.run(asked["duration"], lambda: None if quiet else click.echo(begun, err=True))
        if not quiet:
            click.echo(f"{sum(reader.packets)} packets, {reader.lost} records lost", err=True)
        if session.cut:
            raise Failure("nobody read the rest: what is behind the pipe has no whole file")
        if reader.broken:
            raise Failure("the ring ended in the middle; vionet died, or is another version")


def _output(asked: dict[str, Any]) -> Any:
    from vionet.capture.line import line
    from vionet.capture.output import Lines, Output
    from vionet.capture.pcapng import section

    if asked["where"] is None:
        return Lines(line)
    system = platform.uname()
    head = section(system.machine, f"{system.system} {system.release}", f"vionet {__version__}")
    sizes = {key: int(asked[key] or 0) for key in ("max_size", "rotate", "keep")}
    return Output(asked["where"], head, **sizes)
