"""What the command line loads before it is asked for work."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vionet.jit import LANE, Lane

pytestmark = pytest.mark.skipif(LANE is not Lane.COMPILED, reason="starts processes of its own")

# Half a second of importing, and a compiler that most commands do not need.
HEAVY = ("llvmlite", "numba", "numpy")
PROBE = """
import json, sys
from vionet.cli import main
status = 0
try:
    status = main(sys.argv[2:])
except SystemExit as ended:
    status = ended.code
heavy = sorted(set(sys.argv[1].split()) & sys.modules.keys())
print(json.dumps({"status": status or 0, "heavy": heavy}))
"""


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("--help", 0),
        ("--version", 0),
        ("switch --help", 0),
        ("wire --help", 0),
        ("status --help", 0),
        ("status --json", 0),
        ("bench --help", 0),
        ("bench all --help", 0),
        ("bench no-such-bench", 2),
        ("no-such-command", 2),
        ("switch a=guest:", 2),
        ("wire tap:vio0", 2),
    ],
)
def test_command_does_not_load_the_compiler(line: str, status: int, run_dir: Path) -> None:
    """Commands that move no frame answer without loading Numba or NumPy."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, " ".join(HEAVY), *line.split()],
        cwd=run_dir,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    report = json.loads(done.stdout.splitlines()[-1])
    assert {"status": status, "heavy": []} == report, done.stderr


def test_module_runs_like_the_program() -> None:
    """`python -m vionet` is the same command line."""
    program = str(Path(sys.executable).with_name("vionet"))
    outputs = [
        subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout
        for argv in ([sys.executable, "-m", "vionet", "--help"], [program, "--help"])
    ]
    assert outputs[0] == outputs[1]
    assert outputs[0].startswith("Usage: vionet ")
