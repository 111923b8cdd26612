"""Compile the mutants ahead of the tests that need them: `python -m tests.check.compile_mutants`.

They are compiled and started as any vionet; it is only that a stage of their own has both cores.
"""

import os
import subprocess
import sys

from tests.check.test_mutants import BASE, building
from vionet.jit.lane import Lane


def main() -> int:
    """*returns* the exit status of what compiles."""
    with building() as package:
        env = {"PYTHONPATH": str(package), "VIONET_CACHE_DIR": str(BASE)}
        return subprocess.call(
            [sys.executable, "-m", "vionet.cli.progress"],
            env=os.environ | env | {"VIONET_LANE": Lane.COMPILED},
        )


if __name__ == "__main__":
    sys.exit(main())
