"""What the tester covers: each rule of its areas is checked, or it is said why not.

`scope.tsv` beside this file names the rules without a check: id, `not observable` or `not offered`,
and the reason.
"""

from functools import cache
from importlib import resources
from typing import Final, NamedTuple

import vionet.check.rules  # noqa: F401  (registers the checks)
from vionet.check.case import CHECKS, Check
from vionet.spec.rules import Rule, rules

AREAS: Final = frozenset(
    "1.1 1.2 1.3 1.4 1.5 1.6 1.7 2.1 2.2 2.3 2.4 3.1 3.2 3.3 4.1 4.4".split()  # noqa: SIM905
)
CHECKED: Final = "checked"


class Coverage(NamedTuple):
    """What the tester does about one rule."""

    rule: Rule
    status: str
    reason: str


def in_scope() -> list[Rule]:
    """The rules of the tester's areas, in the order of the register."""
    return [rule for rule in rules().values() if rule.area in AREAS]


def checks() -> dict[str, Check]:
    """The check of each rule that has one, in the order of the register."""
    found = {rule_id: check for check in CHECKS for rule_id in check.ids}
    return {rule.id: found[rule.id] for rule in in_scope() if rule.id in found}


@cache
def reasons() -> dict[str, tuple[str, str]]:
    """Status and reason of each rule without a check."""
    text = resources.files(__package__).joinpath("scope.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines()[1:]]
    return {rule_id: (status, reason) for rule_id, status, reason in rows}


def coverage() -> list[Coverage]:
    """Every rule of the areas, in the order of the register."""
    found, listed = checks(), []
    for rule in in_scope():
        if rule.id in found:
            listed.append(Coverage(rule, CHECKED, found[rule.id].does))
        else:
            listed.append(Coverage(rule, *reasons()[rule.id]))
    return listed
