"""Mutants of our own device: small faults, one by one, each with the rules that it breaks.

How it works: `build` copies the package and changes its text in every place that `MUTANTS` names,
so that a place is wrong while its mutant is chosen and right otherwise.  Which mutant is chosen is
the process's soft limit of open files, less `LIMIT`: compiled code can ask for it
(`getdtablesize`), and a test can set it from outside (`prlimit`).  So all mutants are compiled and
started once.

`{on}` in a replacement is the condition that this mutant is chosen.
"""

import shutil
from pathlib import Path
from typing import Final, NamedTuple

import vionet

LIMIT: Final = 1100
SOURCE: Final = Path(vionet.__file__).parent
MODULE: Final = '''\
"""Which mutant is chosen, and what some of them do."""

from vionet.jit.kernel import INT, kernel
from vionet.jit.libc import _int_function
from vionet.jit.raw import store_release_u16, store_u16

_limit = _int_function("getdtablesize", 0)


@kernel(INT)
def mutant() -> int:
    """The number of the chosen mutant."""
    return _limit() - LIMIT


@kernel(INT, INT)
def scribble(address: int) -> int:
    """Write where nothing must be written."""
    store_u16(address, 0xEEEE)
    return 0


@kernel(INT, INT, INT)
def show(address: int, idx: int) -> int:
    """Move an index too early, and wait until somebody has seen it."""
    store_release_u16(address, idx)
    for _ in range(2000):
        _limit()
    return 0
'''


class Edit(NamedTuple):
    """In `file`, `old` (there once) becomes `new`."""

    file: str
    old: str
    new: str


class Mutant(NamedTuple):
    """What is wrong, the rules that this breaks, and how."""

    name: str
    ids: str
    edits: tuple[Edit, ...]


def one(name: str, ids: str, file: str, old: str, new: str) -> Mutant:
    """A mutant that is one edit."""
    return Mutant(name, ids, (Edit(file, old, new),))


def build(folder: Path, mutants: tuple[Mutant, ...]) -> None:
    """Put a package with all `mutants` into `folder`; raises where one is not found."""
    package = folder / "vionet"
    shutil.copytree(SOURCE, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "jit" / "mutant.py").write_text(MODULE.replace("LIMIT", str(LIMIT)))
    for number, mutant in enumerate(mutants, 1):
        for file, old, new in mutant.edits:
            path = package / file
            text = path.read_text()
            if text.count(old) != 1:
                raise LookupError(f"{mutant.name}: {file} has {text.count(old)} times: {old}")
            path.write_text(text.replace(old, new.replace("{on}", f"(mutant() == {number})")))
    for path in package.glob("**/*.py"):
        text = path.read_text()
        if "mutant() ==" in text and "\nfrom vionet." in text:
            first = "\nfrom vionet."
            wanted = "\nfrom vionet.jit.mutant import mutant, scribble, show"
            text = text.replace(first, wanted + first, 1)
            compile(text, path, "exec")  # an edit that does not parse is found here
            path.write_text(text)
