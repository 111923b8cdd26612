"""`vionet bench tap`: a short run gets every frame through a real tap, both ways, uncopied."""

import ctypes
import json
import threading

import pytest
from click.testing import CliRunner

from vionet.bench.tap import command, sizes
from vionet.jit import LANE, Lane

SIZES = {size.name for size in sizes()}


@pytest.mark.root
@pytest.mark.skipif(LANE is Lane.INTERPRETED, reason="thousands of frames: compiled only")
def test_quick() -> None:
    """Each size goes out and in, beside the bare loops; no payload is copied on the way out."""
    outcome = CliRunner().invoke(command, ["--quick", "--json"])
    assert 0 == outcome.exit_code, outcome.output
    document = json.loads(outcome.stdout)
    assert [] == document["faults"]
    assert {} == document["left_out"]
    figures = {figure["name"]: figure for figure in document["figures"]}
    assert {f"{size}: tap to guest" for size in SIZES} <= set(figures)
    assert {"64 B", "1500 B", "64 KB"} == {
        name.partition(":")[0] for name, figure in figures.items() if figure["goal"] == "tap"
    }
    copied = [figure["value"] for figure in figures.values() if figure["goal"] == "tap-copies"]
    assert [0, 0, 0] == copied


@pytest.mark.root
def test_without_rights() -> None:
    """Where no network namespace may be made the bench says so, and is not wrong."""
    said: list[str] = []

    def run() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        # capset of this thread alone: version 3, itself, nothing at all
        assert 0 == libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
        said.append(CliRunner().invoke(command, ["--quick", "--json"]).stdout)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(250)
    document = json.loads(said[0])
    assert ["tap"] == list(document["left_out"])
    assert "root" in document["left_out"]["tap"]
    assert [] == document["figures"] == document["faults"]
