"""`vionet top` of a switch with traffic: what it prints is what the status said.

How it works: the simulated guests of the demo exchange frames on a real switch.  Between it and
`vionet top` stands a control socket that passes everything on and keeps the answers, so that the
table can be compared with the very documents that it was made from.
"""

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.process import Children
from tests.serving import starter
from vionet.cli.tour import Tour, settled_ports
from vionet.daemon.control import ask_status

WAIT_S = 60
SHOWN = {  # heading: ledger key
    "tx": "tx_frames", "rx": "rx_frames", "txB": "tx_bytes", "rxB": "rx_bytes",
    "elid": "csum_elided", "fill": "csum_filled", "vrfy": "csum_verified",
    "copy": "payload_bytes_copied", "sum": "payload_bytes_summed", "segs": "segments",
    "wake": "wakeups", "call": "calls",
}  # fmt: skip
UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}


class Kept:
    """A control socket in front of another one."""

    def __init__(self, path: Path, behind: Path) -> None:
        self.answers: list[Any] = []
        self.came = threading.Semaphore(0)  # once for each of them
        self._behind = behind
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._pass_on)
        self._thread.start()

    def _pass_on(self) -> None:
        while True:
            with self._listener.accept()[0] as client, client.makefile("rb") as lines:
                if not (line := lines.readline()):
                    return
                with socket.socket(socket.AF_UNIX) as server, server.makefile("rb") as answers:
                    server.settimeout(WAIT_S)
                    server.connect(str(self._behind))
                    server.sendall(line)
                    answer = answers.readline()
                self.answers.append(json.loads(answer)["status"]["fabrics"][0])
                client.sendall(answer)
                self.came.release()

    def close(self) -> None:
        """Say nothing, which ends it."""
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(self._listener.getsockname())
        self._thread.join(WAIT_S)
        self._listener.close()


@contextmanager
def kept(path: Path, behind: Path) -> Iterator[Kept]:
    """One until the end of the block."""
    made = Kept(path, behind)
    try:
        yield made
    finally:
        made.close()


def figures(text: str) -> dict[str, dict[str, float]]:
    """A table of 80 columns: by port and heading."""
    lines = text.splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith("port "))
    heads, found = lines[at].split(), {}
    for line in lines[at + 1 :]:
        name, *words = line.split()
        numbers = [re.fullmatch(r"([\d.]+)([kMG]?)", word) for word in words]
        if len(words) == len(heads) - 1 and all(numbers):
            values = [float(one[1]) * UNITS[one[2]] for one in numbers if one]
            found[name] = dict(zip(heads[1:], values, strict=True))
    return found


def near(expected: float) -> Any:
    """A number as four characters tell it: two digits at least."""
    return pytest.approx(expected, rel=0.051, abs=0.051)


def test_figures_are_the_statuss(run_dir: Path, start: Children) -> None:
    """What three guests made a switch do while `top` looked twice is what the two documents differ
    in, over the time that they say; with --interval 0 it is what the document says.  The document
    itself has every frame of every pair, and both workers' times grow."""
    tour = Tour(run_dir, 40)
    behind, front = run_dir / "behind.control", run_dir / "front.control"
    vionet = starter(start)
    arguments = ("--quiet", "--workers", "2", "--control", str(behind))
    vionet("switch", *arguments, *tour.ports())
    tour.attach()
    try:
        with kept(front, behind) as asked:
            once = ("top", "--once", "--control", str(front))
            live = vionet(*once, "--interval", "3", ready=False)
            for _ in range(2):  # one to see whether somebody is there, and the first look
                assert asked.came.acquire(timeout=WAIT_S)
            tour.exchange()
            assert 0 == live.wait(WAIT_S), live.stderr
            settled_ports(lambda: ask_status(behind), tour)
            total = vionet(*once, "--interval", "0", ready=False)
            assert 0 == total.wait(WAIT_S), total.stderr
            _, before, after, _, last = asked.answers
    finally:
        tour.close()
    seconds = (after["time_ns"] - before["time_ns"]) / 1e9
    rates, counts = figures(live.stdout), figures(total.stdout)
    assert {"alice", "bob", "carol"} == rates.keys() == counts.keys()
    for old, new, now in zip(before["ports"], after["ports"], last["ports"], strict=True):
        assert "attached" == old["state"] == new["state"]
        for head, key in SHOWN.items():
            passed = (new["ledger"][key] - old["ledger"][key]) / seconds
            assert near(passed) == rates[new["name"]][head], (new["name"], key)
            assert near(now["ledger"][key]) == counts[now["name"]][head], (now["name"], key)
    assert rates["bob"]["elid"] > 0  # its frames come first
    first, *_ = live.stdout.splitlines()
    assert re.fullmatch(r"switch switch, ports 3, worker load \d+% \d+%", first)
    for old, new in zip(before["workers"], last["workers"], strict=True):
        assert 0 < old["cpu_ns"] < new["cpu_ns"]
    pairs = {(talk["from"], talk["to"]): talk for talk in last["talks"]}
    assert {(flow.source, flow.target) for flow in tour.flows} == pairs.keys()
    hellos = {port["name"]: port["ledger"]["rx_frames"] for port in before["ports"]}
    for port in last["ports"]:
        here = [talk for (_, target), talk in pairs.items() if target == port["name"]]
        ledger = port["ledger"]
        assert sum(talk["frames"] for talk in here) == ledger["rx_frames"] > hellos[port["name"]]
        assert sum(talk["bytes"] for talk in here) == ledger["rx_bytes"]
        assert sum(talk["elided"] for talk in here) == ledger["csum_elided"]
