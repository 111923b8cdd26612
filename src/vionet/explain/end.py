"""Who stands at the other end of a twin's port: a driver, a kernel, a peer of a stream.

How it works: each end gives its port one frame as the live port's other end would, and says what
its port has delivered, with the virtio-net header where there is one.  A guest's end is the
tester's driver rings over memory of this process; a tap's and a stream's is the other end of a pair
of sockets; an interface's is a receive ring in private memory and such a pair.

Invariants: nothing outside this process is touched, and no kernel's network is.
"""

import ctypes
import mmap
import socket
import struct
from collections.abc import Sequence
from typing import Final, Protocol

from vionet.check.ring import Ring as DriverRing
from vionet.check.ring import split_at
from vionet.engine.interface import TP_STATUS_USER, TPACKET2_HDR_LEN
from vionet.ports.guest import GuestPort
from vionet.ports.interface import SLOT_LEN, SLOTS, Interface
from vionet.ports.tap import Tap
from vionet.ports.uplink import Findings
from vionet.spec import virtio_net as net
from vionet.spec.packet import ETH_HLEN, VLAN_HLEN
from vionet.spec.virtio_net import RECEIVEQ1, TRANSMITQ1, NetHeader
from vionet.vhost_user.guest_memory import GuestMemory
from vionet.vhost_user.memory import MappedRegion
from vionet.vhost_user.ring import Ring

Delivered = tuple[NetHeader, bytes]
_ENTRIES: Final = 256
_MEMORY: Final = 8 << 20
_MERGED_LEN: Final = 2048  # of a buffer with MRG_RXBUF
_LARGE: Final = (4096,) * 17  # of one without, where large frames were agreed to (spec RB-01)
_MTU: Final = 1500
_RECORD_MAX: Final = 1 << 17
_NO_HEADER: Final = NetHeader()


class End(Protocol):
    """One of them."""

    def give(self, data: bytes, header: NetHeader) -> None:
        """Have the port find this frame."""

    def taken(self) -> list[Delivered]:
        """What was delivered since the last call."""

    def close(self) -> None:
        """Give everything back; the port's own end is the fabric's."""


class GuestEnd:
    """A driver that agreed to `features`, as Linux posts its buffers."""

    def __init__(self, port: GuestPort, features: int, mtu: int | None) -> None:
        self._memory = GuestMemory((_MEMORY,))
        self._rx, self._tx = (DriverRing(self._memory, _ENTRIES) for _ in range(2))
        self._header_len = net.header_len(features)
        self._merges = bool(features >> net.VIRTIO_NET_F_MRG_RXBUF & 1)
        self._posted: dict[int, int] = {}  # head -> gpa
        self._shape = self._shape_of(features, mtu or _MTU)
        self._sent = self._memory.allocate(_RECORD_MAX)  # the frame that was given last
        for _ in range(_ENTRIES // len(self._shape)):
            self._post(self._memory.allocate(sum(self._shape)))
        self._rx.publish()
        (region,) = self._memory.regions
        mapped = MappedRegion(region.gpa, region.size, region.uva, region.hva, 0, 0, 0)
        port.opened()
        port.set_features(features)
        port.set_memory([mapped])
        for index, ring in ((RECEIVEQ1, self._rx), (TRANSMITQ1, self._tx)):
            desc, avail, used = map(
                self._memory.hva, (ring.desc_gpa, ring.avail_gpa, ring.used_gpa)
            )
            port.set_ring(index, Ring(
                size=_ENTRIES, desc_hva=desc, avail_hva=avail, used_hva=used,
                polled=True, enabled=True,
            ))  # fmt: skip

    def _shape_of(self, features: int, mtu: int) -> Sequence[int]:
        if self._merges:
            return (_MERGED_LEN,)
        takes_large = features & sum(1 << bit for bit in (7, 8, 10, 54, 55))
        return _LARGE if takes_large else (self._header_len + ETH_HLEN + VLAN_HLEN + mtu,)

    def _post(self, gpa: int) -> None:
        head = self._rx.chain(split_at(gpa, self._shape, is_writable=True))
        self._posted[head] = gpa
        self._rx.expose(head)

    def give(self, data: bytes, header: NetHeader) -> None:
        """One descriptor for the header and one for the frame, as Linux may do."""
        raw = header.pack(self._header_len)
        self._tx.take()
        self._memory.write(self._sent, raw + data)
        self._tx.expose(self._tx.chain(split_at(self._sent, (len(raw), len(data)))))
        self._tx.publish()

    def taken(self) -> list[Delivered]:
        """Each frame with all its buffers."""
        found: list[Delivered] = []
        missing, size = 0, sum(self._shape)
        for used in self._rx.take():
            gpa = self._posted.pop(used.head)
            data = self._memory.read(gpa, min(used.length, size))
            self._post(gpa)
            if missing:
                header, frame = found.pop()
                found.append((header, frame + data))
                missing -= 1
                continue
            header = NetHeader.unpack(data[: self._header_len])
            found.append((header, data[self._header_len :]))
            missing = header.num_buffers - 1 if self._merges else 0
        self._rx.publish()
        return found

    def close(self) -> None:
        """Release the memory."""
        self._memory.close()


class _TwinTap(Tap):
    """A tap whose kernel does as it is told."""

    def give(self, *, partial: bool, gso: int) -> int:
        """All that is asked for."""
        return gso if partial else 0


class _TwinInterface(Interface):
    """An interface whose ring is not its own."""

    def close(self) -> None:
        """Close the socket."""
        socket.close(self.fd)


class _KernelEnd:
    """The host's kernel, at the other end of a pair of sockets."""

    def __init__(self, header_len: int, mtu: int | None) -> None:
        self._header_len, self._mtu = header_len, mtu or _MTU
        self._kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for one in (self._kernel, ours):
            one.setblocking(False)
        self._fd = ours.detach()

    def taken(self) -> list[Delivered]:
        """What was written to the port."""
        return [
            (NetHeader.unpack(data[: self._header_len]), data[self._header_len :])
            for data in _messages(self._kernel)
        ]

    def close(self) -> None:
        """Close the kernel's side; a ring goes with the last view of it."""
        self._kernel.close()


class TapEnd(_KernelEnd):
    """Behind a tap."""

    def __init__(self, mtu: int | None) -> None:
        super().__init__(net.VIRTIO_NET_HDR_LEN, mtu)
        length = self._header_len
        self.held = _TwinTap(
            fd=self._fd, name="tap", header_len=length, mtu=self._mtu, findings=Findings(),
            made=True, old_header_len=length,
        )  # fmt: skip

    def give(self, data: bytes, header: NetHeader) -> None:
        """The kernel sends a frame."""
        self._kernel.send(header.pack() + data)


class InterfaceEnd(_KernelEnd):
    """Behind a packet socket, whose receive ring is private memory."""

    def __init__(self, mtu: int | None) -> None:
        super().__init__(net.VIRTIO_NET_HDR_LEN_LEGACY, mtu)
        self._slots = mmap.mmap(-1, SLOTS * SLOT_LEN)  # as much is touched as is written
        self._anchor = ctypes.c_char.from_buffer(self._slots)
        self._next = 0
        self.held = _TwinInterface(
            fd=self._fd, name="interface", header_len=self._header_len, mtu=self._mtu,
            findings=Findings(), ring_hva=ctypes.addressof(self._anchor),
        )  # fmt: skip

    def give(self, data: bytes, header: NetHeader) -> None:
        """The kernel fills the next slot (struct tpacket2_hdr)."""
        raw = header.pack(self._header_len)
        mac = TPACKET2_HDR_LEN + len(raw)
        at = self._next * SLOT_LEN
        slot = struct.pack("<4I2H", TP_STATUS_USER, len(data), len(data), mac, mac, 0)
        self._slots[at : at + mac + len(data)] = slot.ljust(TPACKET2_HDR_LEN, b"\0") + raw + data
        self._next = (self._next + 1) % SLOTS


class StreamEnd:
    """The peer of a stream, or the service of a fabric: frames behind their length."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer
        self._peer.setblocking(False)
        self._peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _RECORD_MAX)

    def give(self, data: bytes, header: NetHeader) -> None:
        """The peer sends a frame; no header comes with it."""
        self._peer.sendall(struct.pack("!I", len(data)) + data)

    def taken(self) -> list[Delivered]:
        """Whole frames that have come."""
        found: list[Delivered] = []
        data = b"".join(_messages(self._peer))
        while len(data) >= 4 and len(data) >= 4 + (length := struct.unpack_from("!I", data)[0]):
            found.append((_NO_HEADER, data[4 : 4 + length]))
            data = data[4 + length :]
        return found

    def close(self) -> None:
        """Hang up."""
        self._peer.close()


def _messages(peer: socket.socket) -> list[bytes]:
    """All that can be read."""
    found: list[bytes] = []
    while True:
        try:
            data = peer.recv(_RECORD_MAX)
        except BlockingIOError:
            return found
        if not data:
            return found
        found.append(data)
