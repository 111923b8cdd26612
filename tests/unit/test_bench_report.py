"""What the benches say: results, goals, tables, the machine, the page."""

import io
import json
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from tests.results import WIRE, peers, suite_of
from vionet.bench import machine, page
from vionet.bench.goals import GOALS, Goal, judge, verdicts
from vionet.bench.result import Figure, Result, digits, ratios
from vionet.bench.table import table, write_table


def written(result: Result) -> str:
    """The table as text."""
    out = io.StringIO()
    write_table(result, out)
    return out.getvalue()


def test_result_survives_json() -> None:
    """What `document` wrote, `read` gives back, through JSON."""
    assert peers() == Result.read(json.loads(json.dumps(peers().document())))
    counted = defaultdict(int, lost=1)
    (row,) = Result("x", [replace(WIRE, detail=counted)]).document()["figures"]
    assert {"lost": 1} == json.loads(json.dumps(row))["detail"]


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0.0), ("0.934", 0.93412), ("0.005", 0.0049), ("1.23", 1.234), ("12.3", 12.34),
     ("123", 123.4), ("1234567", 1234567.0), ("-12.3", -12.34)],
)  # fmt: skip
def test_numbers_have_three_digits(text: str, number: float) -> None:
    """Three digits that count, and no exponent."""
    assert text == digits(number)


def test_ratio_is_the_median_of_the_rounds() -> None:
    """A round in which everything was slow does not move the ratio; one without a base is none."""
    assert 2.0 == ratios((20.0, 2.0, 24.0), (10.0, 1.0, 10.0))
    assert ratios((1.0,), ()) is None
    assert ratios((1.0,), (0.0,)) is None


@pytest.mark.parametrize("key", GOALS)
def test_goal_is_whole(key: str) -> None:
    """Every goal has a bound, one line of words, and says where it is measured."""
    goal = GOALS[key]
    assert goal.met(goal.limit) == (goal.sign != "<")
    assert goal.bench
    assert 72 >= len(goal.words)
    assert re.fullmatch(r"[≥≤<=] [\d.]+( \D+)?", goal.bound)


def test_goals_are_judged() -> None:
    """A ratio or a value against its bound, which is itself met, or not."""
    assert [True, True, False] == [Goal("b", "w", "≥", 1.5).met(x) for x in (1.6, 1.5, 1.499)]
    assert [True, False, False] == [Goal("b", "w", "<", 20, "s").met(x) for x in (0, 20, 20.1)]
    assert [True, True, False] == [Goal("b", "w", "≤", 1.5).met(x) for x in (0, 1.5, 1.51)]
    assert [True, False] == [Goal("b", "w", "=", 0, "bytes").met(x) for x in (0, 1)]
    start = Figure("warm", "vionet", "s", (0.5, 0.7, 0.6), goal="warm-start")
    assert (0.6, True) == (GOALS["warm-start"].read(start), judge(start))
    with pytest.raises(AssertionError, match="not in s"):
        judge(replace(start, unit="ms"))
    with pytest.raises(KeyError):
        judge(replace(start, goal="no-such-goal"))


def test_worst_figure_decides() -> None:
    """Several figures of one goal: the worst is held against it, from above or from below."""
    packed = replace(WIRE, name="packed", ratio=1.4)
    start = Figure("warm", "vionet", "s", (0.5,), goal="warm-start")
    slow = replace(start, values=(1.25,))
    found = {v.key: v for v in verdicts([Result("a", [WIRE, packed]), Result("b", [slow, start])])}
    assert list(GOALS) == list(found)
    assert (1.4, False) == (found["forward-64-wire"].measured, found["forward-64-wire"].met)
    assert ("1.25 s", "missed") == (found["warm-start"].number, found["warm-start"].word)
    assert ("-", "not measured") == (found["wake"].number, found["wake"].word)


def test_quick_run_judges_nothing() -> None:
    """Figures of a quick run reach no goal and miss none, and the table says so."""
    quick = replace(peers(), quick=True)
    assert {None} == {verdict.met for verdict in verdicts([quick])}
    assert "goal" not in table(quick)[0]
    assert "nothing about speed" in written(quick)


def test_table_has_the_ratio_first() -> None:
    """Ratio, median, span, case, subject, goal; what is the same in every row is in a head."""
    heads, rows = table(peers())
    assert ["ratio to testpmd", "M frames/s", "from", "to", "case", "subject", "goal"] == heads
    assert ["1.61", "13.1", "12.0", "14.5", "64 B both ways", "vionet wire", "≥ 1.5 met"] == rows[1]
    assert ["", "8.10", "8.00", "8.30", "64 B both ways", "testpmd", ""] == rows[0]
    assert "≥ 1.2 MISSED" == rows[2][-1]


def test_table_fits_a_terminal() -> None:
    """80 columns, also with long words; what was left out, noted or wrong stands below."""
    result = peers()
    result.figures.append(
        replace(WIRE, name="64 KB GSO both ways over packed rings", unit="Gbit/s", against="memcpy")
    )
    result.faults.append("2 frames came damaged")
    text = written(result)
    assert [] == [line for line in text.splitlines() if len(line) > 80]
    assert "left out: Open vSwitch: ovs-vswitchd is not installed\n" in text
    assert "negotiated: CSUM GUEST_CSUM\n" in text
    assert "WRONG: 2 frames came damaged\n" in text
    assert "≥ 1.5 met" in text


def test_table_without_figures_says_why() -> None:
    """A bench that could measure nothing still says what it left out."""
    assert "left out: all: no second core\n" == written(
        Result("x", left_out={"all": "no second core"})
    )


def test_machine_says_what_figures_depend_on() -> None:
    """Processor, caches, kernel, versions; nothing that names this machine."""
    here = machine.machine()
    assert here["processor"]
    assert 1 <= here["cores"]
    assert 4096 <= here["page_size"]
    assert {"vionet", "Python", "numba", "llvmlite", "numpy"} <= here["versions"].keys()
    assert all(re.match(r"\d|of unknown", version) for version in here["versions"].values())
    text = json.dumps(here) + str(machine.rows(here))
    host = Path("/proc/sys/kernel/hostname").read_text().strip()
    assert not re.search(rf"\b{re.escape(host)}\b", text)
    assert "/" not in text.replace("a machine's", "")


def test_machine_reads_what_the_kernel_says(tmp_path: Path) -> None:
    """Caches by level and size, the bracketed choice, the number in a release."""
    indices = (
        ("1", "Data", "32K"),
        ("1", "Instruction", "64K"),
        ("2", "Unified", "512K"),
        ("3", "Unified", "16384K"),
    )
    for number, parts in enumerate(indices):
        (tmp_path / f"index{number}").mkdir()
        for name, text in zip(("level", "type", "size"), parts, strict=True):
            (tmp_path / f"index{number}" / name).write_text(text + "\n")
    assert {"L1": "32 KiB", "L2": "512 KiB", "L3": "16 MiB"} == machine.caches(tmp_path)
    assert {} == machine.caches(tmp_path / "none")
    assert "madvise" == machine.chosen("always [madvise] never")
    assert "unknown" == machine.chosen("")
    assert ("6.1.0", "") == (machine.first_number("6.1.0-18-amd64"), machine.first_number("none"))


def test_page_keeps_what_was_written_by_hand() -> None:
    """Only measured parts change; rendering again changes nothing."""
    before = (
        page.EMPTY.replace("## All figures", "By hand.\n\n## All figures") + "\n## Limits\n\nOne.\n"
    )
    once = page.render(before, suite_of(peers()))
    assert once == page.render(once, suite_of(peers()))
    assert "By hand.\n" in once
    assert once.endswith("\n## Limits\n\nOne.\n")
    assert (
        "| 64 B both ways: wire against testpmd io forwarding | ≥ 1.5 | 1.61 | met | peers |"
        in once
    )
    assert "| ≥ 1.2 | 1.10 | **missed** |" in once
    assert "![bench peers](performance-peers.svg)" in once
    assert "- left out: Open vSwitch: ovs-vswitchd is not installed\n" in once
    assert "| peers | 3 s | 0123abc | 0.1 | 140 ns |" in once
    assert "Nothing has been measured yet." not in once


def test_page_shows_failures() -> None:
    """A bench that failed is there with its reason, with or without figures."""
    failed = suite_of(peers())
    failed["benches"]["peers"] |= {"failure": "no rings", "result": None}
    text = page.render(page.EMPTY, failed)
    assert "### bench peers\n" in text
    assert "**Failed**: no rings\n" in text
    assert "performance-peers.svg" not in text
