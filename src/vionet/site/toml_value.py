"""Single values of a TOML document, and tables of them: value in, object or named mistakes out.

How it works: a `Value` knows its place in the document and the `Sheet` that collects mistakes.  A
reader takes one and returns what it means, or raises ValueError with what is wrong and how to mend
it.  A table is read by a dict of readers, one for each key that it may have; all mistakes in it are
found, whatever else is wrong.

Trust: the document is a person's, or arrived by the control socket; nothing in it is believed.
"""

import grp
import os
import pwd
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Final, TypeVar

from vionet.config.option import ConfigError, suggest
from vionet.site.model import Owner
from vionet.site.toml_line import Place, dotted

T = TypeVar("T")
_SIZE: Final = re.compile(r"([1-9][0-9]{0,5})([KMGT])")
PROBLEMS_MAX: Final = 100
ITEMS_MAX: Final = 256  # of a list
_IFGROUP: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")
_UNITS: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_ACCOUNT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\$?|[0-9]{1,9}")
_KINDS: Final[Mapping[type, str]] = {
    **{bool: "true or false", int: "a number", float: "a number"},
    **{str: "text", list: "a list", dict: "a table", type(None): "nothing"},
}


class Enough(Exception):
    """So many mistakes were found that it is of no use to look for more."""


@dataclass(slots=True)
class Sheet:
    """One document while it is read."""

    folder: Path  # relative paths are relative to it
    problems: list[tuple[Place, str]] = field(default_factory=list)
    warnings: list[tuple[Place, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Value:
    """One value and where it stands."""

    raw: Any
    place: Place
    sheet: Sheet

    @property
    def key(self) -> str:
        """Its own key, or that of the list which it is an item of."""
        return next((key for key in reversed(self.place) if isinstance(key, str)), "")

    def item(self, key: str | int, raw: Any) -> "Value":
        """A value of this table or list."""
        return replace(self, raw=raw, place=(*self.place, key))

    def get(self, key: str) -> "Value | None":
        """What this table, if it is one, says for a key."""
        if isinstance(self.raw, dict) and key in self.raw:
            return self.item(key, self.raw[key])
        return None

    def fail(self, problem: str) -> None:
        """Note a mistake; reading goes on, unless it was one too many."""
        self.sheet.problems.append((self.place, problem))
        if len(self.sheet.problems) >= PROBLEMS_MAX:
            raise Enough

    def warn(self, doubt: str) -> None:
        """Note what is dubious."""
        self.sheet.warnings.append((self.place, doubt))


Reader = Callable[[Value], Any]
Table = Mapping[str, tuple[str, Reader]]  # key -> field that it becomes, reader


def table(value: Value, known: Table) -> dict[str, Any]:
    """The fields that a table gives; what cannot be read is noted and left out."""
    fields = {}
    if not isinstance(value.raw, dict):
        value.fail(f"{kind(value)}, where a table belongs; write {_heading(value.place)} above it")
        return {}
    for key, raw in value.raw.items():
        item = value.item(key, raw)
        if key not in known:
            item.fail(f"no such key; {suggest(key, known)}")
            continue
        name, read = known[key]
        with noted(item):
            fields[name] = read(item)
    return fields


def _heading(place: Place) -> str:
    return f"[[{dotted(place[:-1])}]]" if isinstance(place[-1], int) else f"[{dotted(place)}]"


@contextmanager
def noted(value: Value) -> Iterator[None]:
    """A ValueError becomes a mistake of this value, and reading goes on."""
    try:
        yield
    except ConfigError as error:
        value.fail(error.problem)
    except ValueError as error:
        value.fail(str(error))


def tables(value: Value) -> list[Value]:
    """The tables of a list."""
    if not isinstance(value.raw, list):
        name = ".".join(key for key in value.place if isinstance(key, str))
        raise ValueError(f"{kind(value)}; write [[{name}]] and its keys below, once for each")
    return list(each(lambda item: item)(value))


def kind(value: Value) -> str:
    """What kind of value that is."""
    return _KINDS.get(type(value.raw), "a date or time")


def text(value: Value) -> str:
    """Text in one line."""
    if not isinstance(value.raw, str):
        item = isinstance(value.place[-1], int)
        mend = '"…"' if item else f'{value.key}="…"'
        raise ValueError(f"{kind(value)}, where text belongs; write {mend}")
    if not value.raw.isprintable():
        raise ValueError("a line end, or a character that cannot be shown; leave it out")
    return value.raw


def flag(value: Value) -> bool:
    """true or false."""
    if not isinstance(value.raw, bool):
        raise ValueError(f"{kind(value)}; write true or false, without quotes")
    return value.raw


def number(low: float, high: float) -> Reader:
    """A number; whole ones only where the bounds are whole."""
    kinds: tuple[type, ...] = (int, float) if isinstance(low, float) else (int,)

    def read(value: Value) -> Any:
        # A bool is an int to Python; NaN is in no range.
        if type(value.raw) not in kinds or not low <= value.raw <= high:
            whole = "" if float in kinds else "whole "
            raise ValueError(f"write a {whole}number from {low:g} to {high:g}, without quotes")
        return value.raw

    return read


def of(read: Callable[[str], T]) -> Callable[[Value], T]:
    """Text that `read` understands."""
    return lambda value: read(text(value))


def choice(*words: str) -> Callable[[Value], str]:
    """One of some words."""

    def read(value: Value) -> str:
        word = text(value)
        if word not in words:
            raise ValueError(f"no such choice; {suggest(word, words)}")
        return word

    return read


def each(read: Callable[[Value], T]) -> Callable[[Value], tuple[T, ...]]:
    """A list; mistakes are noted at the item that has them."""

    def read_all(value: Value) -> tuple[T, ...]:
        if not isinstance(value.raw, list):
            raise ValueError(f"{kind(value)}, where a list belongs; write {value.key}=[…]")
        if len(value.raw) > ITEMS_MAX:
            raise ValueError(f"{len(value.raw)} items, and {ITEMS_MAX} at most; use fewer")
        done: list[T] = []
        for index, raw in enumerate(value.raw):
            with noted(item := value.item(index, raw)):
                done.append(read(item))
        return tuple(done)

    return read_all


def path(value: Value) -> Path:
    """A path, as the file that names it sees it."""
    name = text(value)
    if not name:
        raise ValueError("no path; write one, relative to this file or absolute")
    return value.sheet.folder / name


def readable(value: Value) -> Path:
    """A path of a file that should be there."""
    file = path(value)
    # Whatever is wrong with the path: not there for us.
    if not os.access(file, os.R_OK):
        value.warn(f"{file}: there is no such file to read; the machine will not start without it")
    return file


def size(text: str) -> int:
    """An amount of bytes: 512M, 10G."""
    match = _SIZE.fullmatch(text)
    if not match:
        raise ValueError("not a size; write it as 512M or 10G")
    return int(match[1]) * _UNITS[match[2]]


def owner(value: Value) -> Owner:
    """`user`, `user:group` or `:group`, by name or number."""
    user, _, group = text(value).partition(":")
    names = {"user": user, "group": group}
    if not (user or group) or not all(_ACCOUNT.fullmatch(name) for name in (user, group) if name):
        raise ValueError("not an account; write user, user:group or :group")
    known = {"user": pwd.getpwnam, "group": grp.getgrnam}
    for what, name in names.items():
        if name and not name.isdecimal():
            try:
                known[what](name)
            except KeyError:
                value.warn(
                    f"there is no {what} {name} on this host; nobody is meant until there is"
                )
    return Owner(user=user or None, group=group or None)


def network(text: str) -> IPv4Network | IPv6Network:
    """An IP network."""
    try:
        return ip_network(text)
    except ValueError as error:
        mend = "write it as 100.64.0.0/10 or fd00:1:2::/48"
        raise ValueError(f"{str(error).replace(text, text[:40])}; {mend}") from None


def ifgroup(value: Value) -> str:
    """An interface group: its name or its number."""
    name = str(value.raw) if type(value.raw) is int else text(value)
    if not _IFGROUP.fullmatch(name):
        raise ValueError("not an interface group; use up to 15 letters, digits and dashes")
    return name
