"""`vionet bench guests`: real kernels boot, talk, and are what the figures say they are."""

import json
import subprocess
import sys

import pytest

from tests.tools import need, need_guest_kernel
from vionet.bench.guest.pair import NEEDED
from vionet.bench.guests import A_CORE, NEGOTIATED, TESTS


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_guests_quick() -> None:
    """Every pair of a quick run has its rows, what was negotiated, and nothing wrong."""
    for tools in NEEDED.values():
        for tool in tools:
            need(tool)
    need_guest_kernel()
    argv = [sys.executable, "-m", "vionet", "bench", "guests", "--quick", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=380, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert [] == document["faults"]
    assert ["QEMU's sockets"] == list(document["left_out"])
    rows = {(row["name"], row["subject"]): row for row in document["figures"]}
    pairs = (("UML", "vionet full"), ("UML", "vde_switch"), ("QEMU", "vionet full"))
    tests = [test + end for test in TESTS for end in ("", A_CORE)]
    assert {(f"{family} {test}", subject) for family, subject in pairs for test in tests} == {*rows}
    for (name, subject), row in rows.items():
        assert 1 == len(row["values"])
        assert 0 < row["value"]
        wanted = NEGOTIATED["full"] if subject == "vionet full" else set()
        assert wanted == set(row["detail"]["negotiated"])
        if not name.endswith(A_CORE):
            assert {"sender", "receiver"} <= row["detail"]["cores"][0].keys()
    assert 0 < rows["UML TCP", "vionet full"]["ratio"]
