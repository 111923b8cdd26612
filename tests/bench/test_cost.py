"""`vionet bench cost`: a short run is right in every case, and a wrong one would be seen."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from vionet.bench import case as cases
from vionet.bench.cost import GOALS, command
from vionet.bench.frame import Csum
from vionet.bench.pair import Case, Pair
from vionet.bench.stage import STAGES
from vionet.jit import LANE, Lane

KEYS = {"features-64", "fill-1500", "fill-9000", "fill-64k", "segment"}


@pytest.mark.skipif(LANE is Lane.INTERPRETED, reason="a million frames: compiled only")
def test_quick() -> None:
    """A quick run delivers every frame as it must, has each stage and feature, names each goal."""
    outcome = CliRunner().invoke(command, ["--quick", "--json"])
    assert 0 == outcome.exit_code, outcome.output
    document = json.loads(outcome.stdout)
    assert [] == document["faults"]
    names = {figure["name"] for figure in document["figures"]}
    for size in (64, 1500):
        assert {f"{size} B: {stage}" for stage in (*STAGES, "the whole path")} <= names
        assert {f"{size} B: {feature}" for feature in cases.features(size)} <= names
    assert set(GOALS) <= names
    assert KEYS == {figure["goal"] for figure in document["figures"]} - {""}
    assert all(figure["ratio"] > 0 for figure in document["figures"] if figure["goal"])


@pytest.mark.parametrize("name", cases.features(64))
def test_feature(name: str) -> None:
    """Each feature does to a few frames what its case says, byte by byte and in the ledger."""
    case, _ = cases.features(64)[name]
    pair = Pair(replace(case, chains=64 if len(case.sent) == 1 else len(case.sent)))
    pair.check(2)
    expected = []
    if case.counted.get("calls"):  # one a burst is wanted, and there is no descriptor to call
        expected = [f"{case.name}: calls is 0, not 2"]
    assert expected == pair.faults


def plain() -> Case:
    """The plain path of 64 bytes."""
    return cases.features(64)["plain"][0]


def test_wrong_bytes() -> None:
    """One byte that is not as it should be is a fault."""
    spoilt = [cases.spoilt(cases.received(64, Csum.PARTIAL))]
    pair = Pair(replace(plain(), received=spoilt))
    pair.check(1)
    assert [f"{plain().name}: buffer 0 is not what was expected"] == pair.faults


def test_wrong_count() -> None:
    """A stage that did not run is a fault, although the bytes are right."""
    pair = Pair(replace(plain(), counted={"csum_filled": 1}))
    pair.check(1)
    assert [f"{plain().name}: csum_filled is 0, not 256"] == pair.faults


def test_drop() -> None:
    """Frames that did not arrive are faults with their reason."""
    pair = Pair(plain())
    pair.state.ports[1].link_down = pair.state.ports[1].special = 1
    pair.run(1)
    assert f"{plain().name}: frames were dropped, link_down" in pair.faults
