"""Network namespaces of the host's kernel: another real TCP/IP stack, and the far end of a wire.

How it works: `Namespace` is a Shell in a new network namespace.  `uplink` builds what leaves a
machine: the tap joins a bridge in the first namespace, a veth leads to the second one; with
`tx off tso off gso off` near and `gro off` far the frames there are those of a real wire.

Invariants: names carry the process id of the test; everything is deleted with the namespace.
"""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.interop.peers.process import Peer, PeerError, call, until
from tests.interop.peers.shell import Shell
from tests.tools import need
from vionet.bench.guest.shell import Job

LAST = b"the last frame of a capture"
LAST_OUT = f"""
import socket, sys
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as packets:
    packets.bind((sys.argv[1], 0))
    packets.send(bytes.fromhex("0180c2000001 020000000001 88b5") + {LAST!r})
"""
TAP = f"viotap{os.getpid()}"  # in the namespace of the tests, before it is taken to another
BUFFER = 64  # MiB of a capture: on a busy machine nobody reads it for a while
_numbers = itertools.count(1)


@dataclass(frozen=True)
class ChildJob(Job):
    """A background command in a namespace."""

    child: Peer

    def result(self, timeout: float = 90) -> str:
        """Wait for the end (see `Job.result`)."""
        status = self.child.wait(timeout)
        if status:
            raise PeerError(f"{self.child.argv}: status {status}: {self.child.tail()}")
        return self.child.output()

    def await_output(self, text: str, timeout: float = 60) -> None:
        """Wait until it has printed `text` (see `Job.await_output`)."""
        self.child.await_line(text, timeout)


class Namespace(Shell):
    """A network namespace, with its loopback up."""

    def __init__(self, label: str, folder: Path) -> None:
        """Make the namespace; `delete` ends what runs in it and removes it."""
        need("ip")
        need("ethtool")
        self.name = f"vionet-{label}-{os.getpid()}-{next(_numbers)}"
        self.folder = folder
        self._jobs: list[Peer] = []
        call("ip", "netns", "add", self.name)
        self.run("ip link set lo up")

    @property
    def enter(self) -> list[str]:
        """The words before a command line that runs it here."""
        return ["ip", "netns", "exec", self.name]

    def run(self, command: str, timeout: float = 60) -> str:
        """Run `command` (see `Shell.run`)."""
        done = subprocess.run(
            [*self.enter, "sh", "-c", command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode:
            raise PeerError(f"{self.name}: {command}: status {done.returncode}: {done.stdout}")
        return done.stdout

    def start(self, command: str) -> ChildJob:
        """Start `command` (see `Shell.start`)."""
        log = self.folder / f"{self.name}-job{len(self._jobs)}.log"
        argv = [*self.enter, "sh", "-c", f"exec {command}"]
        self._jobs.append(Peer(argv, log))
        return ChildJob(self._jobs[-1])

    def take(self, interface: str) -> None:
        """Move `interface` of the test's own namespace here; it becomes `self.interface`."""
        call("ip", "link", "set", interface, "netns", self.name)
        self.interface = interface

    def await_link(self, *interfaces: str) -> None:
        """Wait until they have a link: the kernel says so a moment after both ends are up, and
        drops what is sent before."""
        for name in interfaces:
            self.run(f"until ip -o link show {name} | grep -q 'state UP' ; do sleep 0.02 ; done")

    def delete(self) -> None:
        """Kill what still runs here and remove the namespace with its interfaces."""
        for child in self._jobs:
            child.kill()
        call("ip", "netns", "delete", self.name, check=False)


@contextlib.contextmanager
def namespace(label: str, folder: Path) -> Iterator[Namespace]:
    """A namespace for the length of a `with` block."""
    made = Namespace(label, folder)
    try:
        yield made
    finally:
        made.delete()


def join(near: Namespace, tap: str, far: Namespace) -> None:
    """Lead `tap` from `near` over a bridge and a veth to `far`, where nothing is offloaded."""
    near.take(tap)
    near.run(
        f"ip link add vnear type veth peer name vfar netns {far.name} && "
        "ip link add bridge0 type bridge && ip link set bridge0 type bridge mcast_snooping 0 && "
        f"ip link set {tap} master bridge0 && ip link set vnear master bridge0 && "
        "echo 1 >/proc/sys/net/ipv6/conf/bridge0/disable_ipv6 && "
        f"ethtool -K vnear tx off tso off gso off && ip link set {tap} up && "
        "ip link set vnear up && ip link set bridge0 up"
    )
    far.run("ethtool -K vfar gro off")
    far.interface = "vfar"


class Recording:
    """A capture file, every checksum in it judged by tshark."""

    CHECKS = tuple(
        argument
        for protocol in ("ip", "tcp", "udp")
        for argument in ("-o", f"{protocol}.check_checksum:TRUE")
    )

    def __init__(self, file: Path) -> None:
        """Judge `file`, once it is complete."""
        need("tshark")
        self.file = file

    def count(self, display_filter: str) -> int:
        """How many captured frames match."""
        argv = ["tshark", "-r", str(self.file), *self.CHECKS, "-Y", display_filter]
        return len(call(*argv, "-T", "fields", "-e", "frame.number", timeout=120).splitlines())

    def bad(self, among: str = "frame") -> int:
        """How many captured frames `among` those have a bad IPv4, TCP or UDP checksum."""
        return self.count(
            f'({among}) and (ip.checksum.status == "Bad" or tcp.checksum.status == "Bad" or '
            'udp.checksum.status == "Bad")'
        )

    def judged(self, among: str = "frame") -> int:
        """How many captured frames `among` those have a TCP or UDP checksum that was found good."""
        good = 'tcp.checksum.status == "Good" or udp.checksum.status == "Good"'
        return self.count(f"({among}) and ({good})")


class Capture(Recording):
    """tshark on an interface, judging every checksum when it ends."""

    def __init__(self, place: Namespace, interface: str, folder: Path) -> None:
        """Start capturing and wait until the capture runs."""
        folder.mkdir(exist_ok=True)
        self.place, self.interface = place, interface
        super().__init__(folder / f"{place.name}-{interface}.pcapng")
        argv = [*place.enter, "tshark", "-q", "-i", interface, "-s", "0", "-B", str(BUFFER)]
        self.child = Peer([*argv, "-w", str(self.file)], self.file.with_suffix(".log"))
        self.child.await_line("Capturing on", 60)
        # tshark says so a little before dumpcap has its socket: dumpcap's own line is the event.
        self.child.await_line("Capture started", 60)

    def stop(self) -> None:
        """End the capture; all that came before this call is then in the file.

        A capture that is told to end leaves what it has not read yet: so a last frame goes out,
        one that no bridge forwards, and is waited for.
        """
        argv = [*self.place.enter, sys.executable, "-ISc", LAST_OUT, self.interface]
        call(*argv)
        until(lambda: LAST in self.file.read_bytes(), 60, f"end of {self.file.name}", 0.05)
        self.child.process.send_signal(signal.SIGINT)
        self.child.wait(60)
