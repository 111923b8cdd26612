"""Loading the engine, and saying what takes so long: it is compiled once for each version.

How it works: a daemon takes the engine from its image (`jit.image`).  Where there is none, a child
process compiles it and makes one; 300 MB that only the compiler needs are gone with it.  It imports
from where this process does, and not from the working directory, which `-m` alone would add.  On a
terminal one line counts the kernels and disappears; elsewhere one line says that it happens and
one that it is over.  A warm start prints nothing.
"""

import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_PATIENCE_S: Final = 2.0  # a warm start is faster than this, unless the machine is busy
_WIDTH: Final = 60


@contextmanager
def engine_loaded() -> Iterator[None]:
    """Import the engine inside this block."""
    from vionet.jit import image

    if image.use():
        command = [sys.executable, "-P", "-m", __name__]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run(command, stdin=subprocess.DEVNULL, env=env, check=False)
        image.use()
    with compilation_shown():  # of what the child could not do
        yield


@contextmanager
def compilation_shown() -> Iterator[None]:
    """Tell of every kernel that is declared inside this block."""
    from vionet.jit.kernel import watch_compilation

    started = time.monotonic()
    terminal = sys.stderr.isatty()
    shown = False
    over = False

    def report(done: int, total: int, name: str) -> None:
        nonlocal shown
        if over or time.monotonic() - started < _PATIENCE_S:
            return
        if terminal:
            line = f"compiling the engine, once: {min(done, total)} of {total} ({name})"
            print(f"\r{line[:_WIDTH]:{_WIDTH}}", end="", file=sys.stderr, flush=True)
        elif not shown:
            print(
                "vionet: compiling the engine, once for this version", file=sys.stderr, flush=True
            )
        shown = True

    watch_compilation(report)
    try:
        yield
    finally:
        over = True
        if shown and terminal:
            print(f"\r{'':{_WIDTH}}\r", end="", file=sys.stderr, flush=True)
        elif shown:
            spent = time.monotonic() - started
            print(f"vionet: compiled in {spent:.0f} s", file=sys.stderr, flush=True)


def _compile() -> None:
    """Compile everything and make the image."""
    from vionet.jit import image

    gc.disable()  # it would look through the compiler's graphs again and again, for a second
    with compilation_shown():
        import vionet.capture.compiled.block
        import vionet.fabric  # noqa: F401
    image.write()


if __name__ == "__main__":
    _compile()
