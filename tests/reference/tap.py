"""A tap for the engine without a kernel's network: one end of a pair of packet sockets.

What stands in for the kernel is the other end: `give` is a frame that the kernel sends, `taken`
what was written to it.  The engine reads and writes with the same calls as on a tap.
"""

import socket
from dataclasses import replace

from tests.reference.plug import CSUM, GUEST_CSUM, PLAIN, Ground, Options, slot
from vionet.engine.layout import Port
from vionet.engine.status import GSO_ALL
from vionet.ports.tap import Tap
from vionet.ports.tap_port import TapPort
from vionet.ports.uplink import Findings
from vionet.spec.virtio_net import VIRTIO_NET_HDR_LEN, NetHeader


class PairTap(Tap):
    """A tap without TUNSETOFFLOAD."""

    def give(self, *, partial: bool, gso: int) -> int:
        """All that is asked for."""
        return gso if partial else 0


class SocketTap:
    """The kernel's side, and the port."""

    def __init__(
        self,
        ground: Ground,
        index: int,
        takes_partial: bool,
        options: Options,
        features: int = CSUM | GUEST_CSUM,
    ) -> None:
        self.state = ground.state
        self.index = index
        self.kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.kernel.setblocking(False)
        ours.setblocking(False)
        tap = PairTap(
            fd=ours.detach(),
            name="tap",
            header_len=VIRTIO_NET_HDR_LEN,
            mtu=options.mtu or 1500,
            findings=Findings(takes_partial, GSO_ALL, True, GSO_ALL),
            made=True,
            old_header_len=VIRTIO_NET_HDR_LEN,
        )
        self.port = TapPort(slot(ground, index), replace(options, features=features), tap)

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
        self.kernel.send(header.pack() + frame)
        self.record.readable = 1

    def taken(self) -> list[tuple[NetHeader, bytes]]:
        """What was written to the kernel since the last call."""
        found: list[tuple[NetHeader, bytes]] = []
        while True:
            try:
                data = self.kernel.recv(1 << 17)
            except BlockingIOError:
                return found
            assert data[VIRTIO_NET_HDR_LEN - 2 : VIRTIO_NET_HDR_LEN] in (b"\0\0", b"\1\0")
            found.append((NetHeader.unpack(data[:12]), data[12:]))

    def close(self) -> None:
        """Close both ends."""
        self.port.close()
        self.kernel.close()
