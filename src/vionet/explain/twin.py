"""A twin of a running fabric: private, never started, with the same ports, deciding the same.

How it works: the status document says what was negotiated at each port and what a person asked of
it.  From that the same classes make the same records (`fabric`, `ports`), and ends of our own stand
where guests, kernels and peers do (`explain.end`).  `play` has one end give a frame, lets the
engine's kernels take one turn on the calling thread, and returns what a capture of all ports has
recorded and what each end received.

Invariants: nothing here knows a rule; whatever is told of a frame comes from the records that the
engine wrote and from the bytes that it delivered.
Where nobody is attached to a guest's port, it is as with a driver that takes all that is offered.

Trust: the document is the daemon's.  Frames may be anybody's: the engine judges them as ever.
"""

import socket
import time
from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from types import SimpleNamespace
from typing import Any, Final, NamedTuple, Self, get_type_hints

import numpy as np

from vionet.config import PortConfig
from vionet.config.option import RESERVED_USUAL, mac, reserved, trunk
from vionet.config.port import Kind
from vionet.engine.fdb import note
from vionet.engine.kick import take_events
from vionet.engine.layout import FRAME_MAX, Frame, Port, Seen
from vionet.engine.status import FabricKind, Policy
from vionet.engine.vlan import VLAN_SHIFT
from vionet.engine.worker import enlist, read_clock, serve
from vionet.explain.end import Delivered, End, GuestEnd, InterfaceEnd, StreamEnd, TapEnd
from vionet.explain.record import Records
from vionet.fabric import Fabric
from vionet.ports.offload import GUEST_OFFLOADS
from vionet.spec import virtio
from vionet.spec.virtio_net import NetHeader

RING_LEN: Final = 1 << 20  # of records; a frame makes as many as it has receivers
_TURNS: Final = 4  # of the worker; a frame needs one
_ALWAYS_SPLIT: Final = ~(1 << virtio.VIRTIO_F_RING_PACKED)


class Played(NamedTuple):
    """What became of one frame."""

    records: Sequence[SimpleNamespace]  # `explain.record`, in the order of the engine
    received: Mapping[str, Sequence[Delivered]]  # by port
    needs_gso: int  # GSO_* bits that a receiver needs to take it whole


def word(names: Sequence[str]) -> int:
    """The feature word with these names in the status document."""
    return virtio.mask(virtio.BITS[name] for name in names if name in virtio.BITS)


def negotiated(port: Mapping[str, Any]) -> int:
    """What is in use at a port; where nobody is attached, what is offered."""
    return word(port["features"] or port["offered"])


def options_of(port: Mapping[str, Any]) -> PortConfig:
    """A port of the status document as a person would have asked for it."""
    kind, features = Kind(port["kind"]), negotiated(port)
    if kind is Kind.GUEST:
        features = word(port["offered"])
        if port["features"]:  # what the driver has switched off at run time
            features &= ~(GUEST_OFFLOADS & ~word(port.get("offloads", port["features"])))
    ip, keep_off, reach = (
        tuple(map(ip_network, port.get(key, ()))) for key in ("ip", "keep_off", "reach")
    )
    return PortConfig(
        name=port["name"], kind=kind, where="", features=features,
        mac=mac(port["mac"]) if port["mac"] else None,
        locked=port["locked"], isolated=port["isolated"],
        policy=Policy[port["policy"].upper()], mtu=port.get("mtu"), vlan=port["vlan"],
        trunk=None if port["trunk"] is None else trunk(port["trunk"]),
        link_up=port["link"] == "up", ip=ip, keep_off=keep_off, reach=reach,
    )  # fmt: skip


class Twin(Fabric):
    """The private fabric; `close` gives all of it back."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        """Like the running one that the status document's part describes."""
        super().__init__(FabricKind[document["kind"].upper()], document["name"])
        self.ends: dict[str, End] = {}
        self.index: dict[str, int] = {}
        self.set_reserved(document.get("reserved", reserved(RESERVED_USUAL)))
        for port in document["ports"]:
            self._plug_in(port, options_of(port))
        ring = self.add_capture(
            self.ports, snap_len=FRAME_MAX, whole=True, code=b"", ring_len=RING_LEN
        )
        self._records = Records(ring.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it."""
        super().close()
        for end in self.ends.values():
            end.close()

    def _plug_in(self, port: Mapping[str, Any], options: PortConfig) -> None:
        name = options.name
        end: End
        if options.kind is Kind.GUEST:
            guest = self.add_guest(options)
            end = GuestEnd(guest, negotiated(port) & _ALWAYS_SPLIT, options.mtu)
            if options.mtu:
                guest.set_mtu(options.mtu)
        elif options.kind is Kind.TAP:
            self.add_tap(options, (tap := TapEnd(options.mtu)).held)
            end = tap
        elif options.kind is Kind.INTERFACE:
            self.add_interface(options, (interface := InterfaceEnd(options.mtu)).held)
            end = interface
        elif options.kind is Kind.STREAM:
            peer, held = socket.socketpair()
            self.add_stream(options).attach(held)
            end = StreamEnd(peer)
        else:
            end = StreamEnd(self.add_service(options).end)
        self.ends[name] = end
        self.index[name] = next(i for i, one in self._at.items() if one.name == name)

    def name_of(self, serial: int) -> str:
        """The port that has this serial number here."""
        return next(name for name in self.ends if self.record(name).serial == serial)

    def record(self, name: str) -> Port:
        """A port's part of the state, to be read."""
        return self._state.ports[self.index[name]]

    @property
    def frame(self) -> Frame:
        """What the engine found out of the frame that it had in hand last."""
        return self._works[0].frame[0]

    def teach(self, name: str, address: int, vid: int = 0) -> None:
        """The switch knows that `address` is behind a port."""
        note(self._state, address | vid << VLAN_SHIFT, self.index[name], time.monotonic_ns())

    def play(self, sender: str, data: bytes, header: NetHeader) -> Played:
        """Have the end of `sender` give a frame, and see it through."""
        for end in self.ends.values():
            end.taken()
        self._records.drain()
        self.ends[sender].give(data, header)
        self.record(sender).readable = 1  # of a kernel or a stream
        state, work = self._state, self._works[0]
        self.frame.gso = 0
        before = work.drops.copy()
        read_clock(work)
        enlist(state, work)
        for _ in range(_TURNS):
            take_events(state, work, 0)
            serve(state, work)
        received = {name: end.taken() for name, end in self.ends.items()}
        records = self._records.drain() or [
            _untaken(int(drop)) for drop in np.argwhere(work.drops - before)[:, 1]
        ]
        return Played(records, received, int(self.frame.gso))


def _untaken(drop: int) -> SimpleNamespace:
    """Instead of a record, of a frame that was dropped before its bytes were looked at."""
    fields: dict[str, Any] = dict.fromkeys(get_type_hints(Seen), 0)
    return SimpleNamespace(**fields | {"drop": drop, "accepts": -1, "action": -1, "data": b""})
