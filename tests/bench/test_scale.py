"""`vionet bench scale`: a smoke run of ports, addresses and workers."""

import json
import os

import pytest
from click.testing import CliRunner

from vionet.bench.result import Result
from vionet.bench.scale import command
from vionet.jit import LANE, Lane

pytestmark = [
    pytest.mark.skipif(LANE is not Lane.COMPILED, reason="measures the compiled lane"),
    pytest.mark.timeout(400),
]


def test_scale_quick() -> None:
    """64 ports, 10,000 addresses and two workers forward every frame as it was sent."""
    cores = sorted(os.sched_getaffinity(0))
    where = ["--core", str(cores[0]), "--load-core", str(cores[-1])]
    try:
        done = CliRunner().invoke(command, ["--quick", "--json", *where])
    finally:
        os.sched_setaffinity(0, cores)
    assert 0 == done.exit_code, done.output
    result = Result.read(json.loads(done.stdout))
    assert [] == result.faults
    assert {} == result.left_out
    assert all(figure.value > 0 for figure in result.figures)
    goals = {figure.goal: figure for figure in result.figures if figure.goal}
    assert {"silent-ports", "addresses", "workers"} == {*goals}
    assert "10,000 in the table, 2 used" == goals["addresses"].name
    used = {figure.name: figure.detail.get("addresses_of_a_port") for figure in result.figures}
    assert [1, 4096] == [used["10,000 in the table, 2 used"], used["10000 addresses"]]
