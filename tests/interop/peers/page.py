"""`vionet web` as a child process, and its page in a browser."""

import contextlib
import itertools
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.interop.peers.browser import Browser
from tests.interop.peers.process import Peer, PeerError
from tests.interop.peers.vionet import SOURCE

START_S = 60
_numbers = itertools.count(1)
Totals = dict[str, dict[str, int]]


class Page:
    """A server, and what a browser shows of it."""

    def __init__(self, browser: Browser, folder: Path, *arguments: str) -> None:
        self.browser = browser
        argv = [sys.executable, "-m", "vionet", "web", *arguments]
        log = folder / f"web-{next(_numbers)}.log"
        self.child = Peer(argv, log, env={"PYTHONPATH": str(SOURCE)})
        try:
            self.child.await_line("ready\n", START_S)
        except PeerError:
            self.child.kill()
            raise
        (self.address,) = re.findall(r"^http://\S+$", self.child.output(), re.MULTILINE)
        self.origin = self.address.partition("#")[0].rstrip("/")

    def open(self) -> None:
        """Sign in and wait for the first sample."""
        self.browser.driver.get(self.address)
        self.await_sample()

    def await_sample(self) -> None:
        """Wait until one more is shown."""
        seen = int(self.browser.attribute("#main", "data-samples") or 0)
        self.browser.until(
            "return Number(document.getElementById('main')?.dataset.samples || 0) > arguments[0]",
            seen,
        )

    def totals(self) -> Totals:
        """The ledger as the page has it: port -> key -> total."""
        return self._table("td[data-key]", "data-key", "data-total")

    def drops(self) -> Totals:
        """Port -> reason -> total."""
        return self._table("tr[data-reason]", "data-reason", "")

    def _table(self, selector: str, key: str, total: str) -> Totals:
        rows = self.browser.script(
            """return [...document.querySelectorAll(arguments[0])].map((it) => [
              it.dataset.port, it.getAttribute(arguments[1]),
              (it.querySelector("[data-total]") || it).getAttribute("data-total")])""",
            selector,
            key,
        )
        found: Totals = {}
        for port, name, text in rows:
            found.setdefault(port, {})[name] = int(text)
        return found

    def talks(self) -> dict[tuple[str, str], dict[str, Any]]:
        """(from, to) -> what the table says: `kind`, and the totals in order of its columns."""
        rows = self.browser.script(
            """return [...document.querySelectorAll("tr[data-from]")].map((it) => [
              it.dataset.from, it.dataset.to, it.dataset.kind,
              [...it.querySelectorAll("[data-total]")].map((one) => one.dataset.total)])"""
        )
        return {
            (source, target): {"kind": kind, "totals": list(map(int, totals))}
            for source, target, kind, totals in rows
        }

    def edges(self) -> dict[tuple[str, str], str]:
        """(from, to) -> the class of the line in the picture."""
        rows = self.browser.script(
            """return [...document.querySelectorAll("path.edge")].map((it) => [
              it.dataset.from, it.dataset.to, it.getAttribute("class")])"""
        )
        return {(source, target): kind.removeprefix("edge ") for source, target, kind in rows}

    def stop(self) -> None:
        """SIGTERM; it has to end with status 0."""
        self.child.process.send_signal(signal.SIGTERM)
        if status := self.child.wait(10):
            raise PeerError(f"vionet web ended with status {status}: {self.child.tail()}")


@contextlib.contextmanager
def page(browser: Browser, folder: Path, *arguments: str) -> Iterator[Page]:
    """A server that runs until the end of the block."""
    made = Page(browser, folder, *arguments)
    try:
        yield made
        made.stop()
    finally:
        made.child.kill()
