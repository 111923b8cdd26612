"""The commands in the documentation, found and run as their readers would.

Every fenced block marked `sh` or `console` in README.md, CONTRIBUTING.md and docs/ is preceded by
one HTML comment that says what happens to it in the tests:

    <!-- run: PLACE -->               run by bash; it must end with status 0
    <!-- run: PLACE, serves -->       started; must print `ready`, runs until the file's end, and
                                      must then exit 0 on SIGTERM
    <!-- not run: REASON -->          the reasons allowed are listed in tests/repo/test_docs.py
    <!-- recorded: TERMINAL -->       played by tests/interop/test_session.py

Above a block of any kind, `<!-- file: NAME -->` writes it to that file.

The blocks of one file run in order, in one scratch folder that is also their XDG_RUNTIME_DIR, with
this environment's programs in PATH.  In a `console` block only the lines that begin with `$ ` are
commands (`# ` as root).  PLACE is `shell`, or `checkout` to run in the repository, or the name of
a folder tests/snippets/PLACE, whose programs come first in PATH: a stand-in for a program there can
add what a test needs and a reader has anyway (a disk, an accelerator, a boot command).
"""

import re
from dataclasses import dataclass
from pathlib import Path

from tests.tools import ROOT

FILE = re.compile(r"^<!--\s*file:\s*([\w.-]+)\s*-->$")
COMMENT = re.compile(r"^<!--\s*(run|not run|recorded):\s*(.*?)\s*-->$")
FENCE = re.compile(r"^(`{3,})(\w*)\s*$")
LANGUAGES = ("sh", "console")


@dataclass(frozen=True)
class Snippet:
    """One fenced block of commands."""

    path: Path
    line: int
    script: str
    place: str  # empty: not run
    serves: bool
    reason: str  # why it is not run

    @property
    def name(self) -> str:
        """Where it is."""
        return f"{self.path.relative_to(ROOT)}:{self.line}"


class SnippetError(Exception):
    """A block of commands without a comment that says what happens to it."""


def documents() -> list[Path]:
    """The files whose commands are run."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]


def commands(language: str, lines: list[str]) -> str:
    """The script in a block."""
    if language == "console":
        lines = [line[2:] for line in lines if line.startswith(("$ ", "# "))]
    return "\n".join(lines) + "\n"


def snippets(path: Path) -> list[Snippet]:
    """The blocks of commands in `path`, in order."""
    found = []
    lines = path.read_text().splitlines()
    number = 0
    before = ""
    while number < len(lines):
        fence = FENCE.match(lines[number])
        if fence is None:
            before = lines[number].strip() or before
            number += 1
            continue
        end = lines.index(fence[1], number + 1)
        block = lines[number + 1 : end]
        if file := FILE.match(before):
            script = "\n".join([f"cat >{file[1]} <<'end of file'", *block, "end of file\n"])
            found.append(Snippet(path, number + 1, script, "shell", False, ""))
        elif fence[2] in LANGUAGES:
            found.append(_snippet(path, number + 1, commands(fence[2], block), before))
        before = ""
        number = end + 1
    return found


def _snippet(path: Path, line: int, script: str, before: str) -> Snippet:
    comment = COMMENT.match(before)
    if comment is None:
        raise SnippetError(f"{path.relative_to(ROOT)}:{line}: write <!-- run: PLACE --> above it")
    if comment[1] == "recorded":
        return Snippet(path, line, script, "", False, "")
    if comment[1] == "not run":
        return Snippet(path, line, script, "", False, comment[2])
    place, _, rest = comment[2].partition(",")
    if rest.strip() not in ("", "serves"):
        raise SnippetError(f"{path.relative_to(ROOT)}:{line}: {rest.strip()}: only `serves`")
    return Snippet(path, line, script, place.strip(), bool(rest), "")
