"""The live page in a real browser, shown what a test wants: hostile names, fabrics that come and
go, the dark, a narrow screen, and who uses neither eyes nor a mouse."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.interop.peers.browser import Browser
from tests.interop.peers.page import Page, page
from tests.interop.peers.process import until
from tests.scripted import Scripted, fabric, port, talk

WAIT_S = 30
HOSTILE = '<img src=x onerror="alert(1)">'
SCRIPT = "</script><script>alert(2)</script>"
CONTRAST_MIN, LINE_CONTRAST_MIN = 4.5, 3.0
LARGE = (1 << 63) + 1
# For every element with text of its own, or a line: its colour against what is behind it.
CONTRASTS = """
const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
const luminance = (colour) => {
  const [r, g, b] = numbers(colour).map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (it) => {
  for (; it; it = it.parentElement) {
    const colour = getComputedStyle(it).backgroundColor;
    if ((numbers(colour)[3] ?? 1) > 0) return colour;
  }
  throw new Error("nothing is behind it");
};
const found = [];
for (const it of document.body.querySelectorAll("*")) {
  if (!it.checkVisibility() || it.closest("defs, option, title, meter")) continue;
  const style = getComputedStyle(it);
  const isLine = it.classList.contains("edge") || it.tagName === "polyline";
  const isText = [...it.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  if (!isLine && !isText) continue;
  const colour = isLine ? style.stroke : it.closest("svg") ? style.fill : style.color;
  const [one, other] = [luminance(colour), luminance(behind(it))];
  const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  found.push([isLine, ratio, `${it.tagName}.${it.getAttribute("class")} ${it.textContent}`]);
}
return found;
"""


@pytest.fixture(scope="module")
def shown() -> Any:
    """A switch with hostile names, one with sixteen ports, and a wire."""
    names = ["alice", "bob", HOSTILE, SCRIPT]
    ports = [port(name, warnings=[HOSTILE], drops={"rx_ring_full": 7}) for name in names]
    ports[0]["ledger"]["rx_bytes"] = LARGE
    ports[1] |= {"state": "waiting", "link": "down"}
    talks = [
        talk("alice", "bob", 10, 10, 0),
        talk("bob", "alice", 10, 5, 5),
        talk("alice", HOSTILE, 10, 0, 0),
        talk("alice", SCRIPT, 1000, 999, 1),
    ]
    many = [port(f"port-{n}") for n in range(16)]
    pairs = [talk(f"port-{n}", f"port-{(n + 5) % 16}", 10 + n, n % 3, n % 2) for n in range(16)]
    return [
        fabric(HOSTILE, *ports, talks=talks),
        fabric("lan", *many, talks=pairs),
        fabric("wire", port("one"), port("two"), kind="wire", talks=[talk("one", "two", 1, 1, 0)]),
    ]


@pytest.fixture(scope="module")
def control(browser: Browser, shown: Any) -> Iterator[Scripted]:
    """The socket that says so."""
    with Scripted(browser.folder / "look.control", *shown) as control:
        yield control


@pytest.fixture(scope="module")
def opened(browser: Browser, control: Scripted) -> Iterator[Page]:
    """A page that may only show, signed in."""
    arguments = "--listen=127.0.0.1:0", f"--control={control.path}"
    with page(browser, browser.folder, *arguments) as made:
        made.open()
        yield made
        browser.driver.get("about:blank")


@pytest.fixture
def look(browser: Browser, opened: Page) -> Page:
    """The same, as wide as a desk's screen, in the light."""
    browser.resize(1280)
    browser.prefer(color_scheme="light")
    opened.await_sample()
    return opened


def test_names_are_never_markup(look: Page, browser: Browser) -> None:
    """Names and warnings that are markup are shown as what they are, everywhere; nothing of them
    runs or is loaded; numbers that a browser would round are exact."""
    assert 0 == browser.script("return document.querySelectorAll('body img, main script').length")
    text = browser.text("#fabrics")
    assert 5 < text.count(HOSTILE)
    assert 5 < text.count(SCRIPT)
    assert HOSTILE in browser.text("#contents")
    assert HOSTILE == browser.attribute('path[data-from="alice"].none', "data-to")
    assert LARGE == look.totals()["alice"]["rx_bytes"]
    assert f"{LARGE:,}" in text
    assert 7 == look.drops()[SCRIPT]["rx_ring_full"]
    kinds = {pair: it["kind"] for pair, it in look.talks().items()}
    assert ("elided", "computed", "none") == tuple(
        kinds[pair] for pair in (("alice", "bob"), ("bob", "alice"), ("alice", HOSTILE))
    )
    assert kinds == look.edges()
    assert "elided" == kinds["alice", SCRIPT]
    assert "nobody computes nearly all of them" in text
    browser.check_quiet(look.origin)


def test_a_busier_pair_has_a_thicker_line(look: Page, browser: Browser, control: Scripted) -> None:
    """By the rate of the last second; the small charts go on meanwhile."""
    forth, back = control.fabrics[0]["talks"][:2]

    def go_on() -> None:
        forth["bytes"] += 10**9
        back["bytes"] += 10**5
        control.fabrics[0]["time_ns"] += 10**9

    control.before_each = go_on
    try:
        browser.until(
            """const width = (from, to) => parseFloat(document.querySelector(
              `path[data-from=${from}][data-to=${to}]`).getAttribute("stroke-width"));
            return width("alice", "bob") > width("bob", "alice") && width("bob", "alice") > 1.5"""
        )
        browser.await_text('tr[data-from="alice"][data-to="bob"]', "8.0 Gbit/s")
        points = "document.querySelector('tr[data-port=alice] polyline').getAttribute('points')"
        browser.until(f"return {points}.split(' ').length > 2")
    finally:
        control.before_each = lambda: None


def test_light_and_dark_can_be_read(look: Page, browser: Browser) -> None:
    """In both, text has a contrast of 4.5 and lines one of 3 against what is behind them."""
    browser.script("document.querySelector('#news').textContent = 'news'")
    backgrounds = set()
    for scheme in ("light", "dark"):
        browser.prefer(color_scheme=scheme)
        browser.screenshot(scheme)
        found = browser.script(CONTRASTS)
        assert {True, False} == {is_line for is_line, _, _ in found}
        weak = [one for one in found if one[1] < (LINE_CONTRAST_MIN if one[0] else CONTRAST_MIN)]
        assert [] == weak
        backgrounds.add(browser.script("return getComputedStyle(document.body).backgroundColor"))
    assert 2 == len(backgrounds)


def test_kinds_of_lines_differ_without_colour(look: Page, browser: Browser) -> None:
    """By their dashes, and the table says it in words."""
    dashes = browser.script(
        "return ['elided', 'computed', 'none'].map((kind) => getComputedStyle("
        "document.querySelector(`path.edge.${kind}`)).strokeDasharray)"
    )
    assert 3 == len(set(dashes))
    legend = browser.text(".legend")
    for words in ("nobody computes them", "vionet computes them", "nothing to do"):
        assert words in legend
        assert words in browser.text("#fabrics tbody tr[data-kind]") + browser.text("#fabrics")


def test_narrow_screens_scroll_tables_only(look: Page, browser: Browser) -> None:
    """At 360 pixels the page is as wide as the screen; what is wider scrolls by itself, and can be
    scrolled by keyboard."""
    browser.resize(360, 800)
    look.await_sample()
    assert 360 >= browser.script("return document.documentElement.scrollWidth")
    wide = "return [...document.querySelectorAll('.scroll')].map((it) => it.tabIndex)"
    assert {0} == set(browser.script(wide))
    browser.screenshot("narrow")


def test_everything_has_a_name(look: Page, browser: Browser) -> None:
    """What a screen reader finds: each control, picture, table and region says what it is; what
    comes and goes is told politely; nothing is animated."""
    nodes = browser.command("Accessibility.getFullAXTree")["nodes"]
    told = [(one["role"]["value"], one.get("name", {}).get("value", "")) for one in nodes
            if not one["ignored"]]  # fmt: skip
    wanted = {"link", "image", "table", "region", "navigation", "columnheader"}
    assert wanted <= {role for role, _ in told}
    assert [] == [role for role, name in told if role in wanted and not name.strip()]
    assert "polite" == browser.attribute("#news", "aria-live")
    assert 0 == browser.script("return document.getAnimations().length")


def test_without_leave_there_is_no_button(look: Page, browser: Browser) -> None:
    """The page says that it only shows; the button is not there for anybody."""
    assert not browser.find("#start").is_displayed()
    assert browser.find("#read-only").is_displayed()


def test_nothing_is_asked_for_a_hidden_page(
    look: Page, browser: Browser, control: Scripted
) -> None:
    """In the background it listens to nothing, and vionet is asked by nobody; in front again it
    goes on."""
    (tab,) = browser.driver.window_handles
    browser.driver.switch_to.new_window("tab")
    try:
        until(lambda: not control.connected, WAIT_S, "hanging up")
    finally:
        browser.driver.close()
        browser.driver.switch_to.window(tab)
    look.await_sample()
    assert 1 == control.connected


def test_fabrics_come_and_go(browser: Browser) -> None:
    """The page says so and goes on, also when its own server was away, and takes a new fabric's
    counters for what they are."""
    path, token = browser.folder / "gone.control", browser.folder / "token"
    token.touch(0o600)
    token.write_text("a token for two servers\n")
    arguments = f"--control={path}", f"--token-file={token}"
    with page(browser, browser.folder, "--listen=127.0.0.1:0", *arguments) as one:
        with Scripted(path, fabric("lan", port("a", ledger={"tx_bytes": 5000}))):
            browser.driver.get(one.address)
            assert browser.find("#sign-in").is_displayed()
            browser.find("#token").send_keys("a token for two servers\n")
            one.await_sample()
        browser.await_text("#news", "lan does not run any more")
        assert 5000 == one.totals()["a"]["tx_bytes"]
        with Scripted(path, fabric("lan", port("a", serial=2, ledger={"tx_bytes": 7}))):
            browser.await_text("#news", "lan runs again")
            assert 7 == one.totals()["a"]["tx_bytes"]
            browser.check_quiet(one.origin)
    browser.await_text("#news", "vionet web does not answer")
    where = f"--listen={one.origin.removeprefix('http://')}"
    with page(browser, browser.folder, where, *arguments):
        browser.await_text("#news", "vionet web answers again")
        browser.driver.get("about:blank")
