"""The register of rules: every rule id that code, docs and tests may cite.

`rules.tsv` beside this file has one rule a line: id, area, clause, since, level, who, summary.
Areas are 1.x virtio-net, 2.x virtio, 3.x vhost-user, 4.x what Linux and its guests do.  The clause
is a section of VIRTIO 1.2 (an arrow leads to its number in 1.4), or a heading of vhost-user.rst
for rows VU.  Levels are the source's own words: capitals are RFC 2119, lower-case `must` is the
prose of vhost-user.rst, `def` a definition, RULE a rule of this project, FACT and DROP what Linux
does.  A row that says several things has several words (`SHOULD/MUST`).
"""

from functools import cache
from importlib import resources
from typing import Final, NamedTuple

BINDING: Final = frozenset({"MUST", "MUST-NOT", "must", "must-not", "RULE"})


class Rule(NamedTuple):
    """One line of the register."""

    id: str
    area: str  # "1.7"
    clause: str
    since: str  # of VIRTIO; empty elsewhere
    level: str
    who: str  # DEV, DRV, FE, BOTH, or empty for facts
    summary: str

    @property
    def is_binding(self) -> bool:
        """Breaking it is a fault, not a matter of taste."""
        return not BINDING.isdisjoint(self.level.split("/"))


@cache
def rules() -> dict[str, Rule]:
    """All rules by id, in the order of the register."""
    text = resources.files(__package__).joinpath("rules.tsv").read_text(encoding="utf-8")
    lines = text.splitlines()[1:]
    return {rule.id: rule for rule in (Rule(*line.split("\t")) for line in lines)}
