"""vionet's own device under vionet's tester: every MUST holds, however its ports are set up."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interop.peers.vionet import SOURCE, fabric
from vionet.check import runner
from vionet.check.case import Check
from vionet.check.profile.guest import GUESTS
from vionet.check.profile.scenario import scenarios
from vionet.check.report import write_text
from vionet.check.runner import Outcome, Status, run
from vionet.check.scope import checks
from vionet.spec import virtio
from vionet.spec.rules import Rule, rules

MAC = "02:76:69:6f:00:01"
SPLIT = 0
BUSY_S = 10.0  # what may be late on a busy machine, and then is no fault
PACKED = 1 << virtio.VIRTIO_F_RING_PACKED
# A front-end may send 2000 messages at once and then 200 a second (docs: how it works); all rules
# are 8000 for a port, so a fabric has this many of them before the next takes its place.
RULES_OF_A_FABRIC = 40
GUESTS_OF_A_FABRIC = 5  # 300 messages each
# What this device never offers, so that nothing goes missing in silence.
NEVER = {
    *("FB-09", "FB-13", "FB-23", "FB-24", "FB-25", "FB-26", "FB-30", "FB-31", "FB-32", "FB-33"),
    *("FB-34", "DS-03", "DS-05", "RX-10", "SG-10", "VU-66", "VU-80"),
}
TAGGING = {"SG-13"}  # two ports of one VLAN each
PACKED_RINGS = {*(f"PK-{n:02}" for n in range(1, 23) if n != 21), "VU-45"}
PAIRS = {"FB-21", "CV-23", "CV-24", "CV-25", "CV-26", "CV-27", "CV-29", "FE-04", "CF-04", "CF-05"}
SPEED = {"FB-35", "CF-14", "CF-15", "CF-16"}
MEM_SLOTS = {"VU-10", "VU-51", "VU-52"}  # not with several pairs
RULES_LEFT = {
    "default": NEVER | TAGGING | PACKED_RINGS | PAIRS | SPEED,
    "everything": NEVER | TAGGING | MEM_SLOTS,
}
CONFIGURATIONS = [  # name, fabric, options of both ports, of the first, rings
    ("default", "switch", "", "", SPLIT),
    ("everything", "switch", ",+ring_packed", ",queues=4,speed=10000", SPLIT),
    ("packed", "switch", ",+ring_packed", ",queues=2", PACKED),
    ("wire", "wire", "", "", SPLIT),
    ("csum", "switch", ",offload=csum", "", SPLIT),
    ("off", "switch", ",offload=off", "", SPLIT),
    ("complete", "switch", ",policy=complete", "", SPLIT),
]


def parts() -> Iterator[list[tuple[Rule, Check]]]:
    """Every rule with its check, in parts; the rules that share a check are in the same."""
    by_check: dict[int, list[tuple[Rule, Check]]] = {}
    for rule_id, check in checks().items():
        by_check.setdefault(id(check), []).append((rules()[rule_id], check))
    part: list[tuple[Rule, Check]] = []
    for group in by_check.values():
        part += group
        if len(part) >= RULES_OF_A_FABRIC:
            yield part
            part = []
    if part:
        yield part


def patient(paths: list[str], **options: Any) -> list[Outcome]:
    """What comes of a run with time for a device that waits for a processor."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "GRACE", BUSY_S)
        patch.setattr(runner, "REPLY", BUSY_S)
        return run(paths, timeout=2 * BUSY_S, patience=BUSY_S, **options)


def assert_faultless(outcomes: list[Outcome]) -> None:
    """No check failed; what did is shown."""
    failed = [outcome for outcome in outcomes if outcome.status is Status.FAILED]
    if failed:
        write_text(failed, sys.stdout)
    assert [] == [outcome.rule.id for outcome in failed]
    assert not [o.rule.id for o in outcomes if o.status is Status.SKIPPED]


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("name", "kind", "both", "first", "rings"), CONFIGURATIONS, ids=[c[0] for c in CONFIGURATIONS]
)
def test_every_rule_holds(
    name: str, kind: str, both: str, first: str, rings: int, run_dir: Path
) -> None:
    """No check fails, of any level; what is not offered is a list that we know."""
    outcomes = []
    for number, part in enumerate(parts()):
        (folder := run_dir / str(number)).mkdir()
        paths = [str(folder / "a.sock"), str(folder / "b.sock")]
        ports = [
            f"a=guest:{paths[0]},mac={MAC},mtu=1500{both}{first}",
            f"b=guest:{paths[1]},mtu=1500{both}",
        ]
        with fabric(kind, folder, *ports) as peer:
            control = [sys.executable, "-m", "vionet", "port", "set", "--control"]
            link = ["env", f"PYTHONPATH={SOURCE}", *control, str(peer.control), "a", "link={}"]
            outcomes += patient(paths, extra=rings, link_command=link, chosen=part)
    assert checks().keys() == {outcome.rule.id for outcome in outcomes}
    assert_faultless(outcomes)
    if (left := RULES_LEFT.get(name)) is not None:
        assert left == {o.rule.id for o in outcomes if o.status is Status.NOT_OFFERED}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_guests(run_dir: Path) -> None:
    """Guests of the table work with the default policy, the broken ones with `complete`.

    Without offloads no frame is partial, and all of them work.
    """
    broken = {"linux-big-2025", "netkvm-seed", "freebsd-old"}
    advice = {"freebsd/partial-forwarded"}  # it sees one tag only (GU-14)
    wanted = {"policy=uniform": broken, "policy=complete": set(), "offload=off": set()}
    names = list(GUESTS)
    for options, at_fault in wanted.items():
        outcomes = []
        for first in range(0, len(names), GUESTS_OF_A_FABRIC):
            (folder := run_dir / f"{options}-{first}").mkdir()
            paths = [str(folder / "a.sock"), str(folder / "b.sock")]
            ports = [f"a=guest:{paths[0]},mac={MAC},{options}", f"b=guest:{paths[1]},{options}"]
            with fabric("switch", folder, *ports):
                for name in names[first : first + GUESTS_OF_A_FABRIC]:
                    outcomes += patient(paths, chosen=scenarios(name))
        failed = {o.rule.id for o in outcomes if o.status is Status.FAILED}
        assert at_fault == {rule_id.split("/")[0] for rule_id in failed - advice}, options
        passed = {o.rule.id.split("/")[0] for o in outcomes if o.status is Status.PASSED}
        assert passed == GUESTS.keys()


@pytest.mark.slow
def test_tags_that_come_and_go(run_dir: Path) -> None:
    """An access port pops and pushes tags, and offsets follow (spec SG-13)."""
    paths = [str(run_dir / "a.sock"), str(run_dir / "b.sock")]
    ports = [f"a=guest:{paths[0]},vlan=10", f"b=guest:{paths[1]},trunk=10+20"]
    with fabric("switch", run_dir, *ports):
        (outcome,) = patient(paths, chosen=[(rules()["SG-13"], checks()["SG-13"])])
    assert Status.PASSED is outcome.status, outcome.seen


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
