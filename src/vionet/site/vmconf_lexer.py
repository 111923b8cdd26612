"""The words of a vm.conf: comments, continued lines, quotes, macros, and where each word stands.

How it works: `Lexer` cuts the text of one file into tokens, one at a time, because a macro that is
defined on one line is expanded on the next.  A macro's value is cut into tokens of its own; what
follows the macro without a blank continues the last of them.  `Reading` is what all files of one
run share: macros, mistakes and warnings, and the limits.

Invariants: a mistake is told where it stands and costs the rest of its line, never the run; no
expression below can try the same character twice; text, expansions and mistakes are bounded.

Trust: the text is of whoever may say what vionet runs, but it may be any text.
"""

import re
from collections import deque
from enum import Enum, auto
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

TEXT_MAX: Final = 1 << 17  # characters of all files of one run together; its macros' values, too
STRING_MAX: Final = 4095  # characters of one string: the longest path
MISTAKES_MAX: Final = 1000  # then the run ends

# As vmd has it: any printable sign but these may stand within a word.
_IN_WORD: Final = r"""[^\x00-\x20\x7f-\U0010ffff(){}!=#,\\]"""
_BLANK: Final = re.compile(r"(?:[ \t]|\\\n)*+(?:#(?:\\.|[^\n])*+)?", re.DOTALL)
_REST: Final = re.compile(rf"(?:\\\n|\\?{_IN_WORD})*+")
_WORD: Final = re.compile(rf"-?[A-Za-z0-9_:/](?:\\\n|\\?{_IN_WORD})*+")
_QUOTED: Final = re.compile(r""" "((?:\\"|[^"])*+)" | '((?:\\'|[^'])*+)' """, re.VERBOSE)
_MACRO: Final = re.compile(r"\$([A-Za-z0-9_]*+)")
_NUMBER: Final = re.compile(r"-?[0-9]{1,18}")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Kind(Enum):
    """What a token is."""

    WORD = auto()  # may be a keyword
    NUMBER = auto()
    QUOTED = auto()  # never a keyword
    SIGN = auto()  # one character
    NEWLINE = auto()
    WRONG = auto()  # told already
    END = auto()


class Place(NamedTuple):
    """Where something stands; `order` grows in the order of reading, across files."""

    order: int
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Token(NamedTuple):
    """One word, or what stands between words."""

    kind: Kind
    text: str
    place: Place


class Enough(Exception):
    """The run ends here; the mistake is told already."""


class Macro:
    """One macro; `used` because one that nobody uses is worth a warning."""

    def __init__(self, value: str, place: Place) -> None:
        self.value = value
        self.place = place
        self.used = False


class Reading:
    """What the files of one run share."""

    def __init__(self) -> None:
        self.macros: dict[str, Macro] = {}
        self.read_len = 0
        self._expanded_len = 0
        self._order = 0
        self._mistakes: list[tuple[Place, str]] = []
        self._warnings: list[tuple[Place, str]] = []

    def place(self, file: str, line: int) -> Place:
        """The next place."""
        self._order += 1
        return Place(self._order, file, line)

    def mistake(self, place: Place, text: str) -> None:
        """Note what is wrong and how to mend it."""
        self._mistakes.append((place, text))
        if len(self._mistakes) == MISTAKES_MAX:
            self.give_up(place, f"{MISTAKES_MAX} mistakes; mend these first")

    def warn(self, place: Place, text: str) -> None:
        """Note what is done differently here."""
        self._warnings.append((place, text))

    def give_up(self, place: Place, text: str) -> NoReturn:
        """Note a mistake behind which nothing is read."""
        self._mistakes.append((place, text))
        raise Enough

    def expansion(self, name: str, place: Place) -> str | None:
        """A macro's value."""
        macro = self.macros.get(name)
        if macro is None:
            return None
        macro.used = True
        self._expanded_len += len(macro.value) + 1
        if self._expanded_len > TEXT_MAX:
            self.give_up(place, f"${name}: macros make more than {TEXT_MAX} characters; use fewer")
        return macro.value

    @property
    def mistakes(self) -> int:
        """How many there are."""
        return len(self._mistakes)

    @property
    def problems(self) -> tuple[str, ...]:
        """The mistakes in the order in which they stand."""
        return _lines(self._mistakes)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings in the order in which they stand."""
        unused = [
            (macro.place, f"the macro {name} is not used; leave it out")
            for name, macro in self.macros.items()
            if not macro.used
        ]
        return _lines([*self._warnings, *unused])


def _lines(notes: list[tuple[Place, str]]) -> tuple[str, ...]:
    ordered = sorted(notes, key=lambda note: note[0].order)
    return tuple(f"{place}: {text}".replace("\n", "\\n") for place, text in ordered)


class Lexer:
    """The tokens of one file, or of one macro's value."""

    def __init__(
        self, reading: Reading, path: Path, text: str, within: Place | None = None
    ) -> None:
        self.reading = reading
        self.path = path
        self._file = str(path)
        self._text = text
        self._within = within  # the place of the macro whose value this is
        self._off = 0
        self._line = 1
        self._ahead: deque[Token] = deque()

    def peek(self, ahead: int = 0) -> Token:
        """The next token, or the one `ahead` of it, left where it is."""
        while len(self._ahead) <= ahead:
            self._read()
        return self._ahead[ahead]

    def take(self) -> Token:
        """The next token; END comes again and again."""
        token = self.peek()
        if token.kind is not Kind.END:
            self._ahead.popleft()
        return token

    def end_line(self) -> None:
        """Put the end of a line in front of the next token."""
        self._ahead.appendleft(Token(Kind.NEWLINE, "\n", self.peek().place))

    def _read(self) -> None:
        """One token more, or as many as a macro gives."""
        self._pass_over(_BLANK)
        place = self._within or self.reading.place(self._file, self._line)
        text, off = self._text, self._off
        sign = text[off : off + 1]
        if not sign:
            self._add(Kind.END, "", place)
        elif sign == "$" and not self._within:
            self._expand(place)
        elif sign in "\"'":
            self._quoted(place)
        elif _WORD.match(text, off):
            self._word(self._pass_over(_WORD), place)
        else:
            self._off += 1
            self._line += sign == "\n"
            self._add(Kind.NEWLINE if sign == "\n" else Kind.SIGN, sign, place)

    def _pass_over(self, expression: re.Pattern[str]) -> str:
        match = expression.match(self._text, self._off)
        assert match, "looked at before, or may be empty"
        self._line += match[0].count("\n")
        self._off = match.end()
        return match[0]

    def _add(self, kind: Kind, text: str, place: Place) -> None:
        self._ahead.append(Token(kind, text, place))

    def _wrong(self, place: Place, problem: str) -> None:
        self.reading.mistake(place, problem)
        self._add(Kind.WRONG, "", place)

    def _word(self, raw: str, place: Place) -> None:
        raw = raw.replace("\\\n", "")
        text = re.sub(r"\\(.)", r"\1", raw)
        stray = re.search(r"(?<!\\)[$\"']", raw)
        if stray:
            hint = "put the whole word in quotes, or a blank in front of it"
            self._wrong(place, f"{stray[0]} within the word {text[:40]}; {hint}")
        elif len(text) > STRING_MAX:
            self._wrong(place, f"a word of {len(text)} characters; use at most {STRING_MAX}")
        else:
            self._add(Kind.NUMBER if _NUMBER.fullmatch(text) else Kind.WORD, text, place)

    def _quoted(self, place: Place) -> None:
        quote = self._text[self._off]
        match = _QUOTED.match(self._text, self._off)
        if match is None:
            self._off = len(self._text) if self._within else self._end_of_line()
            self._wrong(place, f"a quoted string has no end; close it with {quote}")
            return
        self._pass_over(_QUOTED)
        raw = match[0][1:-1].replace("\\\n", "").replace("\n", "")
        text = re.sub(rf"\\([{quote} \t])", r"\1", raw)
        if len(text) > STRING_MAX:
            self._wrong(place, f"a string of {len(text)} characters; use at most {STRING_MAX}")
        elif _CONTROL.search(text):
            self._wrong(place, f"a control character in {text[:40]!a}; leave it out")
        else:
            self._add(Kind.QUOTED, text, place)

    def _end_of_line(self) -> int:
        end = self._text.find("\n", self._off)
        return len(self._text) if end < 0 else end

    def _expand(self, place: Place) -> None:
        name = self._pass_over(_MACRO)[1:]
        value = self.reading.expansion(name, place)
        if value is None:
            self._wrong(place, f"no macro {name or 'without a name'}; define {name or 'a'}=… above")
            return
        inner = Lexer(self.reading, self.path, value, within=place)
        tokens = []
        while inner.peek().kind is not Kind.END:
            tokens.append(inner.take())
        goes_on = value[-1:].strip() and tokens and tokens[-1].kind in (Kind.WORD, Kind.NUMBER)
        rest = self._pass_over(_REST) if goes_on else ""
        if rest:
            self._ahead.extend(tokens[:-1])
            self._word(tokens[-1].text + rest, place)
        else:
            self._ahead.extend(tokens)
