"""Figures as pictures (SVG): a panel for each unit, a group of bars a case, a colour a subject.

A size of frames, or whatever stands before a colon in the names of cases ("64 B both ways",
"64 B, cached: filled"), has a panel of its own.

How it works: pygal (the extra `bench`) draws each panel as a tree; the trees are stacked in one
document, without the scripts and dates that pygal adds, so that the same figures give the same
file.  Where the largest bar is many times the usual one, the scale is logarithmic and says so.
The goals have a picture of their own: each figure as a multiple of its goal.
"""

import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any, Final
from xml.etree import ElementTree as Xml  # writing only

from pygal import HorizontalBar, HorizontalStackedBar
from pygal.style import Style

from vionet.bench.goals import Verdict
from vionet.bench.result import Figure, Result, digits

# pygal leaves a finder for plug-ins behind, of a kind that Python warns of at each later import.
sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != "pygal"]

_SVG: Final = "http://www.w3.org/2000/svg"
_WIDTH: Final = 860  # pixels
_BAR: Final = 18  # pixels that a bar is thick, with its share of the gap
_AROUND: Final = 120  # pixels for title, axis and legend
_FAMILY: Final = re.compile(r"(?:(.+?): |(\d+ K?B(?: GSO)?),? )(.+)")
_LABEL: Final = 48  # characters
_LOGARITHMIC_FROM: Final = 20  # times the median bar
_FULL: Final = 3.0  # times its goal: further out a bar is cut
_STYLE: Final[dict[str, Any]] = dict(
    background="white",
    plot_background="white",
    opacity="1",
    foreground_subtle="#dddddd",
    guide_stroke_color="#dddddd",
    major_guide_stroke_color="#888888",
    guide_stroke_dasharray="none",
    major_guide_stroke_dasharray="none",
    transition="0s",
    font_family="DejaVu Sans, Verdana, Helvetica, sans-serif",
    label_font_size=12,
    major_label_font_size=12,
    value_font_size=11,
    legend_font_size=12,
    title_font_size=15,
    value_colors=("black",) * 8,
)
# Okabe and Ito's, which also those tell apart who do not see all colours.
_COLORS: Final = (
    "#56b4e9", "#e69f00", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#999999",
)  # fmt: skip


def draw(result: Result, path: Path) -> None:
    """Write the figures of one bench to `path`, but no panel of zeros only."""
    parts: dict[tuple[str, str], list[Figure]] = {}
    for figure in result.figures:
        parts.setdefault((figure.unit, _parts(figure.name)[0]), []).append(figure)
    seen = [(key, found) for key, found in parts.items() if any(f.value for f in found)]
    seen = seen or [*parts.items()]
    subjects = dict.fromkeys(figure.subject for figure in result.figures)
    colors = dict(zip(subjects, cycle(_COLORS), strict=False))
    _write([_figures_panel(result.bench, *key, found, colors) for key, found in seen], path)


def draw_goals(verdicts: Sequence[Verdict], path: Path) -> None:
    """Write to `path` how far each measured goal is reached; 1 is the goal itself."""
    judged = [verdict for verdict in verdicts if verdict.met is not None]
    labels = [f"{verdict.key}: {verdict.number}, goal {verdict.goal.bound}" for verdict in judged]
    series: dict[str, list[Any]] = {
        word: [
            {"value": reached(verdict), "formatter": _times} if verdict.word == word else None
            for verdict in judged
        ]
        for word in ("met", "missed")
    }
    title = f"The goals: measured as a multiple of the goal, cut at {_FULL:g}"
    panel = _panel(
        title, "times the goal", labels, series, HorizontalStackedBar,
        y_labels=marks(0, _FULL), y_labels_major=[1], range=(0, _FULL), print_zeroes=False,
    )  # fmt: skip
    _write([panel], path)


def reached(verdict: Verdict) -> float:
    """The figure as a multiple of its goal; for an upper bound the other way round."""
    goal, measured = verdict.goal, verdict.measured or 0.0
    if goal.is_floor:
        return min(measured / goal.limit, _FULL)
    return min(goal.limit / measured, _FULL) if measured else _FULL if goal.limit else 1.0


def _times(value: float) -> str:
    return digits(value) if value < _FULL else f"{_FULL:g} or more"


def marks(least: float, most: float, *, logarithmic: bool = False) -> list[dict[str, Any]]:
    """Where the axis has lines: round numbers, at most about eight."""
    if logarithmic:
        decades = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
        parts = (1, 2, 5) if len(decades) < 4 else (1,)
        values = [part * 10.0**decade for decade in decades for part in parts]
    else:
        size = 10.0 ** math.floor(math.log10(most - least))
        step = next(s * size for s in (0.1, 0.2, 0.5, 1, 2) if (most - least) / (s * size) <= 8)
        values = [i * step for i in range(math.ceil(least / step), round(most / step) + 1)]
    shown = [value for value in values if least <= value <= most]
    return [{"value": value, "label": f"{value:.6g}"} for value in shown]


def _parts(name: str) -> tuple[str, str]:
    """What the cases of one panel have in common, if `name` has such a thing; and the rest."""
    found = _FAMILY.fullmatch(name)
    return (found[1] or found[2], found[3]) if found else ("", name)


def _figures_panel(
    bench: str, unit: str, family: str, figures: Sequence[Figure], colors: Mapping[str, str]
) -> Xml.Element:
    """The figures of one unit, of cases whose names begin alike; each subject in its colour."""
    values = {(f.subject, _parts(f.name)[1]): f.value for f in figures}
    names = list(dict.fromkeys(name for _, name in values))
    subjects = list(dict.fromkeys(subject for subject, _ in values))
    series: dict[str, list[Any]] = {s: [values.get((s, n)) for n in names] for s in subjects}
    # Where no case has two subjects, bars need no room beside each other.
    kind = HorizontalStackedBar if len(names) == len(values) else HorizontalBar
    if kind is HorizontalBar and 2 * len(values) <= len(names) * len(subjects):
        names = [f"{name}, {subject}" for subject, name in values]
        series = {"": list(values.values())}
    sizes = [value for value in values.values() if value > 0] or [1.0]
    low, high = 1.12 * min(0.0, *values.values()), 1.12 * max(sizes)
    logarithmic = max(sizes) > _LOGARITHMIC_FROM * median(sizes)
    if logarithmic:
        low, high = 10.0 ** math.floor(math.log10(min(sizes) / 2)), 2 * max(sizes)
    title = ", ".join([*([family] if family else []), unit])
    return _panel(
        ", ".join([f"vionet bench {bench}: {title}", *(subjects if len(subjects) == 1 else ())]),
        f"{unit}, logarithmic scale" if logarithmic else unit,
        names,
        series,
        kind,
        [colors.get(subject, _COLORS[0]) for subject in series],
        zero=max(low, 0),
        range=(low, high),
        logarithmic=logarithmic,
        y_labels=marks(low, high, logarithmic=logarithmic),
        y_labels_major=[max(low, 0)],
        print_zeroes=kind is HorizontalBar or len(series) == 1,
    )


def _panel(
    title: str,
    axis: str,
    labels: Sequence[str],
    series: dict[str, list[Any]],
    kind: type[HorizontalBar],
    colors: Sequence[str] = _COLORS,
    **options: Any,
) -> Xml.Element:
    """One chart; the first label on top."""
    bars = len(labels) * (len(series) if kind is HorizontalBar else 1)
    legends = math.ceil(math.sqrt(len(series))) - 1  # lines after the first
    chart = kind(
        title=title,
        x_title=axis,
        width=_WIDTH,
        height=_AROUND + _BAR * (bars + legends) + 6 * len(labels),
        style=Style(**_STYLE, colors=tuple(colors)),
        js=(),
        show_legend=len(series) > 1,
        legend_at_bottom=True,
        truncate_legend=-1,
        truncate_label=-1,
        print_values=True,
        print_values_position="top",
        value_formatter=digits,
        explicit_size=True,
        margin=10,
        margin_right=60,
        **options,
    )
    chart.uuid = title.translate({ord(c): "-" for c in title if not c.isalnum()})
    chart.x_labels = [label[:_LABEL] for label in reversed(labels)]
    for subject, values in series.items():
        chart.add(subject, values[::-1])
    tree: Xml.Element = chart.render_tree()
    for text in tree.iter("text"):
        if "value" in text.get("class", "").split():
            text.set("text-anchor", "start")  # behind the bar and not across its end
    return tree


def _write(panels: Sequence[Xml.Element], path: Path) -> None:
    """The panels below each other as one document."""
    root = Xml.Element("svg", xmlns=_SVG)
    top = 0
    for panel in panels:
        _strip(panel, lambda tag: tag in ("script", "desc") or not isinstance(tag, str))
        panel.attrib.pop("xmlns", None)
        panel.set("y", str(top))
        top += int(panel.get("height", "0"))
        root.append(panel)
    root.set("viewBox", f"0 0 {_WIDTH} {top}")
    root.set("width", str(_WIDTH))
    root.set("height", str(top))
    Xml.indent(root)
    path.write_bytes(bytes(Xml.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n")


def _strip(parent: Xml.Element, unwanted: Callable[[Any], bool]) -> None:
    """Remove every element below `parent` whose tag is unwanted."""
    for child in list(parent):
        if unwanted(child.tag):
            parent.remove(child)
        else:
            _strip(child, unwanted)
