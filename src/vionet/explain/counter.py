"""Counters for people: plain text of at most 80 columns, from the register (`spec.counter`).

Needs no engine, so that `vionet explain rx_ring_full` answers at once and anywhere.
"""

import textwrap
from typing import Final

from vionet.spec.counter import LEDGER, Counter, plain

WIDTH: Final = 80
_KINDS: Final = {
    "normal": "normal, on healthy networks too",
    "choice": "as a person asked for",
    "slow": "somebody takes frames more slowly than they come",
    "network": "two ends are set up so that they do not fit",
    "guest": "a driver broke a rule",
    "host": "the host's kernel or a peer failed",
}


def filled(text: str, indent: str = "", hang: str | None = None) -> str:
    """One paragraph within the width."""
    hang = indent if hang is None else hang
    return textwrap.fill(
        text, WIDTH, initial_indent=indent, subsequent_indent=hang, break_on_hyphens=False
    )


def counter_text(counter: Counter, count: int | None = None, port: str = "") -> str:
    """What a counter means; with `count`, how often at a port."""
    head = counter.name if count is None else f"{counter.name}: {count} at {port}"
    kind = "counted" if counter.kind == LEDGER else f"a drop reason; {_KINDS[counter.kind]}"
    rows = (
        ("is", kind),
        ("where", f"at the {counter.where}".replace("at the either", "at either port")),
        ("what", counter.what),
        ("cause", counter.cause),
        ("mend", counter.mend),
        ("rules", counter.rules),
    )
    told = (filled(f"{word:7}{plain(text)}", "  ", " " * 9) for word, text in rows)
    return "\n".join([head, *told])
