"""Single values of a vm.conf, and the statements of a block by their keys.

How it works: a reader notes what is wrong at the statement that it reads and returns None, so that
whoever asked goes on with the next one.  Values that a TOML file has too are read as there.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from vionet.config.option import ConfigError
from vionet.site.toml_value import Sheet, Value, owner
from vionet.site.vmconf_grammar import Statement
from vionet.site.vmconf_lexer import Reading

T = TypeVar("T")
_RDOMAIN_MAX: Final = 255  # as OpenBSD has it
_MEMORY_MIN: Final = 1 << 20
_MEMORY_MAX: Final = 1 << 50
_SIZE: Final = re.compile(r"([0-9]{1,18})(?:\.([0-9]{0,9}))? ?([BKMGTPE]?)", re.IGNORECASE)
_UNITS: Final = "BKMGTPE"
_GROUP: Final = re.compile(r"[A-Za-z0-9_.-]{0,14}[A-Za-z_.-]")
_ONCE: Final = ("boot", "cdrom", "interfaces", "memory")
# Of two that say the opposite the last one holds, as of two that are the same.
_OPPOSITES: Final = {"enable": "disable", "up": "down"}
_NOTHING: Final = {
    "agentx": "nothing is told to an SNMP daemon; read `vionet status --json`",
    "socket owner": "the control socket asks whose a machine is; name an owner in the machine",
    "staggered start parallel": "all machines are started at once; disable those that are to wait",
    "sev": "the machine's memory is not encrypted here; leave it out",
    "seves": "the machine's memory and registers are not encrypted here; leave it out",
}


@dataclass(frozen=True, slots=True)
class Judge:
    """Reads what statements say and notes what is wrong with it."""

    reading: Reading

    def refuse(self, statement: Statement, problem: str) -> None:
        """Note a mistake at a statement."""
        self.reading.mistake(statement.place, f"{statement.key}: {problem}")

    def warn(self, statement: Statement, text: str) -> None:
        """Note what a statement does not do here."""
        self.reading.warn(statement.place, f"{statement.key}: {text}")

    def attempt(self, statement: Statement, read: Callable[[], T]) -> T | None:
        """What `read` makes; None where it refuses."""
        try:
            return read()
        except ConfigError as error:
            self.refuse(statement, error.problem)
        except ValueError as error:
            self.refuse(statement, str(error))
        return None

    def value(self, statement: Statement, word: str, read: Callable[[Value], T]) -> T | None:
        """A value of a statement, read as in a TOML file."""
        sheet = Sheet(statement.folder)
        value = Value(statement.values[word], (statement.key,), sheet)
        found = self.attempt(statement, lambda: read(value))
        for _, text in sheet.warnings:
            self.reading.warn(statement.place, text)
        return found

    def number(self, statement: Statement, low: int, high: int) -> int | None:
        """The number of a statement."""
        number = int(statement.values["N"])
        if low <= number <= high:
            return number
        self.refuse(statement, f"{number} is out of range; use a number from {low} to {high}")
        return None

    def size(self, statement: Statement) -> int | None:
        """Bytes, in whole megabytes: `512M`, `1.5g`, `1073741824`."""
        text = statement.values["SIZE"]
        match = _SIZE.fullmatch(text)
        if not match:
            self.refuse(statement, f"{text[:40]} is no size; write it as 512M or 1.5G")
            return None
        part = match[2] or ""
        unit = 1 << 10 * _UNITS.index(match[3].upper() or "B")
        bytes_len: int = int(match[1] + part) * unit // 10 ** len(part)
        if not _MEMORY_MIN <= bytes_len <= _MEMORY_MAX:
            self.refuse(statement, f"{text[:40]} is out of range; use at least 1M, at most 1024T")
            return None
        whole_len = bytes_len & -_MEMORY_MIN
        if whole_len != bytes_len:
            self.warn(statement, f"{text} is rounded down to {whole_len >> 20}M; write that")
        return whole_len

    def group(self, statement: Statement | None) -> str | None:
        """The name of an interface group; OpenBSD's rule, so that files stay portable."""
        if statement is None:
            return None
        name = statement.values["GROUP"]
        if _GROUP.fullmatch(name):
            return name
        rule = "use up to 15 letters, digits, dots, dashes and underscores, the last one no digit"
        self.refuse(statement, f"{name[:40]!a} names no group; {rule}")
        return None

    def rdomain(self, statement: Statement | None) -> str | None:
        """The namespace that stands for a routing domain; None is the host's own, number 0."""
        number = statement and self.number(statement, 0, _RDOMAIN_MAX)
        return f"rdomain{number}" if number else None

    def by_key(self, block: Sequence[Statement]) -> dict[str, Statement]:
        """The statements of a block; of several alike the last one holds, as vmd has it."""
        found: dict[str, Statement] = {}
        for statement in block:
            key = _OPPOSITES.get(statement.key, statement.key)
            before = found.get(key)
            if before and key in _ONCE:
                self.refuse(statement, f"given at {before.place} too; keep one of them")
                continue
            if before:
                self.warn(before, f"the one at {statement.place} holds; leave this one out")
            found[key] = statement
        return found

    def meaningless(self, statement: Statement) -> bool:
        """Whether a statement has no meaning here, which is told."""
        if statement.key not in _NOTHING:
            return False
        if "OWNER" in statement.values:
            self.value(statement, "OWNER", owner)
        self.warn(statement, _NOTHING[statement.key])
        return True


def says(given: dict[str, Statement], key: str) -> bool:
    """Whether `disable` or `down` holds, and not its opposite."""
    return key in given and given[key].key == key
