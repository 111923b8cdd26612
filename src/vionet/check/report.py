"""What the tester says: text for people, JSON, and JUnit XML for machines that count."""

from collections import Counter
from collections.abc import Sequence
from typing import Final, TextIO
from xml.etree import ElementTree as Xml  # writing only

from vionet.check.profile.guest import GUESTS
from vionet.check.runner import Group, Outcome, Status
from vionet.check.scope import Coverage
from vionet.spec.rules import Rule

VERSION: Final = 1  # of the JSON documents
MARKS: Final = {
    Status.PASSED: "ok",
    Status.FAILED: "FAIL",
    Status.NOT_OFFERED: "-",
    Status.SKIPPED: "skip",
}
TITLES: Final = {
    Group.BINDING: "MUST, must and RULE: these decide",
    Group.ADVICE: "SHOULD, MAY, definitions and facts",
    Group.DRIVER: "the driver's rules, broken: the device has to survive",
}


def rule_fields(rule: Rule) -> dict[str, str]:
    """A rule as the JSON documents have it."""
    return {"id": rule.id, "area": rule.area, "level": rule.level, "who": rule.who}


def listing(covered: Sequence[Coverage]) -> dict[str, object]:
    """The JSON document of `--list`."""
    return {
        "version": VERSION,
        "counts": dict(Counter(row.status for row in covered)),
        "rules": [
            {
                **rule_fields(row.rule),
                "summary": row.rule.summary,
                "status": row.status,
                "reason": row.reason,
            }
            for row in covered
        ],
        "guests": {guest.name: guest.title for guest in GUESTS.values()},
    }


def write_listing(covered: Sequence[Coverage], out: TextIO) -> None:
    """The text of `--list`."""
    for rule, status, reason in covered:
        out.write(f"{rule.id:6} {rule.level:12} {status:15} {reason}\n")
    counts = Counter(row.status for row in covered)
    out.write(", ".join(f"{number} {status}" for status, number in counts.items()) + "\n")
    out.write("\nguests, for --as:\n")
    for guest in GUESTS.values():
        out.write(f"{guest.name:14} {guest.title}\n")


def document(sockets: Sequence[str], outcomes: Sequence[Outcome]) -> dict[str, object]:
    """The JSON document of a run."""
    return {
        "version": VERSION,
        "sockets": list(sockets),
        "passed": not any(outcome.decides for outcome in outcomes),
        "counts": {
            group.value: dict(Counter(o.status.value for o in outcomes if o.group is group))
            for group in Group
        },
        "outcomes": [
            {
                **rule_fields(outcome.rule),
                "group": outcome.group.value,
                "status": outcome.status.value,
                "did": outcome.does,
                "expected": outcome.expects,
                "seen": outcome.seen,
                "seconds": round(outcome.seconds, 3),
            }
            for outcome in outcomes
        ],
    }


def line(outcome: Outcome) -> str:
    """One outcome as text: one line, or four when it failed."""
    rule = outcome.rule
    head = f"{MARKS[outcome.status]:4} {rule.id:6} {rule.level:12} "
    if outcome.status is Status.FAILED:
        pad = " " * 5
        return (
            f"{head}{rule.summary}\n{pad}did:      {outcome.does}\n"
            f"{pad}expected: {outcome.expects}\n{pad}seen:     {outcome.seen}"
        )
    if outcome.status is Status.PASSED:
        return f"{head}{outcome.does}: {outcome.expects}; seen: {outcome.seen}"
    return f"{head}{outcome.status.value}: {outcome.seen}"


def write_text(outcomes: Sequence[Outcome], out: TextIO) -> None:
    """All outcomes in their groups, then a line of sums."""
    for group in Group:
        rows = [outcome for outcome in outcomes if outcome.group is group]
        if not rows:
            continue
        out.write(f"\n== {TITLES[group]}\n")
        for outcome in rows:
            out.write(line(outcome) + "\n")
        counts = Counter(outcome.status.value for outcome in rows)
        out.write(", ".join(f"{number} {status}" for status, number in counts.items()) + "\n")
    faults = [outcome.rule.id for outcome in outcomes if outcome.decides]
    out.write(f"\nfaults: {' '.join(faults)}\n" if faults else "\nno faults\n")


def junit(outcomes: Sequence[Outcome]) -> bytes:
    """JUnit XML: one suite a group; only binding rules can fail, others say so in their output."""
    root = Xml.Element("testsuites", name="vionet check")
    for group in Group:
        rows = [outcome for outcome in outcomes if outcome.group is group]
        suite = Xml.SubElement(root, "testsuite", name=group.value, tests=str(len(rows)))
        suite.set("failures", str(sum(outcome.decides for outcome in rows)))
        for outcome in rows:
            rule = outcome.rule
            case = Xml.SubElement(
                suite, "testcase", classname=f"area {rule.area}", name=f"{rule.id} {rule.level}"
            )
            case.set("time", f"{outcome.seconds:.3f}")
            if outcome.decides:
                Xml.SubElement(case, "failure", message=_legal(outcome.seen)).text = _legal(
                    f"{rule.summary}\n{outcome.does}\nexpected: {outcome.expects}"
                )
            elif outcome.status in (Status.SKIPPED, Status.NOT_OFFERED):
                Xml.SubElement(case, "skipped", message=_legal(outcome.seen))
            else:
                Xml.SubElement(case, "system-out").text = _legal(
                    f"{outcome.status.value}: {outcome.seen}"
                )
    return bytes(Xml.tostring(root, encoding="utf-8", xml_declaration=True))


def _legal(text: str) -> str:
    """Without the characters that XML cannot carry."""
    return "".join(c for c in text if c in "\t\n" or c >= " ")
