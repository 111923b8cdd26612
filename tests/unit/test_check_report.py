"""Reports of the tester: who decides, and that the formats hold what they should."""

import io
import xml.etree.ElementTree as Xml

from vionet.check import report
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
    """Nobody listens: an error before any check."""
    try:
        run(["/nonexistent/socket"], ["FB-45"], timeout=0.1)
    except FileNotFoundError:
        return
    raise AssertionError("no error")
