"""The log's format: a line is a line whatever is in it, as text, as JSON and for journald."""

import io
import json
import logging
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum, StrEnum
from typing import Any

import pytest
import structlog

from vionet.daemon import log

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
ODD = {
    "newline": "a\nb",
    "escape": "\x1b[31mred\x1b]0;title\x07",
    "overwritten": "good\rbad",
    "backwards": "\u202eevil",
    "surrogate": os.fsdecode(b"\xff"),
    "nul": "\0",
    "separator": "\u2028x\x85y",
    "quote": 'it\'s "so"',
}


class Stubborn:
    """An object that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


class Number(IntEnum):
    ONE = 1


class Word(StrEnum):
    LEFT = "left"


Logged = Callable[[bool], io.StringIO]


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Logged]:
    """Begin to log, as JSON or not, to a standard error that is no terminal."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level

    def begin(as_json: bool) -> io.StringIO:
        out = io.StringIO()
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stderr", out)
            log.configure(json=as_json, level=logging.INFO)
        return out

    yield begin
    structlog.reset_defaults()
    root.handlers[:] = before
    root.setLevel(level)


def objects(out: io.StringIO) -> list[dict[str, Any]]:
    """One of each line."""
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_text(logged: Logged) -> None:
    """Time with its zone, level, event, where, then the fields as they were given; lists are words;
    no colours."""
    out = logged(False)
    there = structlog.get_logger("vionet.test").bind(port="a", fabric="lan")
    there.info("negotiated", zeal=1, features=["CSUM", "TSO4"], refused=[], word=Word.LEFT)
    there.debug("not at this level")
    text = "negotiated fabric=lan port=a zeal=1 features='CSUM TSO4' refused=none word=left"
    assert re.fullmatch(rf"{STAMP} \[info     \] {text}\n", out.getvalue())


def test_json(logged: Logged) -> None:
    """The keys that are always there come first; numbers, lists and words keep their kinds; what is
    None is left out."""
    out = logged(True)
    there = structlog.get_logger("vionet.test").bind(port="a", fabric="lan")
    there.warning("an event", count=Number.ONE, features=("CSUM",), refused=[], made=False, vm=None)
    (line,) = objects(out)
    assert re.fullmatch(STAMP, line.pop("timestamp"))
    assert {
        "level": "warning", "logger": "vionet.test", "event": "an event", "fabric": "lan",
        "port": "a", "count": 1, "features": ["CSUM"], "refused": [], "made": False,
    } == line  # fmt: skip
    first = [*json.loads(out.getvalue())][:6]
    assert ["timestamp", "level", "logger", "event", "fabric", "port"] == first


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("as_json", [False, True])
def test_hostile_text_stays_in_its_line(logged: Logged, name: str, as_json: bool) -> None:
    """Line ends, escape sequences and what cannot be encoded are escaped, wherever they stand."""
    out = logged(as_json)
    there, value = structlog.get_logger("vionet.test"), ODD[name]
    there.warning("an event", port=value, nested={value: [value, value.encode("utf-8", "replace")]})
    logging.getLogger("other").warning("said %s", value)
    said = out.getvalue()
    assert 2 == said.count("\n")
    assert 2 == len(said.splitlines())  # which knows more ends than one
    assert said.replace("\n", "").isprintable()
    said.encode()  # has no surrogates
    assert not as_json or 2 == len(objects(out))


@pytest.mark.parametrize("as_json", [False, True])
def test_odd_values_never_raise(logged: Logged, as_json: bool) -> None:
    """Bytes, sets, paths, numbers that JSON has not, what contains itself or cannot be shown."""
    out = logged(as_json)
    loop: list[Any] = []
    loop.append(loop)
    there = structlog.get_logger("vionet.test")
    odd: tuple[Any, ...] = (
        b"\xff\0text", {1, 2}, pathlib.Path("/x"), float("nan"), float("inf"), 1 << 200, loop,
        {Stubborn(): {"a": {"b": {"c": {"d": {}}}}}}, Stubborn(), object, ValueError("x"),
        "x" * 100_000, None,
    )  # fmt: skip
    for value in odd:
        there.info("an event", value=value)
        assert 1 == out.getvalue().count("\n"), value
        assert len(out.getvalue()) < 4000, "cut off"
        if as_json:
            json.loads(out.getvalue(), parse_constant=pytest.fail)
        out.seek(0)
        out.truncate()


@pytest.mark.parametrize("as_json", [False, True])
def test_exception_is_one_event(logged: Logged, as_json: bool) -> None:
    """One object; in a text the traceback below the line, set in; its text is escaped too."""
    out = logged(as_json)
    try:
        raise ValueError("one\n\x1b[31m2026-01-01 [info] forged")
    except ValueError:
        structlog.get_logger("vionet.test").exception("it failed", request="x")
    if as_json:
        (line,) = objects(out)
        assert ("it failed", "error", "x") == (line["event"], line["level"], line["request"])
        assert "test_daemon_log.py" in line["exception"]
    else:
        first, *rest = out.getvalue().splitlines()
        assert first.endswith("it failed request=x")
        assert rest[0] == "    Traceback (most recent call last):"
        assert all(line.startswith("    ") for line in rest)
        assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize("as_json", [False, True])
def test_others_records_look_the_same(logged: Logged, as_json: bool) -> None:
    """A library's record is an event too, and a text says whose it is."""
    out = logged(as_json)
    logging.getLogger("qemu.qmp").error("no %s", "greeting")
    said = out.getvalue()
    if as_json:
        (line,) = objects(out)
        assert ("no greeting", "qemu.qmp") == (line["event"], line["logger"])
    else:
        assert re.fullmatch(rf"{STAMP} \[error    \] no greeting \[qemu.qmp\]\n", said)


SCRIPT = """
import logging, structlog, sys
from vionet.daemon import log
log.configure(json=sys.argv[1] == "json", level=logging.DEBUG)
there = structlog.get_logger("vionet.test")
for level in ("debug", "info", "warning", "error"):
    getattr(there, level)("an event", port="a")
try:
    raise ValueError("x")
except ValueError:
    there.exception("it failed")
"""


def child(environment: Mapping[str, str], form: str, error: int) -> None:
    """A process that logs to the descriptor `error`."""
    argv = [sys.executable, "-c", SCRIPT, form]
    env = {**os.environ, **environment}
    subprocess.run(argv, stderr=error, env=env, timeout=60, check=True)


@pytest.mark.parametrize("form", ["text", "json"])
def test_journald(tmp_path: pathlib.Path, form: str) -> None:
    """Each line has its priority in front, also those of a traceback, and text no time and level;
    where standard error is something else than JOURNAL_STREAM says, all is as ever."""
    with (tmp_path / "log").open("w+b") as file:
        found = os.fstat(file.fileno())
        stream = f"{found.st_dev}:{found.st_ino}"
        child({"JOURNAL_STREAM": stream}, form, file.fileno())
        said = (tmp_path / "log").read_text().splitlines()
        os.truncate(file.fileno(), 0)
        file.seek(0)
        child({"JOURNAL_STREAM": f"{found.st_dev}:1"}, form, file.fileno())
        assert not re.search(r"^<\d>", (tmp_path / "log").read_text(), re.MULTILINE)
    assert ["<7>", "<6>", "<4>", "<3>", "<3>"] == [line[:3] for line in said[:5]]
    assert {"<3>"} == {line[:3] for line in said[4:]}
    if form == "json":
        assert "debug" == json.loads(said[0][3:])["level"]
    else:
        assert "<7>an event port=a" == said[0]
        assert "<3>it failed" == said[4]


def test_colours_are_for_terminals() -> None:
    """Only there, and not where NO_COLOR asks for none."""
    for environment, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        ours, theirs = os.openpty()
        child(environment, "text", theirs)
        os.close(theirs)
        said = os.read(ours, 1 << 16)
        os.close(ours)
        assert coloured == (b"\x1b[" in said)
        assert b"an event" in said
