"""`vionet top`: what every port does, again and again.

How it works: each control socket is asked at the same time (`web.feed`), `cli.rate` makes figures
of the answers, `cli.view` makes text of them.  In a terminal the text is on the alternate screen
and keys change the view; anywhere else a table is printed at each interval.

Invariants: the terminal is given back as it was, also after a signal or a mistake of ours.  A key
is heard while a vionet that hangs is waited for; such a one is a line among the others.
"""

import asyncio
import os
import signal
import sys
import termios
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.text import Text

from vionet.cli.group import Failure
from vionet.cli.rate import WORDS, Fabric, Rates, Row, printable
from vionet.cli.view import FILTER_MAX, View, picture
from vionet.daemon.control import ControlError, ask_status
from vionet.daemon.place import control_sockets, runtime_folder
from vionet.terminal import console
from vionet.vhost_user.listener import SocketError
from vionet.web.feed import SOCKETS_MAX, Source

SHORTEST_S: Final = 0.1
FIRST_S: Final = 0.5  # until the first rates are seen, at most
_ENDS: Final = {  # with this status
    signal.SIGINT: 0, signal.SIGHUP: 129, signal.SIGQUIT: 131, signal.SIGTERM: 143,
}  # fmt: skip


class Figures:
    """The newest ones, and where they come from."""

    def __init__(self, control: Path | None, fabric: str | None, *, totals: bool) -> None:
        self._control, self._fabric, self._totals = control, fabric, totals
        self._rates = Rates(totals=totals)
        self._now: tuple[list[Fabric], list[Row]] = [], []
        self._problems: list[str] = []
        self.failed = False  # somebody gave no usable answer

    async def look(self) -> None:
        """Ask everybody who is there by now."""
        paths = [self._control] if self._control else control_sockets()
        # One connection a look: one that is kept is hung up on where looks are rare.
        sources = [Source(path) for path in paths[:SOCKETS_MAX]]
        try:
            answers = await asyncio.gather(*(source.ask() for source in sources))
        finally:
            for source in sources:
                source.close()
        self._problems = [printable(problem) for _, problem in answers if problem]
        self.failed = bool(self._problems)
        documents = [document for found, _ in answers for document in found]
        documents = [one for one in documents if self._fabric in (None, one["name"])]
        self._now = self._rates.update(documents)
        if not documents and not self._problems:
            where, what = self._control or runtime_folder(), self._fabric or "nothing"
            self._problems = [f"{what} {'does not run' if self._fabric else 'runs'} in {where}"]

    def put(self, out: Console, view: View, *, whole: bool) -> Text:
        """As text for a screen, or `whole`."""
        height = None if whole else out.height
        return picture(view, *self._now, self._problems, out.width, height, totals=self._totals)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--once", is_flag=True, help="Print one table and end.")
@click.option(
    "--interval",
    type=click.FloatRange(0, 3600),
    default=1.0,
    show_default=True,
    metavar="S",
    help="Seconds between two looks; with --once 0: what was counted since the start.",
)
@click.option(
    "--sort",
    type=click.Choice(WORDS),
    default="port",
    metavar="COLUMN",
    help=f"The largest first: {', '.join(WORDS)}.",
)
@click.option("--reverse", is_flag=True, help="The smallest first.")
@click.option(
    "--filter",
    "text",
    default="",
    help="Ports with this in their names, or kind=, state=, port=, fabric=; all of several words.",
)
@click.option("--fabric", help="This fabric alone.")
@click.option(
    "--control",
    type=click.Path(path_type=Path),
    help="Ask this control socket alone; without it, all that can be found.",
)
def top(
    once: bool,
    interval: float,
    sort: str,
    reverse: bool,
    text: str,
    fabric: str | None,
    control: Path | None,
) -> None:
    """What every port does in a second: frames, checksums, copies, drops.

    In a terminal the table is live: s and S choose the column to sort by, r reverses, / filters,
    q and ^C end.  Elsewhere a table is printed at each interval.
    """
    if not (interval >= SHORTEST_S or (once and interval == 0)):  # nan is neither
        problem = f"{interval:g}: use {SHORTEST_S} or more, or with --once 0"
        raise click.UsageError(f"--interval {problem}")
    try:
        if control:
            ask_status(control)
        else:
            runtime_folder()
    except (ControlError, SocketError) as error:
        raise Failure(str(error)) from None
    figures = Figures(control, fabric, totals=not interval)
    view, out = View(sort, reverse, printable(text)[:FILTER_MAX]), console()
    if sys.stdout.isatty() and not once and not out.is_dumb_terminal:
        shown = _show(figures, view, out, interval)
    else:
        shown = _print(figures, view, out, interval, once)
    if status := asyncio.run(_until_told(shown)) or int(once and figures.failed):
        sys.exit(status)


async def _until_told(shown: Coroutine[Any, Any, None]) -> int:
    """To its end, or until a signal.  *Returns* the exit status."""
    task, told = asyncio.create_task(shown), list[int]()

    def end(status: int) -> None:
        told.append(status)
        task.cancel()

    for number, status in _ENDS.items():
        asyncio.get_running_loop().add_signal_handler(number, end, status)
    try:
        await task
    except asyncio.CancelledError:
        if not told:
            raise
    return told[0] if told else 0


async def _print(figures: Figures, view: View, out: Console, interval: float, once: bool) -> None:
    await figures.look()
    while True:
        if interval:
            await asyncio.sleep(interval)
            await figures.look()
        out.print(figures.put(out, view, whole=True))
        if once:
            return
        out.print()


async def _show(figures: Figures, view: View, out: Console, interval: float) -> None:
    """Live, until a person wants no more."""
    from rich.live import Live

    loop, changed, left = asyncio.get_running_loop(), asyncio.Event(), False

    async def look() -> None:
        wait_s = min(interval, FIRST_S)
        while True:
            due = loop.time() + wait_s
            await figures.look()
            changed.set()
            await asyncio.sleep(due - loop.time())
            wait_s = interval

    def typed() -> None:
        nonlocal left
        keys = b""
        with suppress(OSError):  # the terminal is gone
            keys = os.read(0, 256)
        left = left or not keys or view.press(keys.decode(errors="replace"))
        changed.set()

    looking = loop.create_task(look())
    looking.add_done_callback(lambda _: changed.set())
    try:
        with _keyboard(typed), Live(console=out, screen=True, auto_refresh=False) as live:
            loop.add_signal_handler(signal.SIGWINCH, changed.set)
            while not left:
                await changed.wait()
                changed.clear()
                if looking.done():
                    looking.result()
                live.update(figures.put(out, view, whole=False), refresh=True)
    finally:
        looking.cancel()


@contextmanager
def _keyboard(typed: Callable[[], None]) -> Iterator[None]:
    """Every key at once and unseen, if standard input is a terminal; ^C stays a signal, and ^Z,
    which would leave the screen as it is, is a key."""
    if not os.isatty(0):
        yield
        return
    before, mode = termios.tcgetattr(0), termios.tcgetattr(0)
    mode[3] &= ~(termios.ICANON | termios.ECHO)
    mode[6][termios.VSUSP] = b"\0"
    termios.tcsetattr(0, termios.TCSADRAIN, mode)
    asyncio.get_running_loop().add_reader(0, typed)
    try:
        yield
    finally:
        asyncio.get_running_loop().remove_reader(0)
        termios.tcsetattr(0, termios.TCSADRAIN, before)
