"""`vionet demo`: a tour for newcomers that is also a proof."""

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from vionet.cli.group import Failure
from vionet.cli.table import count, feature_text
from vionet.cli.tour import Tour, Wrong, settled_ports
from vionet.daemon.control import ControlError, ask_status
from vionet.terminal import console, plain_table

VERSION: Final = 1
ROUNDS: Final = 100
_START_S: Final = 300.0  # a cold start compiles; a busy machine takes its time for that
_END_S: Final = 15.0
_LEDGER: Final = (
    ("rx_frames", "received"),
    ("csum_elided", "elided"),
    ("csum_filled", "filled"),
    ("csum_verified", "verified"),
    ("csum_bad", "bad"),
    ("gso_passed", "whole"),
    ("segments", "segments"),
    ("payload_bytes_copied", "copied"),
    ("payload_bytes_summed", "summed"),
)
_EXPLAINED: Final = """
elided    checksums that nobody computed: neither sender, vionet nor receiver
filled    finished by vionet for a receiver that wants them finished
verified  computed and compared, so that the receiver need not
bad       found wrong, and delivered as they came
whole     uncut frames, several packets large, delivered as they are
segments  packets that vionet cut them into, for a receiver that wants packets
copied    payload bytes moved from guest to guest, once each
summed    payload bytes that vionet had to read for a checksum"""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--json", "as_json", is_flag=True, help="The table as JSON.")
@click.option(
    "--rounds",
    type=click.IntRange(1, 10000),
    default=ROUNDS,
    show_default=True,
    help="How often each kind of frame is sent between each pair.",
)
def demo(as_json: bool, rounds: int) -> None:
    """A tour in under a minute, without root, QEMU or configuration.

    Starts a switch and three guests: two agreed to leave checksums unfinished and TCP frames
    uncut between them, one declined.  Sends TCP and UDP frames between all of them and compares
    every byte and flag that arrives with the rules, by code that the switch does not share.
    Exits 1 and names the frame if one is wrong.
    """
    from vionet.check.driver import Broken, NotOffered

    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="vionet-demo-") as name:
        folder = Path(name)
        tour = Tour(folder, rounds)
        control = folder / "demo.control"
        try:
            with _switch(tour.ports(), control):
                try:
                    tour.attach()
                    tour.exchange()
                    # What was negotiated is forgotten when the guests hang up: ask before.
                    ports = settled_ports(lambda: ask_status(control), tour)
                finally:
                    tour.close()
        except (Wrong, Broken, NotOffered, ControlError) as error:
            raise Failure(f"demo: {error}") from None
        except OSError as error:
            raise Failure(f"demo: the switch hung up: {error}") from None
    document = _document(tour, ports, time.monotonic() - began)
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        _print(document)


@contextmanager
def _switch(ports: list[str], control: Path) -> Iterator[None]:
    """A switch as a process of its own, from `ready` until SIGTERM."""
    # `-m` alone would import from the working directory before all else.
    command = [sys.executable, "-P", "-m", "vionet", "switch", "--quiet", "--control", str(control)]
    child = subprocess.Popen(
        [*command, "--name", "demo", *ports], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    try:
        _wait_until_ready(child)
        yield
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.communicate(timeout=_END_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
    if child.returncode:
        raise Wrong(f"the switch ended with status {child.returncode}; its last words are above")


def _wait_until_ready(child: "subprocess.Popen[bytes]") -> None:
    import select

    assert child.stdout is not None
    if not select.select([child.stdout], [], [], _START_S)[0]:
        raise Wrong(f"the switch was not ready within {_START_S:.0f} s")
    if child.stdout.readline() != b"ready\n":
        raise Wrong("the switch did not start; its last words are above")


def _document(tour: Tour, ports: Sequence[Mapping[str, Any]], seconds: float) -> dict[str, Any]:
    return {
        "version": VERSION,
        "frames": tour.frames,
        "seconds": round(seconds, 3),
        "guests": [
            {key: port[key] for key in ("name", "features", "ledger", "drops")} for port in ports
        ],
        "flows": [
            {
                "from": flow.source,
                "to": flow.target,
                "sent": flow.sent,
                "frames": flow.frames,
                "sent_unfinished": flow.sent_unfinished,
                "arrived_unfinished": flow.got_unfinished,
                "sent_large": flow.sent_large,
                "arrived_large": flow.got_large,
                "bytes": flow.length,
            }
            for flow in tour.flows
        ],
    }


def _print(document: Mapping[str, Any]) -> None:
    out = console()
    out.print("A switch, and three guests on it:", style="bold")
    out.print("  vionet switch alice=guest:alice.sock bob=guest:bob.sock carol=guest:carol.sock\n")
    who = plain_table(
        ("guest", "negotiated", "which means"),
        folding=("negotiated", "which means"),
        numbers_from=3,
    )
    for guest in document["guests"]:
        names = guest["features"]
        means = "leaves checksums unfinished and frames uncut, takes both so"
        if "VIRTIO_NET_F_GUEST_CSUM" not in names:
            means = "declined: finished packets only"
        who.add_row(guest["name"], feature_text(names), means)
    out.print(who)
    out.print("\nWhat they sent each other, TCP and UDP over IPv4 and IPv6:", style="bold")
    flows = plain_table(
        ("from", "to", "sent", "unfinished", "uncut", "arrived", "unfinished", "uncut"),
        folding=(),
        numbers_from=2,
    )
    keys = (
        "sent", "sent_unfinished", "sent_large", "frames", "arrived_unfinished", "arrived_large",
    )  # fmt: skip
    for flow in document["flows"]:
        flows.add_row(flow["from"], flow["to"], *(str(flow[key]) for key in keys))
    out.print(flows)
    out.print("\nWhat vionet did for each receiver:", style="bold")
    work = plain_table(("guest", *(word for _, word in _LEDGER)), folding=(), numbers_from=1)
    for guest in document["guests"]:
        work.add_row(guest["name"], *(count(guest["ledger"][key]) for key, _ in _LEDGER))
    out.print(work)
    out.print(_EXPLAINED, style="dim")
    out.print(
        f"\nAll {document['frames']} frames arrived, every byte and flag as the rules say."
        f"  ({document['seconds']:.1f} s)"
    )
