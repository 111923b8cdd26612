"""The command line of the benches: one of them, and all in turn."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tests.results import TESTPMD, peers, suite_of
from tests.tools import ROOT
from vionet.bench import suite
from vionet.bench.catalogue import BENCHES
from vionet.bench.command import Common, bench_command
from vionet.bench.result import Result
from vionet.cli import main


@bench_command("sample", rounds=3)
@click.option("--wrong", is_flag=True)
def sample(common: Common, wrong: bool) -> Result:
    """A bench for these tests."""
    figure = replace(TESTPMD, values=(1.0,) * common.rounds)
    return Result("sample", [figure], faults=["a damaged frame"] if wrong else [])


def test_bench_command_writes_table_or_document(tmp_path: Path) -> None:
    """The usual options: rounds, one for a quick run; JSON; a picture; the table without either."""
    run = CliRunner().invoke
    done = run(sample, ["--json", "--plot", str(tmp_path / "a.svg")])
    assert 0 == done.exit_code, done.output
    document = json.loads(done.stdout)
    assert ([1.0] * 3, False) == (document["figures"][0]["values"], document["quick"])
    assert b"vionet bench sample" in (tmp_path / "a.svg").read_bytes()
    quick = json.loads(run(sample, ["--json", "--quick"]).stdout)
    assert ([1.0], True) == (quick["figures"][0]["values"], quick["quick"])
    assert "testpmd" in run(sample, []).stdout


def test_bench_command_fails_for_wrong_results_only() -> None:
    """A fault is exit status 1 and one line, after the table; a core that is not there is usage."""
    done = CliRunner().invoke(sample, ["--wrong"])
    assert (1, "Error: bench sample: a damaged frame\n") == (done.exit_code, done.stderr)
    assert "WRONG: a damaged frame" in done.stdout
    done = CliRunner().invoke(sample, ["--core", "4096"])
    assert 2 == done.exit_code
    assert "no core 4096 here" in done.stderr


def test_plot_without_its_library_says_how_to_have_it(tmp_path: Path) -> None:
    """Before anything is measured: one line that names the extra."""
    code = (
        "import sys; sys.modules['pygal'] = None\n"
        "from tests.unit.test_bench_suite import sample\n"
        f"sample(['--plot', {str(tmp_path / 'a.svg')!r}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    expected = "Error: bench --plot needs pygal: pip install 'vionet[bench]'\n"
    assert (1, "", expected) == (done.returncode, done.stdout, done.stderr)


def test_catalogue_is_the_group() -> None:
    """Every bench of the catalogue is a command, and the goals name no other."""
    help_text = CliRunner().invoke(main, ["bench", "--help"]).stdout
    assert [] == [name for name in (*BENCHES, "all") if f"\n  {name} " not in help_text]
    assert [] == [line for line in help_text.splitlines() if len(line) > 80]


def test_suite_outside_a_checkout_wants_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --out, and where there is no page to rewrite, nothing is measured: one line."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["bench", "all"])
    assert (1, "") == (done.exit_code, done.stdout)
    assert "vionet: bench all: no bench/results and docs/performance.md here" in done.stderr


def test_suite_knows_its_benches() -> None:
    """A name that is none is a usage error, and so is a list without names."""
    for words, what in (("no-such-bench", "no-such-bench: no such bench"), (",", ",: names no")):
        done = CliRunner().invoke(main, ["bench", "all", "--only", words, "--quick"])
        assert 2 == done.exit_code
        assert f"--only {what}" in done.stderr


def test_failing_bench_is_reported() -> None:
    """A bench that ends with an error is a failure with its last line, and no result."""
    part = suite.run_bench("no-such-bench", [], 60)
    assert part["result"] is None
    assert "no-such-bench: no such command" in part["failure"]


def test_hanging_bench_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A bench that does not end is told to, then ended with all that it started."""
    program = tmp_path / "python"
    program.write_text(
        "#!/bin/sh\nsleep 600 & echo started $! >&2\ntrap '' INT\nwhile :; do wait; done\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(suite, "_END_S", 0.2)
    started = time.monotonic()
    assert "did not end within 1 s" == suite.run_bench("forward", [], 1)["failure"]
    assert 30 > time.monotonic() - started


def test_bench_that_leaves_processes_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A bench that ends well but leaves a process behind has failed; the process is ended."""
    program = tmp_path / "python"
    document = json.dumps(peers().document()).replace("'", "")
    program.write_text(f"#!/bin/sh\nsleep 600 >&- 2>&- &\necho '{document}'\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    part = suite.run_bench("peers", [], 20)
    assert "left processes behind" == part["failure"]
    assert peers() == Result.read(part["result"])


def test_partial_run_replaces_only_what_it_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--only` keeps the day's other benches; the order is the catalogue's."""
    monkeypatch.setattr(suite, "BENCHES", {"forward": "", "peers": ""})
    earlier = suite_of(Result("forward"), Result("peers"), Result("gone"))
    now = suite_of(peers())["benches"]
    document = suite.suite_document(earlier, "2026-01-02", now)
    assert ["forward", "peers"] == list(document["benches"])
    assert 3 == len(document["benches"]["peers"]["result"]["figures"])
    goals = {goal["key"]: goal for goal in document["goals"]}
    assert {"key": "forward-64-wire", "measured": 1.61, "met": True} == goals["forward-64-wire"]


def test_interrupted_suite_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was measured before the interruption is written; the exit status tells."""
    monkeypatch.setattr(suite, "BENCHES", {"peers": "", "cost": ""})

    def run_bench(name: str, _: list[str], __: float) -> dict[str, object]:
        if name == "cost":
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("not interrupted")
        return {"result": peers().document(), "failure": "", "seconds": 1}

    monkeypatch.setattr(suite, "run_bench", run_bench)
    done = CliRunner().invoke(main, ["bench", "all", "--out", str(tmp_path)])
    assert 130 == done.exit_code, done.output
    (document,) = tmp_path.glob("*.json")
    assert ["peers"] == list(json.loads(document.read_text())["benches"])
    assert signal.SIG_DFL == signal.getsignal(signal.SIGTERM)


def test_suite_interrupted_at_once_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no bench has ended, what an earlier day measured stays on the page."""

    def run_bench(_: str, __: list[str], ___: float) -> dict[str, object]:
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("not interrupted")

    monkeypatch.setattr(suite, "run_bench", run_bench)
    done = CliRunner().invoke(main, ["bench", "all", "--out", str(tmp_path)])
    assert 130 == done.exit_code, done.output
    assert [] == list(tmp_path.iterdir())


def test_suite_wants_a_folder_that_can_be(tmp_path: Path) -> None:
    """A folder that cannot be made is one line, before anything is measured."""
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "out"
    done = CliRunner().invoke(main, ["bench", "all", "--quick", "--out", str(out)])
    assert (1, "") == (done.exit_code, done.stdout)
    assert f"{out}: Not a directory; name another folder" in done.stderr


def test_render_writes_the_page_anew(tmp_path: Path) -> None:
    """`--render` measures nothing, and shows the newest document, never a quick one."""
    older, newer = suite_of(), suite_of(peers()) | {"date": "2026-01-03"}
    for name, document in (
        ("2026-01-02", older),
        ("2026-01-03", newer),
        ("2026-01-04-quick", older),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(document | {"version": 1}))
    done = CliRunner().invoke(main, ["bench", "all", "--render", "--out", str(tmp_path)])
    assert 0 == done.exit_code, done.output
    names = {path.name for path in tmp_path.iterdir()}
    if "peers" in BENCHES:
        assert {"performance.md", "performance-peers.svg", "performance-goals.svg"} <= names
        assert "Measured on 2026-01-03." in (tmp_path / "performance.md").read_text()


def test_help_of_a_bench_compiles_nothing(tmp_path: Path) -> None:
    """Asking what options there are does not even load the compiler, and leaves the lane alone."""
    source = """
import os, sys
from vionet.cli.group import main
main(["bench", "cost", "--quick", "-h"], standalone_mode=False)
print("numba" in sys.modules, os.environ["VIONET_LANE"])
"""
    done = subprocess.run(
        [sys.executable, "-c", source],
        env=os.environ | {"VIONET_LANE": "compiled", "VIONET_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "Usage: vionet bench cost" in done.stdout
    assert "False compiled" == done.stdout.splitlines()[-1]
