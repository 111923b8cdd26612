"""A user without any rights, who runs programs of ours: a made-up number, no groups, no name.

How it works: the tests' own interpreter may lie where only root can look; then the system's takes
its place, with the same packages.
"""

import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path

import vionet
from tests.tools import absent, need

UID = 65533
SOURCE = Path(vionet.__file__).parent.parent


def words() -> list[str]:
    """What goes before a command line that the user runs."""
    return [str(need("setpriv")), f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--"]


@cache
def python() -> list[str]:
    """The user's Python, as a command line that knows vionet."""
    packages = f"{SOURCE}:{sysconfig.get_path('purelib')}"
    for program in (sys.executable, "/usr/bin/python3"):
        argv = [*words(), "/usr/bin/env", f"PYTHONPATH={packages}", program]
        same = f"import sys, vionet; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
        if not subprocess.run([*argv, "-c", same], capture_output=True, timeout=60).returncode:
            return argv
    absent("no Python that an unprivileged user may run: install python3 in /usr")
