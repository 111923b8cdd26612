"""Reports of the tester: who decides, and that the formats hold what they should."""

import io
import socket
import struct
import threading
import xml.etree.ElementTree as Xml
from pathlib import Path

import pytest
from click.testing import CliRunner

from vionet.check import report
from vionet.check.command import command
from vionet.check.runner import Group, Outcome, Status, group_of, run
from vionet.check.scope import checks
from vionet.spec.rules import rules


def outcome(rule_id: str, status: Status) -> Outcome:
    """What came of one rule."""
    rule = rules()[rule_id]
    group = group_of(rule, checks()[rule_id])
    return Outcome(rule, group, status, "did this", "that", "saw \x01 <it>", 0.5)


OUTCOMES = [
    outcome("RX-01", Status.FAILED),
    outcome("RX-02", Status.PASSED),
    outcome("RX-07", Status.FAILED),
    outcome("TD-01", Status.FAILED),
    outcome("FB-06", Status.NOT_OFFERED),
]


def test_groups() -> None:
    """Only what binds the device decides; advice and the driver's rules do not."""
    assert [Group.BINDING, Group.BINDING, Group.ADVICE, Group.DRIVER, Group.BINDING] == [
        o.group for o in OUTCOMES
    ]
    assert ["RX-01"] == [o.rule.id for o in OUTCOMES if o.decides]


def test_text() -> None:
    """A failure shows rule, level, what was done, expected and seen."""
    out = io.StringIO()
    report.write_text(OUTCOMES, out)
    text = out.getvalue()
    for words in ("FAIL RX-01  MUST", "did:      did this", "expected: that", "seen:     saw"):
        assert words in text
    assert text.endswith("faults: RX-01\n")


def test_json() -> None:
    """The document says whether the back-end passed, and counts by group."""
    document = report.document(["a", "b"], OUTCOMES)
    assert (False, 1) == (document["passed"], document["version"])
    assert {"failed": 1, "passed": 1, "not offered": 1} == document["counts"]["binding"]  # type: ignore[index]


def test_junit() -> None:
    """One case a rule; only deciding failures are failures; it is XML whatever was seen."""
    root = Xml.fromstring(report.junit(OUTCOMES))
    assert 5 == len(root.findall("testsuite/testcase"))
    assert ["RX-01 MUST"] == [
        case.get("name") for case in root.iter("testcase") if case.find("failure") is not None
    ]
    assert "saw  <it>" == root.find("testsuite/testcase/failure").get("message")  # type: ignore[union-attr]


def test_no_back_end() -> None:
    """Nobody listens: an error before any check, in one line that says what to do."""
    with pytest.raises(FileNotFoundError):
        run(["/nonexistent/socket"], ["FB-45"], timeout=0.1)
    result = CliRunner().invoke(command, ["/nonexistent/socket", "--timeout", "0.1"])
    assert 1 == result.exit_code
    assert "/nonexistent/socket: No such file" in result.output
    assert 1 == result.output.count("\n")


def test_back_end_that_dies(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that answers once and is gone: every rule still has an outcome, and says so."""
    monkeypatch.setattr("vionet.check.runner.GRACE", 0.2)  # it will not come back
    path = run_dir / "dying.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)

        def answer_once() -> None:
            with listener.accept()[0] as connection:
                connection.recv(12)
                connection.sendall(struct.pack("=IIIQ", 1, 5, 8, 1 << 32))
                connection.recv(1)  # until the tester has hung up
            listener.close()

        thread = threading.Thread(target=answer_once)
        thread.start()
        outcomes = run([str(path)], ["RF-01", "VU-18", "VU-21"], timeout=30)
        thread.join()
    assert ["RF-01", "VU-18", "VU-21"] == [o.rule.id for o in outcomes]
    assert [Status.FAILED] * 3 == [o.status for o in outcomes]
    assert "after this the back-end is gone" in outcomes[0].seen
    assert outcomes[1].seen.startswith("the back-end is gone")
