"""The tree itself: sizes, and what must not be in it."""

import ast
import re
import subprocess
import tokenize
from functools import cache
from pathlib import Path

import pytest

from tests.tools import ROOT, packages

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
# Lines with code; prose is free.  What runs between guests is to be known by one person; the
# machines around it, what only judges (a function for each rule) and what only measures are read
# apart from it.
NETWORK, MACHINES, SIGHT = "the network", "the machines", "what shows them"
FOLDERS = {
    "check": "check",
    "bench": "bench",
    **dict.fromkeys(("site", "vm", "services", "daemon", "cli"), MACHINES),
    **dict.fromkeys(("capture", "explain", "web"), SIGHT),
}
LINES_MAX = {NETWORK: 11_800, MACHINES: 10_000, SIGHT: 3_000, "check": 6_500, "bench": 6_000}
TEXT = {".py", ".md", ".toml", ".txt", ".sh", ".yml", ".yaml", ".json", ".cfg", ""}


@cache
def tree() -> list[Path]:
    """Every file that is committed, or would be."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "-c", "-o", "--exclude-standard"]
    names = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    paths = [ROOT / name for name in names.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def python_files() -> list[Path]:
    """The Python sources, tests and scripts."""
    return [path for path in tree() if path.suffix == ".py"]


def name_of(path: Path) -> str:
    """Relative to the repository."""
    return path.relative_to(ROOT).as_posix()


def lines_of(path: Path) -> int:
    """The number of lines of a file."""
    return len(path.read_text().splitlines())


def test_files_are_short() -> None:
    """No Python file is longer than can be read at one sitting."""
    long = {name_of(p): lines_of(p) for p in python_files() if lines_of(p) > FILE_LINES_MAX}
    assert {} == long


def test_functions_are_short() -> None:
    """No function is longer than a screen."""
    long = {}
    for path in python_files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > FUNCTION_LINES_MAX:
                    long[f"{name_of(path)}:{node.lineno} {node.name}"] = length
    assert {} == long


def code_lines(path: Path) -> int:
    """Lines that hold code: neither blank, nor comment, nor docstring."""
    prose = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    held: set[int] = set()
    begins = True  # of a logical line, where a string alone is a docstring
    with path.open("rb") as source:
        for token in tokenize.tokenize(source.readline):
            if token.type in prose or token.type in (tokenize.ENCODING, tokenize.ENDMARKER):
                begins = begins or token.type == tokenize.NEWLINE
                continue
            if not (begins and token.type == tokenize.STRING and token.line.lstrip()[0] in "\"'r"):
                held.update(range(token.start[0], token.end[0] + 1))
            begins = False
    return len(held)


def test_source_keeps_its_budget(capsys: pytest.CaptureFixture[str]) -> None:
    """vionet stays small enough for one person to know; so do its tester and its benches."""
    lines = dict.fromkeys(LINES_MAX, 0)
    for path in python_files():
        if path.is_relative_to(ROOT / "src"):
            folder = path.relative_to(ROOT / "src/vionet").parts[0]
            lines[FOLDERS.get(folder, NETWORK)] += code_lines(path)
    with capsys.disabled():
        print("\nlines with code in src/:", end=" ")
        print("; ".join(f"{part} {lines[part]} of {most}" for part, most in LINES_MAX.items()))
    assert {} == {part: n for part, n in lines.items() if n >= LINES_MAX[part]}


# Written in pieces, so that this file does not contain what it looks for.
FORBIDDEN = {
    "a path of somebody's machine": r"/wo"
    r"rk/|/ho"
    r"me/[a-z]|/ro"
    r"ot/|/tmp/ve"
    r"nv|\.pye"
    r"nv",
    "a registry's host": r"pypi\."
    r"org|pythonh"
    r"osted|debian\."
    r"org|npmjs\."
    r"|snapshot\.deb",
    "words about who typed it": (
        r"(?i)\bhel"
        r"per \d|\bai ag"
        r"ent|\blanguage mo"
        r"del|\bclau"
        r"de\b|\banthro"
        r"pic"
        r"|\bcha"
        r"tgpt|\bsub-?ag"
        r"ent|\bthe bri"
        r"ef\b|\bthis ses"
        r"sion's"
    ),
    "a name that says nothing": r"\bdef (ge" r"t_(?!command\b)|hand" r"le_)",
}


@pytest.mark.parametrize("reason", FORBIDDEN)
def test_tree_is_free_of(reason: str) -> None:
    """The project speaks only of itself, and runs on any machine."""
    expression = re.compile(FORBIDDEN[reason])
    found = [
        f"{name_of(path)}:{number}: {line.strip()[:120]}"
        for path in tree()
        if path.suffix in TEXT
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if expression.search(line)
    ]
    assert [] == found


def test_modules_have_telling_names() -> None:
    """No module is named for being of use."""
    vague = {"utils", "util", "helpers", "helper", "manager", "common", "misc"}
    assert [] == [name_of(path) for path in python_files() if path.stem in vague]


def test_modules_say_what_they_are() -> None:
    """Every module of src/ opens with prose."""
    silent = [
        name_of(path)
        for path in python_files()
        if path.is_relative_to(ROOT / "src") and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert [] == silent


def test_tests_state_their_claims() -> None:
    """Every test function has a docstring."""
    silent = [
        f"{name_of(path)}:{node.lineno} {node.name}"
        for path in python_files()
        if path.is_relative_to(ROOT / "tests") and path.name.startswith("test_")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert [] == silent


def test_package_list_is_sorted_and_unique() -> None:
    """Each program comes from one package, and the list is easy to search."""
    lines = (ROOT / "tests" / "debian-packages.txt").read_text().splitlines()
    names = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    assert sorted(set(names)) == names
    assert set(packages().values()) <= set(names)


def test_changelog_names_the_version() -> None:
    """The changelog has a section for the version that the package claims."""
    from vionet import __version__

    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
