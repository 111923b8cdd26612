"""DPDK's vhost back-end under vionet's tester: what it breaks is known, and shown without us."""

import contextlib
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.check import reproduce_dpdk, reproduce_dpdk_more
from tests.interop.peers.dpdk import Testpmd, hugepages, vhost_switch
from vionet.check.runner import Outcome, Status, run

EXPECTED = tomllib.loads(Path(__file__).with_name("dpdk_expected.toml").read_text())
EVIDENCE = {**reproduce_dpdk.EVIDENCE, **reproduce_dpdk_more.EVIDENCE}
KNOWN = {rule_id for entry in EXPECTED.values() for rule_id in entry["rules"]}
PATIENCE_S = 0.5  # with what is known to fail; anything else gets the tester's own, four times that
ATTEMPTS = 3  # DPDK sometimes takes a new connection for the one that has just ended

pytestmark = [
    *(pytest.mark.interop, pytest.mark.root, pytest.mark.slow, pytest.mark.alone),
    pytest.mark.timeout(1200),
]

RACES = 8  # a fault that is a race (DS-12) is seen in more than half of the attempts


class Switch:
    """A testpmd that can be started again."""

    def __init__(self, folder: Path, huge: Path) -> None:
        self.folder, self.huge = folder, huge
        self.paths = str(folder / "a.sock"), str(folder / "b.sock")
        self.stack = contextlib.ExitStack()
        self.testpmd: Testpmd | None = None

    def start(self) -> None:
        """End what runs, start anew."""
        self.stack.close()
        for path in self.paths:
            Path(path).unlink(missing_ok=True)
        (self.folder / "vhost.log").unlink(missing_ok=True)
        sockets = [Path(path) for path in self.paths]
        self.testpmd = self.stack.enter_context(vhost_switch(self.folder, self.huge, sockets))


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Switch]:
    """One testpmd for all tests of this file."""
    folder = tmp_path_factory.mktemp("d")
    with hugepages(folder) as huge:
        made = Switch(folder, huge)
        try:
            made.start()
            yield made
        finally:
            made.stack.close()


def failures(outcomes: list[Outcome]) -> dict[str, str]:
    """What failed, and what was seen."""
    return {o.rule.id: o.seen for o in outcomes if o.status is Status.FAILED}


def test_failures_are_the_known_ones(switch: Switch) -> None:
    """The tester finds every fault of the list, and no other that is there each time."""
    found = failures(run(switch.paths, revive=switch.start, timeout=10, patience=PATIENCE_S))
    missed = KNOWN - found.keys()
    for _ in range(RACES):
        if missed:
            missed -= failures(run(switch.paths, list(missed), revive=switch.start)).keys()
    assert set() == missed
    others = {rule_id: seen for rule_id, seen in found.items() if rule_id not in KNOWN}
    for _ in range(ATTEMPTS):
        if others:
            again = failures(run(switch.paths, list(others), revive=switch.start))
            others = {rule_id: seen for rule_id, seen in others.items() if rule_id in again}
    assert {} == others


def test_every_known_failure_has_evidence() -> None:
    """The list names evidence that exists, and all of it."""
    assert EVIDENCE.keys() == EXPECTED.keys()


@pytest.mark.parametrize("name", EVIDENCE)
def test_evidence(switch: Switch, name: str) -> None:
    """The fault is there without the tester."""
    try:
        assert EVIDENCE[name](switch.paths)
    finally:
        if name == "truncation_kills":
            switch.start()
