"""Streams and those who speak them: QEMU at either end of the socket, and passt."""

import socket
from pathlib import Path

import pytest

from tests.interop.end import End
from tests.interop.lab import Lab
from tests.interop.peers.netns import Namespace
from tests.interop.peers.process import Peer, until
from tests.interop.peers.qemu import Qemu
from tests.interop.peers.relay import Relay
from tests.interop.peers.shell import Shell
from tests.interop.peers.traffic import check_bulk, converse, no_bad_checksums, transfer
from tests.interop.peers.vionet import Vionet
from tests.tools import need

ETHERNET_MAX = 1514


def qemu(lab: Lab, path: Path, *, server: bool = False) -> Qemu:
    """A QEMU guest whose network is a stream socket."""
    netdev = f"stream,server={'on' if server else 'off'},addr.type=unix,addr.path={path}"
    guest = Qemu("q", None, lab.folder, mac="52:54:00:00:00:51", netdev=netdev, memory=256)
    lab.stack.callback(guest.kill)
    return guest


def await_state(vionet: Vionet, name: str, state: str) -> None:
    """Wait until a port is attached, or waits."""
    until(lambda: vionet.ports()[name]["state"] == state, 60, f"{name} {state}", 0.1)


@pytest.mark.parametrize("offload", ["full", "off"])
def test_guest_and_qemu(lab: Lab, offload: str) -> None:
    """A guest with every offload and one that knows none: all that leaves is finished and small."""
    path, tapped = lab.folder / "s", lab.folder / "tapped"
    vionet = lab.switch({"a": f"offload={offload}"}, f"b=stream:{path}")
    relay = Relay(tapped, path)
    lab.stack.callback(relay.close)
    guest, other = lab.uml("a"), qemu(lab, tapped)
    lab.boot(guest, other)
    End.read(f"uml offload={offload}").check(guest, vionet.ports()["a"])
    converse(guest, other, size=2_000_000)
    ports = vionet.ports()
    relay.close()
    assert ETHERNET_MAX == max(relay.sizes) == relay.largest
    assert 0 == relay.bad()
    assert 3000 < relay.judged(f"ip.src == {guest.address4} or ipv6.src == {guest.address6}")
    ledger = ports["b"]["ledger"]
    if offload == "full":
        assert 100 < ledger["gso_segmented"] < ledger["segments"]
        assert ledger["segments"] < ledger["csum_filled"]
    else:
        assert (0, 0) == (ledger["gso_segmented"], ledger["csum_filled"])
    # Who reads slowly loses frames on a switch (W70).
    assert {reason for reason, n in ports["b"]["drops"].items() if n} <= {"stream_full"}


def test_wire_and_qemu_that_listens(lab: Lab) -> None:
    """vionet connects; after QEMU died and came back, it connects again."""
    path = lab.folder / "s"
    vionet = lab.wire(lab.guest("a"), f"stream:{path},client")
    guest = lab.uml("a")
    lab.boot(guest)
    for _ in range(2):
        other = qemu(lab, path, server=True)
        lab.boot(other, first=2)
        await_state(vionet, "b", "attached")
        for sender, receiver in ((guest, other), (other, guest)):
            for address in (receiver.address4, receiver.address6):
                transfer(sender, receiver, address, 1_000_000).check()
        no_bad_checksums(guest, other)
        other.kill()
        await_state(vionet, "b", "waiting")
        path.unlink()
    drops = vionet.ports()["b"]["drops"]
    assert "stream_full" not in drops, "a wire waits instead of dropping (W70)"


def passt(lab: Lab, place: Namespace, path: Path, port: int) -> Peer:
    """passt in `place`: the guest reaches its loopback at the gateway, and it the guest."""
    program = need("passt")
    argv = [*place.enter, str(program), "--foreground", "--stderr", "--socket", str(path)]
    argv += ["--tcp-ports", str(port), "--udp-ports", "none", "--runas", "0"]
    child = Peer(argv, lab.folder / "passt.log")
    lab.stack.callback(child.kill)
    child.await_line("You can now start qemu", 60)
    return child


def configure_as_host(guest: Shell, gateway: str) -> None:
    """Give a guest the address that passt expects it to have."""
    guest.run(
        f"ip link set eth0 up && ip addr add 198.51.100.2/24 dev eth0 && "
        f"ip route add default via {gateway}"
    )


@pytest.mark.root
@pytest.mark.parametrize("fabric", ["switch", "wire"])
def test_guest_and_passt(lab: Lab, fabric: str) -> None:
    """A guest talks to servers on the host's loopback, and they to it, by way of passt."""
    gateway, port = "198.51.100.1", 5202
    place, path = lab.namespace("passt"), lab.folder / "p"
    place.run(
        "ip link add v0 type veth peer v1 && ip addr add 198.51.100.2/24 dev v0 && "
        f"ip link set v0 up && ip link set v1 up && ip route add default via {gateway}"
    )
    passt(lab, place, path, port)
    stream = f"stream:{path},client"
    vionet = (
        lab.switch({"a": ""}, f"b={stream}")
        if fabric == "switch"
        else lab.wire(lab.guest("a"), stream)
    )
    guest = lab.uml("a")
    guest.await_boot()
    configure_as_host(guest, gateway)
    await_state(vionet, "b", "attached")
    size = 5_000_000
    serving = place.start_endpoint("tcp-serve 127.0.0.1 5201")
    sent = guest.endpoint(f"tcp-send {gateway} 5201 bytes={size}")
    check_bulk(size, sent, serving.results()[0], repeated=True)
    serving = guest.start_endpoint(f"tcp-serve 198.51.100.2 {port}")
    # passt takes a connection before it knows whether the guest does.
    guest.run(f"until grep -q ':{port:04X} ' /proc/net/tcp ; do usleep 20000 ; done")
    sent = place.endpoint(f"tcp-send 127.0.0.1 {port} bytes={size}")
    check_bulk(size, sent, serving.results()[0])
    no_bad_checksums(guest)
    ledger = vionet.ports()["b"]["ledger"]
    assert 50 < ledger["gso_segmented"], "the guest's large frames were cut up"


def test_second_peer(lab: Lab) -> None:
    """One at a time: the second reads the end."""
    path = lab.folder / "s"
    vionet = lab.switch({}, f"a=stream:{path}", f"b=stream:{lab.folder / 't'}")
    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        first.connect(str(path))
        await_state(vionet, "a", "attached")
        second.settimeout(60)
        second.connect(str(path))
        assert b"" == second.recv(1)
        assert "attached" == vionet.ports()["a"]["state"]
    await_state(vionet, "a", "waiting")
