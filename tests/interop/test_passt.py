"""passt as vionet runs it, at the host side of a local interface; nothing leaves the machine."""

import contextlib
import hashlib
import re
import signal
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface
from pathlib import Path

import pytest

from tests.interop.lab import Lab
from tests.interop.peers.netns import Namespace
from tests.interop.peers.process import Peer, until
from tests.interop.peers.relay import Relay
from tests.interop.peers.traffic import check_bulk, check_datagrams, lasting_to, no_bad_checksums
from tests.interop.peers.uml import Uml
from tests.interop.peers.vionet import Vionet
from tests.interop.test_restart import await_bytes
from tests.tools import need
from tests.unprivileged import UID
from vionet.services.lease import Lease
from vionet.vm.passt import find_passt, passt_command

pytestmark = pytest.mark.root
GATEWAY, SIZE = "100.64.0.2", 3_000_000
RATE = 500_000  # bytes a second
HOST = "198.51.100.2"
LEASE = Lease(
    mac=0x525400000001,
    gateway_mac=0x025400000101,
    address=IPv4Interface("100.64.0.3/31"),
    gateway=IPv4Address(GATEWAY),
    address6=IPv6Interface("fd00:64:0:1::/64"),
)


@pytest.fixture
def place(lab: Lab) -> Iterator[Namespace]:
    """A host with default routes that lead nowhere, and a resolver on its loopback."""
    made = lab.namespace("passt")
    made.run(
        "ip link add v0 type veth peer v1 && ip link set v0 up && ip link set v1 up && "
        f"ip addr add {HOST}/24 dev v0 && ip route add default via 198.51.100.1 && "
        "ip addr add 2001:db8::2/64 dev v0 nodad && ip route add default via 2001:db8::1"
    )
    etc = Path("/etc/netns") / made.name
    etc.mkdir(parents=True)
    (etc / "resolv.conf").write_text("nameserver 127.0.0.53\n")
    yield made
    (etc / "resolv.conf").unlink()
    etc.rmdir()
    with contextlib.suppress(OSError):
        etc.parent.rmdir()


def start_passt(lab: Lab, place: Namespace) -> Path:
    """passt for the lease, run by nobody in particular; its socket."""
    need("passt")
    folder = lab.folder / "passt"
    folder.mkdir()
    subprocess.run(["chown", str(UID), str(folder)], check=True, timeout=10)
    lab.folder.chmod(0o711)
    socket = folder / "a"
    argv = [*place.enter, *passt_command(LEASE, socket, user=UID, program=find_passt())]
    child = Peer(argv, lab.folder / "passt.log")
    lab.stack.callback(child.kill)
    until(lambda: socket.exists() or not child.running, 60, "socket of passt")
    assert child.running, child.tail()
    return socket


def attached(vionet: Vionet) -> None:
    """Wait until the stream has its peer."""
    until(lambda: "attached" == vionet.ports()["b"]["state"], 60, "peer of the stream", 0.1)


def listening(place: Namespace, port: int) -> None:
    """Wait until a server listens: this passt's refusals look like silence to a guest."""
    place.run(f"until grep -q ':{port:04X} .* 0A ' /proc/net/tcp* ; do sleep 0.05 ; done")


def boot(lab: Lab) -> Uml:
    """A guest with the addresses of its lease."""
    guest = lab.uml("a")
    guest.await_boot()
    guest.run(
        "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad ; ip link set eth0 up && "
        f"ip addr add {LEASE.address} dev eth0 && ip route add default via {GATEWAY} && "
        "ip addr add fd00:64:0:1::77/64 dev eth0 && ip route add default via fe80::1 dev eth0 && "
        "until ip -6 addr show dev eth0 scope link | grep -q fe80 ; do usleep 20000 ; done"
    )
    return guest


def test_guest_and_the_host(lab: Lab, place: Namespace) -> None:
    """The guest talks to servers of the host, over both families and both ways in bulk, to the
    host's resolver by way of the gateway, and gets no address from passt."""
    socket = start_passt(lab, place)
    vionet = lab.switch({"a": ""}, f"b=stream:{socket},client")
    guest = boot(lab)
    attached(vionet)
    for host in (HOST, "2001:db8::2"):
        serving = place.start_endpoint(f"tcp-serve {host} 5201")
        listening(place, 5201)
        sent = guest.endpoint(f"tcp-send {host} 5201 bytes={SIZE}")
        check_bulk(SIZE, sent, serving.results()[0], repeated=True)
    known = guest.run("ip neigh show dev eth0")
    for gateway in (GATEWAY, "fe80::1"):
        assert f"{gateway} lladdr 02:54:00:00:01:01" in known

    bulk = hashlib.sha256(b"bulk").digest() * (SIZE // 32)
    (lab.folder / "bulk").write_bytes(bulk)
    place.start(f"busybox httpd -f -p 8080 -h {lab.folder}")
    listening(place, 8080)
    fetched = guest.run(f"busybox wget -q -O - http://{HOST}:8080/bulk | sha256sum", 60)
    assert hashlib.sha256(bulk).hexdigest() == fetched.split()[0]
    asked = f"timeout 3 busybox wget -q -O - http://{GATEWAY}:8080/bulk 2>&1 | wc -c"
    assert "0" in guest.run(asked, 60).split()  # the host's loopback is the host's own

    serving = place.start_endpoint("udp-serve 127.0.0.53 53")
    asked_for = guest.endpoint(f"udp-send {GATEWAY} 53 largest=500", 60)
    check_datagrams(500, asked_for, serving.results()[0])
    client = "busybox udhcpc -i eth0 -n -q -f -t 2 -T 1 -s /bin/true"
    assert "none" in guest.run(f"{client} >/dev/null 2>&1 || echo none")
    assert ["fd00:64:0:1::77"] == re.findall(r"inet6 (fd\S+)/", guest.run("ip addr"))
    no_bad_checksums(guest)
    assert {} == {reason: n for reason, n in vionet.ports()["b"]["drops"].items() if n}


def test_connections_outlive_the_stream(lab: Lab, place: Namespace) -> None:
    """When passt's peer goes and another comes, as when vionet is restarted, passt is still there
    and a transfer under way goes on."""
    socket, tapped = start_passt(lab, place), lab.folder / "tapped"
    relay = Relay(tapped, socket)
    vionet = lab.switch({"a": ""}, f"b=stream:{tapped},client")
    guest = boot(lab)
    attached(vionet)
    serving = place.start_endpoint(f"tcp-serve {HOST} 5201 timeout=90")
    listening(place, 5201)
    moving = lasting_to(serving, guest, HOST, RATE, port=5201, repeated=True)
    await_bytes(vionet, "b", RATE)
    relay.close()
    tapped.unlink()
    until(lambda: "waiting" == vionet.ports()["b"]["state"], 60, "end of the stream", 0.1)
    relay = Relay(tapped, socket)
    attached(vionet)
    await_bytes(vionet, "b", vionet.ports()["b"]["ledger"]["rx_bytes"] + RATE)
    moving.check()
    relay.close()


def test_it_dies_with_who_runs_it(lab: Lab, place: Namespace) -> None:
    """The kernel kills passt, which is another user's and in namespaces of its own, when the
    process that started it dies."""
    need("passt")
    folder = lab.folder / "passt"
    number = folder / "pid"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    lab.folder.chmod(0o711)
    argv = passt_command(LEASE, folder / "a", user=UID, program=find_passt())
    keeper = Peer([*place.enter, "sh", "-c", '"$@" & echo $! >"$0" ; wait', str(number),
                   *argv], lab.folder / "log")  # fmt: skip
    try:
        until(lambda: (folder / "a").exists(), 60, "socket of passt")
        until(lambda: number.exists() and number.read_text().endswith("\n"), 60, "its number")
        status = Path(f"/proc/{number.read_text().strip()}/status")
        assert f"Uid:\t{UID}\t{UID}" in status.read_text()
        # It gives up what it has in its own namespaces a moment after it listens.
        until(lambda: f"CapEff:\t{0:016x}" in status.read_text(), 60, "passt without rights")
        keeper.process.send_signal(signal.SIGKILL)

        def gone() -> bool:
            return not status.exists() or "State:\tZ" in status.read_text()

        until(gone, 60, "end of passt")
    finally:
        keeper.kill()
