"""What a control socket answered, judged, as the page gets it.

How it works: `fabrics_of` builds a new document out of the status document, key by key, by the
tables below.  Counters become decimal text, because a browser's numbers are exact to 2**53 only.

Invariants: nothing is passed on that no table names; every text, list and number is within the
limits here; the order of ports is kept.
Trust: whoever answers is the same user or root, but may be another version, or no vionet at all.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

TEXT_LEN_MAX: Final = 128  # of a name
PROSE_LEN_MAX: Final = 500  # of a warning; more is cut off
FABRICS_MAX: Final = 128
PORTS_MAX: Final = 64
LIST_MAX: Final = 128
TALKS_MAX: Final = PORTS_MAX * PORTS_MAX
COUNT_MAX: Final = (1 << 64) - 1

Reader = Callable[[Any], Any]


class StrangeError(Exception):
    """An answer that is not a status document."""

    def __init__(self) -> None:
        super().__init__("the answer is not vionet's; use the same version on both sides")


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= COUNT_MAX:
        raise StrangeError
    return value


def _count(value: Any) -> str:
    return str(_number(value))


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > TEXT_LEN_MAX:
        raise StrangeError
    return value


def _text_or_none(value: Any) -> str | None:
    return None if value is None else _text(value)


def _prose(value: Any) -> str:
    if not isinstance(value, str):
        raise StrangeError
    return value[:PROSE_LEN_MAX]


def _list(reader: Reader, most: int = LIST_MAX) -> Reader:
    def read(value: Any) -> list[Any]:
        if not isinstance(value, list) or len(value) > most:
            raise StrangeError
        return [reader(one) for one in value]

    return read


def _table(readers: Mapping[str, tuple[Reader, Any]]) -> Reader:
    """An object; a key that is missing has the default, or is an error where that is `...`."""

    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise StrangeError
        found = {}
        for key, (reader, default) in readers.items():
            if key not in value and default is ...:
                raise StrangeError
            found[key] = reader(value[key]) if key in value else default
        return found

    return read


def _counts(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > LIST_MAX:
        raise StrangeError
    return {_text(key): _count(count) for key, count in value.items()}


_PORT: Final = _table(
    {
        "name": (_text, ...),
        "kind": (_text, ...),
        "serial": (_number, 0),
        "state": (_text, ...),
        "mac": (_text_or_none, None),
        "policy": (_text, ...),
        "offload": (_text, ""),
        "features": (_list(_text), ...),
        "worker": (_number, 0),
        "link": (_text, "up"),
        "warnings": (_list(_prose), ()),
        "ledger": (_counts, ...),
        "drops": (_counts, ...),
    }
)
_TALK: Final = _table(
    {"from": (_text, ...), "to": (_text, ...)}
    | dict.fromkeys(("frames", "bytes", "elided", "computed"), (_count, ...))
)
_WORKER: Final = _table(
    {"number": (_number, ...), "cpu_ns": (_count, ...), "ports": (_list(_text, PORTS_MAX), ())}
)
_FABRIC: Final = _table(
    {
        "name": (_text, ...),
        "kind": (_text, ...),
        "time_ns": (_count, "0"),
        "ports": (_list(_PORT, PORTS_MAX + 1), ...),  # and a service
        "talks": (_list(_TALK, TALKS_MAX), ()),
        "workers": (_list(_WORKER), ()),
    }
)
_ANSWER: Final = _table({"status": (_table({"fabrics": (_list(_FABRIC, FABRICS_MAX), ...)}), ...)})


def fabrics_of(line: bytes) -> list[dict[str, Any]]:
    """The fabrics in an answer to the request `status`; else a `StrangeError`."""
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        raise StrangeError from None
    fabrics: list[dict[str, Any]] = _ANSWER(answer)["status"]["fabrics"]
    return fabrics
