"""What a log says of real guests, from their first message to their end."""

import json
from pathlib import Path
from typing import Any

from tests.interop.end import End
from tests.interop.lab import Lab
from tests.interop.peers.process import until
from tests.interop.peers.traffic import converse
from tests.interop.peers.vionet import Vionet

WAIT_S = 60


def events(vionet: Vionet, **wanted: Any) -> list[dict[str, Any]]:
    """Those with these fields; whatever is no event is for who started it."""
    lines = vionet.log.read_text().rpartition("\n")[0].splitlines()
    others = [line for line in lines if not line.startswith("{")]
    assert [] == [line for line in others if line != "ready" and "vionet: compil" not in line]
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return [event for event in found if wanted.items() <= event.items()]


def last(vionet: Vionet, **wanted: Any) -> dict[str, Any]:
    """The last of them, once there is one."""
    until(lambda: events(vionet, **wanted), WAIT_S, f"{wanted} in the log")
    return events(vionet, **wanted)[-1]


def test_log_of_guests(lab: Lab) -> None:
    """Two guests talk: who they are and what they negotiated is in the log as in the status; one
    is killed, the other outlives vionet, and each end is said.  Only drops may be warnings."""
    vionet = lab.switch({"a": "", "b": ""}, "--log-format", "json")
    a, b = lab.uml("a"), lab.uml("b")
    lab.boot(a, b)
    converse(a, b, size=300_000, largest=100)
    status = vionet.ports()
    for name in "ab":
        End.read("uml").check(a if name == "a" else b, status[name])
        opened = last(vionet, event="session opened", port=name, fabric="switch")
        assert Path(f"/proc/{opened['pid']}/comm").read_text().rstrip("\n") == opened["comm"]
        told = last(vionet, event="negotiated", port=name, fabric="switch")
        assert status[name]["features"] == told["features"]
        assert status[name]["refused"] == told["refused"]
        assert (1, 12, True) == (told["queues"], told["header_len"], told["regions"] > 0)
        assert 1 == len(events(vionet, event="negotiated", port=name))
    a.kill()
    last(vionet, event="session closed", port="a", cause="left", level="info")
    assert [] == events(vionet, event="session closed", port="b")
    assert 0 == vionet.stop()
    closed = last(vionet, event="session closed", port="b", cause="ending", level="info")
    lines = events(vionet)
    assert lines.index(last(vionet, event="ending")) < lines.index(closed)
    warnings = {event["event"] for event in lines if event["level"] != "info"}
    assert {"frames dropped"} >= warnings, "which a busy machine brings"
