"""`vionet bench wake`: a smoke run."""

import json

import pytest
from click.testing import CliRunner

from vionet.bench.result import Result
from vionet.bench.wake import KINDS, command
from vionet.jit import LANE, Lane

pytestmark = pytest.mark.skipif(LANE is not Lane.COMPILED, reason="starts a daemon of this lane")


def test_frames_wake_a_sleeping_switch() -> None:
    """Every frame after a silence wakes the switch and arrives, and so does every bare event."""
    done = CliRunner().invoke(command, ["--quick", "--json"])
    assert 0 == done.exit_code, done.output
    result = Result.read(json.loads(done.stdout))
    assert [] == result.faults
    found = [(figure.name, figure.subject) for figure in result.figures]
    assert [(kind, who) for kind in KINDS for who in ("vionet switch", "eventfd")] == found
    assert ["wake", ""] == [f.goal for f in result.figures if f.subject == "vionet switch"]
    assert all(figure.value > 0 for figure in result.figures)
