"""`vionet switch` and `vionet wire` as processes: start, serve, end, and start again."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import vionet as vionet_package
from tests.process import Child, Children
from tests.serving import READY_S, Starter, only_port, starter, until_state
from vionet.check.driver import Port
from vionet.check.packet import BROADCAST, Flow
from vionet.config import parse_switch
from vionet.daemon.control import ask_status
from vionet.daemon.run import run
from vionet.spec import virtio
from vionet.spec import virtio_net as net

MODERN = 1 << virtio.VIRTIO_F_VERSION_1
CSUMS = virtio.mask([net.VIRTIO_NET_F_CSUM, net.VIRTIO_NET_F_GUEST_CSUM])
GUEST_MAC = bytes.fromhex("525400000001")


@pytest.fixture
def vionet(start: Children) -> Starter:
    """Start a command line."""
    return starter(start)


def failed(child: Child) -> str:
    """The one line of a command that failed."""
    assert 1 == child.wait(READY_S), str(child)
    assert "" == child.stdout
    lines = child.stderr.splitlines()
    (line,) = [line for line in lines if not line.startswith("vionet: compil")]
    return line


def test_life_of_a_switch(vionet: Starter, run_dir: Path) -> None:
    """One line on standard output; sockets with their modes; status; gone at SIGTERM, status 0."""
    child = vionet("switch", f"a=guest:{run_dir}/a,mode=0660", f"b=guest:{run_dir}/b,mode=0600")
    assert 0o660 == stat.S_IMODE((run_dir / "a").stat().st_mode)
    assert 0o600 == stat.S_IMODE((run_dir / "b").stat().st_mode)
    control = run_dir / "vionet" / "switch.control"
    assert ["waiting", "waiting"] == [
        port["state"] for port in ask_status(control)["fabrics"][0]["ports"]
    ]
    assert 0 == child.stop()
    assert "ready\n" == child.stdout
    assert {run_dir / "vionet"} == set(run_dir.rglob("*"))


def test_names_and_control_sockets(vionet: Starter, run_dir: Path) -> None:
    """Two switches live side by side; --control and --name say where and who; SIGINT ends too."""
    first = vionet("switch", f"a=guest:{run_dir}/a")
    second = vionet("switch", f"a=guest:{run_dir}/b")
    third = vionet(
        "wire", f"guest:{run_dir}/c", f"guest:{run_dir}/d", "--name", "w",
        "--control", f"{run_dir}/w", "--log-format", "json",
    )  # fmt: skip
    shown = subprocess.run(
        [sys.executable, "-m", "vionet", "status", "--json"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    names = [fabric["name"] for fabric in json.loads(shown.stdout)["fabrics"]]
    assert {"switch", "switch-2"} == set(names)
    (wire,) = ask_status(run_dir / "w")["fabrics"]
    assert ("w", "wire", ["a", "b"]) == (
        wire["name"],
        wire["kind"],
        [port["name"] for port in wire["ports"]],
    )
    for child in (first, second, third):
        assert 0 == child.stop(with_signal=signal.SIGINT)
    lines = [line for line in third.stderr.splitlines() if not line.startswith("vionet: compil")]
    assert {"ready", "ending"} <= {json.loads(line)["event"] for line in lines}


def test_after_sigkill_the_paths_are_taken_again(vionet: Starter, run_dir: Path) -> None:
    """What a killed switch left behind does not keep the next one from its paths."""
    arguments = ("switch", f"a=guest:{run_dir}/a", "--control", f"{run_dir}/c")
    vionet(*arguments).stop(with_signal=signal.SIGKILL)
    assert (run_dir / "a").exists()
    assert (run_dir / "c").exists()
    again = vionet(*arguments)
    assert "waiting" == only_port(run_dir / "c")["state"]
    taken = vionet("switch", f"x=guest:{run_dir}/a", ready=False)
    assert f"vionet: {run_dir}/a: another process serves this socket" in failed(taken)
    assert "waiting" == only_port(run_dir / "c")["state"]
    assert 0 == again.stop()


@pytest.mark.parametrize(
    ("ports", "says"),
    [
        (["a=guest:{}/a,group=no-such-group"], "group no-such-group does not exist"),
        (["a=guest:{}/no/a"], "make the folder"),
        ([f"p{i}=guest:{{}}/{i}" for i in range(65)], "at most 64"),
    ],
)
def test_failures_late_in_the_start(
    vionet: Starter, run_dir: Path, ports: list[str], says: str
) -> None:
    """What only turns out when ports are opened is one line, and leaves nothing behind."""
    child = vionet("switch", *(port.format(run_dir) for port in ports), ready=False)
    assert says in failed(child)
    assert {run_dir / "vionet"} == set(run_dir.rglob("*"))


def test_status_follows_a_guest(vionet: Starter, run_dir: Path) -> None:
    """Attached with what was negotiated, its frames and its sins; waiting again afterwards."""
    control = run_dir / "c"
    child = vionet(
        "switch", f"a=guest:{run_dir}/a,mac=52:54:00:00:00:01,locked", f"b=guest:{run_dir}/b",
        "--control", str(control),
    )  # fmt: skip
    port = Port.open(run_dir / "a", MODERN | CSUMS)
    try:
        port.start()
        port.send(Flow(GUEST_MAC, BROADCAST).arp())
        port.send(Flow(bytes.fromhex("525400000002"), BROADCAST).arp())
        port.sent()
        shown = until_state(control, "attached")
        assert {"VIRTIO_F_VERSION_1", "VIRTIO_NET_F_CSUM", "VIRTIO_NET_F_GUEST_CSUM"} <= set(
            shown["features"]
        )
        assert ("52:54:00:00:00:01", True) == (shown["mac"], shown["locked"])
        assert 1 == shown["drops"]["source_mac_locked"]
        port.tx.avail_idx = port.tx.next_idx + 1000  # more than the ring has
        port.kick(net.TRANSMITQ1)
        child.wait_for("the driver broke its ring.*port=a.*ring=transmitq")
    finally:
        port.close()
    assert [] == until_state(control, "waiting")["features"]
    assert 0 == child.stop()


def test_client_connects_and_connects_again(vionet: Starter, run_dir: Path) -> None:
    """A `client` port connects to a front-end that listens, and again after it hung up."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(run_dir / "a"))
        listener.listen()
        listener.settimeout(60)
        child = vionet("switch", f"a=guest:{run_dir}/a,client", "--control", f"{run_dir}/c")
        for _ in range(2):
            connection, _ = listener.accept()
            until_state(run_dir / "c", "attached")
            connection.close()
        assert 0 == child.stop()
        assert (run_dir / "a").exists(), "the front-end's socket is not ours to remove"


@pytest.mark.root
@pytest.mark.usefixtures("namespace")
def test_wire_between_a_guest_and_the_host(vionet: Starter, run_dir: Path) -> None:
    """A datagram each way; nothing for others reaches a locked guest; the tap goes at the end."""
    child = vionet(
        "wire", f"guest:{run_dir}/a,mac=52:54:00:00:00:01,locked",
        "tap:vt0,address=192.0.2.2/24,mac=52:54:00:00:00:02", "--control", f"{run_dir}/c",
    )  # fmt: skip
    for last, octet in (("1", "01"), ("9", "09")):
        subprocess.run(
            ["ip", "neigh", "add", f"192.0.2.{last}", "lladdr", f"52:54:00:00:00:{octet}",
             "dev", "vt0"], check=True, timeout=60,
        )  # fmt: skip
    port = Port.open(run_dir / "a", MODERN | CSUMS)
    try:
        port.start()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as host:
            host.bind(("192.0.2.2", 40001))
            host.settimeout(60)
            host.sendto(b"for somebody else", ("192.0.2.9", 9))
            host.sendto(b"for the guest", ("192.0.2.1", 9))
            got = port.collect_any((b"for the guest", b"for somebody else"), 60)
            assert b"for the guest" in got.frame
            assert net.VIRTIO_NET_HDR_F_NEEDS_CSUM == got.header.flags
            flow = Flow(GUEST_MAC, bytes.fromhex("525400000002"))
            header, frame = flow.udp(b"from the guest").partial()
            port.send(frame, header)
            assert b"from the guest" == host.recv(100)
            port.sent()  # given back: by now everything is counted
        guest, tap = ask_status(run_dir / "c")["fabrics"][0]["ports"]
        assert ("tap", "attached") == (tap["kind"], tap["state"])
        assert 1 <= tap["ledger"]["csum_elided"]
        assert 0 == tap["ledger"]["payload_bytes_copied"]
        assert "destination_mac_locked" not in guest["drops"] | tap["drops"]
    finally:
        port.close()
    assert 0 == child.stop()
    assert "vt0" not in [name for _, name in socket.if_nameindex()]


@pytest.mark.root
@pytest.mark.usefixtures("namespace")
def test_tap_that_is_down_is_said(vionet: Starter, run_dir: Path) -> None:
    """An existing tap that is down is used as it is, with a line that says how to set it up."""
    subprocess.run(["ip", "tuntap", "add", "dev", "vt0", "mode", "tap"], check=True, timeout=60)
    child = vionet("switch", "t=tap:vt0")
    child.wait_for("the interface is down.*ip link set vt0 up")
    assert 0 == child.stop()
    assert "vt0" in [name for _, name in socket.if_nameindex()]


@pytest.mark.root
@pytest.mark.usefixtures("namespace")
def test_inherited_tap(start: Children, run_dir: Path) -> None:
    """`fd=N` serves a tap that whoever starts vionet has opened."""
    code = (
        "import fcntl, os, struct, sys\n"
        "fd = os.open('/dev/net/tun', os.O_RDWR)\n"
        "fcntl.ioctl(fd, 0x400454CA, struct.pack('16sH22x', b'vt9', 0x5002))\n"
        "os.dup2(fd, 9)\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'vionet', 'switch', 't=tap:,fd=9'])\n"
    )
    child = start(sys.executable, "-c", code)
    child.wait_for("^ready$", READY_S)
    child.wait_for("tap open.*interface=vt9")
    assert "attached" == only_port(run_dir / "vionet" / "switch.control")["state"]
    assert 0 == child.stop()


def test_many_ports_need_many_descriptors(start: Children, run_dir: Path) -> None:
    """The limit that a shell sets is raised as far as the system allows."""
    ports = [f"p{number}=guest:{run_dir}/{number}" for number in range(40)]
    command = [sys.executable, "-m", "vionet", "switch", *ports]
    child = start("sh", "-c", 'ulimit -S -n 40; exec "$@"', "sh", *command)
    child.wait_for("^ready$", READY_S)
    assert 0 == child.stop()


def test_signal_before_ready(run_dir: Path) -> None:
    """SIGTERM while the engine is still loading: status 0, and nothing is left behind."""

    @contextmanager
    def interrupted() -> Iterator[None]:
        os.kill(os.getpid(), signal.SIGTERM)
        yield

    config = parse_switch("s", [f"a=guest:{run_dir}/a"])
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        run(config, control=run_dir / "c", named=True, loading=interrupted, ready=pytest.fail)
    assert 0 == ended.value.code
    assert [] == list(run_dir.iterdir())
    assert before == signal.getsignal(signal.SIGTERM)


def test_death_of_the_worker_is_the_end(start: Children, run_dir: Path, tmp_path: Path) -> None:
    """A worker that dies of an error ends the process with status 1 and a line; sockets go."""
    sources = Path(vionet_package.__file__).parent
    shutil.copytree(sources, tmp_path / "vionet", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "vionet" / "engine" / "worker.py").open("a") as file:
        file.write("\n\ndef run(state, work):\n    raise IndexError('one past the ring')\n")
    child = start(
        sys.executable, "-m", "vionet", "switch", f"a=guest:{run_dir}/a",
        env={"PYTHONPATH": str(tmp_path), "VIONET_LANE": "interpreted"},
    )  # fmt: skip
    assert 1 == child.wait(READY_S)
    assert "vionet: switch: the worker died, please report it: IndexError: one past" in child.stderr
    assert {run_dir / "vionet"} == set(run_dir.rglob("*"))
