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
    *(f"FB-{n:02}" for n in (3, 6, 7, 8, 9, 10, 11, 12, 13, 16, 17, 18, 19, 20, 21, 22, 23)),
    *(f"FB-{n:02}" for n in (24, 25, 26, 27, 28, 29, 30, 32, 33, 34, 35)),
    *("CF-05", "CF-14", "CF-15", "CF-16", "DS-03", "DS-05", "RF-04", "TD-11"),
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
