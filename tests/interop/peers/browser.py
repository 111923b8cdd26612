"""Chromium without a screen, driven by selenium with Debian's chromedriver.

How it works: programs and profile are named, so that nothing is looked for or loaded from
elsewhere; what the network and the console see is kept in the logs of chromedriver.

Invariants: every wait has a deadline; after `close` no process of it is left.
"""

import base64
import contextlib
import json
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import JavascriptException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.interop.peers.process import until
from tests.tools import ROOT, need

WAIT_S = 30
ARTEFACTS = ROOT / ".cache" / "artefacts" / "web"
_QUIET = (
    "--headless=new",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-gpu",
    "--disable-sync",
    "--no-first-run",
)


class Browser:
    """One running Chromium."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.downloads = folder / "downloads"
        self.downloads.mkdir()
        self._profile = folder / "profile"
        options = webdriver.ChromeOptions()
        options.binary_location = str(need("chromium"))
        for argument in (*_QUIET, f"--user-data-dir={self._profile}"):
            options.add_argument(argument)
        if os.geteuid() == 0:  # its sandbox wants another user
            options.add_argument("--no-sandbox")
        options.add_experimental_option(
            "prefs", {"download.default_directory": str(self.downloads)}
        )
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        service = Service(str(need("chromedriver")), log_output=str(folder / "chromedriver.log"))
        self.driver = webdriver.Chrome(options, service)
        self.driver.set_page_load_timeout(WAIT_S)
        self.driver.set_script_timeout(WAIT_S)
        self.driver.get("about:blank")  # and not the page that a new window begins with
        self.network("")

    def close(self) -> None:
        """End it, whatever state it is in."""
        with contextlib.suppress(Exception):
            self.driver.quit()
        for pid in self._left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: not self._left(), WAIT_S, "end of chromium")

    def _left(self) -> list[int]:
        left = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if str(self._profile).encode() in (process / "cmdline").read_bytes():
                    left.append(int(process.name))
        return left

    def resize(self, width: int, height: int = 900) -> None:
        """The page's size, also less than a window may have."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def prefer(self, **features: str) -> None:
        """What a person prefers: `color_scheme="dark"`."""
        named = [
            {"name": f"prefers-{name.replace('_', '-')}", "value": value}
            for name, value in features.items()
        ]
        self.command("Emulation.setEmulatedMedia", features=named)

    def command(self, name: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol."""
        return self.driver.execute_cdp_cmd(name, parameters)

    def script(self, text: str, *arguments: Any) -> Any:
        """Run a function's body in the page."""
        return self.driver.execute_script(text, *arguments)

    def until(self, text: str, *arguments: Any) -> None:
        """Wait until a function's body returns what is true, also in a page that is yet to come."""

        def seen() -> bool:
            with contextlib.suppress(JavascriptException):
                return bool(self.script(text, *arguments))
            return False

        until(seen, WAIT_S, text, 0.05)

    def find(self, selector: str) -> WebElement:
        """The first element that is there for this selector."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """The text of that element, shown or not; empty while it is not there."""
        found: str = self.script(
            "return document.querySelector(arguments[0])?.textContent ?? ''", selector
        )
        return found

    def attribute(self, selector: str, name: str) -> str | None:
        """An attribute of that element."""
        found: str | None = self.script(
            "return document.querySelector(arguments[0])?.getAttribute(arguments[1]) ?? null",
            selector,
            name,
        )
        return found

    def await_text(self, selector: str, text: str) -> None:
        """Wait until the element contains it."""
        until(lambda: text in self.text(selector), WAIT_S, f"{text!r} in {selector}", 0.05)

    def screenshot(self, name: str) -> None:
        """The whole page, kept as NAME.png."""
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        shot = self.command("Page.captureScreenshot", captureBeyondViewport=True)
        (ARTEFACTS / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))

    def console(self) -> list[str]:
        """What it has complained of since the last time: errors, violations of policies."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def network(self, method: str) -> list[dict[str, Any]]:
        """The parameters of events of the DevTools' domain Network since the last time, by name;
        those of other names are gone, too."""
        logged = [json.loads(one["message"]) for one in self.driver.get_log("performance")]
        events = [one["message"] for one in logged]
        return [one["params"] for one in events if one["method"] == f"Network.{method}"]

    def check_quiet(self, origin: str) -> None:
        """Since the last time: no word in the console, so nothing that the page's policy forbids,
        and no request but to servers on loopback, such as this one."""
        assert [] == self.console()
        asked = {one["request"]["url"] for one in self.network("requestWillBeSent")}
        allowed = ("http://127.0.0.1:", "blob:http://127.0.0.1:", "data:", "about:blank")
        assert set() == {url for url in asked if not url.startswith(allowed)}
        assert any(url.startswith(origin) for url in asked)


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A browser with a folder of its own, gone at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="vn-web-") as folder:
        made = Browser(Path(folder))
        try:
            yield made
        finally:
            made.close()
