"""`vionet bench start`: a smoke run; and that a warm daemon needs no compiler."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from vionet.bench.daemon import Daemon
from vionet.bench.result import Result
from vionet.bench.start import command
from vionet.jit import LANE, Lane

pytestmark = pytest.mark.skipif(LANE is not Lane.COMPILED, reason="starts daemons of this lane")


def test_start_is_measured() -> None:
    """A warm start and the memory of 3 guests; a quick run leaves the cold start out."""
    done = CliRunner().invoke(command, ["--quick", "--json", "--guests", "3"])
    assert 0 == done.exit_code, done.output
    result = Result.read(json.loads(done.stdout))
    assert [] == result.faults
    assert {"cold compile"} == result.left_out.keys()
    assert ["warm-start", "memory"] == [figure.goal for figure in result.figures]
    assert all(figure.value > 0 for figure in result.figures)


def test_warm_daemon_has_no_compiler_in_it(run_dir: Path) -> None:
    """Once the image is there, the process maps LLVM, which links it, and nothing of Numba's."""
    for name in ("first", "second"):
        (run_dir / name).mkdir()
        with Daemon(run_dir / name, 1) as daemon:
            maps = Path(f"/proc/{daemon.process.pid}/maps").read_text()
    assert "libllvmlite" in maps
    assert "/numba/" not in maps
