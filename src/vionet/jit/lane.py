"""Which lane this process runs in, and where its machine code is kept.

How it works: Numba reads its cache directory when it is imported and keys a cached function on
the function's own file only, so a caller would keep the old code of a callee edited in another
file.  The directory is therefore named by a hash of every source that can hold a kernel of the
engine, Numba's version and the lane.  Kernels of other packages call the engine's and are called
by none of them: they lie in a folder within, named by a hash of the benches' sources, so that an
edit of a bench compiles only benches anew.  Where the directory cannot be written, a temporary one
serves this process; and where it is another user's, or anybody may write to it, because what lies
there is run.

Invariant: this module is imported before Numba, and imports neither Numba nor NumPy.
"""

import atexit
import contextlib
import functools
import hashlib
import importlib.metadata
import os
import shutil
import stat
import tempfile
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).resolve().parent.parent
# The folders below src/vionet that may hold kernels: the image's, which import none of the others.
_ENGINE_FOLDERS: Final = ("jit", "spec", "engine", "capture/compiled")
_OTHER_FOLDERS: Final = ("bench",)


class Lane(StrEnum):
    """How kernels run."""

    COMPILED = "compiled"
    BOUNDS = "bounds"
    INTERPRETED = "interpreted"


def kernel_sources(folders: Sequence[str] = _ENGINE_FOLDERS + _OTHER_FOLDERS) -> list[Path]:
    """Every file whose text can end up in a kernel, sorted."""
    return sorted(path for folder in folders for path in (_ROOT / folder).glob("**/*.py"))


def _source_hash(lane: Lane, folders: Sequence[str] = _ENGINE_FOLDERS) -> str:
    digest = hashlib.sha256()
    digest.update(f"{importlib.metadata.version('numba')} {lane}".encode())
    for path in kernel_sources(folders):
        digest.update(path.relative_to(_ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:20]


def _cache_base() -> Path:
    named = os.environ.get("VIONET_CACHE_DIR")
    if named:
        return Path(named)
    home = os.environ.get("XDG_CACHE_HOME")
    return Path(home) / "vionet" if home else Path("~/.cache/vionet").expanduser()


def _usable_cache(lane: Lane) -> Path:
    """A writable directory for this lane and these sources; older siblings are removed."""
    base = _cache_base() / lane
    path = base / _source_hash(lane)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & stat.S_IWOTH:
            raise PermissionError(path)
        with tempfile.TemporaryFile(dir=path):
            pass
    except (OSError, RuntimeError):
        base = Path(tempfile.mkdtemp(prefix="vionet-cache-"))
        atexit.register(shutil.rmtree, base, ignore_errors=True)
        os.environ["VIONET_CACHE_DIR"] = str(base)  # for a child that compiles (`jit.image`)
        path = base / lane / _source_hash(lane)
        path.mkdir(parents=True)
        return path
    _forget_old(base, keep=path)
    return path


@functools.cache
def cache_of(module: str) -> Path:
    """Where the machine code of a module's kernels is kept; only where there is a cache."""
    assert CACHE_DIR is not None
    if module.replace(".", "/").startswith(tuple(f"vionet/{one}/" for one in _ENGINE_FOLDERS)):
        return CACHE_DIR
    path = CACHE_DIR / "others" / _source_hash(LANE, _OTHER_FOLDERS)
    path.mkdir(parents=True, exist_ok=True)
    _forget_old(path.parent, keep=path)
    return path


def _forget_old(base: Path, keep: Path, generations: int = 4) -> None:
    """Keep the few newest cache generations; another checkout may still use them."""
    with contextlib.suppress(OSError):
        older = sorted(
            (p for p in base.iterdir() if p.is_dir() and p != keep),
            key=lambda p: p.stat().st_mtime,
            reverse=True,
        )
        for path in older[generations:]:
            shutil.rmtree(path, ignore_errors=True)


def _choose() -> Lane:
    name = os.environ.get("VIONET_LANE", Lane.COMPILED)
    try:
        return Lane(name)
    except ValueError:
        raise SystemExit(
            f"vionet: VIONET_LANE={name}: unknown lane; use one of {', '.join(Lane)}"
        ) from None


LANE: Final = _choose()
CACHE_DIR: Final = None if LANE is Lane.INTERPRETED else _usable_cache(LANE)
if CACHE_DIR is not None:
    os.environ["NUMBA_CACHE_DIR"] = str(CACHE_DIR)
# Numba's caller-side parallel layers and SVML are never used; keep its start light.
os.environ.setdefault("NUMBA_DISABLE_INTEL_SVML", "1")
