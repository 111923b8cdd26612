"""What `vionet top` shows of the figures, and the keys that change it; no I/O.

How it works: `picture` makes lines that fit a width: where there is room for all columns under
their full names it has them, else short headings, and what still does not fit is left out, the
least telling first.  With a height, what is too much is counted in a line.

Invariants: no line is longer than the width; what a person typed and what vionet said is printable.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from vionet.cli.rate import COLUMNS, WORDS, Column, Fabric, Row, name_of, ordered, wanted
from vionet.cli.table import count

FILTER_MAX: Final = 64
_NAME_MIN: Final = 8  # columns of a terminal
_LINES_MAX: Final = 4  # of each of: fabrics, sockets that do not answer, drops
_FIGURE_LEN: Final = 4  # `count` makes no more
_LEGEND: Final = "elided, filled, verified: checksums; copied, summed: payload bytes"

Piece = tuple[str, str]  # of a line: a style and a text


@dataclass
class View:
    """What of it a person wants to see."""

    sort: str = "port"
    backwards: bool = False
    filter: str = ""
    typing: bool = False  # a filter

    def press(self, keys: str) -> bool:
        """Take what was typed.  *Returns* whether to end."""
        if keys.startswith(("\x1b[", "\x1bO")):
            return False  # an arrow or the like
        for key in keys:
            if key == "\x1b":
                self.typing, self.filter = False, ""
            elif self.typing and key in "\r\n":
                self.typing = False
            elif self.typing:
                kept = self.filter[:-1] if key in "\x7f\b" else self.filter + key
                self.filter = "".join(filter(str.isprintable, kept))[:FILTER_MAX]
            elif key in "qQ":
                return True
            elif key in "sS":
                step = 1 if key == "s" else -1
                self.sort = WORDS[(WORDS.index(self.sort) + step) % len(WORDS)]
            else:
                self.backwards ^= key == "r"
                self.typing = key == "/"
        return False

    @property
    def keys(self) -> str:
        """What can be pressed, and what was."""
        if self.typing:
            return f"filter: {self.filter}_"
        way = ", reversed" if self.backwards else ""
        return f"s sort: {self.sort}{way}   r reverse   / filter: {self.filter or '-'}   q quit"


def columns_for(width: int, longest: int) -> tuple[int, list[tuple[Column, str, int]]]:
    """How wide the name is, and the columns behind it with headings and widths, gap included."""
    full = [(one, one.word, max(len(one.word), _FIGURE_LEN) + 2) for one in COLUMNS]
    if longest + sum(wide for _, _, wide in full) <= width:
        return longest, full
    short = [(one, one.short, _FIGURE_LEN + 1) for one in COLUMNS]
    least = min(longest, _NAME_MIN)
    while short and least + sum(wide for _, _, wide in short) > width:
        short.remove(max(short, key=lambda column: column[0].rank))
    return min(longest, width - sum(wide for _, _, wide in short)), short


def picture(
    view: View,
    fabrics: Sequence[Fabric],
    rows: Sequence[Row],
    problems: Sequence[str],
    width: int,
    height: int | None,
    *,
    totals: bool = False,
) -> Text:
    """All of it in lines of at most `width`; with a `height`, in a screen with the keys below."""
    several = len({row.fabric for row in rows}) > 1
    shown = ordered(wanted(rows, view.filter, several), view.sort, backwards=view.backwards)
    most = len(rows) + len(fabrics) + len(problems) if height is None else _LINES_MAX
    heads = _few([("bold", _head(one)) for one in fabrics], most, "fabrics")
    heads += _few([("red", problem) for problem in problems], most, "sockets")
    drops = _few(list(_drops(shown, several)), most, "ports that dropped frames")
    foot, room = ("dim", f"{'in all' if totals else 'in a second'}; {_LEGEND}"), None
    if height is not None:
        foot = ("reverse" if view.typing else "dim", view.keys)
        drops = drops[: max(0, height - len(heads) - 3)]
        room = height - len(heads) - len(drops) - 2
    table = _table(view, shown, several, width, room) if rows else []
    out = Text(no_wrap=True, overflow="crop", end="")
    lines = [*([one] for one in heads), *table, *([one] for one in drops)]
    for number, line in enumerate([*lines[: None if height is None else height - 1], [foot]]):
        out.append("\n" if number else "")
        left = width
        for style, text in line:
            piece = set_cell_size(text, min(left, cell_len(text)))
            out.append(piece, style)
            left -= cell_len(piece)
    return out


def _head(fabric: Fabric) -> str:
    loads = " ".join("-" if load is None else f"{load:.0%}" for load in fabric.loads)
    return f"{fabric.kind} {fabric.name}, ports {fabric.ports}, worker load {loads or '-'}"


def _few(lines: list[Piece], most: int, what: str) -> list[Piece]:
    if len(lines) <= most:
        return lines
    return [*lines[: most - 1], ("dim", f"and {len(lines) - most + 1} more {what}")]


def _table(
    view: View, rows: Sequence[Row], several: bool, width: int, room: int | None
) -> list[list[Piece]]:
    names = [name_of(row, several) for row in rows]
    longest = max([_NAME_MIN, *map(cell_len, names)])
    name_len, columns = columns_for(width, longest)
    head = [("bold reverse" if view.sort == "port" else "bold", "port"), ("", " " * (name_len - 4))]
    for column, heading, wide in columns:
        head.append(("", " " * (wide - len(heading))))
        head.append(("bold reverse" if view.sort == column.word else "bold", heading))
    lines = [head]
    fit = len(rows) if room is None or len(rows) <= room else max(room - 1, 0)
    for row, name in zip(rows[:fit], names, strict=False):
        still = row.state == "waiting"
        line = [("dim" if still else "", set_cell_size(name, name_len))]
        for column, _, wide in columns:
            value = row.figures.get(column.word)
            bad = column.word == "dropped" and value
            line.append(("red" if bad else "", _figure(value, still).rjust(wide)))
        lines.append(line)
    if fit < len(rows):
        lines.append([("dim", f"and {len(rows) - fit} more ports")])
    return lines


def _figure(value: float | None, still: bool = False) -> str:
    """In at most four characters; nothing where there is nothing to say yet."""
    if value is None:
        return ""
    if not value:
        return "-" if still else "0"
    return f"{value:.1f}" if value < 9.95 and value % 1 else count(value)


def _drops(rows: Sequence[Row], several: bool) -> Iterator[Piece]:
    """A line for each port that dropped frames: why, how many, and how many in a second."""
    for row in sorted(rows, key=lambda row: -max((rate for _, _, rate in row.reasons), default=0)):
        told = [
            f"{reason} {count(total)}" + (f" ({_figure(rate)}/s)" if rate else "")
            for reason, total, rate in row.reasons
        ]
        if told:
            yield "", f"{name_of(row, several)} dropped: {', '.join(told)}"
