"""The statements of a vm.conf: which there are, what each consists of, and how they are read.

How it works: `FORMS` says, in lines that are shown to people too, how every statement is written.
In a line a lower-case word stands for itself, `a|b` for one of them, a capital one for a value,
brackets for what may be left out, `{vm}` for a block of statements and `<interface>`
for a block or for statements on the same line.  `read_statements` walks along the line that begins
as the text does; one token decides each step.

A mistake costs the rest of its line and what is in braces there; then reading goes on where it
was, so that one run tells all mistakes.  An `include` is read where it stands, its statements as
if they stood there.
"""

import errno
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Final, NamedTuple

from vionet.config.option import suggest
from vionet.site.vmconf_lexer import TEXT_MAX, Kind, Lexer, Macro, Place, Reading, Token

DEPTH_MAX: Final = 16  # files that include one another

_TEXTS: Final = {
    "file": "agentx [<agentx>]; include PATH; local inet6 [prefix PREFIX]; local prefix PREFIX; "
    "socket owner OWNER; staggered start parallel N delay N; switch NAME {switch}; "
    "vm NAME [instance INSTANCE] {vm}",
    "agentx": "context TEXT; path TEXT",
    "switch": "disable; down; enable; group GROUP; interface INTERFACE; locked lladdr; "
    "rdomain N; up",
    "vm": "allow instance <allow>; boot PATH; boot device cdrom|disk|net; cdrom PATH; cpus N; "
    "disable; disk PATH [format FORMAT]; enable; [local] interface [TAP] [<interface>]; "
    "interfaces N; memory SIZE; owner OWNER; sev; seves",
    "interface": "down; group GROUP; [locked] lladdr [ADDRESS]; rdomain N; switch NAME; up",
    "allow": "boot; cdrom; cpus; disk; instance; interface; memory; owner OWNER",
}
FORMS: Final = {block: tuple(text.split("; ")) for block, text in _TEXTS.items()}
_RESERVED: Final = ("add", "id", "size")  # keywords of vmd that its grammar does not use
_NUMBERS: Final = ("N", "OWNER", "SIZE")  # values that may be numbers; the others are strings
_JOINED: Final = (
    "FORMAT",
    "GROUP",
    "INSTANCE",
    "INTERFACE",
    "NAME",
    "PATH",
)  # from several strings
_COMMAS: Final = ("interface", "allow")  # blocks whose statements a comma may part
_LOOSE: Final = ("interface", "agentx")  # blocks whose statements nothing need part
# What begins a section or can be nowhere else: a block that meets one was not closed.
_OUTSIDE: Final = ("agentx", "include", "socket", "staggered", "vm")


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement: `key` is what it begins with, `values` what was given, by its form's words."""

    key: str
    place: Place
    values: dict[str, str]
    block: tuple["Statement", ...]
    folder: Path  # of the file in which it stands


class _Form(NamedTuple):
    text: str
    heads: tuple[tuple[str, ...], ...]  # keywords that begin it
    rest: tuple[str, ...]

    @property
    def key(self) -> str:
        return " ".join(self.heads[-1])


def _is_keyword(word: str) -> bool:
    return word.isalnum() and not word.isupper()


def _form(text: str) -> _Form:
    words = text.split()
    first = [words.pop(0)[1:-1]] if text.startswith("[") else []
    head = tuple(takewhile(_is_keyword, words))
    heads = ((*first, *head), head) if first else (head,)
    return _Form(text, heads, tuple(words[len(head) :]))


_FORMS: Final = {block: tuple(map(_form, forms)) for block, forms in FORMS.items()}
KEYWORDS: Final = frozenset(
    word
    for forms in FORMS.values()
    for form in forms
    for word in re.findall(r"(?<![<{])\b[a-z0-9]+\b", form)
).union(_RESERVED)


class _Mistake(Exception):
    """The statement cannot be read; `problem` is empty where it is told already."""

    def __init__(self, token: Token, problem: str) -> None:
        self.place = token.place
        self.problem = "" if token.kind is Kind.WRONG else problem


def read_statements(reading: Reading, path: Path, text: str) -> Iterator[Statement]:
    """All statements of a file and of those that it includes; mistakes go to `reading`."""
    return _File(reading, path, text, (os.path.realpath(path),)).statements("file")


def read_start(path: Path, most: int) -> tuple[bytes, os.stat_result]:
    """The first bytes of a file, and what it is; anything but a file is an OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO is not waited for
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a file")
        return os.read(fd, most), found  # a file on disk gives all that is asked for
    finally:
        os.close(fd)


def _is(token: Token, *texts: str) -> bool:
    return token.kind in (Kind.WORD, Kind.SIGN) and token.text in texts


def _is_string(token: Token) -> bool:
    return token.kind is Kind.QUOTED or (token.kind is Kind.WORD and token.text not in KEYWORDS)


def _shown(token: Token) -> str:
    names = {Kind.NEWLINE: "the end of the line", Kind.END: "the end of the file"}
    return names.get(token.kind) or (
        token.text[:40] if token.text.isalnum() else ascii(token.text[:40])
    )


class _File:
    """Reading one file; `chain`: this file and those that led to it."""

    def __init__(self, reading: Reading, path: Path, text: str, chain: tuple[str, ...]) -> None:
        self._reading = reading
        self._path = path
        self._chain = chain
        self._lexer = Lexer(reading, path, text)
        reading.read_len += len(text)
        if reading.read_len > TEXT_MAX:
            problem = f"more than {TEXT_MAX} characters in all; write less"
            reading.give_up(reading.place(str(path), 1), problem)

    def statements(self, block: str, opened: Place | None = None) -> Iterator[Statement]:
        """The statements of a block up to its brace, or of the file."""
        while True:
            token = self._lexer.peek()
            if token.kind is Kind.NEWLINE or (block in _COMMAS and _is(token, ",")):
                self._lexer.take()
            elif opened and (token.kind is Kind.END or self._is_outside(token)):
                self._reading.mistake(opened, "this { is never closed; write } where it ends")
                self._lexer.end_line()
                return
            elif token.kind is Kind.END:
                return
            elif opened and _is(token, "}"):
                self._lexer.take()
                return
            else:
                try:
                    yield from self._statement(block)
                except _Mistake as mistake:
                    if mistake.problem:
                        self._reading.mistake(mistake.place, mistake.problem)
                    self._skip(inside=opened is not None)

    def _is_outside(self, token: Token) -> bool:
        """Whether this begins what only stands outside of blocks."""
        return _is(token, *_OUTSIDE) or (_is(token, "switch") and _is(self._lexer.peek(2), "{"))

    def _skip(self, inside: bool) -> None:
        """Past the rest of the line and of a block that begins there."""
        depth = 0
        while True:
            token = self._lexer.peek()
            ends = token.kind is Kind.NEWLINE or (inside and _is(token, "}"))
            if token.kind is Kind.END or (ends and not depth):
                return
            depth = max(depth + _is(token, "{") - _is(token, "}"), 0)
            self._lexer.take()

    def _statement(self, block: str) -> Iterator[Statement]:
        """One statement; a macro gives none, an include those of its file."""
        if block == "file" and _is(self._lexer.peek(1), "="):
            self._define()
            self._check_end(block)
            return
        place = self._lexer.peek().place
        form, head = self._begin(block)
        values = {head[0]: head[0]} if head != form.heads[-1] else {}
        inner = self._walk(form, values)
        self._check_end(block)
        folder = Path(os.path.abspath(self._path)).parent  # noqa: PTH100 - links stay as written
        statement = Statement(form.key, place, values, inner, folder)
        if form.key == "include":
            yield from self._include(statement)
        else:
            yield statement

    def _begin(self, block: str) -> tuple[_Form, tuple[str, ...]]:
        """The form that the next tokens begin, and how."""
        forms, lexer = _FORMS[block], self._lexer
        ways = [(form, head) for form in forms for head in form.heads]
        for form, head in sorted(ways, key=lambda way: -len(way[1])):
            if all(_is(lexer.peek(ahead), word) for ahead, word in enumerate(head)):
                for _ in head:
                    lexer.take()
                return form, head
        token = lexer.peek()
        near = [form.text for form, head in ways if _is(token, head[0])]
        if near:
            raise _Mistake(lexer.peek(1), f"{token.text} what? write {' or '.join(near)}")
        where = "" if block == "file" else f" of {block}"
        hint = suggest(token.text, dict.fromkeys(head[0] for _, head in ways))
        raise _Mistake(token, f"{_shown(token)} begins no statement{where}; {hint}")

    def _check_end(self, block: str) -> None:
        token = self._lexer.peek()
        ended = token.kind in (Kind.NEWLINE, Kind.END) or (block != "file" and _is(token, "}"))
        if not (ended or block in _LOOSE or (block in _COMMAS and _is(token, ","))):
            raise _Mistake(token, f"{_shown(token)} is too much here; end the line in front of it")

    def _walk(self, form: _Form, values: dict[str, str]) -> tuple[Statement, ...]:
        """The rest of a statement: its values go to `values`, its block is returned."""
        inner: tuple[Statement, ...] = ()
        left_out = False
        for piece in form.rest:
            word = piece.strip("[]")
            left_out = left_out or (piece[0] == "[" and not self._fits(word))
            if left_out:
                left_out = piece[-1] != "]"
            elif word[0] in "<{":
                inner = self._block(word, form)
            elif _is_keyword(word):
                self._value(word, form)
            else:
                values[word] = self._value(word, form)
        return inner

    def _fits(self, word: str) -> bool:
        token = self._lexer.peek()
        if word[0] == "<":
            return not (token.kind in (Kind.NEWLINE, Kind.END) or _is(token, "}", ","))
        return _is(token, word) if _is_keyword(word) else _is_string(token)

    def _block(self, word: str, form: _Form) -> tuple[Statement, ...]:
        name, token = word[1:-1], self._lexer.peek()
        if _is(token, "{"):
            self._lexer.take()
            return tuple(self.statements(name, token.place))
        if word[0] == "{" or not self._fits(word):
            raise _Mistake(token, f"{_shown(token)} where {{ belongs; write {form.text}")
        found: list[Statement] = []
        while self._fits(word) or (found and _is(self._lexer.peek(), ",")):
            if _is(self._lexer.peek(), ","):
                self._lexer.take()
            else:
                found.extend(self._statement(name))
        return tuple(found)

    def _value(self, word: str, form: _Form) -> str:
        token = self._lexer.peek()
        if not word.isupper():
            fits = _is(token, *word.split("|"))
        else:
            number = token.kind is Kind.NUMBER and word in _NUMBERS
            fits = number or (word != "N" and _is_string(token))
        if not fits:
            quotes = token.kind in (Kind.WORD, Kind.NUMBER) and word != "N" and word.isupper()
            hint = "put it in quotes" if quotes else f"write {form.text}"
            raise _Mistake(token, f"{_shown(token)} where {word} belongs; {hint}")
        text = self._lexer.take().text
        while word in _JOINED and _is_string(self._lexer.peek()):
            text += self._lexer.take().text
        return text

    def _define(self) -> None:
        name = self._lexer.take()
        self._lexer.take()
        value = self._lexer.peek()
        if name.kind is Kind.WRONG or not re.fullmatch("[A-Za-z0-9_]+", name.text):
            problem = f"{_shown(name)} cannot name a macro; use letters, digits and underscores"
            raise _Mistake(name, problem)
        if name.text in KEYWORDS:
            raise _Mistake(name, f"{name.text} is a keyword; give the macro another name")
        if not (value.kind is Kind.NUMBER or _is_string(value)):
            raise _Mistake(value, f'{_shown(value)} where a value belongs; write {name.text}="…"')
        self._reading.macros[name.text] = Macro(self._lexer.take().text, name.place)

    def _include(self, statement: Statement) -> Iterator[Statement]:
        place, path = statement.place, self._path.parent / statement.values["PATH"]
        real = os.path.realpath(path)
        if real in self._chain:
            self._reading.mistake(place, f"include {path}: it includes itself; leave this out")
        elif len(self._chain) == DEPTH_MAX:
            problem = f"include {path}: more than {DEPTH_MAX} files within one another"
            self._reading.mistake(place, f"{problem}; include it further out")
        else:
            text = self._text_of(path, place)
            if text is not None:
                yield from _File(self._reading, path, text, (*self._chain, real)).statements("file")

    def _text_of(self, path: Path, place: Place) -> str | None:
        """What a file holds; None where that was a mistake."""
        try:
            data, found = read_start(path, 4 * TEXT_MAX + 1)
            text = data.decode()  # cut only where it is too much anyway
        except OSError as error:
            self._reading.mistake(place, f"include {path}: {error.strerror}; mend the path")
            return None
        except UnicodeDecodeError:
            self._reading.mistake(place, f"include {path}: not UTF-8 text; convert it")
            return None
        if found.st_mode & 0o022 or found.st_uid not in (0, os.geteuid()):
            problem = f"include {path}: others may write it, and so choose what is run"
            self._reading.warn(place, f"{problem}; chmod go-w, and own it")
        return text
