"""docs/performance.md: what was measured, written between the words of those who measured it.

How it works: a measured part stands between `<!-- measured: NAME -->` and
`<!-- end of measurement -->`, NAME being one of `PARTS`; everything else on the page is written
by hand and stays.  `render` is a function of the page and of one suite's document alone, so a
test can tell whether the page shows the newest results.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from vionet.bench.catalogue import BENCHES
from vionet.bench.goals import Verdict, verdicts
from vionet.bench.machine import rows
from vionet.bench.result import Result
from vionet.bench.table import remarks, table

_MEASURED: Final = re.compile(
    r"(<!-- measured: (\w+) -->\n)(.*?)(<!-- end of measurement -->)", re.DOTALL
)
Suite = Mapping[str, Any]  # the document that `suite` writes


def results(suite: Suite) -> list[Result]:
    """Those of the benches that ended."""
    parts = suite["benches"].values()
    return [Result.read(part["result"]) for part in parts if part["result"] is not None]


def cells(row: Sequence[str]) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") or " " for cell in row) + " |\n"


def markdown_table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return cells(heads) + cells(["---"] * len(heads)) + "".join(map(cells, lines))


def _machine(suite: Suite) -> Iterator[str]:
    if not suite["benches"]:
        yield "Nothing has been measured yet.\n"
        return
    yield f"Measured on {suite['date']}.\n\n"
    yield markdown_table(("machine", ""), rows(suite["machine"]))
    yield "\n"
    yield markdown_table(
        ("bench", "took", "vionet", "other load", "core to core and back"),
        [
            (
                name,
                f"{part['seconds']} s",
                part["conditions"]["vionet"],
                str(part["conditions"]["load"]),
                f"{part['conditions']['core_to_core_ns'] or '-'} ns",
            )
            for name, part in suite["benches"].items()
        ],
    )


def _goals(suite: Suite) -> Iterator[str]:
    found = verdicts(results(suite))
    if any(verdict.met is not None for verdict in found):
        yield "![The goals, and how far each is reached](performance-goals.svg)\n\n"
    yield markdown_table(
        ("figure", "goal", "measured", "verdict", "bench"),
        [(v.goal.words, v.goal.bound, v.number, _stressed(v), v.goal.bench) for v in found],
    )


def _stressed(verdict: Verdict) -> str:
    return f"**{verdict.word}**" if verdict.met is False else verdict.word


def _figures(suite: Suite) -> Iterator[str]:
    separator = ""
    for name, part in suite["benches"].items():
        yield f"{separator}### bench {name}\n\n{BENCHES.get(name, '')}\n"
        separator = "\n"
        if part["failure"]:
            yield f"\n**Failed**: {part['failure']}\n"
        if part["result"] is None:
            continue
        result = Result.read(part["result"])
        if result.figures:
            yield f"\n![bench {name}](performance-{name}.svg)\n\n"
            yield markdown_table(*table(result))
        if said := remarks(result):
            yield "\n" + "".join(f"- {remark}\n" for remark in said)
    if not suite["benches"]:
        yield "Nothing has been measured yet.\n"


PARTS: Final[Mapping[str, Callable[[Suite], Iterator[str]]]] = {
    "machine": _machine,
    "goals": _goals,
    "figures": _figures,
}
_HEADS: Final = {"machine": "The machine", "goals": "The goals", "figures": "All figures"}
EMPTY: Final = "# Performance\n" + "".join(
    f"\n## {head}\n\n<!-- measured: {name} -->\n<!-- end of measurement -->\n"
    for name, head in _HEADS.items()
)


def render(page: str, suite: Suite) -> str:
    """`page` with its measured parts as `suite` has them."""
    return _MEASURED.sub(lambda m: f"{m[1]}{''.join(PARTS[m[2]](suite))}{m[4]}", page)


def write(folder: Path, suite: Suite) -> list[Path]:
    """Rewrite the page in `folder`, or begin it, and its pictures; the files written."""
    from vionet.bench.plot import draw, draw_goals

    page = folder / "performance.md"
    before = page.read_text(encoding="utf-8") if page.exists() else EMPTY
    page.write_text(render(before, suite), encoding="utf-8")
    written = [page]
    for result in results(suite):
        if result.figures:
            written.append(folder / f"performance-{result.bench}.svg")
            draw(result, written[-1])
    found = verdicts(results(suite))
    if any(verdict.met is not None for verdict in found):
        written.append(folder / "performance-goals.svg")
        draw_goals(found, written[-1])
    return written
