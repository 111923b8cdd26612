"""The command line: one file a command, imported when it is called.

`vionet --help` and every usage error must answer at once, so this module knows the commands by
name only; neither Numba nor NumPy is imported before a command needs the engine.
"""

from vionet.cli.group import main

__all__ = ["main"]
