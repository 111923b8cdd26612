"""One guest does its worst while two others transfer: they do not notice, and nothing grows."""

import json
import re
import sys
from pathlib import Path

import pytest

from tests.interop.end import End
from tests.interop.hostile_guest import MISDEEDS
from tests.interop.lab import Lab
from tests.interop.peers.process import Peer, until
from tests.interop.peers.traffic import converse, lasting, transfer
from tests.interop.peers.vionet import SOURCE

ROOT = Path(__file__).resolve().parents[2]
GUEST = Path(__file__).with_name("hostile_guest.py")
MACS = ("02:00:00:00:00:0a", "02:00:00:00:00:0b")
RATE = 2_000_000
GROWTH_MAX = 24 * 1024  # KiB of memory of its own; a leak of one session's memory is 8 MiB
LOG_LINES_MAX = 400


@pytest.mark.parametrize("options", ["", "mac=02:00:00:00:00:0c,locked"])
def test_w42_other_pair_does_not_notice(lab: Lab, options: str) -> None:
    """Hashes of the other pair match; memory, descriptors and log lines stay bounded.

    Behind a locked port the hostile guest also claims the others' addresses; without the lock a
    learning switch would rightly believe it.  Afterwards an honest guest uses the hostile port.
    """
    vionet = lab.switch({"a": f"mac={MACS[0]},locked", "b": f"mac={MACS[1]},locked", "h": options})
    a, b = lab.uml("a"), lab.uml("b")
    for number, (guest, mac) in enumerate(zip((a, b), MACS, strict=True), 1):
        guest.await_boot()
        guest.configure(number, mac)
    for name, guest in (("a", a), ("b", b)):
        End.read("uml").check(guest, vionet.ports()[name])
    converse(a, b, size=1_000_000, largest=100)
    before = vionet.resources()
    transfers = [
        lasting(a, b, b.address4, RATE, port=5301),
        lasting(b, a, a.address6, RATE, port=5302),
    ]
    argv = [sys.executable, str(GUEST), str(lab.socket("h")), "1", *(MACS if options else ())]
    hostile = Peer(argv, lab.folder / "hostile.log", env={"PYTHONPATH": f"{SOURCE}:{ROOT}"})
    try:
        hostile.await_line(f"round {3 * len(MISDEEDS) - 1} ", 120)
        for one in transfers:
            one.check()
        assert hostile.running, hostile.tail()
    finally:
        hostile.kill()
    until(lambda: vionet.ports()["h"]["state"] == "waiting", 60, "the end of the session")
    after, port = vionet.resources(), vionet.ports()["h"]
    drops = port["drops"]
    print(json.dumps({"before": before, "after": after, "drops": drops}))
    assert after["anonymous"] - before["anonymous"] < GROWTH_MAX
    assert before["descriptors"] >= after["descriptors"]
    assert after["log_lines"] - before["log_lines"] < LOG_LINES_MAX
    rounds = len(re.findall(r"^round", hostile.output(), re.MULTILINE))
    assert 3 * len(MISDEEDS) <= rounds
    assert {"chain_invalid", "csum_out_of_frame", "ring_broken"} <= drops.keys()
    # With a page left the session may go on or end, as the dice and the moment have it; with
    # nothing left it has to end.
    assert "truncate: Closed: by the back-end" in hostile.output()
    assert "served with 0 left" not in hostile.output()
    if options:
        assert 100 < drops["source_mac_locked"]

    honest = lab.uml("h")
    honest.await_boot()
    honest.configure(3, "02:00:00:00:00:0c")
    transfer(honest, a, a.address4, 1_000_000).check()
