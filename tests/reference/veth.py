"""An interface for the engine: one end of a veth in the test's own namespace, the kernel at the
other end seen through a plain packet socket.

`give` is a frame that the kernel's end sends, `taken` what arrived there, each with the checksum
and segmentation fields that the kernel keeps with it.
"""

import select
import socket
import subprocess
import time
from dataclasses import replace

from tests.reference.network import Network
from tests.reference.plug import CSUM, GUEST_CSUM, GUEST_GSO, HOST_GSO, PLAIN, Options, slot
from vionet.engine.interface import from_interface
from vionet.engine.layout import Port
from vionet.ports.interface import open_interface
from vionet.ports.interface_port import InterfacePort
from vionet.spec.virtio_net import NetHeader

EVERYTHING = CSUM | GUEST_CSUM | HOST_GSO | GUEST_GSO
NEAR, FAR = "wnear", "wfar"
HEADER_LEN = 10
PACKET_OUTGOING = 4


def call(command: str) -> str:
    """Run a shell's command line in the thread's namespace."""
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def make_veth(mtu: int = 1500) -> None:
    """A pair of veths, up, on which nobody but the test speaks."""
    call("echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6")
    call(f"ip link add {NEAR} mtu {mtu} type veth peer name {FAR} mtu {mtu}")
    for name in (NEAR, FAR):
        call(f"ip link set {name} up")
    ready()


def ready() -> None:
    """Wait until both ends have a link: the kernel says so a moment after they are up, and drops
    what is sent before."""
    for name in (NEAR, FAR):
        deadline_s = time.monotonic() + 60
        while "state UP" not in call(f"ip -o link show {name}"):
            assert time.monotonic() < deadline_s, f"{name} has no link after a minute"


class VethInterface:
    """The kernel's end, and the port."""

    def __init__(
        self, network: Network, features: int, options: Options, *, header: bool = True
    ) -> None:
        """Plug the near end of a veth into `network`."""
        self.network = network
        self.state = network.state
        self.index = network._next_index()
        network.taps.append(self)  # type: ignore[arg-type]
        self.kernel = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.kernel.setsockopt(263, 15, 1)  # PACKET_VNET_HDR
        self.kernel.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
        interface = open_interface(NEAR, header=header)  # its self-test is over after this
        self.kernel.bind((FAR, 3))
        chosen = replace(options, features=features)
        self.port = InterfacePort(slot(network, self.index), chosen, interface)

    @property
    def record(self) -> Port:
        """The port's record."""
        return self.state.ports[self.index]

    @property
    def ledger(self) -> dict[str, int]:
        """Counters that are not 0."""
        return {key: n for key, n in self.port.ledger().items() if n}

    @property
    def drops(self) -> dict[str, int]:
        """Drop reasons that were counted."""
        return {key: n for key, n in self.port.drops().items() if n}

    def give(self, frame: bytes, header: NetHeader = PLAIN) -> None:
        """The kernel has a frame for us."""
        self.kernel.send(header.pack(HEADER_LEN) + frame)
        self.record.readable = 1

    def taken(self) -> list[tuple[NetHeader, bytes]]:
        """What arrived at the kernel's end since the last call."""
        found: list[tuple[NetHeader, bytes]] = []
        while select.select([self.kernel], [], [], 0)[0]:
            data, where = self.kernel.recvfrom(1 << 17)
            if where[2] != PACKET_OUTGOING:
                found.append((NetHeader.unpack(data[:HEADER_LEN]), data[HEADER_LEN:]))
        return found

    def run(self) -> int:
        """One burst from the interface.  *returns* the frames taken."""
        work = self.network.work
        return self.network.watched(lambda: from_interface(self.state, work, self.index))

    def close(self) -> None:
        """Close both ends."""
        self.port.close()
        self.kernel.close()
