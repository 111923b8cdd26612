"""What a bench may have found, for the tests of how it is shown."""

import json
from dataclasses import replace
from typing import Any

from vionet.bench import machine
from vionet.bench.result import Figure, Result

WIRE = Figure(
    "64 B both ways", "vionet wire", "M frames/s", (13.1, 12.0, 14.5), 1.61, "testpmd",
    goal="forward-64-wire", detail={"lost": 0},
)  # fmt: skip
TESTPMD = Figure("64 B both ways", "testpmd", "M frames/s", (8.1, 8.0, 8.3))


def peers() -> Result:
    """A bench that found something, left something out and has something to say."""
    return Result(
        "peers",
        [
            TESTPMD,
            WIRE,
            replace(WIRE, subject="vionet switch", ratio=1.1, goal="forward-64-switch"),
        ],
        left_out={"Open vSwitch": "ovs-vswitchd is not installed"},
        notes=["negotiated: CSUM GUEST_CSUM"],
    )


def suite_of(*results: Result) -> dict[str, Any]:
    """A suite's document."""
    conditions = {"load": 0.1, "core_to_core_ns": 140, "vionet": "0123abc"}
    parts = {
        r.bench: {
            "result": json.loads(json.dumps(r.document())),
            "failure": "",
            "seconds": 3,
            "conditions": conditions,
        }
        for r in results
    }
    return {"date": "2026-01-02", "machine": machine.machine(), "benches": parts}
