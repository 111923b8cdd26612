"""The live page in a real browser, with guests that talk: numbers, lines, drops, a capture by
keyboard alone; and beside a page that means harm."""

import contextlib
import http.server
import json
import subprocess
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.interop.lab import Lab
from tests.interop.peers.browser import Browser
from tests.interop.peers.page import Page, Totals, page
from tests.interop.peers.process import until
from tests.interop.peers.traffic import transfer
from tests.interop.peers.uml import Uml
from tests.interop.peers.vionet import Vionet
from tests.tools import need
from vionet.spec.counter import counters, plain

WAIT_S = 40
TABS_MAX = 30  # from the page's begin to the button


class Scene(NamedTuple):
    """Two guests that can talk, and the page that shows them."""

    vionet: Vionet
    a: Uml
    b: Uml
    page: Page


@pytest.fixture(scope="module")
def scene(browser: Browser) -> Iterator[Scene]:
    """One boot for all tests with traffic."""
    with contextlib.ExitStack() as stack:
        folder = browser.folder
        lab = Lab(folder, stack)
        vionet = lab.switch({"a": "", "b": ""})
        a, b = lab.uml("a"), lab.uml("b")
        lab.boot(a, b)
        for one in vionet.ports().values():
            assert {"VIRTIO_NET_F_CSUM", "VIRTIO_NET_F_GUEST_CSUM"} <= set(one["features"])
        arguments = "--listen=127.0.0.1:0", f"--control={vionet.control}", "--allow-capture"
        yield Scene(vionet, a, b, stack.enter_context(page(browser, folder, *arguments)))


def status_of(vionet: Vionet) -> tuple[Totals, Totals, dict[tuple[str, str], list[int]]]:
    """Ledgers, drops and talks, as `vionet status --json` has them."""
    (one,) = vionet.status()["fabrics"]
    ledgers = {it["name"]: it["ledger"] for it in one["ports"]}
    drops = {it["name"]: it["drops"] for it in one["ports"] if it["drops"]}
    keys = "frames", "bytes", "elided", "computed"
    return ledgers, drops, {(t["from"], t["to"]): [t[key] for key in keys] for t in one["talks"]}


def check_equals_status(scene: Scene) -> None:
    """When nothing is under way, every number of the page is that of `vionet status --json`."""

    def equal() -> bool:
        shown = scene.page.talks()
        talks = {pair: it["totals"] for pair, it in shown.items()}
        return status_of(scene.vionet) == (scene.page.totals(), scene.page.drops(), talks)

    until(equal, WAIT_S, "same numbers on the page and in the status", 0.2)


def await_edges(scene: Scene, forth: str, back: str) -> None:
    """Wait until the lines are of these kinds, in the picture and in the table: a few last frames
    may be of another, until the pair has been silent for a second."""

    def seen() -> bool:
        kinds = {pair: it["kind"] for pair, it in scene.page.talks().items()}
        return kinds == scene.page.edges() == {("a", "b"): forth, ("b", "a"): back}

    until(seen, WAIT_S, f"lines {forth} and {back}", 0.2)


def test_numbers_and_lines_are_those_of_the_traffic(scene: Scene, browser: Browser) -> None:
    """Between guests that agreed nobody computes checksums, and the line says so; when one has to
    have them finished, its line changes; all numbers equal the status."""
    browser.resize(1280)
    scene.page.open()
    transfer(scene.a, scene.b, scene.b.address4, 10_000_000).check()
    check_equals_status(scene)
    ledgers, _, _ = status_of(scene.vionet)
    assert 10_000_000 <= ledgers["a"]["tx_bytes"]
    assert 0 < ledgers["b"]["csum_elided"]
    await_edges(scene, "elided", "elided")
    browser.screenshot("elided")
    scene.vionet.set("b", "policy=complete")
    transfer(scene.a, scene.b, scene.b.address6, 1_000_000).check()
    check_equals_status(scene)
    await_edges(scene, "computed", "elided")
    browser.await_text('tr[data-from="a"][data-to="b"]', "vionet computes them")
    scene.vionet.set("b", "policy=uniform")
    browser.screenshot("computed")
    browser.check_quiet(scene.page.origin)


def test_drops_come_with_their_explanation(scene: Scene, browser: Browser) -> None:
    """A link that is down: the frames that went nowhere, what that means, and how to mend it."""
    scene.page.open()
    scene.vionet.set("b", "link=down")
    browser.await_text('tr[data-port="b"]', "link down")
    scene.a.run(f"ping -c 2 -i 0.2 -W 1 {scene.b.address4} || true")
    browser.until("return document.querySelector('tr[data-reason=link_down]') !== null")
    words, meaning = browser.text("tr[data-reason=link_down]"), counters()["link_down"]
    for part in (meaning.what, meaning.cause, meaning.mend):
        assert plain(part) in words
    scene.vionet.set("b", "link=up")
    check_equals_status(scene)
    browser.screenshot("drops")


def focused(browser: Browser) -> str:
    """The id of the element that has the focus."""
    found: str = browser.script("return document.activeElement.id")
    return found


def tab_to(browser: Browser, wanted: str) -> None:
    """Press Tab until that element has the focus, which is to be seen at every step."""
    for _ in range(TABS_MAX):
        ActionChains(browser.driver).send_keys(Keys.TAB).perform()
        outline = browser.script(
            "const s = getComputedStyle(document.activeElement); return [s.outlineStyle, "
            "parseFloat(s.outlineWidth)]"
        )
        assert ["solid", 3] == outline, focused(browser)
        if focused(browser) == wanted:
            return
    raise AssertionError(f"{wanted} is not within {TABS_MAX} steps")


def test_capture_is_started_by_keyboard_and_downloaded(scene: Scene, browser: Browser) -> None:
    """From the page's begin by Tab, letters and Enter: what, how long, which frames, the button;
    the file that comes is one that tshark reads, with the frames that the filter let pass."""
    browser.resize(1280)
    scene.page.open()
    browser.until("return document.getElementById('what').options.length === 3")
    press = lambda *keys: ActionChains(browser.driver).send_keys(*keys).perform()  # noqa: E731
    tab_to(browser, "what")
    press(Keys.DOWN)
    tab_to(browser, "seconds")
    press(Keys.CONTROL, "a")
    press("5")
    assert "5" == browser.script("return document.activeElement.value")
    tab_to(browser, "filter")
    press("icmp")
    tab_to(browser, "start")
    pinging = scene.a.start(f"ping -i 0.1 -c 600 {scene.b.address4} || true")
    try:
        press(Keys.ENTER)
        browser.await_text("#news", "capturing a")
        assert "start" == focused(browser)
        browser.await_text("#news", "capture finished: vionet-a.pcapng")
    finally:
        scene.a.run("pkill ping")
        pinging.result()
    path = browser.downloads / "vionet-a.pcapng"
    until(path.exists, WAIT_S, "download")
    fields = [
        "-T",
        "fields",
        "-e",
        "_ws.col.Protocol",
        "-e",
        "icmp.type",
        "-e",
        "icmp.checksum.status",
    ]
    command = [str(need("tshark")), "-r", str(path), *fields]
    told = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=True)
    lines = {tuple(line.split("\t")) for line in told.stdout.splitlines()}
    assert {("ICMP", "8", "1"), ("ICMP", "0", "1")} == lines
    browser.screenshot("captured")
    browser.check_quiet(scene.page.origin)


def test_a_filter_that_is_wrong_is_named(scene: Scene, browser: Browser) -> None:
    """What libpcap says of it stands on the page; nothing is downloaded."""
    scene.page.open()
    browser.until("return document.getElementById('what').options.length === 3")
    browser.find("#filter").send_keys("no such filter", Keys.ENTER)
    browser.await_text("#news", "no capture: ")
    assert "no such filter" in browser.text("#news") or "syntax" in browser.text("#news")
    assert "" == browser.text("#progress")
    complaints = browser.console()  # the browser's own word on the status of that answer
    assert all("400" in one for one in complaints) and len(complaints) <= 1


class Evil(NamedTuple):
    """A page of somebody else, at another port of this host: browsers call that the same site."""

    address: str
    heard: list[str]


@contextlib.contextmanager
def evil(target: str, area: str) -> Iterator[Evil]:
    """It knows even the secret path, and tries what a page can: a form, a request, the events."""
    heard: list[str] = []
    html = f"""<!DOCTYPE html><title>trying</title><iframe name="f"></iframe>
      <form method="post" action="{target}{area}capture" target="f" enctype="text/plain">
      <input name='{{"socket":"' value='"}}'></form><script>
      document.forms[0].submit();
      const tries = [
        fetch("{target}{area}capture", {{method: "POST", mode: "no-cors", credentials: "include",
          body: "{{}}"}}),
        fetch("{target}{area}capture", {{method: "POST", credentials: "include",
          headers: {{"X-Vionet": "1"}}, body: "{{}}"}}),
        fetch("{target}{area}", {{credentials: "include"}}),
        new Promise((done, fail) => {{
          const events = new EventSource("{target}{area}events", {{withCredentials: true}});
          events.onmessage = events.onopen = done; events.onerror = fail; }}),
      ];
      Promise.allSettled(tries).then((all) => {{
        document.title = all.map((one) =>
          one.status === "fulfilled" && one.value?.type !== "opaque" ? "in" : "out").join(" "); }});
      </script>""".encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(f"{self.path} {self.headers.get('Cookie', '')}")
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(html)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Evil(f"http://127.0.0.1:{server.server_port}/", heard)
        finally:
            server.shutdown()
            thread.join(WAIT_S)


def test_another_page_gets_nothing(scene: Scene, browser: Browser) -> None:
    """Signed in, the browser is led to a page that means harm: none of its tries is let in, and it
    never sees the cookie, though browsers show cookies to every port of a host."""
    scene.page.open()
    area = browser.script("return location.pathname")
    cookies = browser.command("Network.getAllCookies")["cookies"]
    (cookie,) = [one for one in cookies if one["path"] == area]
    assert (True, "Strict") == (cookie["httpOnly"], cookie["sameSite"])
    assert "" == browser.script("return document.cookie")
    entries = browser.command("Page.getNavigationHistory")["entries"]
    token = scene.page.address.partition("#")[2]
    assert not any(token in json.dumps(entry) for entry in entries)
    browser.network("")
    with evil(scene.page.origin, area) as other:
        browser.driver.get(other.address)
        browser.until("return document.title.includes('out')")
        assert "out out out out" == browser.driver.title
        assert cookie["value"] not in "".join(other.heard)
    answers = [one["response"] for one in browser.network("responseReceived")]
    ours = {one["status"] for one in answers if one["url"].startswith(scene.page.origin)}
    assert {403, 405} >= ours and ours
    browser.console()
    browser.driver.get("about:blank")
