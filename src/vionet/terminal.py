"""Text for people: readable at 80 columns, plain where the output is not a terminal."""

import sys
from collections.abc import Sequence
from typing import Final, TextIO

from rich.console import Console
from rich.table import Table

_WIDTH: Final = 80


def console(out: TextIO | None = None) -> Console:
    """For standard output, or `out`: the terminal's width there, 80 columns elsewhere."""
    file = out or sys.stdout
    terminal = file.isatty()
    return Console(
        file=file,
        width=None if terminal else _WIDTH,
        no_color=None if terminal else True,
        highlight=False,
        emoji=False,
        markup=False,
    )


def plain_table(
    columns: Sequence[str], *, folding: Sequence[str], numbers_from: int, headed: bool = True
) -> Table:
    """A table without lines; only `folding` columns are ever broken into several lines.

    The columns from `numbers_from` on are aligned to the right.
    """
    table = Table(
        box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_header=headed
    )
    for index, column in enumerate(columns):
        table.add_column(
            column,
            justify="right" if index >= numbers_from else "left",
            overflow="fold",
            no_wrap=column not in folding,
        )
    return table
