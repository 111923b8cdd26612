"""What `scripts/run-tests` runs, asked of a copy whose interpreter only notes how it is called.

A lane or a mark that is spelled wrong would leave tests out in silence.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.tools import ROOT
from tests.unit.conftest import ONE_LANE, one_lane
from vionet.jit import LANE, Lane

pytestmark = pytest.mark.skipif(LANE is not Lane.COMPILED, reason="starts processes of its own")

NOTE = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["CALLS"], "a") as calls:
    print(json.dumps([os.environ.get("VIONET_LANE"), sys.argv[1:]]), file=calls)
"""
LIST = """
import json, sys
import pytest

class List:
    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        found = {item.nodeid: sorted({mark.name for mark in item.iter_markers()}) for item in items}
        with open(sys.argv[1], "w") as out:
            json.dump(found, out)

sys.exit(pytest.main(["-q", "--collect-only", "tests"], [List()]))
"""
IN_LANES = ("tests/unit/", "tests/property/", "tests/stories/")


@dataclass
class Stage:
    """One call of pytest."""

    lane: str
    folders: tuple[str, ...]
    ignored: tuple[str, ...]
    mark: str  # of `-m`; empty: no such option
    wanted: bool  # marked, or not marked

    @classmethod
    def read(cls, lane: str, argv: list[str]) -> "Stage":
        """A stage by its command line."""
        words = argv[argv.index("pytest") + 1 :]
        folders = tuple(word for word in words if word.startswith("tests"))
        ignored = tuple(w.removeprefix("--ignore=") for w in words if w.startswith("--ignore="))
        *negation, mark = words[words.index("-m") + 1].split() if "-m" in words else [""]
        assert negation in ([], ["not"]), words
        assert all((ROOT / name).exists() for name in folders + ignored), words
        return cls(lane, folders, ignored, mark, not negation)

    def runs(self, test: str, marks: list[str]) -> bool:
        """Whether a test is run in it."""
        path = ROOT / test.partition("::")[0]
        if not any(path.is_relative_to(ROOT / folder) for folder in self.folders):
            return False
        if any(path.is_relative_to(ROOT / name) for name in self.ignored):
            return False
        return not self.mark or (self.mark in marks) == self.wanted


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> list[Stage]:
    """The stages that run tests."""
    folder = tmp_path_factory.mktemp("stages")
    (folder / "tests").symlink_to(ROOT / "tests")
    script, python, calls = folder / "scripts/run-tests", folder / ".venv/bin/python", folder / "c"
    for path, text in (script, (ROOT / "scripts/run-tests").read_text()), (python, NOTE):
        path.parent.mkdir(parents=True)
        path.write_text(text)
        path.chmod(0o755)
    subprocess.run([script], env=os.environ | {"CALLS": str(calls)}, check=True, timeout=60)
    lines: list[Any] = [json.loads(line) for line in calls.read_text().splitlines()]
    return [Stage.read(lane, argv) for lane, argv in lines if "pytest" in argv]


@pytest.fixture(scope="module")
def tests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Every test and its marks."""
    path = tmp_path_factory.mktemp("tests") / "list"
    argv = [sys.executable, "-c", LIST, str(path)]
    env = os.environ | {"VIONET_LANE": Lane.INTERPRETED}
    subprocess.run(argv, cwd=ROOT, env=env, check=True, timeout=100, stdout=subprocess.DEVNULL)
    found: dict[str, list[str]] = json.loads(path.read_text())
    return found


def test_each_test_runs_compiled_once(stages: list[Stage], tests: dict[str, list[str]]) -> None:
    """What people run is what every test is about, and none is left out or done twice."""
    compiled = [stage for stage in stages if stage.lane == Lane.COMPILED]
    counts = {t: sum(s.runs(t, marks) for s in compiled) for t, marks in tests.items()}
    assert counts and {} == {test: count for test, count in counts.items() if count != 1}


@pytest.mark.parametrize("lane", [Lane.INTERPRETED, Lane.BOUNDS])
def test_the_other_lanes_run_what_is_compiled(
    lane: Lane, stages: list[Stage], tests: dict[str, list[str]]
) -> None:
    """They run all of unit, property and story tests but those that one lane is enough for."""
    (stage,) = [stage for stage in stages if stage.lane == lane]
    wanted = {t for t, m in tests.items() if t.startswith(IN_LANES) and "one_lane" not in m}
    assert wanted == {test for test, marks in tests.items() if stage.runs(test, marks)}
    assert any(test.startswith("tests/unit/test_engine") for test in wanted)


def test_one_lane_is_a_list_of_topics(tests: dict[str, list[str]]) -> None:
    """Each topic has tests, and the mark is on all of them; else it is on single tests only."""
    lanes = {test.partition("::")[0] for test, marks in tests.items() if "one_lane" not in marks}
    unit = {path for path in (t.partition("::")[0] for t in tests) if path.startswith("tests/unit")}
    marked = unit - lanes
    assert marked == {path for path in unit if one_lane(Path(path).stem)}
    assert [] == [t for t in ONE_LANE if not any(f"tests/unit/test_{t}" in p for p in marked)]
