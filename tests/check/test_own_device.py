"""vionet's own device under vionet's tester: every MUST holds, on a switch and on a wire."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interop.peers.vionet import SOURCE, fabric
from vionet.check.report import write_text
from vionet.check.runner import Status, run

MAC = "02:76:69:6f:00:01"
RULES_LEFT = {  # what this device does not offer yet, so that nothing goes missing in silence
    *("FB-03 FB-06 FB-07 FB-08 FB-09 FB-10 FB-11 FB-12 FB-13 FB-16 FB-17 FB-18 FB-19".split()),
    *("FB-20 FB-21 FB-22 FB-23 FB-24 FB-25 FB-26 FB-27 FB-28 FB-29 FB-30 FB-32 FB-33".split()),
    *("FB-34 FB-35 CF-05 CF-14 CF-15 CF-16 RF-04 TD-11".split()),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["switch", "wire"])
def test_every_rule_holds(kind: str, run_dir: Path) -> None:
    """No check fails, of any level; what is not offered is a list that we know."""
    paths = [str(run_dir / "a.sock"), str(run_dir / "b.sock")]
    ports = [f"guest:{paths[0]},mac={MAC},mtu=1500", f"guest:{paths[1]},mtu=1500"]
    if kind == "switch":
        ports = [f"{name}={port}" for name, port in zip("ab", ports, strict=True)]
    with fabric(kind, run_dir, *ports):
        outcomes = run(paths)
    failed = [outcome for outcome in outcomes if outcome.status is Status.FAILED]
    if failed:
        write_text(failed, sys.stdout)
    assert [] == [outcome.rule.id for outcome in failed]
    assert RULES_LEFT == {o.rule.id for o in outcomes if o.status is Status.NOT_OFFERED}
    assert not [o.rule.id for o in outcomes if o.status is Status.SKIPPED]


def test_command(run_dir: Path) -> None:
    """One socket, some rules: `--json` and `--junit`, exit status 0; more sockets are usage."""
    path, xml = run_dir / "a.sock", run_dir / "report.xml"
    argv = [sys.executable, "-m", "vionet", "check", str(path)]
    argv += ["--only", "FB-45,VU-12", "--json", "--junit", str(xml)]
    with fabric("switch", run_dir, f"a=guest:{path}"):
        done = subprocess.run(
            argv, env={"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, timeout=60
        )
    assert 0 == done.returncode, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert ["FB-45", "VU-12"] == [row["id"] for row in document["outcomes"]]
    assert document["passed"] and xml.read_text().count("<testcase") == 2
