"""`vionet bench churn`: a smoke run."""

import json

import pytest
from click.testing import CliRunner

from vionet.bench.churn import command
from vionet.bench.result import Result
from vionet.jit import LANE, Lane

pytestmark = pytest.mark.skipif(LANE is not Lane.COMPILED, reason="starts a daemon of this lane")


def test_no_frame_is_lost_while_ports_come_and_go() -> None:
    """Everything that is done to other ports succeeds, and every frame of the flow arrives."""
    done = CliRunner().invoke(command, ["--quick", "--json"])
    assert 0 == done.exit_code, done.output
    result = Result.read(json.loads(done.stdout))
    assert [] == result.faults
    kinds = {figure.subject for figure in result.figures}
    ports = {"port add", "port set", "port remove"}
    assert {"nothing", "guest attaches", "guest detaches", "status"} | ports == kinds
    assert {} == result.left_out
    assert all(figure.value > 0 for figure in result.figures)
