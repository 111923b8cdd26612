"""The number of each local interface, from which its addresses follow, so that they never move.

How it works: `numbers.json` in the state folder has a number for each name, and the random IPv6
prefix of this site.  A new name gets the lowest number that is free.  A name that is gone keeps its
number, for it may come back; only when no number is free the lowest of those is given away.

Trust: the file is ours; one that was damaged is refused and told of, because new numbers would give
running guests the addresses of others.
"""

import json
import os
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any, Final

FILE: Final = "numbers.json"
_FILE_LEN_MAX: Final = 1 << 23  # 65536 names with their numbers are a third of that
_ULA: Final = IPv6Network("fd00::/8")


class SlotsError(Exception):
    """Why there are no numbers: what, where, how to mend it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """Numbers from 1 on by the names of local interfaces; a /48 of this site's own."""

    numbers: Mapping[str, int]
    prefix6: IPv6Network

    def with_names(self, names: Collection[str], room: int) -> "Slots":
        """With a number for each of `names`; a `SlotsError` if that takes more than `room`."""
        numbers = {name: number for name, number in self.numbers.items() if number <= room}
        here, taken = set(names), set(numbers.values())
        free = (number for number in range(1, room + 1) if number not in taken)
        gone = iter(sorted((number, name) for name, number in numbers.items() if name not in here))
        for name in names:
            if name in numbers:
                continue
            if (number := next(free, None)) is None:
                if (given := next(gone, None)) is None:
                    problem = f"{len(names)} local interfaces, and addresses for {room}"
                    raise SlotsError(f"{problem}; take a larger prefix")
                number = numbers.pop(given[1])
            numbers[name] = number
        return replace(self, numbers=numbers)


def read_slots(path: Path) -> Slots:
    """What was kept at `path`; nothing but a new prefix where there is no file."""
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_LEN_MAX + 1)
    except FileNotFoundError:
        start = int(_ULA.network_address) | secrets.randbits(40) << 80
        return Slots(numbers={}, prefix6=IPv6Network((start, 48)))
    except OSError as error:
        raise SlotsError(
            f"{path}: {error.strerror}; it has to be a file that we can read"
        ) from None
    try:
        return _judged(json.loads(data[:_FILE_LEN_MAX]))
    except (ValueError, RecursionError) as error:
        mend = "mend it, or remove it, and guests get new addresses"
        raise SlotsError(f"{path}: damaged: {error}; {mend}") from None


def _judged(raw: Any) -> Slots:
    if not (isinstance(raw, dict) and isinstance(raw.get("numbers"), dict)):
        raise ValueError("no numbers in it")
    numbers = raw["numbers"]
    if any(type(number) is not int or not 1 <= number <= 1 << 16 for number in numbers.values()):
        raise ValueError("a number that is none from 1 to 65536")
    if len(set(numbers.values())) < len(numbers):
        raise ValueError("two names with one number")
    prefix6 = IPv6Network(str(raw.get("prefix6")))
    if prefix6.prefixlen != 48:
        raise ValueError("a prefix6 that is no /48")
    return Slots(numbers=numbers, prefix6=prefix6)


def write_slots(path: Path, slots: Slots) -> None:
    """Keep them; after a crash either these or those before are there."""
    document = {"version": 1, "prefix6": str(slots.prefix6), "numbers": dict(slots.numbers)}
    new = path.with_name(path.name + ".new")
    with new.open("w", encoding="utf-8") as file:
        json.dump(document, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def kept_slots(folder: Path, names: Collection[str], room: int) -> Slots:
    """The numbers of `names` from the file in `folder`, which is made or brought up to date."""
    path = folder / FILE
    before = read_slots(path)
    slots = before.with_names(names, room)
    if slots != before or not path.exists():
        write_slots(path, slots)
    return slots
