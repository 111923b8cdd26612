"""The host's kernel as a segmenter: what its own GSO makes of a large frame.

How it works: in a network namespace of the calling thread a tap and a veth are on one bridge; the
near end of the veth can do nothing (`ethtool -K near tx off tso off gso off`), so that the kernel
cuts and finishes in software, and a packet socket at the far end sees the frames of a real wire.
`cut` writes a frame with its virtio-net header to the tap.  `datagrams` sends from a UDP socket
with UDP_SEGMENT instead.  A marker that follows on the same way says that all has arrived.

Invariants: the thread stays on one processor, so that the kernel keeps the order of frames; only
frames from the addresses of the tests are looked at.
"""

import ctypes
import fcntl
import os
import re
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.interop.peers.process import call, until
from tests.reference.frame import MACS
from tests.tools import need, need_root
from vionet.spec.virtio_net import NetHeader

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
TUNSETVNETHDRSZ = 0x400454D8
TAP_FLAGS = 0x5002  # IFF_TAP, IFF_NO_PI, IFF_VNET_HDR
ETH_P_ALL = 3
SOL_PACKET, PACKET_AUXDATA = 263, 8
TP_STATUS_VLAN_VALID, TP_STATUS_VLAN_TPID_VALID = 0x10, 0x40
AUXDATA = struct.Struct("IIIHHHH")
SO_RCVBUFFORCE = 33
UDP_SEGMENT = 103
MARKER = MACS[1] + MACS[0] + b"\x88\xb5" + bytes(50)
TIMEOUT = 60.0
NEAR4, FAR4 = "192.0.2.1", "192.0.2.2"
NEAR6, FAR6 = "2001:db8::1", "2001:db8::2"


@contextmanager
def own_namespace() -> Iterator[None]:
    """A network namespace for this thread, on one processor; it dies with its last user."""
    need_root()
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    processors = os.sched_getaffinity(0)
    try:
        assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        os.sched_setaffinity(0, {max(processors)})
        yield
    finally:
        assert libc.setns(home, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        os.sched_setaffinity(0, processors)
        os.close(home)


def veth(near: str, far: str) -> None:
    """A pair of interfaces; what leaves `near` is finished and small."""
    need("ip")
    need("ethtool")
    call("ip", "link", "add", near, "type", "veth", "peer", "name", far)
    call("ethtool", "-K", near, "tx", "off", "tso", "off", "gso", "off")
    call("ethtool", "-K", far, "gro", "off")
    for name in (near, far):
        call("sh", "-c", f"echo 1 >/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
        call("ip", "link", "set", name, "mtu", "9000", "up")
    await_link(near, far)


def await_link(near: str, far: str) -> None:
    """Wait until the kernel sends by a pair: that is a moment after both ends are up."""

    def linked() -> bool:
        shown = call("ip", "-o", "link", "show")
        return all(re.search(rf" {name}@.* state UP ", shown) for name in (near, far))

    until(linked, TIMEOUT, f"a link of {near}")


class Wire:
    """A packet socket at the far end."""

    def __init__(self, interface: str) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 26)
        self.socket.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        self.socket.bind((interface, ETH_P_ALL))
        self.socket.setblocking(False)

    def frame(self) -> bytes:
        """The next frame from one of the tests, a tag that the kernel took out put back."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self.socket], [], [], max(0.0, left))
            assert ready, "the frames of the kernel did not come"
            data, extra, _, address = self.socket.recvmsg(1 << 17, 256)
            if address[2] == socket.PACKET_OUTGOING or data[6:12] not in MACS:
                continue
            for level, kind, value in extra:
                if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
                    status, _, _, _, _, tci, tpid = AUXDATA.unpack(value[: AUXDATA.size])
                    if status & TP_STATUS_VLAN_VALID:
                        known = tpid if status & TP_STATUS_VLAN_TPID_VALID else 0x8100
                        data = data[:12] + struct.pack(">HH", known, tci) + data[12:]
            return data

    def until_marker(self, marker: bytes = MARKER) -> list[bytes]:
        """All frames before the marker."""
        found = []
        while (data := self.frame()) != marker:
            found.append(data)
        return found

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()


def beyond(tap: str, label: str) -> Wire:
    """Lead `tap` over a bridge and a veth, all named by `label`, to where a real wire would be."""
    near, far, bridge = f"{label}n", f"{label}f", f"{label}b"
    veth(near, far)
    call("ip", "link", "add", bridge, "type", "bridge", "mcast_snooping", "0")
    for name in (bridge, tap):
        call("sh", "-c", f"echo 1 >/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
    for name in (tap, near):
        call("ip", "link", "set", name, "master", bridge)
    for name in (tap, bridge):
        call("ip", "link", "set", name, "mtu", "9000", "up")
    return Wire(far)


class KernelSegmenter:
    """Tap, bridge, veth and capture, in the namespace that the thread is in."""

    def __init__(self) -> None:
        self.tap_fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(self.tap_fd, TUNSETIFF, struct.pack("16sH22x", b"gcut0", TAP_FLAGS))
        fcntl.ioctl(self.tap_fd, TUNSETVNETHDRSZ, struct.pack("i", 12))
        self.wire = beyond("gcut0", "gcut")
        self._settle()

    def _settle(self) -> None:
        """Wait until the bridge forwards."""
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            os.write(self.tap_fd, NetHeader().pack() + MARKER)
            ready, _, _ = select.select([self.wire.socket], [], [], 0.05)
            if ready and self.wire.frame() == MARKER:
                assert [] == self.cut(MARKER[:-1] + b"\1", NetHeader())[:-1]
                return
        raise AssertionError("the bridge does not forward")

    def cut(self, data: bytes, header: NetHeader) -> list[bytes]:
        """What comes out at the far end for one frame."""
        os.write(self.tap_fd, header.pack() + data)
        os.write(self.tap_fd, NetHeader().pack() + MARKER)
        return self.wire.until_marker()

    def close(self) -> None:
        """Close tap and capture."""
        self.wire.close()
        os.close(self.tap_fd)


class KernelSender:
    """A veth whose near end has addresses: the kernel's own UDP sockets, and what they send."""

    def __init__(self) -> None:
        veth("gudp0", "gudp1")
        call("sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/gudp0/disable_ipv6")
        call("sh", "-c", "echo 0 >/proc/sys/net/ipv6/auto_flowlabels")
        call("ip", "link", "set", "gudp0", "address", MACS[0].hex(":"))
        call("ip", "address", "add", f"{NEAR4}/24", "dev", "gudp0")
        call("ip", "-6", "address", "add", f"{NEAR6}/64", "dev", "gudp0", "nodad")
        for address in (FAR4, FAR6):
            call("ip", "neighbour", "add", address, "lladdr", MACS[1].hex(":"), "dev", "gudp0")
        self.wire = Wire("gudp1")
        self.marker = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self.marker.bind(("gudp0", 0))

    def datagrams(self, version: int, payload: bytes, size: int) -> list[bytes]:
        """The frames of one `send` with UDP_SEGMENT."""
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.SOL_UDP, UDP_SEGMENT, size)
            sender.connect((FAR4 if version == 4 else FAR6, 4001))
            sender.send(payload)
        self.marker.send(MARKER)
        found = self.wire.until_marker()
        return [one for one in found if one[12:14] == (b"\x08\0" if version == 4 else b"\x86\xdd")
                and one[23 if version == 4 else 20] == 17]  # fmt: skip

    def close(self) -> None:
        """Close the sockets."""
        self.wire.close()
        self.marker.close()
