"""The log of a whole run: sessions that end each in its way, refusals, a flood of drops."""

import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interop.peers.process import until
from tests.process import Child, Children
from tests.serving import READY_S
from vionet.check.driver import Port
from vionet.check.packet import BROADCAST, Flow
from vionet.daemon.control import ask
from vionet.daemon.drops import QUIET_S
from vionet.spec import vhost_user as vu
from vionet.spec import virtio
from vionet.spec import virtio_net as net
from vionet.spec.vhost_user import Request
from vionet.vhost_user.backend import REFUSALS_BURST, REFUSALS_PER_SECOND
from vionet.vhost_user.frontend import Frontend, Refused

MODERN = 1 << virtio.VIRTIO_F_VERSION_1
CSUMS = virtio.mask([net.VIRTIO_NET_F_CSUM, net.VIRTIO_NET_F_GUEST_CSUM])
WAIT_S = 30
FRAMES = 500
FOREIGN = Flow(bytes.fromhex("525400000009"), BROADCAST).arp()  # from a locked port
DROPPED = {"event": "frames dropped", "port": "a", "reason": "source_mac_locked"}
DYING = """
import sys
from vionet.check.driver import Port
with open("/proc/self/comm", "wb") as file:
    file.write(b"o\\x1b[2J\\n!")
port = Port.open(sys.argv[1], int(sys.argv[2])).start()
print("up", flush=True)
sys.stdin.read()
"""


class Story:
    """A switch that logs JSON, and what it has said."""

    def __init__(self, start: Children, run_dir: Path) -> None:
        self.folder, self.control = run_dir, run_dir / "c"
        self.child: Child = start(
            sys.executable, "-m", "vionet", "switch", "--log-format", "json", "--control",
            str(self.control), f"a=guest:{run_dir}/a,mac=52:54:00:00:00:01,locked",
            f"b=guest:{run_dir}/b", f"s=stream:{run_dir}/s",
        )  # fmt: skip
        self.child.wait_for("^ready$", READY_S)

    def lines(self, **wanted: Any) -> list[dict[str, Any]]:
        """Those that have these fields; every line so far is an object."""
        said = self.child.stderr.rpartition("\n")[0].splitlines()
        events = [json.loads(line) for line in said if not line.startswith("vionet: compil")]
        keys = {"timestamp", "level", "logger", "event", "fabric"}
        assert [] == [event for event in events if not keys <= event.keys()]
        return [event for event in events if wanted.items() <= event.items()]

    def last(self, **wanted: Any) -> dict[str, Any]:
        """The last of them, once there is one."""
        deadline = time.monotonic() + WAIT_S
        while not (found := self.lines(**wanted)):
            assert time.monotonic() < deadline, f"{wanted}: {self.child.stderr}"
            self.child.read(0.1)
        return found[-1]

    def dropped(self) -> int:
        """The drop counter of the flood, and whatever was logged is read."""
        self.child.read(0)
        ports = ask(self.control, "status")["status"]["fabrics"][0]["ports"]
        (count,) = (port["drops"].get("source_mac_locked", 0) for port in ports[:1])
        return int(count)


@pytest.fixture
def story(start: Children, run_dir: Path) -> Iterator[Story]:
    """One, at its beginning."""
    yield Story(start, run_dir)


def test_each_session_has_its_end(story: Story) -> None:
    """Who came, what was negotiated, what was refused, and why it ended: broke a rule, died, its
    port was removed, vionet ended; each in one event of its own."""
    port = Port.open(story.folder / "a", MODERN | CSUMS)
    port.start()
    who = {"pid": os.getpid(), "uid": os.getuid()}
    opened = story.last(event="session opened", port="a", fabric="switch", **who)
    assert Path("/proc/self/comm").read_text().strip() == opened["comm"]
    told = story.last(event="negotiated", port="a")
    assert {"VIRTIO_F_VERSION_1", "VIRTIO_NET_F_CSUM", "VIRTIO_NET_F_GUEST_CSUM"} <= {
        *told["features"]
    }
    assert "VIRTIO_NET_F_HOST_TSO4" in told["refused"]
    assert (1, net.VIRTIO_NET_HDR_LEN) == (told["queues"], told["header_len"])
    second = Frontend.connect(story.folder / "a")
    assert second.closed()
    second.close()
    story.last(event="turned away", port="a", level="warning", **who)
    with pytest.raises(Refused):
        port.frontend.set_vring_num(0, 3)
    refused = story.last(event="request refused", port="a", level="warning")
    assert "SET_VRING_NUM" == refused["request"]
    port.frontend.send_bytes(struct.pack("=III", 1, 2, 0))
    ended = story.last(event="session closed", port="a", cause="broke_rule", level="warning")
    assert "version 2" in ended["reason"]
    port.close()

    features = str(MODERN)
    other = subprocess.Popen(
        [sys.executable, "-c", DYING, f"{story.folder}/b", features],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with other:
        assert other.stdout is not None
        assert b"up\n" == other.stdout.readline()
        other.kill()
    opened = story.last(event="session opened", port="b", pid=other.pid)
    assert r"o\x1b[2J\n!" == opened["comm"], "what it calls itself stays in its line"
    story.last(event="session closed", port="b", cause="left", level="info")

    with Frontend.connect(story.folder / "b") as frontend:
        frontend.synchronise()
        ask(story.control, "remove", port="b")
        assert frontend.closed()
    story.last(event="session closed", port="b", cause="removed", level="info")
    story.last(event="port removed", port="b")
    with Frontend.connect(story.folder / "a") as frontend:
        frontend.synchronise()
        assert 0 == story.child.stop()
    closed = story.last(event="session closed", port="a", cause="ending")
    lines = story.lines()
    assert lines.index(story.last(event="ending")) < lines.index(closed)
    assert 2 == len(story.lines(event="session closed", port="a"))


def test_flood_of_drops(story: Story) -> None:
    """The first drop is said at once, while the flood goes on; the rest is not, but for one line
    when the port goes.  Together they say what the counter says."""
    port = Port.open(story.folder / "a", MODERN).start()
    began, sent = time.monotonic(), 0
    try:

        def said() -> bool:
            nonlocal sent
            port.send(FOREIGN)
            port.sent()
            sent += 1
            story.child.read(0)
            return bool(story.lines(**DROPPED))

        until(said, WAIT_S, "the first drop in the log", 0.01)
        first = story.last(**DROPPED)
        assert first["total"] == first["count"] <= sent
        assert "info" == first["level"], "somebody locked the port"
        assert "vionet explain source_mac_locked" == first["mend"]
        for _ in range(FRAMES):
            port.send(FOREIGN)
            port.sent()
        until(lambda: story.dropped() == sent + FRAMES, WAIT_S, "all of them counted", 0.01)
        assert 1 <= len(story.lines(**DROPPED)) <= 1 + (time.monotonic() - began) / QUIET_S
    finally:
        port.close()
    ask(story.control, "remove", port="a")
    story.last(event="port removed", port="a")
    *_, rest = lines = story.lines(**DROPPED)
    assert sent + FRAMES == rest["total"] == sum(line["count"] for line in lines)
    assert first in lines[:-1]
    assert 0 == story.child.stop()


def test_flood_of_refusals_is_bounded(story: Story) -> None:
    """A front-end that asks for nonsense all day does not fill the log, nor hide its end in it."""
    began = time.monotonic()
    with Frontend.connect(story.folder / "a") as frontend:
        frontend.negotiate(MODERN, 1 << vu.VHOST_USER_PROTOCOL_F_REPLY_ACK)
        for _ in range(200):
            with pytest.raises(Refused):
                frontend.tell_u64(Request.SET_VRING_ENABLE, 99)
    story.last(event="session closed", port="a", cause="left")
    allowed = REFUSALS_BURST + REFUSALS_PER_SECOND * (time.monotonic() - began) + 1
    assert REFUSALS_BURST <= len(story.lines(event="request refused")) <= min(allowed, 199)
    assert 0 == story.child.stop()
