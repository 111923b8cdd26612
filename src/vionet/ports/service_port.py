"""Where a fabric reaches the control plane: DHCP, DHCPv6 and router solicitations of its guests.

How it works: for the engine it is a stream, one end of a pair of sockets; whoever answers holds the
other, `end`, and exchanges frames behind their length there as on any stream (`ports.stream`).  It
is delivered what ports that are locked to IP addresses ask (`engine.guard`), which then nobody else
gets, and unicast to addresses that were learnt from its own frames; never what is flooded.  Its own
frames without a known destination reach only ports that are locked to IP addresses.

What it gets is finished: partial sums are filled and large frames segmented, as for any stream.  Up
to `BUFFER` bytes wait each way; what a guest asks beyond is dropped and counted here as
`stream_full`.  A fabric has one at most.

Trust: `end` is the control plane's own.  What comes out of it is not: any guest's bytes.
"""

import socket
from typing import Final

from vionet.ports.slot import PortOptions, Slot
from vionet.ports.stream_port import StreamPort

BUFFER: Final = 1 << 16  # bytes, of which the kernel takes some for itself


class ServicePort(StreamPort):
    """Attached from the first to the last; owns both sockets."""

    def __init__(self, slot: Slot, options: PortOptions) -> None:
        super().__init__(slot, options)
        inner, self.end = socket.socketpair()
        self.end.setblocking(False)
        self.end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        with slot.hold():
            slot.record.service = 1
            self.attach(inner, BUFFER)

    def close(self) -> None:
        """Leave the fabric; `end` is closed with it."""
        super().close()
        self.end.close()
