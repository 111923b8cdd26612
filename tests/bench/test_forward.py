"""`vionet bench forward`: a smoke run over both fabrics, both kinds of ring, large frames too."""

import json
import os

import pytest
from click.testing import CliRunner

from vionet.bench.forward import command
from vionet.bench.result import Result
from vionet.jit import LANE, Lane

pytestmark = [
    pytest.mark.skipif(LANE is not Lane.COMPILED, reason="measures the compiled lane"),
    pytest.mark.timeout(400),
]
SIZES = ("64 B", "1500 B", "64 KB")


def run(*options: str) -> Result:
    """The result of a quick run, which must succeed."""
    cores = sorted(os.sched_getaffinity(0))
    where = ["--core", str(cores[0]), "--load-core", str(cores[-1])]
    try:
        done = CliRunner().invoke(command, ["--quick", "--json", *where, *options])
    finally:
        os.sched_setaffinity(0, cores)
    assert 0 == done.exit_code, done.output
    return Result.read(json.loads(done.stdout))


def test_frames_arrive_as_they_were_sent() -> None:
    """No frame is damaged or lost in any case, and packed rings and TSO were negotiated.

    A large frame that came segmented, or without its partial sum, would be a fault.
    """
    result = run()
    assert [] == result.faults
    assert {} == result.left_out
    rows = {(figure.name, figure.subject) for figure in result.figures if figure.value > 0}
    for size in SIZES:
        for way in ("both", "one"):
            for ring in ("split", "packed"):
                for subject in ("switch", "wire"):
                    assert (f"{size} {way}, {ring}", subject) in rows
    plain = [figure for figure in result.figures if figure.subject in ("switch", "wire")]
    assert all(figure.detail["compared"] > 0 for figure in plain)
    large = [figure for figure in plain if figure.name.startswith("64 KB")]
    assert {"memcpy"} == {figure.against for figure in large}


def test_other_loads() -> None:
    """Finished sums, headers apart, event indices and no merging are loads like any other."""
    options = ["--sizes", "64,9000", "--csum", "partial", "--parts", "2", "--ways", "one"]
    options += ["--feature", "+event_idx", "--feature", "-mrg_rxbuf", "--against", "vionet-wire"]
    result = run(*options, "--against", "relay", "--flood", "all", "--search", "none")
    assert [] == result.faults
    subjects = {figure.subject for figure in result.figures}
    assert {"wire", "wire, overload", "relay"} == subjects


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--sizes", "64,63000"], "numbers from 60 to 9216, or gso"),
        (["--feature", "mrg_rxbuf"], "write +NAME or -NAME"),
        (["--against", "me"], "is not one of"),
        (["--ways", "back"], "is not one of"),
        (["--ring-size", "1000"], "1000 is no power of two"),
        (["--seconds", "0"], "not in the range"),
        (["--plot", "/dev/null/here/a.svg"], "no folder /dev/null/here is there"),
    ],
)
def test_mistakes_are_named(options: list[str], what: str) -> None:
    """A wrong option says what would be right."""
    done = CliRunner().invoke(command, options)
    assert 2 == done.exit_code
    assert what in done.output
