"""The register of rules is complete, and the tester leaves nothing of it out in silence."""

import json
from collections import Counter

from click.testing import CliRunner

from vionet.check.case import CHECKS
from vionet.check.command import command
from vionet.check.scope import coverage, reasons
from vionet.spec.rules import rules

RULES = 521
LEVELS = {"MUST", "MUST-NOT", "SHOULD", "SHOULD-NOT", "MAY", "must", "must-not", "should", "may"}
LEVELS |= {"def", "RULE", "FACT", "DROP"}


def test_register_is_complete() -> None:
    """All rules are there, numbered without gaps, each with a known level and a summary."""
    assert len(rules()) == RULES
    numbers: dict[str, list[int]] = {}
    for rule in rules().values():
        prefix, number = rule.id.split("-")
        numbers.setdefault(prefix, []).append(int(number))
        assert set(rule.level.split("/")) <= LEVELS
        assert rule.who in {"DEV", "DRV", "FE", "BOTH", ""}
        assert len(rule.summary) >= 10
    assert {p: list(range(1, len(n) + 1)) for p, n in numbers.items()} == numbers


def test_list_names_every_rule() -> None:
    """`--list --json` has every rule once, each with a reason."""
    result = CliRunner().invoke(command, ["--list", "--json"])
    assert result.exit_code == 0
    document = json.loads(result.output)
    assert list(rules()) == [row["id"] for row in document["rules"]]
    assert {"checked", "not observable", "not offered"} == set(document["counts"])
    assert all(row["reason"] for row in document["rules"])


def test_no_rule_is_both_checked_and_excused() -> None:
    """A rule has one check, or one reason why not."""
    checked = Counter(rule_id for check in CHECKS for rule_id in check.ids)
    assert 1 == max(checked.values())
    assert not checked.keys() & reasons().keys()
    assert rules().keys() == checked.keys() | reasons().keys()
    statuses = {status for status, _ in reasons().values()}
    assert {"not observable", "not offered", "profile"} == statuses


def test_most_rules_are_checked() -> None:
    """The share of checked rules does not shrink unnoticed."""
    assert Counter(row.status for row in coverage())["checked"] >= 350


def test_usage_errors() -> None:
    """An unknown rule, a rule without a check, no socket: usage, with the way out."""
    for arguments, words in (
        (["/nowhere", "--only", "XX-01"], "no rule XX-01"),
        (["/nowhere", "--only", "FB-36"], "has no check"),
        ([], "one or two sockets"),
    ):
        result = CliRunner().invoke(command, arguments)
        assert (2, True) == (result.exit_code, words in result.output), result.output
