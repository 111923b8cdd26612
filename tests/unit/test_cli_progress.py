"""What people see while the engine is compiled."""

import io
import sys

import pytest

from vionet.cli import progress
from vionet.jit import kernel


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
