"""Every event of the log is in docs/logs.md, and the other way round: names, levels, fields."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.tools import ROOT

PAGE = ROOT / "docs" / "logs.md"
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
WRITERS = {"_journal", "journal", "_refusals"}  # of the class Journal: level and event
LOGS = {"log", "_log", "_log_of"}


class Line(NamedTuple):
    """One place that writes to the log."""

    where: str
    level: str | None  # None: chosen as it runs
    events: tuple[str, ...]
    fields: frozenset[str]


def texts(node: ast.expr, path: Path) -> tuple[str, ...]:
    """An event is a constant, or looked up in a table of constants of its module."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return (node.value,)
    assert isinstance(node, ast.Subscript), f"{path}:{node.lineno}: no constant text"
    assert isinstance(node.value, ast.Name), f"{path}:{node.lineno}: no table of this module"
    name = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
    return tuple(getattr(importlib.import_module(name), node.value.id).values())


def name_of(node: ast.expr) -> str:
    """The last word of `a.b.c`."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def lines_of(path: Path) -> Iterator[Line]:
    """Every place in a module that logs."""
    for call in ast.walk(ast.parse(path.read_text())):
        if not isinstance(call, ast.Call) or not call.args:
            continue
        fields = frozenset(one.arg for one in call.keywords if one.arg not in (None, "exc_info"))
        where = f"{path.relative_to(ROOT)}:{call.lineno}"
        verb = name_of(call.func)
        owner = name_of(call.func.value) if isinstance(call.func, ast.Attribute) else ""
        if verb == "write" and owner in WRITERS:
            level = getattr(call.args[0], "value", None)
            fixed = level if isinstance(level, str) else None
            yield Line(where, fixed, texts(call.args[1], path), fields)
        elif verb in LEVELS and owner in LOGS:
            yield Line(where, verb.replace("exception", "error"), texts(call.args[0], path), fields)
        elif verb == "level" and isinstance(call.func, ast.Name):
            yield Line(where, None, texts(call.args[0], path), fields)


LINES = [line for path in sorted((ROOT / "src").rglob("*.py")) for line in lines_of(path)]
ROWS = {
    event: (levels, set(re.findall(r"`(\w+)`", fields)))
    for event, levels, fields in re.findall(
        r"^\| `([^`]+)` \| ([^|]+) \| ([^|]*) \|", PAGE.read_text(), re.MULTILINE
    )
}


def test_events_are_short_and_constant() -> None:
    """A program can look for an event: nothing in its text changes, and it has no numbers."""
    events = {event for line in LINES for event in line.events}
    assert 30 < len(events), "the calls are found"
    odd = [e for e in events if re.search(r"\d|[{}%\n]", e) or len(e) > 60 or e != e.strip()]
    assert [] == odd


def test_no_place_logs_unseen() -> None:
    """Whoever asks for a logger has lines that the tests here know."""
    silent = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "src").rglob("*.py"))
        if re.search(r"structlog\.get_logger|\bJournal\(", path.read_text())
        and not list(lines_of(path))
    ]
    passed_on = ["src/vionet/daemon/live.py", "src/vionet/vhost_user/journal.py"]
    assert passed_on == silent


def test_page_has_every_event() -> None:
    """With its level and its fields; and none that there is not."""
    assert {event for line in LINES for event in line.events} == ROWS.keys()
    for line in LINES:
        for event in line.events:
            levels, fields = ROWS[event]
            assert line.level is None or line.level in levels, line
            assert set() == line.fields - fields, line
