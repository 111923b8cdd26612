"""`vionet bench all`: a quick bench as a process, and everything that is written of it."""

import json
import os
import sys
from pathlib import Path

import pytest

from tests.process import Children
from vionet.bench.result import Result
from vionet.jit import LANE, Lane

pytestmark = pytest.mark.skipif(LANE is not Lane.COMPILED, reason="starts daemons of this lane")


@pytest.mark.timeout(450)  # it may compile, beside other tests
def test_suite_writes_document_page_and_plot(tmp_path: Path, start: Children) -> None:
    """One cheap bench: its result, free of faults; the machine; the page, which judges nothing."""
    argv = ["bench", "all", "--quick", "--only", "idle", "--out", str(tmp_path), "--json"]
    child = start(sys.executable, "-m", "vionet", *argv)
    assert 0 == child.wait(timeout=400), child
    suite = json.loads(child.stdout)
    part = suite["benches"]["idle"]
    result = Result.read(part["result"])
    assert ("", True, []) == (part["failure"], result.quick, result.faults)
    assert result.figures
    assert {None} == {goal["met"] for goal in suite["goals"]}
    assert len(os.sched_getaffinity(0)) == suite["machine"]["cores"]
    assert suite == json.loads((tmp_path / f"{suite['date']}-quick.json").read_text())
    page = (tmp_path / "performance.md").read_text()
    assert f"Measured on {suite['date']}." in page
    assert "![bench idle](performance-idle.svg)" in page
    assert b"vionet bench idle" in (tmp_path / "performance-idle.svg").read_bytes()
