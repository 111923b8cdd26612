"""What the tester covers: every rule is checked, or it is said why not.

`scope.tsv` beside this file names the rules without a check: ids (`HS-01..19` is a range), `not
observable` or `not offered`, and the reason; or `profile` and the name of the driver profile that
plays it.
"""

from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Final, NamedTuple

import vionet.check.rules  # noqa: F401  (registers the checks)
from vionet.check.case import CHECKS, Check
from vionet.spec.rules import Rule, rules

CHECKED: Final = "checked"
PROFILE: Final = "profile"


class Coverage(NamedTuple):
    """What the tester does about one rule."""

    rule: Rule
    status: str
    reason: str


def checks() -> dict[str, Check]:
    """The check of each rule that has one, in the order of the register."""
    found = {rule_id: check for check in CHECKS for rule_id in check.ids}
    return {rule_id: found[rule_id] for rule_id in rules() if rule_id in found}


def spread(words: str) -> Iterator[str]:
    """The ids of `HD-07..08 TD-16`."""
    for word in words.split():
        first, _, last = word.partition("..")
        prefix, number = first.split("-")
        for each in range(int(number), int(last or number) + 1):
            yield f"{prefix}-{each:02}"


@cache
def reasons() -> dict[str, tuple[str, str]]:
    """Status and reason of each rule without a check."""
    text = resources.files(__package__).joinpath("scope.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines()[1:]]
    return {rule_id: (status, reason) for ids, status, reason in rows for rule_id in spread(ids)}


def coverage() -> list[Coverage]:
    """Every rule, in the order of the register."""
    found, listed = checks(), []
    for rule in rules().values():
        if rule.id in found:
            listed.append(Coverage(rule, CHECKED, found[rule.id].does))
            continue
        status, reason = reasons()[rule.id]
        if status == PROFILE:
            status, reason = CHECKED, f"played by `vionet check --as {reason}`"
        listed.append(Coverage(rule, status, reason))
    return listed
