"""On which line each key of a TOML document stands, which tomllib does not tell.

How it works: the text is cut into strings, words, signs and line ends, and read along the grammar
far enough to know which key each value belongs to.  A path is the keys from the top, with a number
for an item of an array: ("vm", "web", "interface", 0, "mac").

Invariants: the text is one that tomllib has read; of any other the lines may be wrong, but reading
it ends.
"""

import re
import tomllib
from collections.abc import Iterator
from typing import Final

Place = tuple[str | int, ...]

_TOKEN: Final = re.compile(
    r'(?P<text>"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\')'
    r"|(?P<skip>[ \t\r]+|\#[^\n]*)"
    r"|(?P<sign>[\[\]{}=,.\n])"
    r"|(?P<word>[^\s\[\]{}=,.#\"\']+|.)",
    re.DOTALL,
)
_END: Final = ""


def dotted(place: Place) -> str:
    """A place the way people write it: vm.web.interface[0].mac."""
    return "".join(map(_shown, place)).lstrip(".")


def _shown(key: str | int) -> str:
    if isinstance(key, int):
        return f"[{key}]"
    return f".{key if key.isprintable() else ascii(key):.64}"


class Lines:
    """The lines of one document."""

    def __init__(self, text: str) -> None:
        self._lines: dict[Place, int] = {}
        self._counts: dict[Place, int] = {}  # of arrays of tables
        self._nows = _tokens(text)
        self._next()
        self._document()

    def of(self, place: Place) -> int:
        """The line of a key, else of the nearest table around it, else the first."""
        while place and place not in self._lines:
            place = place[:-1]
        return self._lines.get(place, 1)

    def _next(self) -> None:
        self._now, self._line = next(self._nows, (_END, 0))

    def _take(self, sign: str) -> bool:
        taken = self._now == sign
        if taken:
            self._next()
        return taken

    def _document(self) -> None:
        table: Place = ()
        while self._now != _END:
            if self._now == "\n":
                self._next()
            elif self._now == "[":
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> Place:
        """`[a.b]` or `[[a.b]]`; each array of tables on the way means its latest item."""
        self._next()
        several = self._take("[")
        line, keys = self._line, self._key()
        place: Place = ()
        for key in keys[:-1]:
            place = self._latest(self._mark((*place, key), line))
        if keys:
            place = self._mark((*place, keys[-1]), line)
            if several:
                self._counts[place] = self._counts.get(place, 0) + 1
            place = self._mark(self._latest(place), line)
        while self._now not in ("\n", _END):
            self._next()
        return place

    def _latest(self, place: Place) -> Place:
        return (*place, self._counts[place] - 1) if place in self._counts else place

    def _mark(self, place: Place, line: int) -> Place:
        self._lines.setdefault(place, line)
        return place

    def _key(self) -> list[str]:
        """`a."b".c`"""
        keys = []
        while self._now not in ("=", "]", "\n", ",", "}", _END):
            if self._now != ".":
                keys.append(_name(self._now))
            self._next()
        return keys

    def _pair(self, table: Place) -> None:
        line = self._line
        for key in self._key():
            table = self._mark((*table, key), line)
        if self._take("="):
            self._value(table)
        elif self._now not in ("}", _END):
            self._next()

    def _value(self, place: Place) -> None:
        if self._take("["):
            self._array(place)
        elif self._take("{"):
            while self._now not in ("}", _END):
                if not (self._take(",") or self._take("\n")):
                    self._pair(place)
            self._next()
        else:
            while self._now not in (",", "]", "}", "\n", _END):
                self._next()

    def _array(self, place: Place) -> None:
        index = 0
        while self._now not in ("]", _END):
            if self._take(","):
                index += 1
            elif not self._take("\n"):
                self._value(self._mark((*place, index), self._line))
                if self._now == "}":  # of no table
                    self._next()
        self._next()


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    line = 1
    for match in _TOKEN.finditer(text):
        token = match.group()
        if match.lastgroup != "skip":
            yield token, line
        line += token.count("\n")


def _name(token: str) -> str:
    """A key as it is meant: quoted keys have quotes around them and escapes inside."""
    if token[0] not in "\"'":
        return token
    try:
        return next(iter(tomllib.loads(f"{token}=0")))
    except ValueError:
        return token
