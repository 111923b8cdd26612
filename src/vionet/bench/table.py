"""One result for people: the ratio first, then what was measured; what is missing, what is wrong.

How it works: a column that says the same in every row (the unit, what the ratio is to) goes into
the head of another column; one that says nothing is not there at all.
"""

from collections.abc import Callable, Mapping
from typing import Final, TextIO

from vionet.bench.goals import GOALS, judge
from vionet.bench.result import Figure, Result, digits
from vionet.terminal import console, plain_table

_WORDS: Final = ("unit", "case", "subject", "against", "goal")  # columns; those before are numbers


def span(figure: Figure) -> tuple[str, str]:
    """The least and the greatest round; nothing where there was only one."""
    if len(figure.values) == 1:
        return "", ""
    return digits(min(figure.values)), digits(max(figure.values))


def held(figure: Figure) -> str:
    """The figure's goal, and whether it is met; a miss stands out."""
    met = judge(figure)
    if met is None:
        return ""
    return f"{GOALS[figure.goal].bound} {'met' if met else 'MISSED'}"


_CELLS: Final[Mapping[str, Callable[[Figure], str]]] = {
    "ratio": lambda figure: "" if figure.ratio is None else f"{figure.ratio:.2f}",
    "median": lambda figure: digits(figure.value),
    "from": lambda figure: span(figure)[0],
    "to": lambda figure: span(figure)[1],
    "Gbit/s": lambda figure: digits(figure.detail["gbit_s"]) if "gbit_s" in figure.detail else "",
    "unit": lambda figure: figure.unit,
    "case": lambda figure: figure.name,
    "subject": lambda figure: figure.subject,
    "against": lambda figure: figure.against,
    "goal": held,
}


def table(result: Result) -> tuple[list[str], list[list[str]]]:
    """Heads and rows, without the columns that need not be there."""
    columns = {head: [cell(figure) for figure in result.figures] for head, cell in _CELLS.items()}
    if result.quick:
        del columns["goal"]
    heads = {head: head for head in columns}
    for constant, into in (("unit", "median"), ("against", "ratio")):
        said = {*columns[constant]} - {""}
        if len(said) == 1:
            heads[into] = f"ratio to {said.pop()}" if into == "ratio" else said.pop()
            del columns[constant]
    columns = {head: cells for head, cells in columns.items() if any(cells)}
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    return [heads[head] for head in columns], rows


def remarks(result: Result) -> list[str]:
    """What there is to say beside the figures."""
    return [
        *result.notes,
        *(f"left out: {what}: {why}" for what, why in result.left_out.items()),
        *(f"WRONG: {fault}" for fault in result.faults),
    ]


def write_table(result: Result, out: TextIO) -> None:
    """The table and the remarks."""
    screen = console(out)
    heads, rows = table(result)
    first = next((i for i, head in enumerate(heads) if head in _WORDS), 0)
    folding = [head for head in heads if head in _WORDS or head.startswith("ratio")]
    shown = plain_table(heads, folding=folding, numbers_from=len(heads))
    for column in shown.columns[:first]:
        column.justify = "right"
    for row in rows:
        shown.add_row(*row)
    if rows:
        screen.print(shown)
    for remark in remarks(result):
        screen.print(remark)
    if result.quick:
        screen.print("a quick run: it works, or not; its figures say nothing about speed")
