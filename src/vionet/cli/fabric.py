"""`vionet switch` and `vionet wire`: a fabric in the foreground."""

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from vionet.cli.group import Failure
from vionet.config import ConfigError, FabricConfig, parse_switch, parse_wire
from vionet.config.option import RESERVED_USUAL
from vionet.daemon.endpoint import Address, parse

_PORTS: Final = """
\b
A PORT is KIND:WHERE[,option[=value]...]
  guest:/run/a.sock      vhost-user: vionet listens, the guest's VMM connects
  tap:vio0               a tap of this host, made if need be
  interface:eth1         an interface of this host, as it is
  stream:/run/p.sock     frames with their length: QEMU -netdev stream, passt
\b
Options of every port:
  mac=52:54:00:12:34:56  the address the driver is told, where its VMM asks
  locked                 frames from and to that address only
  ip=192.0.2.2           locked to that address too: IP, ARP and neighbour
                         discovery; may be repeated, and be a network
  isolated               reaches only ports that are not isolated
  mtu=1500               largest packet delivered to it
  vlan=10                the VLAN of its untagged frames
  trunk=10+20+30-40      the VLANs whose tagged frames pass it, or all
  link=down              nothing passes until `vionet port set NAME link=up`
\b
Options of guests, taps and interfaces:
  policy=uniform         good checksums reach it partial; the default
  policy=natural         partial only where they are so already
  policy=complete        always finished; for drivers that mishandle partial
  offload=full|csum|off  checksums and segmentation, checksums only, nothing;
                         single features by name: -host_uso +guest_tso4
\b
Options of guests:
  queues=4               queue pairs offered, 1 to 8
  speed=25000            of the link in Mbit/s, where its VMM asks
  +ring_packed           packed rings; -mrg_rxbuf -event_idx -indirect_desc
                         -in_order are not offered
\b
Options of guests and streams:
  client                 vionet connects, and connects again
  mode=0660  group=kvm   of the socket
\b
Options of taps:
  address=192.0.2.1/24   of a tap that vionet makes; may be repeated
  fd=N                   an open tap inherited from whoever starts vionet
\b
Options of taps and interfaces:
  netns=NAME             the network namespace where it is, or a path
"""


def log_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a foreground command's log, for `configure_log`."""
    for option in (
        click.option("-v", "--verbose", is_flag=True, help="Log more."),
        click.option("-q", "--quiet", is_flag=True, help="Log warnings only."),
        click.option(
            "--log-format",
            type=click.Choice(["text", "json"]),
            default="text",
            help="Of the log on standard error.",
        ),
    ):
        command = option(command)
    return command


def configure_log(*, log_format: str, verbose: bool, quiet: bool) -> None:
    """Log to standard error as those options say."""
    from vionet.daemon import log

    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    log.configure(json=log_format == "json", level=level)


def _address(ctx: click.Context, param: click.Parameter, text: str | None) -> Address | None:
    try:
        return None if text is None else parse(text)
    except ValueError as error:
        raise click.UsageError(f"--metrics {error}", ctx) from None


metrics_option: Final = click.option(
    "--metrics",
    metavar="ADDRESS",
    callback=_address,
    help="Serve metrics for Prometheus: 127.0.0.1:9464, [::1]:9464, unix:PATH[,mode=0660]"
    "[,group=NAME].  [default: nowhere]",
)


def say_ready() -> None:
    """The one line on standard output; a reader that is gone must not end what runs."""
    with contextlib.suppress(BrokenPipeError):
        print("ready", flush=True)


def _options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option(
            "--control",
            type=click.Path(path_type=Path),
            help="Path of the control socket.  [default: NAME.control in $XDG_RUNTIME_DIR/vionet,"
            " for root without it in /run/vionet]",
        ),
        metrics_option,
        click.option("--pin", metavar="CORE[,CORE...]", help="Cores of the first workers."),
        click.option("--name", help="Of the fabric, in status and log.  [default: the command]"),
    ):
        command = option(command)
    return log_options(command)


_SETTINGS: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 80}


@click.command(context_settings=_SETTINGS, epilog=_PORTS)
@click.argument("ports", nargs=-1, required=True, metavar="NAME=PORT...")
@click.option(
    "--reserved",
    metavar="NAMES",
    default=RESERVED_USUAL,
    show_default=True,
    help="Protocols between bridges that pass: stp, pause, lacp, dot1x, lldp, or the last octet of"
    " 01:80:c2:00:00:00 as a number, joined by +; all; none.",
)
@click.option("--workers", metavar="N", default="1", help="Threads among which ports are spread.")
@_options
def switch(
    ports: tuple[str, ...], reserved: str, workers: str, pin: str | None, **options: Any
) -> None:
    """Run a switch in the foreground until SIGINT or SIGTERM.

    Prints `ready` on standard output when its sockets accept connections.

    \b
    Example: two guests and this host
      vionet switch a=guest:/run/a.sock b=guest:/run/b.sock \\
                    host=tap:vio0,address=192.0.2.1/24
    """
    _run(lambda name: parse_switch(name or "switch", ports, reserved, workers, pin), **options)


@click.command(context_settings=_SETTINGS, epilog=_PORTS)
@click.argument("ports", nargs=-1, required=True, metavar="PORT PORT")
@_options
def wire(ports: tuple[str, ...], pin: str | None, **options: Any) -> None:
    """Join two ports and look at nothing that need not be looked at.

    Prints `ready` on standard output when its sockets accept connections.

    \b
    Example: a guest and this host
      vionet wire guest:/run/a.sock tap:vio0,address=192.0.2.1/24
    """
    _run(lambda name: parse_wire(name or "wire", ports, pin), **options)


def _run(
    parse: Callable[[str | None], FabricConfig],
    *,
    name: str | None,
    control: Path | None,
    metrics: Address | None,
    **logging: Any,
) -> None:
    try:
        config = parse(name)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    from vionet.cli.progress import engine_loaded
    from vionet.daemon.foreground import RunError
    from vionet.daemon.run import run

    configure_log(**logging)
    try:
        run(
            config,
            control=control,
            metrics=metrics,
            named=name is not None,
            loading=engine_loaded,
            ready=say_ready,
        )
    except RunError as error:
        raise Failure(str(error)) from None
