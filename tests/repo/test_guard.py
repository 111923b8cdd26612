"""What vionet may not lose again, in figures that are the same on every machine: `guard.toml`.

Bytes copied, system calls and notifications of a fixed load (`counted_load.py`), and the number of
kernels.  Speed itself is measured by `vionet bench` and asserted nowhere.
"""

import json
import os
import subprocess
import sys
import tomllib
from typing import Any

import pytest

import vionet.jit.fault  # noqa: F401 - its descriptor lasts as long as the process
from scripts.compile_kernels import import_kernels
from tests.tools import ROOT
from vionet.jit import LANE, Lane
from vionet.jit.kernel import KERNELS

RECORD = ROOT / "tests/repo/guard.toml"
HEADER_MAX = (
    128  # bytes of each frame that are copied once to be judged, and not counted as payload
)

pytestmark = pytest.mark.skipif(LANE is not Lane.COMPILED, reason="the same in every lane")


def verdict(recorded: dict[str, int], found: dict[str, int]) -> list[str]:
    """What to say of each figure that is not what was recorded."""
    said = []
    for key in sorted(recorded.keys() | found.keys()):
        was, now = recorded.get(key), found.get(key)
        if was is None or now is None:
            said.append(f"{key}: recorded {was}, found {now}; write it down, or take it out")
        elif now > was:
            said.append(f"{key} has grown from {was} to {now}: mend what costs that")
        elif now < was:
            said.append(f"{key} has shrunk from {was} to {now}: write that into {RECORD.name}")
    return said


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    """The record."""
    return tomllib.loads(RECORD.read_text())


@pytest.fixture(scope="module")
def loads() -> dict[str, dict[str, int]]:
    """What the fixed load cost."""
    done = subprocess.run(
        [sys.executable, "tests/repo/counted_load.py"],
        cwd=ROOT,
        env=os.environ | {"VIONET_LANE": "interpreted", "PYTHONPATH": "src:."},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    found: dict[str, dict[str, int]] = json.loads(done.stdout)
    return found


def test_loads_cost_what_is_recorded(
    recorded: dict[str, Any], loads: dict[str, dict[str, int]]
) -> None:
    """Bytes copied and summed, system calls, interrupts and kicks for 1000 frames do not grow."""
    assert [] == [
        f"[{name}] {text}"
        for name in sorted(recorded["load"].keys() | loads.keys())
        for text in verdict(recorded["load"].get(name, {}), loads.get(name, {}))
    ]


def test_payload_is_copied_once_between_guests_and_never_at_a_tap(
    loads: dict[str, dict[str, int]],
) -> None:
    """What the record has to say whoever writes it: copies per byte are 1, 1, 0 and 0."""
    payload = 1000 * (1514 - HEADER_MAX)
    copied = {name: counts["payload_bytes_copied"] for name, counts in loads.items()}
    assert {
        "guest_to_guest_64_switch": 0,
        "guest_to_guest_1500_switch": payload,
        "guest_to_guest_1500_wire": payload,
        "guest_to_tap_1500_wire": 0,
        "tap_to_guest_1500_wire": 0,
    } == copied
    assert {0} == {counts["payload_bytes_summed"] for counts in loads.values()}
    assert HEADER_MAX * 1000 == max(counts["header_bytes"] for counts in loads.values())


@pytest.mark.timeout(600)
def test_kernels_are_not_more_than_recorded(recorded: dict[str, Any]) -> None:
    """The engine's; each is compiled for one signature (test_kernels)."""
    import_kernels()
    modules = [kernel.py_func.__module__ for kernel in KERNELS]  # other tests have some too
    engine = [m for m in modules if m.startswith("vionet.") and not m.startswith("vionet.bench.")]
    assert [] == verdict({"kernels": recorded["kernels"]}, {"kernels": len(engine)})
