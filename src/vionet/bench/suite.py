"""`vionet bench all`: every bench in turn, and what came of it as a document and as a page.

How it works: each bench is a process of its own (`python -m vionet bench NAME --json`), so that
none finds the memory, the threads or the priority of another; one that fails or does not end is
reported as such, and the next one runs; when the suite itself is interrupted, what it has is kept,
and where it has nothing, nothing is written.
In a checkout the document goes to bench/results/DATE.json
and the page to docs/performance.md; elsewhere --out says where.  A run of a few benches (--only)
replaces these in the document of the same day and leaves the others as they are.
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import IO, Any, Final

import click

from vionet.bench.catalogue import BENCHES
from vionet.bench.command import common_options, progress
from vionet.bench.goals import verdicts
from vionet.bench.machine import conditions, machine
from vionet.bench.page import results, write
from vionet.bench.result import Result
from vionet.bench.table import write_table
from vionet.terminal import console, plain_table

VERSION: Final = 1  # of the document
_PATIENCE_S: Final = {True: 600.0, False: 3600.0}  # with one bench: quick (it may compile), or not
_END_S: Final = 20.0  # to put things away when it is told to end


@dataclass(frozen=True)
class Place:
    """Where results are kept; nowhere for a quick run that was not told."""

    documents: Path
    pages: Path

    def newest(self) -> Path | None:
        """The last document of a measurement."""
        return max(self.documents.glob("????-??-??.json"), default=None)


def place(out: Path | None) -> Place:
    """`out`, or the folders of the checkout that one stands in."""
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            message = f"bench all: {out}: {error.strerror}; name another folder"
            raise click.ClickException(message) from None
        return Place(out, out)
    here = Place(Path("bench/results"), Path("docs"))
    if not here.documents.is_dir() or not (here.pages / "performance.md").is_file():
        raise click.ClickException(
            "bench all: no bench/results and docs/performance.md here; "
            "run it in a checkout of vionet, or say --out FOLDER"
        )
    return here


def run_bench(name: str, options: list[str], patience_s: float) -> dict[str, Any]:
    """One bench as a process: `{"result": its document or None, "failure": …, "seconds": …}`."""
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "vionet", "bench", name, "--json", *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # to find what it may leave behind
    )
    assert process.stdout is not None
    assert process.stderr is not None
    said: list[str] = []
    written: list[str] = []
    readers = [
        Thread(target=_listen, args=(process.stderr, said, True), daemon=True),
        Thread(target=_listen, args=(process.stdout, written, False), daemon=True),
    ]
    for reader in readers:
        reader.start()
    failure = ""
    try:
        status = process.wait(patience_s)
        if status:
            last = said[-1] if said else f"ended with status {status} and said nothing"
            failure = last.removeprefix(f"vionet: bench {name}: ")
    except subprocess.TimeoutExpired:
        failure = f"did not end within {patience_s:.0f} s"
    finally:
        if _end(process):
            failure = failure or "left processes behind"
        for reader in readers:
            reader.join(_END_S)
    try:
        result = Result.read(json.loads("".join(written))).document() if written else None
    except (ValueError, KeyError, TypeError) as error:
        result, failure = None, failure or f"what it wrote makes no sense: {error!r}"
    seconds = round(time.monotonic() - started)
    return {"result": result, "failure": failure, "seconds": seconds}


def _listen(stream: IO[bytes], lines: list[str], is_shown: bool) -> None:
    with stream:
        for line in stream:
            lines.append(line.decode(errors="replace").rstrip("\n"))
            if is_shown:
                progress(f"  {lines[-1]}")


def _end(process: subprocess.Popen[bytes]) -> bool:
    """End a bench and all that it started; whether anything but itself was left."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    process.wait()
    return True


def suite_document(before: dict[str, Any] | None, date: str, now: dict[str, Any]) -> dict[str, Any]:
    """The document of a day: what was measured `now` in the place of what was measured `before`."""
    benches = (before["benches"] if before else {}) | now
    order = {name: benches[name] for name in BENCHES if name in benches}
    found = verdicts(results({"benches": order}))
    return {
        "version": VERSION,
        "date": date,
        "machine": machine() if now or not before else before["machine"],
        "benches": order,
        "goals": [{"key": v.key, "measured": v.measured, "met": v.met} for v in found],
    }


def _names(only: tuple[str, ...]) -> list[str]:
    """The benches to run, in the order of the catalogue."""
    wanted = {part.strip() for words in only for part in words.split(",") if part.strip()}
    if unknown := sorted(wanted - BENCHES.keys()):
        raise click.UsageError(f"--only {unknown[0]}: no such bench; use {', '.join(BENCHES)}")
    if only and not wanted:
        raise click.UsageError(f"--only {only[0]}: names no bench; use {', '.join(BENCHES)}")
    return [name for name in BENCHES if name in wanted or not wanted]


def _keep(where: Place, file: str, suite: dict[str, Any]) -> None:
    """Write the document and the page."""
    path = where.documents / file
    path.write_text(json.dumps(suite, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for written in (path, *write(where.pages, suite)):
        progress(f"wrote {written}")


def _print(suite: dict[str, Any]) -> None:
    """The goals of the benches that ran, then what failed."""
    screen = console()
    shown = plain_table(
        ("goal", "measured", "verdict", "figure"), folding=("figure",), numbers_from=4
    )
    for verdict in verdicts(results(suite)):
        if verdict.goal.bench in suite["benches"]:
            shown.add_row(verdict.goal.bound, verdict.number, verdict.word, verdict.goal.words)
    if shown.row_count:
        screen.print(shown)
    for name, part in suite["benches"].items():
        if part["failure"]:
            screen.print(f"FAILED: bench {name}: {part['failure']}")


@click.command("all", context_settings={"help_option_names": ["-h", "--help"]})
@common_options(None)
@click.option("--only", multiple=True, metavar="NAME,…", help="Run these benches only.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Write document, page and plots there, not into the checkout.",
)
@click.option("--render", is_flag=True, help="Run nothing; rewrite the page from the newest.")
def command(
    quick: bool,
    rounds: int | None,
    core: int,
    load_core: int,
    realtime: bool,
    as_json: bool,
    only: tuple[str, ...],
    out: Path | None,
    render: bool,
) -> None:
    """Run every bench, and write what came of it.

    In a checkout: bench/results/DATE.json and docs/performance.md with its plots. A quick run says
    nothing about speed, and so writes only where --out says.
    """
    names = [] if render else _names(only)
    where = None if quick and out is None and not render else place(out)
    if where:
        _need_plots()
    options = _handed_on(rounds, core, load_core) + ["--quick"] * quick + ["--realtime"] * realtime
    date = datetime.now(UTC).date().isoformat()
    file = f"{date}-quick.json" if quick else f"{date}.json"
    before = where.documents / file if where else None
    if render and where:
        before = where.newest()
        if before is None:
            raise click.ClickException(f"bench all: no results in {where.documents}")
        file, date = before.name, before.stem
    now: dict[str, Any] = {}
    interrupted = False
    usual = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for number, name in enumerate(names, 1):
            progress(f"bench {name} ({number} of {len(names)})")
            before_it = {"conditions": conditions(core, load_core)}
            now[name] = run_bench(name, options, _PATIENCE_S[quick]) | before_it
            if now[name]["result"] and not as_json:
                write_table(Result.read(now[name]["result"]), sys.stdout)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        signal.signal(signal.SIGTERM, usual)
    known = json.loads(before.read_text("utf-8")) if before and before.exists() else None
    suite = suite_document(known, date, now)
    if where and (now or render):
        _keep(where, file, suite)
    if as_json:
        click.echo(json.dumps(suite, indent=1, ensure_ascii=False))
    else:
        _print(suite)
    if interrupted:
        raise click.Abort
    failed = [name for name, part in now.items() if part["failure"]]
    if failed:
        raise click.ClickException(f"bench all: failed: {', '.join(failed)}")


def _handed_on(rounds: int | None, core: int, load_core: int) -> list[str]:
    """The options of every bench, without those that it finds for itself."""
    here = os.sched_getaffinity(0)
    return [
        *(("--rounds", str(rounds)) if rounds else ()),
        *(("--core", str(core)) if core in here else ()),
        *(("--load-core", str(load_core)) if load_core in here else ()),
    ]


def _need_plots() -> None:
    """Rather now than after an hour."""
    from vionet.bench.command import drawing

    drawing()
