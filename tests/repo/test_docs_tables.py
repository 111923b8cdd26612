"""What the documentation says about the code is what the code says."""

import json
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

from scripts.print_tables import PRINTED, PRINTS, deviations, printed
from tests.snippet import documents
from tests.tools import ROOT
from vionet.config.port import _OPTIONS
from vionet.engine.status import DROP_REASONS, LEDGER_KEYS, Policy
from vionet.spec.counter import KINDS, LEDGER, counters
from vionet.spec.rules import rules

DOCS = ROOT / "docs"
SOURCES = ("src", "tests", "scripts")
STORIES = 71  # failures in the field; the last number
PREFIXES = {rule_id.split("-")[0] for rule_id in rules()}


def first_cells(path: Path, heading: str) -> list[str]:
    """The first word in backticks of each row of the table whose first column is `heading`."""
    _, table = path.read_text().split(f"\n| {heading} |", 1)
    rows = table.split("\n\n")[0].splitlines()[2:]
    return [re.findall(r"`([^`]+)`", row)[0] for row in rows if row.startswith("|")]


def python_files(*folders: str) -> list[Path]:
    """All Python sources in `folders` of the repository."""
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def test_printed_parts_are_up_to_date() -> None:
    """Every part that is printed from the code says what the code says; scripts/print_tables.py."""
    stale = [path.name for path in documents() if printed(path.read_text()) != path.read_text()]
    assert [] == stale
    names = [name for path in documents() for _, name, _, _ in PRINTED.findall(path.read_text())]
    assert sorted(PRINTS) == sorted(names)


def test_printing_replaces_what_differs() -> None:
    """A printed part that somebody edited is seen."""
    page = "a\n<!-- printed: limits -->\nedited\n<!-- end of print -->\nb\n"
    assert page != printed(page)
    assert printed(page) == printed(printed(page))


def test_every_deviation_is_listed() -> None:
    """Each source that says `Deviation` is in the list, as often as it says it."""
    said = sum(len(re.findall(r"\bDeviation\b", path.read_text())) for path in python_files("src"))
    assert said == deviations().count("\n")


def test_ledger_and_drops_are_explained() -> None:
    """Each counter and each drop reason has its row, in the code's order; no field of the register
    is empty, and the rules and failures that it cites exist."""
    assert list(LEDGER_KEYS) == first_cells(DOCS / "ledger.md", "key")
    assert list(DROP_REASONS[1:]) == first_cells(DOCS / "ledger.md", "reason")
    assert [*LEDGER_KEYS, *DROP_REASONS[1:]] == list(counters())
    assert [] == [one.name for one in counters().values() if "" in one[:-1]]
    assert {LEDGER, *KINDS} == {one.kind for one in counters().values()}
    cited = {rule for one in counters().values() for rule in one.rules.split()}
    assert set() == cited - rules().keys() - {f"W{number}" for number in range(1, STORIES + 1)}


def test_options_are_explained() -> None:
    """Each option of a port and each policy has its row."""
    words = {re.split(r"[=,]", cell)[0] for cell in first_cells(DOCS / "guests.md", "option")}
    assert {*_OPTIONS, "+NAME"} == words
    policies = first_cells(DOCS / "how-it-works.md", "policy")
    assert {policy.name.lower() for policy in Policy} == set(policies)


def test_status_keys_are_explained() -> None:
    """Each key of the status document is in the page about it."""
    page = (DOCS / "status.md").read_text()
    table = page[page.index("| key |") :]
    (fabric,) = json.loads(page.split("```json\n")[1].split("```")[0])["fabrics"]
    keys = {*fabric, *fabric["ports"][0]}
    assert set() == {key for key in keys if f"`{key}`" not in table}


def test_folders_are_those_of_the_linter() -> None:
    """The list of folders is the order that the linter holds."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (layers,) = (
        contract["layers"]
        for contract in config["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    )
    there = [name.strip("()") for layer in layers for name in layer.split(" | ")]
    there = [name for name in there if (ROOT / "src" / "vionet" / name).is_dir()]
    listed = first_cells(DOCS / "layout.md", "folder of `src/vionet`")
    assert there == [name.rstrip("/") for name in listed]


@cache
def test_names() -> set[str]:
    """Every test function there is."""
    return {
        name
        for path in python_files("tests")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
    }


test_names.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_names_mean_something(path: Path) -> None:
    """Files, tests and rules that a page names exist."""
    text = path.read_text()
    words = re.findall(r"`([^`\s]+)`", text)
    places = [word for word in words if re.fullmatch(r"[\w./-]+\.(py|tsv|txt|md)", word)]
    roots = (ROOT, ROOT / "src" / "vionet", path.parent)
    assert [] == [place for place in places if not any((root / place).exists() for root in roots)]
    folders = [word for word in words if re.match(r"(src|tests|scripts)/", word)]
    assert [] == [folder for folder in folders if not (ROOT / folder).exists()]
    assert set() == {word for word in words if re.fullmatch(r"test_\w+", word)} - test_names()
    cited = {f"{a}-{n}" for a, n in re.findall(r"\b([A-Z]{2})-(\d\d)\b", text) if a in PREFIXES}
    assert set() == cited - rules().keys()


def test_failures_that_are_cited_are_explained() -> None:
    """Each W number has one row in the page about failures elsewhere, and sources cite no other."""
    cited = {
        number
        for path in python_files(*SOURCES)
        for number in re.findall(r"\bW\d{1,2}\b", path.read_text())
    }
    listed = re.findall(r"^\| (W\d+) \|", (DOCS / "field.md").read_text(), re.MULTILINE)
    assert [f"W{number}" for number in range(1, STORIES + 1)] == listed
    assert set() == cited - set(listed)


def test_each_failure_has_its_tests() -> None:
    """A row names all tests that have its number in their names, and there is one at least."""
    named: dict[str, set[str]] = {}
    for name in test_names():
        numbers = re.match(r"test((?:_w\d+)+)_", name)
        for number in numbers[1].split("_w")[1:] if numbers else ():
            named.setdefault(f"W{number}", set()).add(name)
    for row in re.findall(r"^\| W\d+ \|.*$", (DOCS / "field.md").read_text(), re.MULTILINE):
        number, *_, tests = (cell.strip() for cell in row.strip("|").split("|"))
        assert named.get(number, "no test") == set(re.findall(r"`(\w+)`", tests)), number
    assert STORIES == len(named)


def anchors(path: Path) -> set[str]:
    """The anchors that a renderer makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    kept = (re.sub(r"[^\w\s-]", "", heading.lower()) for heading in headings)
    return {text.strip().replace(" ", "-") for text in kept}


def test_anchors_exist() -> None:
    """A link into a page leads to a heading of it."""
    broken = [
        f"{path.name}: {target}"
        for path in documents()
        for page, anchor in re.findall(r"\]\(([^)#:\s]*)#([^)]*)\)", path.read_text())
        for target in [f"{page}#{anchor}"]
        if anchor not in anchors(path.parent / page if page else path)
    ]
    assert [] == broken


def test_every_page_is_in_the_index() -> None:
    """The index leads to every page, and the README to the index."""
    index = (DOCS / "README.md").read_text()
    pages = [path.name for path in sorted(DOCS.glob("*.md")) if path.name != "README.md"]
    assert [] == [page for page in pages if f"]({page})" not in index]
    assert "](docs/README.md)" in (ROOT / "README.md").read_text()
