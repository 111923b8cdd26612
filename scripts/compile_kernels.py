"""Compile every kernel into the cache of this process's lane, and print what it took.

Tests then start with a warm cache, and a kernel that does not compile is named before anything
else runs.
"""

import importlib
import time
from pathlib import Path

import vionet
from vionet.jit import LANE
from vionet.jit.kernel import KERNELS
from vionet.jit.lane import kernel_sources


def import_kernels() -> None:
    """Import every module that holds a kernel, which compiles it or loads it from the cache."""
    package = Path(vionet.__file__).parent
    for path in kernel_sources():
        if "@kernel(" in path.read_text():
            module = path.relative_to(package.parent).with_suffix("")
            importlib.import_module(".".join(module.parts))


def main() -> None:
    """Import them and say how long it took."""
    start = time.monotonic()
    import_kernels()
    print(f"{LANE} lane: {len(KERNELS)} kernels in {time.monotonic() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
