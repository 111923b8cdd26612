"""Opening a host's interface: a packet socket that keeps what the kernel knows of a frame.

How it works: AF_PACKET with a virtio-net header in both directions (PACKET_VNET_HDR, set before
the ring, spec AP-01), so that sums stay partial and large frames whole; the kernel and its NIC
finish what leaves.  Frames come in by a mapped ring of slots that hold the largest one.  The ring
is TPACKET_V2: version 3 would fill memory better, but hands over a block that is not full only
after up to a millisecond.  What this host sends itself does not come (PACKET_IGNORE_OUTGOING),
because our own frames would; so guests do not reach the host by its own interface.

Without the header, by choice or because the self-test failed, every frame is finished and segmented
before it leaves (spec AP-09).

The interface is made promiscuous by membership: the kernel takes that back when the socket is
closed, however the process ends.

Invariants: a failed `open_interface` closes what it opened; nothing comes in before the socket is
bound, when all else but the mapping of its ring is done.  Every failure is an `InterfaceError` of
one line.
Trust: the host's kernel and the person who chose the interface.
"""

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from vionet.ports import bpf, link, uplink
from vionet.ports.tap import name_fault
from vionet.ports.uplink import ETH_P_ALL, PACKET_VNET_HDR, SOL_PACKET, Findings, findings_from
from vionet.spec.virtio_net import VIRTIO_NET_HDR_LEN_LEGACY

# linux/if_packet.h
_PACKET_ADD_MEMBERSHIP: Final = 1
_PACKET_RX_RING: Final = 5
_PACKET_VERSION: Final = 10
_PACKET_IGNORE_OUTGOING: Final = 23
_PACKET_MR_PROMISC: Final = 1
_TPACKET_V2: Final = 1
_SO_ATTACH_FILTER: Final = 26
_SO_SNDBUFFORCE: Final = 32
_SEND_LEN: Final = 4 << 20  # of frames on their way to the NIC
# A slot holds 64 KiB, a tag and what the kernel puts in front.  15 of them and one page are 1 MiB,
# which is what the kernel allocates for a block of that size.
SLOT_LEN: Final = 17 * 4096
_BLOCK_SLOTS: Final = 15
_BLOCKS: Final = 17
SLOTS: Final = _BLOCKS * _BLOCK_SLOTS
_RING_LEN: Final = SLOTS * SLOT_LEN
_MAP_FAILED: Final = ctypes.c_void_p(-1).value

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class InterfaceError(Exception):
    """Why an interface cannot be used, and what a person can do about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """An open interface; `close` ends it."""

    fd: int  # a packet socket, non-blocking
    name: str
    header_len: int  # that it wants in front of a frame: 10 or 0
    mtu: int
    findings: Findings
    ring_hva: int  # of `SLOTS` slots of `SLOT_LEN` bytes
    down: bool = False  # it was not set up when it was opened

    def described(self) -> dict[str, Any]:
        """What `interface_from` wants to know beside the socket, to be written as JSON."""
        return {key: value for key, value in asdict(self).items() if key not in ("fd", "ring_hva")}

    def close(self) -> None:
        """Give up the ring and the socket, and with it promiscuous mode."""
        _libc.munmap(self.ring_hva, _RING_LEN)
        os.close(self.fd)

    def filter_destination(self, mac: int) -> None:
        """Have the kernel drop, unread, what is not for `mac`, broadcast or multicast."""
        with bpf.program(bpf.destination_filter(mac)) as program, self._socket() as bound:
            bound.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)

    def _socket(self) -> socket.socket:
        return socket.socket(fileno=os.dup(self.fd))


def open_interface(name: str, *, header: bool = True) -> Interface:
    """Open the interface `name`; `header` False asks nothing of its kernel."""
    fault = name_fault(name)
    if fault:
        raise InterfaceError(f"interface:{name}: {fault}")
    findings = Findings(False, 0)
    try:
        mtu, down = link.mtu(name), not link.link_up(name)
        if header:
            findings = uplink.examine_interface(name)
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    except OSError as error:
        raise InterfaceError(_refused(name, error)) from None
    with made:
        try:
            _set_up(made, name, findings.takes_partial)
            ring_hva = _map_ring(made.fileno())
        except OSError as error:
            raise InterfaceError(_refused(name, error)) from None
        return Interface(
            fd=made.detach(),
            name=name,
            header_len=VIRTIO_NET_HDR_LEN_LEGACY if findings.takes_partial else 0,
            mtu=mtu,
            findings=findings,
            ring_hva=ring_hva,
            down=down,
        )


def interface_from(fd: int, described: Mapping[str, Any]) -> Interface:
    """The interface that another process opened as `described` and whose socket `fd` is now ours;
    in any network namespace."""
    try:
        ring_hva = _map_ring(fd)
    except OSError as error:
        os.close(fd)
        raise InterfaceError(_refused(str(described["name"]), error)) from None
    findings = findings_from(described["findings"])
    return Interface(**{**described, "fd": fd, "ring_hva": ring_hva, "findings": findings})


def _set_up(made: socket.socket, name: str, header: bool) -> None:
    """Everything about the socket, in the order that the kernel wants."""
    made.setblocking(False)
    if header:
        made.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    made.setsockopt(SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    made.setsockopt(SOL_PACKET, _PACKET_VERSION, _TPACKET_V2)
    try:
        made.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_LEN)
    except PermissionError:  # in a user namespace of one's own: as much as everybody may
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_LEN)
    block_len = _BLOCK_SLOTS * SLOT_LEN
    request = struct.pack("=4I", block_len, _BLOCKS, SLOT_LEN, SLOTS)
    made.setsockopt(SOL_PACKET, _PACKET_RX_RING, request)
    member = struct.pack("=iHH8x", socket.if_nametoindex(name), _PACKET_MR_PROMISC, 0)
    made.setsockopt(SOL_PACKET, _PACKET_ADD_MEMBERSHIP, member)
    made.bind((name, ETH_P_ALL))


def _map_ring(fd: int) -> int:
    """The address of the ring, mapped into this process."""
    prot, flags = 3, 0x01  # PROT_READ | PROT_WRITE, MAP_SHARED
    ring_hva = _libc.mmap(None, _RING_LEN, prot, flags, fd, 0)
    if ring_hva is None or ring_hva == _MAP_FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(ring_hva)


def _refused(name: str, error: OSError) -> str:
    if error.errno in (errno.EPERM, errno.EACCES):
        return f"interface:{name}: no permission for packet sockets; run as root (CAP_NET_RAW)"
    if error.errno in (errno.ENODEV, errno.ENXIO):
        return f"interface:{name}: no such interface; `ip link` lists them"
    return f"interface:{name}: {error.strerror or error}; choose another interface"
