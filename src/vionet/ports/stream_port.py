"""A stream on the fabric: complete frames, each behind its length (`ports.stream` has the socket).

How it works: `attach` gives the worker a connected socket, which it then reads and writes alone.
When it finds the session over (the peer closed, an error, a length that no frame has) it stops
using the socket, says why in the record and wakes the control plane, which calls `detach`.

Life cycle: waiting -> attached -> waiting.  What was learnt from a peer is forgotten with it.
"""

import socket
from typing import Final

import numpy as np

from vionet.engine.deliver_stream import LEFT, OUT_LEN
from vionet.engine.status import DROP_REASONS, Accepts, PortKind
from vionet.engine.stream import IN_LEN
from vionet.jit.record import address_of
from vionet.ports.slot import Plugged, PortOptions, Slot
from vionet.spec.virtio_net import VIRTIO_NET_HDR_LEN

SEND_BUFFER: Final = 1 << 20  # bytes, or as many as the kernel allows: several large frames
_PEER_CLOSED: Final = "the peer closed it"


class StreamPort(Plugged):
    """One stream; owns the connected socket."""

    features = offered = 0
    pairs = 1
    warnings = ()

    def __init__(self, slot: Slot, options: PortOptions) -> None:
        self.name = options.name
        self._slot = slot
        self._socket: socket.socket | None = None
        self._received = np.zeros(IN_LEN, np.uint8)  # by the worker, for as long as it may read
        self._unsent = np.zeros(OUT_LEN, np.uint8)
        with slot.hold():
            slot.set_up(PortKind.STREAM, options)
            record = slot.record
            record.header_len = VIRTIO_NET_HDR_LEN  # in front of a head copy, always zeros
            record.accepts = int(Accepts.STREAM)
            record.in_hva = address_of(self._received)
            record.out_hva = address_of(self._unsent)

    @property
    def state(self) -> str:
        """`waiting` for a peer, or `attached`."""
        return "waiting" if self._socket is None else "attached"

    @property
    def ended(self) -> str | None:
        """Why the worker considers the session to be over; None while it goes on."""
        why = int(self._slot.record.ended)
        return None if not why else _PEER_CLOSED if why == LEFT else DROP_REASONS[why]

    def attach(self, connected: socket.socket, send_buffer: int = SEND_BUFFER) -> None:
        """Exchange frames with a peer from now on.  *requires* the state `waiting`."""
        assert self._socket is None
        connected.setblocking(False)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        with self._slot.hold():
            record = self._slot.record
            record.in_off = record.in_len = record.out_off = record.out_len = record.ended = 0
            record.fd = connected.fileno()
            record.readable = record.writable = 1
            self._slot.watch.add_tap(connected.fileno(), self._slot.index)
            record.up = 1
        self._socket = connected

    def detach(self) -> None:
        """Let go of the peer, if there is one, and close its socket."""
        if self._socket is None:
            return
        with self._slot.hold():
            record = self._slot.record
            record.up = record.readable = record.writable = record.ended = 0
            self._slot.watch.remove(self._socket.fileno())
            record.fd = -1
            self._slot.forget()
        self._socket.close()
        self._socket = None

    def change(self, options: PortOptions) -> None:
        """Options that a person changed at run time; no checksum policy matters to a stream."""
        with self._slot.hold():
            self._slot.apply(options)
            self._slot.record.mtu = options.mtu or 0

    def close(self) -> None:
        """Leave the fabric."""
        self.detach()
