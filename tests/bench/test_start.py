"""`vionet bench start`: a smoke run; and that a warm daemon needs no compiler."""

import ast
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import vionet
from vionet.bench.daemon import Daemon
from vionet.bench.result import Result
from vionet.bench.start import command
from vionet.jit import LANE, Lane
from vionet.jit.lane import CACHE_DIR

pytestmark = pytest.mark.skipif(LANE is not Lane.COMPILED, reason="starts daemons of this lane")


def test_start_is_measured() -> None:
    """A warm start and the memory of 3 guests; a quick run leaves the cold start out."""
    done = CliRunner().invoke(command, ["--quick", "--json", "--guests", "3"])
    assert 0 == done.exit_code, done.output
    result = Result.read(json.loads(done.stdout))
    assert [] == result.faults
    assert {"cold compile"} == result.left_out.keys()
    assert ["warm-start", "", "memory"] == [figure.goal for figure in result.figures]
    assert all(figure.value > 0 for figure in result.figures)


def test_warm_daemon_has_no_compiler_in_it() -> None:
    """Once the image is there, the process maps LLVM, which links it, and nothing of Numba's."""
    for _ in range(2):
        with Daemon(1) as daemon:
            maps = Path(f"/proc/{daemon.process.pid}/maps").read_text()
    assert "libllvmlite" in maps
    assert "/numba/" not in maps


def declared(folder: str) -> set[str]:
    """Every kernel in the sources of a folder of the package, by its whole name."""
    package = Path(vionet.__file__).parent
    found = set()
    for path in (package / folder).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and any(
                isinstance(mark, ast.Call) and getattr(mark.func, "id", "") == "kernel"
                for mark in node.decorator_list
            ):
                found.add(f"vionet.{folder.replace('/', '.')}.{path.stem}.{node.name}")
    return found


def test_image_has_every_kernel() -> None:
    """A daemon may import any module of the engine: what is not in the image it could not have."""
    with Daemon(1):
        assert CACHE_DIR is not None
        header = json.loads((CACHE_DIR / "image").read_bytes().partition(b"\n")[0])
    kernels = header["objects"].keys() - {"callback"}
    wanted = declared("engine") | declared("jit") | declared("capture/compiled")
    assert wanted == kernels
