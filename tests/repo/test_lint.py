"""The linters and the type checker, as tests, so that `make test` and an editor agree."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools import ROOT

pytestmark = pytest.mark.timeout(600)


def run(*argv: str) -> tuple[int, str]:
    """Run a tool of this environment in the repository: its status and all it printed."""
    program = Path(sys.executable).with_name(argv[0])
    done = subprocess.run(
        [program, *argv[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    "argv",
    [
        pytest.param(("ruff", "check", "."), id="ruff"),
        pytest.param(("ruff", "format", "--check", "--diff", "."), id="format"),
        pytest.param(("mypy",), id="mypy"),
        pytest.param(("lint-imports",), id="imports"),
    ],
)
def test_linter_has_nothing_to_say(argv: tuple[str, ...]) -> None:
    """Sources are formatted, linted, typed and layered as pyproject.toml says."""
    status, output = run(*argv)
    assert status == 0, output
