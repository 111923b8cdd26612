"""`vionet bench idle`: a smoke run, and that it would see a daemon that wakes."""

import json

import pytest
from click.testing import CliRunner

from vionet.bench.idle import command
from vionet.bench.result import Result
from vionet.jit import LANE, Lane

pytestmark = pytest.mark.skipif(LANE is not Lane.COMPILED, reason="starts daemons of this lane")


def test_nothing_wakes_an_idle_switch() -> None:
    """No thread wakes while 3 guests are silent; a port that looks for its peer wakes it."""
    done = CliRunner().invoke(command, ["--quick", "--json", "--guests", "3"])
    assert 0 == done.exit_code, done.output
    result = Result.read(json.loads(done.stdout))
    assert [] == result.faults
    assert {} == result.left_out
    wakes = [figure for figure in result.figures if figure.name == "wake-ups"]
    assert ["idle-wakes", ""] == [figure.goal for figure in wakes]
    assert 0 == wakes[0].value
    assert wakes[1].value > 0
