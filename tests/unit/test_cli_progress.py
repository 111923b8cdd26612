"""What people see while the engine is compiled."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vionet.cli import progress
from vionet.jit import image, kernel


class Terminal(io.StringIO):
    """A standard error that claims to be a terminal."""

    def isatty(self) -> bool:
        """It does."""
        return True


def compile_three(monkeypatch: pytest.MonkeyPatch, stderr: io.StringIO, patience_s: float) -> str:
    """What is written to `stderr` while three kernels are compiled."""
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(progress, "_PATIENCE_S", patience_s)
    monkeypatch.setattr(kernel, "_progress", [])
    with progress.compilation_shown():
        (report,) = kernel._progress
        for done, name in enumerate(("fold", "judge", "deliver"), 1):
            report(done, 3, name)
    report(3, 3, "late")  # after the block nothing is said any more
    return stderr.getvalue()


def test_terminal_gets_one_line_that_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal a single line counts, and is wiped at the end."""
    said = compile_three(monkeypatch, Terminal(), 0)
    assert "\rcompiling the engine, once: 2 of 3 (judge)" in said
    assert "\n" not in said
    assert "late" not in said
    assert said.endswith("\r")
    assert "" == said.split("\r")[-2].strip()


def test_log_gets_two_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere one line says that it happens and one how long it took."""
    first, second = compile_three(monkeypatch, io.StringIO(), 0).splitlines()
    assert "vionet: compiling the engine, once for this version" == first
    assert second.startswith("vionet: compiled in ")


@pytest.mark.parametrize("stderr", [Terminal, io.StringIO])
def test_warm_start_is_silent(monkeypatch: pytest.MonkeyPatch, stderr: type[io.StringIO]) -> None:
    """A start from the cache says nothing."""
    assert "" == compile_three(monkeypatch, stderr(), 60)


def test_compiling_child_imports_nothing_from_where_it_stands(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file of somebody else's in the working directory is not run for being called like one of
    ours; all else is found where this process finds it."""
    started: list[tuple[list[str], dict[str, str]]] = []

    def run(command: list[str], *, env: dict[str, str], **_: Any) -> None:
        started.append((command, env))

    monkeypatch.setattr(image, "use", lambda: True)
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "run", run)
        with progress.engine_loaded():
            pass
    ((command, env),) = started
    assert ["-m", "vionet.cli.progress"] == command[-2:]
    (tmp_path / "numba.py").write_text("raise SystemExit('not this one')")
    script = "import numba, vionet, sys; print(vionet.__file__)"
    done = subprocess.run(
        [*command[:-2], "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert (0, "") == (done.returncode, done.stderr)
    assert progress.__file__ == str(Path(done.stdout.strip()).parent / "cli" / "progress.py")
