"""`vionet demo`: that it shows what it should, and that it sees an engine that is wrong."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import vionet

WAIT_S = 110
SOURCES = Path(vionet.__file__).parent


def run_demo(
    *arguments: str, sources: Path | None = None, lane: str | None = None
) -> "subprocess.CompletedProcess[str]":
    """The demo as a process, of `sources` instead of the installed package."""
    env = dict(os.environ)
    if sources:
        env["PYTHONPATH"] = str(sources)
    if lane:
        env["VIONET_LANE"] = lane
    return subprocess.run(
        [sys.executable, "-m", "vionet", "demo", *arguments],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        env=env,
        check=False,
    )


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the sources that a test may break."""
    shutil.copytree(SOURCES, tmp_path / "vionet", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def broken(copied: Path, module: str, function: str, wrong: str) -> Path:
    """Replace an engine function, for everybody who imports it, by `wrong(right, *arguments)`."""
    path = copied / "vionet" / "engine" / module
    text = path.read_text()
    assert f"\ndef {function}(" in text
    text += f"\n_right = {function}\n\n\ndef {function}(*args):\n    return {wrong}\n"
    path.write_text(text)
    return copied


@pytest.mark.slow
def test_demo_as_a_newcomer_runs_it(run_dir: Path) -> None:
    """Compiled: exit status 0, a table of at most 80 columns that says who agreed to what."""
    done = run_demo()
    assert 0 == done.returncode, done.stderr
    lines = done.stdout.splitlines()
    assert [] == [line for line in lines if len(line) > 80]
    assert "\x1b" not in done.stdout
    assert re.search("carol  - +declined: finished packets only", done.stdout)
    for word in ("elided", "filled", "verified", "whole", "segments", "copied", "summed"):
        assert word in done.stdout
    assert "All 3292 frames arrived, every byte and flag as the rules say." in done.stdout


def test_demo_as_json(run_dir: Path) -> None:
    """The document has guests with features and ledgers, and flows that add up."""
    done = run_demo("--json", "--rounds", "2", lane="interpreted")
    assert 0 == done.returncode, done.stderr
    shown = json.loads(done.stdout)
    assert 1 == shown["version"]
    assert ["alice", "bob", "carol"] == [guest["name"] for guest in shown["guests"]]
    alice, _, carol = shown["guests"]
    assert "VIRTIO_NET_F_GUEST_CSUM" in alice["features"]
    assert {"VIRTIO_NET_F_CSUM", "VIRTIO_NET_F_GUEST_CSUM"}.isdisjoint(carol["features"])
    assert 6 == len(shown["flows"])
    # Each pair 4 kinds twice and 2 once; 2 large ones, whole between two, in 5 packets elsewhere.
    assert shown["frames"] == sum(flow["frames"] for flow in shown["flows"])
    assert 6 * (2 * 4 + 2) + 2 * (2 * 1 + 4 * 5) == shown["frames"]
    (between,) = [flow for flow in shown["flows"] if (flow["from"], flow["to"]) == ("alice", "bob")]
    assert (11, 10) == (between["sent_unfinished"], between["arrived_unfinished"])
    assert (2, 2) == (between["sent_large"], between["arrived_large"])
    ledger = carol["ledger"]
    assert (0, 18 + 20) == (ledger["csum_elided"], ledger["csum_filled"])
    assert (0, 4, 20) == (ledger["gso_passed"], ledger["gso_segmented"], ledger["segments"])
    assert ledger["payload_bytes_summed"] > 0
    assert (10, 2) == (alice["ledger"]["csum_elided"], alice["ledger"]["gso_passed"])


@pytest.mark.parametrize(
    ("module", "function", "wrong", "says"),
    [
        (
            "seal.py",
            "finished",
            "_right(*args) ^ 0x0100",
            "(DHCP offer, alice to bob): byte 41 is ",
        ),
        ("plan.py", "plan", "0", "flags is 0, expected 1"),
        ("segment.py", "swap32", "_right(*args) + 1", "(large TCP over IPv4, alice to carol): "),
    ],
)
def test_demo_sees_a_broken_engine(
    run_dir: Path, copied: Path, module: str, function: str, wrong: str, says: str
) -> None:
    """With a fill that is off by one bit, and other faults: exit status 1, the frame by name."""
    done = run_demo(
        "--rounds", "1", sources=broken(copied, module, function, wrong), lane="interpreted"
    )
    assert 1 == done.returncode, done.stdout
    assert done.stderr.startswith("vionet: demo: frame ")
    assert says in done.stderr
    assert 1 == done.stderr.count("\n")
    assert "" == done.stdout


def test_demo_without_a_switch(run_dir: Path, copied: Path) -> None:
    """A switch that cannot start is a failure, not a wait."""
    (copied / "vionet" / "fabric" / "__init__.py").write_text("raise OSError('no fabric today')\n")
    done = run_demo("--rounds", "1", sources=copied, lane="interpreted")
    assert 1 == done.returncode
    assert "no fabric today" in done.stderr
    assert "vionet: demo: the switch did not start" in done.stderr
