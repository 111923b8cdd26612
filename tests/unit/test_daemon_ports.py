"""Ports of a running fabric: changed while frames pass, and each kind served."""

import select
import socket
import stat
import subprocess
import time
from pathlib import Path

import pytest

from tests.process import Children
from tests.serving import Starter, only_port, starter, until_state
from vionet.check import judge
from vionet.check.driver import Port
from vionet.check.packet import BROADCAST, Flow
from vionet.daemon.control import RequestError, ask_port, ask_status
from vionet.spec import virtio
from vionet.spec import virtio_net as net

MODERN = 1 << virtio.VIRTIO_F_VERSION_1
CSUMS = virtio.mask([net.VIRTIO_NET_F_CSUM, net.VIRTIO_NET_F_GUEST_CSUM])
GUEST_MAC = bytes.fromhex("525400000001")
OTHER_MAC = bytes.fromhex("525400000002")


@pytest.fixture
def vionet(start: Children) -> Starter:
    """Start a command line."""
    return starter(start)


def two_guests(run_dir: Path, features: int = MODERN | CSUMS) -> tuple[Port, Port]:
    """Drivers on the ports a and b, the second of which the switch has heard of."""
    a, b = (Port.open(run_dir / name, features).start() for name in "ab")
    deadline = time.monotonic() + 60
    hello = Flow(OTHER_MAC, BROADCAST).arp()
    while True:  # until a's receive ring is started too
        b.send(hello)
        if a.next_frame(time.monotonic() + 0.1) is not None:
            return a, b
        assert time.monotonic() < deadline, "b's broadcast never reached a"


def test_port_set_while_frames_pass(vionet: Starter, run_dir: Path) -> None:
    """Policy, offload, isolation and VLAN change what is delivered at once (W8, W31): a partial
    frame is finished, kept back, let through again; what is wrong changes nothing."""
    control = run_dir / "c"
    child = vionet(
        "switch", f"a=guest:{run_dir}/a", f"b=guest:{run_dir}/b", "--control", str(control)
    )
    a, b = two_guests(run_dir)
    try:
        frames = Flow(GUEST_MAC, OTHER_MAC).udp(b"the datagram")
        header, data = frames.partial()

        def arrives() -> int | None:
            a.send(data, header)
            a.sent()
            got = b.next_frame(time.monotonic() + 0.2)
            assert got is None or judge.finish(got.header, got.frame) == frames.data
            return None if got is None else got.header.flags

        assert net.VIRTIO_NET_HDR_F_NEEDS_CSUM == arrives()
        for port, options, flags in (
            ("b", ["policy=complete"], 0),
            ("b", ["policy=natural"], net.VIRTIO_NET_HDR_F_NEEDS_CSUM),
            ("b", ["-guest_csum"], 0),
            ("b", ["offload=full"], net.VIRTIO_NET_HDR_F_NEEDS_CSUM),
            ("b", ["vlan=10"], None),
            ("a", ["vlan=10"], net.VIRTIO_NET_HDR_F_NEEDS_CSUM),
            ("a", ["isolated"], net.VIRTIO_NET_HDR_F_NEEDS_CSUM),
            ("b", ["isolated"], None),
            ("b", ["isolated=off"], net.VIRTIO_NET_HDR_F_NEEDS_CSUM),
        ):
            ask_port(control, "set", port, options=options)
            b.drain()
            assert flags == arrives(), (port, options)
        with pytest.raises(RequestError, match="mtu cannot change while in use"):
            ask_port(control, "set", "b", options=["policy=complete", "mtu=100"])
        assert net.VIRTIO_NET_HDR_F_NEEDS_CSUM == arrives()
        shown = {port["name"]: port for port in ask_status(control)["fabrics"][0]["ports"]}
        assert ("natural", 10) == (shown["b"]["policy"], shown["b"]["vlan"])
        assert 1 == shown["b"]["queues"]
        assert "VIRTIO_NET_F_GUEST_TSO4" in shown["b"]["refused"]
    finally:
        a.close()
        b.close()
    assert 0 == child.stop()
    assert child.stderr.count("port changed") == 9


def test_reserved_multicast_by_setting(vionet: Starter, run_dir: Path) -> None:
    """LLDP passes by default, and with `--reserved stp` it is dropped and counted (W66)."""
    lldp = Flow(GUEST_MAC, bytes.fromhex("0180c200000e")).bare(b"lldp" * 12, 0x88CC)
    for number, setting in enumerate(([], ["--reserved", "stp"])):
        control = run_dir / f"c{number}"
        child = vionet(
            "switch", *setting, f"a=guest:{run_dir}/a", f"b=guest:{run_dir}/b",
            "--control", str(control),
        )  # fmt: skip
        a, b = two_guests(run_dir)
        try:
            b.drain()
            a.send(lldp)
            a.sent()
            got = b.next_frame(time.monotonic() + (0.2 if setting else 60))
            assert (None if setting else lldp) == (got and got.frame)
            drops = only_port(control)["drops"]
            assert ({"reserved_multicast": 1} if setting else {}) == {
                reason: n for reason, n in drops.items() if reason == "reserved_multicast"
            }
        finally:
            a.close()
            b.close()
        assert 0 == child.stop()


def test_packed_rings_have_a_file(vionet: Starter, run_dir: Path) -> None:
    """Where a port offers packed rings their positions are kept beside the control socket, for
    its owner alone; where that cannot be, a warning says what it costs, and the port serves."""
    for name, options in (("none", ""), ("some", ",+ring_packed"), ("taken", ",+ring_packed")):
        rings = run_dir / f"{name}.rings"
        if name == "taken":
            rings.mkdir()
        child = vionet(
            "switch", f"a=guest:{run_dir}/a{options}", "--control", f"{run_dir}/{name}.control"
        )
        if name == "some":
            assert 0o600 == stat.S_IMODE(rings.stat().st_mode)
        if name == "taken":
            child.wait_for("no file of positions.*cost=")
        offered = only_port(run_dir / f"{name}.control")["offered"]
        assert (name != "none") == ("VIRTIO_F_RING_PACKED" in offered)
        assert 0 == child.stop()
        assert (name != "none") == rings.exists()


def test_stream_is_served(vionet: Starter, run_dir: Path) -> None:
    """A peer of a stream port gets complete frames behind their length, and comes again; its
    socket has its mode and goes at the end."""
    control = run_dir / "c"
    child = vionet(
        "switch", f"s=stream:{run_dir}/s,mode=0660", f"a=guest:{run_dir}/a",
        "--control", str(control),
    )  # fmt: skip
    assert 0o660 == stat.S_IMODE((run_dir / "s").stat().st_mode)
    a = Port.open(run_dir / "a", MODERN | CSUMS).start()
    frame = Flow(GUEST_MAC, OTHER_MAC).udp(b"over a stream")
    header, data = frame.partial()
    try:
        for _ in range(2):
            with socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(60)
                peer.connect(str(run_dir / "s"))
                until_state(control, "attached")
                a.send(data, header)
                a.sent()
                got = peer.recv(4 + len(frame.data), socket.MSG_WAITALL)
                assert len(frame.data).to_bytes(4, "big") + frame.data == got
            until_state(control, "waiting")
    finally:
        a.close()
    assert 0 == child.stop()
    assert not (run_dir / "s").exists()


@pytest.mark.root
@pytest.mark.usefixtures("namespace")
def test_interface_is_served(vionet: Starter, run_dir: Path) -> None:
    """A frame of a guest leaves by a host interface; status shows what its kernel takes."""
    subprocess.run(
        ["ip", "link", "add", "vi0", "type", "veth", "peer", "name", "vi1"], check=True, timeout=60
    )
    for name in ("vi0", "vi1"):
        subprocess.run(["ip", "link", "set", name, "up"], check=True, timeout=60)
    control = run_dir / "c"
    child = vionet("switch", "i=interface:vi0", f"a=guest:{run_dir}/a", "--control", str(control))
    a = Port.open(run_dir / "a", MODERN | CSUMS).start()
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x0300) as wire:
            wire.bind(("vi1", 3))
            wire.settimeout(60)
            frame = Flow(GUEST_MAC, OTHER_MAC).udp(b"out of the host").data
            a.send(frame)
            while b"out of the host" not in (got := wire.recv(2048)):
                pass
            assert frame == got
        shown = only_port(control)
        assert ("interface", "attached", 1) == (shown["kind"], shown["state"], shown["queues"])
        assert "VIRTIO_NET_F_GUEST_CSUM" in shown["features"]
    finally:
        a.close()
    assert 0 == child.stop()


@pytest.mark.root
@pytest.mark.usefixtures("namespace")
def test_tap_of_a_wire_follows_its_guest(vionet: Starter, run_dir: Path) -> None:
    """On a wire the tap's kernel sends what the guest agreed to: nothing large to one without
    segmentation, TSO to one that has it, also after a change at run time."""
    control = run_dir / "c"
    child = vionet("wire", f"guest:{run_dir}/a", "tap:vt0", "--control", str(control))

    def sends() -> set[str]:
        tap = ask_status(control)["fabrics"][0]["ports"][1]
        return {name.removeprefix("VIRTIO_NET_F_") for name in tap["features"]} & {
            "CSUM", "HOST_TSO4", "HOST_TSO6", "HOST_USO",
        }  # fmt: skip

    def until_sends(names: set[str]) -> None:
        deadline = time.monotonic() + 60
        while sends() != names:
            assert time.monotonic() < deadline, sends()
            select.select([], [], [], 0.01)

    tso = virtio.mask([net.VIRTIO_NET_F_GUEST_TSO4, net.VIRTIO_NET_F_GUEST_TSO6])
    for features, names in (
        (MODERN, set()),
        (MODERN | CSUMS, {"CSUM"}),
        (MODERN | CSUMS | tso, {"CSUM", "HOST_TSO4", "HOST_TSO6"}),
    ):
        port = Port.open(run_dir / "a", features).start()
        try:
            until_sends(names)
            if "CSUM" in names:
                ask_port(control, "set", "a", options=["policy=complete"])
                until_sends(set())
                ask_port(control, "set", "a", options=["policy=uniform"])
                until_sends(names)
        finally:
            port.close()
    assert 0 == child.stop()
