"""Mutants of our own device: small faults, one by one, each with the rules that it breaks.

How it works: `build` copies the package and changes its text in every place that `MUTANTS` names,
so that a place is wrong while its mutant is chosen and right otherwise.  Which mutant is chosen is
the process's soft limit of open files, less `LIMIT`: compiled code can ask for it
(`getdtablesize`), and a test can set it from outside (`prlimit`).  So all mutants are compiled and
started once.

The package lies below a folder of its own, and so does its machine code: the code of the real
package, which Numba finds by the path of its source, is never near it.  Both are named by what is
in them, so that a second process, or the next run, need not compile again.

`{on}` in a replacement is the condition that this mutant is chosen.
"""

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

import vionet

LIMIT: Final = 1100
SOURCE: Final = Path(vionet.__file__).parent
MUTANT: Final = "jit/mutant.py"
KEPT: Final = 4  # packages of other sources; a run of another checkout may use one
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


def _texts(mutants: tuple[Mutant, ...]) -> dict[str, str]:
    """The files that `mutants` change, as they become; raises where a place is not found."""
    texts: dict[str, str] = {}
    for number, mutant in enumerate(mutants, 1):
        for file, old, new in mutant.edits:
            text = texts[file] if file in texts else (SOURCE / file).read_text()
            if text.count(old) != 1:
                raise LookupError(f"{mutant.name}: {file} has {text.count(old)} times: {old}")
            texts[file] = text.replace(old, new.replace("{on}", f"(mutant() == {number})"))
    for file, text in texts.items():
        first = "\nfrom vionet."
        wanted = "\nfrom vionet.jit.mutant import mutant, scribble, show"
        texts[file] = text.replace(first, wanted + first, 1)
        compile(texts[file], file, "exec")  # an edit that does not parse is found here
    return texts | {MUTANT: MODULE.replace("LIMIT", str(LIMIT))}


def build(base: Path, mutants: tuple[Mutant, ...]) -> Path:
    """A folder below `base` that holds a package with all `mutants`; whoever calls has a lock."""
    texts = _texts(mutants)
    sources = {p.relative_to(SOURCE).as_posix(): p for p in sorted(SOURCE.glob("**/*.py"))}
    digest = hashlib.sha256(repr(sorted(texts.items())).encode())
    for file, path in sources.items():
        digest.update(file.encode() + b"\0" + path.read_bytes())
    packages = base / "packages"
    folder = packages / digest.hexdigest()[:20]
    if not folder.exists():
        packages.mkdir(parents=True, exist_ok=True)
        for old in sorted(packages.iterdir(), key=lambda p: p.stat().st_mtime)[:-KEPT]:
            shutil.rmtree(old)
        with tempfile.TemporaryDirectory(dir=base) as made:
            package = Path(made) / "vionet"
            shutil.copytree(SOURCE, package, ignore=shutil.ignore_patterns("__pycache__"))
            for file, text in texts.items():
                (package / file).write_text(text)
            folder.mkdir()
            package.rename(folder / "vionet")
    return folder
