"""Print into the documentation what the code says, so that the two cannot differ.

    python scripts/print_tables.py          rewrite what is out of date in docs/
    python scripts/print_tables.py --check  name it, and fail

A printed part stands between `<!-- printed: NAME -->` and `<!-- end of print -->`; NAME is one of
`PRINTS`.  `tests/repo/test_docs_tables.py` fails where a document differs from the code.
"""

import ast
import io
import json
import re
import sys
import tokenize
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from vionet.check.packet import Flow
from vionet.check.profile.guest import GUESTS
from vionet.check.scope import coverage as covered
from vionet.config import PortConfig, parse_switch
from vionet.config.feature import ALL_OFFLOADS, GUEST_BASE
from vionet.daemon.metrics import METRICS
from vionet.daemon.status import LivePort, status_document
from vionet.engine import layout
from vionet.engine.plan import TABLE
from vionet.engine.status import DROP_REASONS, LEDGER_KEYS, Accepts, Action, Csum
from vionet.explain.counter import counter_text
from vionet.explain.frame import life
from vionet.explain.pair import pair
from vionet.explain.text import frame_text, pair_text
from vionet.ports.offload import GUEST_OFFLOADS
from vionet.spec import virtio
from vionet.spec import virtio_net as net
from vionet.spec.counter import counters

ROOT: Final = Path(__file__).resolve().parent.parent
PRINTED: Final = re.compile(
    r"(<!-- printed: ([\w-]+) -->\n)(.*?)(<!-- end of print -->)", re.DOTALL
)

DEVIATION: Final = re.compile(r"(?:^|\s)Deviation(?: from ([^:]+))?: (.*)", re.DOTALL)

STATES: Final = {
    Csum.PARTIAL: "partial: TCP or UDP, the pseudo-header sum is in the field",
    Csum.INNER_PARTIAL: "inner partial: a sum elsewhere, as in a tunnel that the guest built",
    Csum.VALID: "valid: the kernel behind a tap vouches for it",
    Csum.UNKNOWN: "unknown: TCP or UDP that claims to be finished",
    Csum.NONE: "none to judge: ARP, fragments, SCTP, UDP over IPv4 with 0 …",
}
RECEIVERS: Final = {
    Accepts.UNIFORM: "guest, `uniform`",
    Accepts.NATURAL: "guest, `natural`",
    Accepts.COMPLETE: "guest, `complete` or without GUEST_CSUM",
    Accepts.KERNEL: "tap",
    Accepts.STREAM: "tap that takes no partial sums",
}
ACTIONS: Final = {
    Action.PASS: "pass",
    Action.PASS_VALID: "pass, DATA_VALID",
    Action.PASS_PARTIAL: "pass, NEEDS_CSUM",
    Action.FILL: "**fill**",
    Action.UNFILL: "**unfill**, NEEDS_CSUM",
    Action.VERIFY: "**verify**; good: **unfill**, NEEDS_CSUM; bad: pass",
    Action.FILL_THEN_VERIFY: "**fill**, then the outermost sum as unknown",
}


def decisions() -> str:
    """The decision table of `engine/plan.py`."""
    lines = [["the frame's sum", *RECEIVERS.values()], ["---"] * (1 + len(RECEIVERS))]
    lines += [
        [words, *(ACTIONS[Action(int(TABLE[state, accepts]))] for accepts in RECEIVERS)]
        for state, words in STATES.items()
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def limits() -> str:
    """The limits of `engine/layout.py`, each with the comment that stands behind it."""
    lines = ["| limit | value | of what |\n", "| --- | ---: | --- |\n"]
    source = Path(layout.__file__).read_text(encoding="utf-8")
    source = source.split("# --- limits", 1)[1].split("\n\n", 1)[0]
    for name, words in re.findall(r"^([A-Z_]+): Final = [^#\n]+  # (.*)$", source, re.MULTILINE):
        lines.append(f"| `{name}` | {getattr(layout, name)} | {words} |\n")
    return "".join(lines)


def ledger() -> str:
    """What each key of the ledger counts."""
    lines = ["| key | what it counts | what makes it grow | rules |\n| --- | --- | --- | --- |\n"]
    lines += [
        f"| `{one.name}` | {one.what} | {one.cause} | {one.rules} |\n"
        for one in counters().values()
        if not one.is_drop
    ]
    return "".join(lines)


def drops() -> str:
    """What each drop reason means."""
    heads = ("reason", "counted at", "what happened", "likely cause", "how to mend it", "rules")
    lines = [heads, ("---",) * len(heads)]
    lines += [
        (f"`{one.name}`", one.where, one.what, one.cause, one.mend, one.rules)
        for one in counters().values()
        if one.is_drop
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def metrics() -> str:
    """What `--metrics` serves."""
    lines = ["| metric | labels | what it is |\n| --- | --- | --- |\n"]
    for name, entry in METRICS.items():
        labels = ", ".join(f"`{label}`" for label in entry.labels)
        lines.append(f"| `{name}` | {labels} | {entry.words} |\n")
    return "".join(lines)


def coverage() -> str:
    """What the tester does about each rule of the register."""
    lines = ["| rule | level | what becomes of it | how, or why not |\n| --- | --- | --- | --- |\n"]
    lines += [f"| {r.id} | {r.level} | {status} | {why} |\n" for r, status, why in covered()]
    return "".join(lines)


def guests() -> str:
    """The guests that the tester can play."""
    rows = [f"| `{guest.name}` | {guest.title} |\n" for guest in GUESTS.values()]
    return "| guest | what it is |\n| --- | --- |\n" + "".join(rows)


def prose(path: Path) -> Iterator[str]:
    """The docstrings and comments of a Python file; consecutive comment lines are one text."""
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""
    comment = ""
    line = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            text = token.string.lstrip("# ")
            comment = f"{comment}\n{text}" if token.start[0] == line + 1 else f"{comment}\n\n{text}"
            line = token.start[0]
    yield comment


def _explained(text: str) -> str:
    return f"```text\n{text}\n```\n"


def _two_guests() -> dict[str, Any]:
    """A switch with a guest that took all offloads, and one that took none."""
    config = parse_switch("lan", ["web=guest:web.sock", "db=guest:db.sock"])
    web, db = _Example(), _Example()
    web.features = web.offered = db.offered = GUEST_BASE | ALL_OFFLOADS
    db.features = GUEST_BASE
    web.serial, db.serial = 1, 2
    document: dict[str, Any] = status_document([(config, _Running({"web": web, "db": db}))])
    return dict(document["fabrics"][0])


def explained_pair() -> str:
    """`vionet explain web db`."""
    return _explained(pair_text(pair(_two_guests(), "web", "db")))


def explained_frame() -> str:
    """`vionet explain web db --pcap FILE` for a frame that its sender left partial."""
    header, data = Flow(b"\2\0\0\0\0\1", b"\2\0\0\0\0\2").tcp(b"hello").partial()
    return _explained(frame_text(life(_two_guests(), "web", "db", data, header)))


def explained_counter() -> str:
    """`vionet explain rx_ring_full`."""
    return _explained(counter_text(counters()["rx_ring_full"]))


def deviations() -> str:
    """Every paragraph, or end of one, that begins with `Deviation` in the sources."""
    lines = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        for text in prose(path):
            for paragraph in text.split("\n\n"):
                if found := DEVIATION.search(paragraph):
                    rule = f"{found[1]}: " if found[1] else ""
                    said = " ".join(found[2].split())
                    where = path.relative_to(ROOT).as_posix()
                    lines.append(f"- {rule}{said} (`{where}`)\n")
    return "".join(lines)


class _Example:
    """A port as it may look in the status document."""

    serial = 1
    last_mac = 0x525400000001
    netdev = None
    mtu = None
    state = "attached"
    pairs = 1
    worker = 0
    warnings: tuple[str, ...] = ()
    features = virtio.mask(
        [net.VIRTIO_NET_F_CSUM, net.VIRTIO_NET_F_GUEST_CSUM, virtio.VIRTIO_F_VERSION_1]
    )
    offered = features | 1 << net.VIRTIO_NET_F_HOST_USO

    @property
    def offloads(self) -> int:
        """All that it agreed to."""
        return self.features & GUEST_OFFLOADS

    def change(self, options: PortConfig) -> None:
        """It takes everything."""

    def ledger(self) -> dict[str, int]:
        """Nothing yet."""
        return dict.fromkeys(LEDGER_KEYS, 0)

    def drops(self) -> dict[str, int]:
        """One frame, for one reason."""
        return {**dict.fromkeys(DROP_REASONS[1:], 0), "rx_ring_full": 1}


class _Running:
    """A fabric as it may look there."""

    def __init__(self, live: Mapping[str, LivePort]) -> None:
        self.live = live

    def cpu_ns(self) -> list[int]:
        """One worker, and how long it ran."""
        return [1_250_000_000]

    def talks(self) -> list[tuple[str, str, int, int, int, int]]:
        """Who sent to whom."""
        return [("a", "b", 12, 17000, 12, 0)]

    def captures(self) -> list[dict[str, object]]:
        """None."""
        return []


def status() -> str:
    """The status document of a switch with one port."""
    config = parse_switch("switch", ["a=guest:a.sock,mac=52:54:00:00:00:01"])
    document = status_document([(config, _Running({"a": _Example()}))])
    document["fabrics"][0]["time_ns"] = 86_400_000_000_000
    return f"```json\n{json.dumps(document, indent=2)}\n```\n"


PRINTS: Final[dict[str, Callable[[], str]]] = {
    "coverage": coverage,
    "decisions": decisions,
    "deviations": deviations,
    "drops": drops,
    "explained-counter": explained_counter,
    "explained-frame": explained_frame,
    "explained-pair": explained_pair,
    "guests": guests,
    "ledger": ledger,
    "limits": limits,
    "metrics": metrics,
    "status": status,
}


def printed(text: str) -> str:
    """A document with all its printed parts as the code has them now."""
    return PRINTED.sub(lambda found: f"{found[1]}{PRINTS[found[2]]()}{found[4]}", text)


def main() -> int:
    """Rewrite, or with --check only tell."""
    stale = 0
    for path in sorted((ROOT / "docs").rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        now = printed(text)
        if now == text:
            continue
        print(path.relative_to(ROOT))
        stale += 1
        if "--check" not in sys.argv:
            path.write_text(now, encoding="utf-8")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
