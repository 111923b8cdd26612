"""The decision table of the design, section 3, typed in by hand from the document.

Rows are the state of the checksum, columns what the egress is; a cell says what happens to it.
`tests/unit/test_engine_plan.py` compares the engine's table with it cell by cell.
"""

from typing import Final

COLUMNS: Final = ("uniform", "natural", "complete", "kernel", "stream")
TABLE: Final = {
    "partial": ("pass partial", "pass partial", "fill", "pass partial", "fill"),
    "inner partial": (
        "fill inner, then as unknown",
        "fill inner",
        "fill inner",
        "pass partial",
        "fill inner",
    ),
    "valid": ("unfill", "pass valid", "pass", "pass valid", "pass"),
    "unknown": ("verify, then unfill", "pass", "pass", "pass", "pass"),
    "none": ("pass", "pass", "pass", "pass", "pass"),
}


def cell(state: str, column: str) -> str:
    """What the table says."""
    return TABLE[state][COLUMNS.index(column)]
