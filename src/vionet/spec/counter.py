"""The register of counters: what every ledger key and every drop reason means.

`counters.tsv` beside this file has one counter a line: name, kind, where, what, cause, mend, rules.
`where` is the port at which it is counted, by its part in the frame's way; `cause` says what makes
it grow, `mend` what to do about it; `rules` are ids of `rules.tsv`, and W1 to W71 of docs/field.md.
Words in backticks are typed as they stand.  The kind of a drop tells how much it matters:

* `normal`: comes with healthy networks, while guests boot or a switch learns;
* `choice`: a person asked for it (VLANs, locks, a link set down);
* `slow`: somebody takes frames more slowly than they come;
* `network`: two ends are set up so that they do not fit;
* `guest`: a driver broke a rule;
* `host`: the host's kernel, or the peer of a stream, failed.

docs/ledger.md, `vionet explain`, metrics and the page all read it here.
"""

from functools import cache
from importlib import resources
from typing import Any, Final, NamedTuple

LEDGER: Final = "ledger"  # the kind of what is no drop
KINDS: Final = ("normal", "choice", "slow", "network", "guest", "host")


class Counter(NamedTuple):
    """One line of the register."""

    name: str
    kind: str
    where: str
    what: str
    cause: str
    mend: str
    rules: str  # ids with blanks between them

    @property
    def is_drop(self) -> bool:
        """It counts frames that went nowhere (`fdb_full` alone: what was not learnt)."""
        return self.kind != LEDGER

    @property
    def document(self) -> dict[str, Any]:
        """For programs."""
        texts = {key: plain(text) for key, text in self._asdict().items()}
        return {**texts, "rules": self.rules.split()}


@cache
def counters() -> dict[str, Counter]:
    """All counters by name, in the engine's order: the ledger's keys, then the drop reasons."""
    text = resources.files(__package__).joinpath("counters.tsv").read_text(encoding="utf-8")
    lines = text.splitlines()[1:]
    return {one.name: one for one in (Counter(*line.split("\t")) for line in lines)}


def plain(text: str) -> str:
    """A text of the register as a terminal shows it, without the marks of Markdown."""
    return text.replace("`", "").replace("**", "")
