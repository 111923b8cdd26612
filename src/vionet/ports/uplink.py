"""The self-test of an uplink: what a kernel makes of partial and large frames, seen and compared.

How it works: at start-up the frames of `ports.probe` go through a tap both ways: written to the tap
they must come out of a packet socket that is bound to it, and sent there they must be read from the
tap, with the same bytes and the same checksum and segmentation fields.  Where no frame at all
arrives nothing is known (`uplink_test_impossible`), and what the kernel says of itself has to do.
Of a veth, what leaves is seen by a second packet socket; the kernel may have
finished sums and cut segments by then.  What leaves a NIC cannot be seen from here: its driver is
asked (ethtool), and the kernel does behind the packet socket what the NIC does not; whether that
kernel knows what a header says (before Linux 6.2 none knew USO) is tried on `lo`.

No frame of the test reaches a network.  What else arrives meanwhile is read and lost, at most
`SKIPPED_MAX` frames each way; no port is up yet.

Invariants: a test takes `CARRIER_S` + 2 * `PATIENCE_S` at most, and leaves nothing open.
Trust: the host's kernel, which may have its faults (W18, W20).
"""

import ctypes
import errno
import fcntl
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from vionet.engine.status import GSO_ALL, GSO_TCP4, GSO_TCP6, GSO_UDP4, GSO_UDP6
from vionet.ports import link
from vionet.ports.probe import ALL_SEEN, MARK_LEN, Came, Probe, Seen, compare, probes, survivors
from vionet.spec.virtio_net import VIRTIO_NET_HDR_LEN_LEGACY, NetHeader

PATIENCE_S: Final = 0.3
CARRIER_S: Final = 1.0
SKIPPED_MAX: Final = 512
# linux/if_packet.h, linux/if_ether.h
SOL_PACKET: Final = 263
PACKET_VNET_HDR: Final = 15
ETH_P_ALL: Final = 0x0003
_LEGACY_LEN: Final = VIRTIO_NET_HDR_LEN_LEGACY
_NOTHING_SEEN: Final = "its frames do not come through, or too many others do"
_DOWN: Final = "it is down or has no carrier"
_READ_LEN: Final = 4096  # more than any frame of the test
_TSO: Final = GSO_TCP4 | GSO_TCP6
_USO: Final = GSO_UDP4 | GSO_UDP6
# linux/ethtool.h
_SIOCETHTOOL: Final = 0x8946
_ETHTOOL_GDRVINFO: Final = 0x03
_ETHTOOL_GTXCSUM: Final = 0x16
_ETHTOOL_GTSO: Final = 0x1E
_DRVINFO_LEN: Final = 196


@dataclass(frozen=True, slots=True)
class Findings:
    """What an uplink does with what is sent to it, and what may come from it."""

    takes_partial: bool = True
    takes_gso: int = GSO_ALL
    gives_partial: bool = True
    gives_gso: int = GSO_ALL
    warnings: tuple[str, ...] = ()  # each a name, a colon, and what it means


def findings_from(described: Mapping[str, Any]) -> Findings:
    """Findings that were written as JSON."""
    return Findings(**{**described, "warnings": tuple(described["warnings"])})


def examine_tap(fd: int, name: str, header_len: int, said: Findings) -> Findings:
    """Test an open tap whose offloads are all switched on; `said` is what its kernel admits."""
    if not _running(name):
        return _impossible(name, _DOWN, said)
    try:
        far = packet_socket(name)
    except OSError as error:
        return _impossible(name, f"no packet socket ({error.strerror}; CAP_NET_RAW)", said)
    mark = os.urandom(MARK_LEN)
    sent = probes(mark, said.takes_gso)
    with far:
        one, other = (fd, header_len), (far.fileno(), _LEGACY_LEN)
        there = _cross(sent, mark, one, other, compare)
        back = _cross(sent, mark, other, one, compare)
    if there is None or back is None:
        return _impossible(name, _NOTHING_SEEN, said)
    return verdict(name, said, there, back)


def examine_interface(name: str) -> Findings:
    """Test a veth; ask the driver of anything else, and the kernel.

    One whose packet sockets know no virtio-net header gets finished frames.
    """
    try:
        return _examine(name)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise
    warning = "uplink_no_partial: packet sockets here know no virtio-net header"
    return Findings(False, 0, False, 0, (warning,))


def _examine(name: str) -> Findings:
    said = Findings(warnings=_left_to_kernel(name))
    if _ethtool(name, _ETHTOOL_GDRVINFO, _DRVINFO_LEN)[4:].split(b"\0")[0] != b"veth":
        return verdict(name, said, _understood(said.takes_gso), ALL_SEEN)
    if not _running(name):
        return _impossible(name, _DOWN, said)
    mark = os.urandom(MARK_LEN)
    sent = probes(mark, said.takes_gso)
    with packet_socket(name, listening=False) as near, packet_socket(name) as far:
        ends = [(end.fileno(), _LEGACY_LEN) for end in (near, far)]
        there = _cross(sent, mark, ends[0], ends[1], survivors)
    if there is None:
        return _impossible(name, _NOTHING_SEEN, said)
    return verdict(name, said, there, ALL_SEEN)


def _understood(gso: int) -> Seen:
    """What a packet socket's header may say: a kernel that does not know it answers EINVAL."""
    refused = set()
    with packet_socket("lo", listening=False) as near:
        for probe in probes(os.urandom(MARK_LEN), gso):
            try:
                near.send(probe.header.pack(_LEGACY_LEN) + probe.data)
            except OSError as error:  # others, as of a link that is down, mean nothing
                if error.errno == errno.EINVAL:
                    refused.add(probe.gso)
    return Seen(0 not in refused, gso & ~sum(bit for bit in refused if bit > 0), True)


def verdict(name: str, said: Findings, there: Seen, back: Seen) -> Findings:
    """What was said, less what was not seen, with a warning for each loss."""
    whole = there.control and back.control
    partial = there.partial and back.partial
    lost = (said.takes_gso | said.gives_gso) & ~(there.gso & back.gso) if partial else 0
    failed = (
        (not whole, "uplink_mangles", "what asks for nothing is changed too, expect no network"),
        (not partial, "uplink_no_partial", "checksums are finished here"),
        (lost & _TSO, "uplink_no_tso", "TCP is segmented here"),
        (lost & _USO, "uplink_no_uso", "UDP is segmented here"),
    )
    return Findings(
        takes_partial=said.takes_partial and there.partial,
        takes_gso=said.takes_gso & there.gso,
        gives_partial=said.gives_partial and back.partial,
        gives_gso=said.gives_gso & back.gso,
        warnings=said.warnings
        + tuple(f"{label}: {name} failed its test; {how}" for bad, label, how in failed if bad),
    )


def _impossible(name: str, why: str, said: Findings) -> Findings:
    line = f"uplink_test_impossible: {name}: {why}; what its kernel says of itself is believed"
    return replace(said, warnings=(*said.warnings, line))


def packet_socket(name: str, *, listening: bool = True) -> socket.socket:
    """A packet socket with a virtio-net header of 10 bytes, bound to the interface `name`."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    try:
        made.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        made.setblocking(False)
        made.bind((name, ETH_P_ALL if listening else 0))
    except BaseException:
        made.close()
        raise
    return made


def _running(name: str) -> bool:
    """Wait until a link that comes up is; it takes the kernel a moment after a tap was opened."""
    deadline = time.monotonic() + CARRIER_S
    while not link.running(name):
        if not link.link_up(name) or time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _cross(
    sent: Sequence[Probe],
    mark: bytes,
    into: tuple[int, int],
    out_of: tuple[int, int],
    judge: Callable[[Sequence[Probe], Sequence[Came]], Seen],
) -> Seen | None:
    """What `judge` sees of the frames that are sent into one end and come out of another.

    An end is a descriptor and the length of its header.  None: nothing came, or too much else.
    """
    whole = judge(sent, [(probe.header, probe.data) for probe in sent])
    for probe in sent:
        with suppress(OSError):  # what is refused does not come out either
            os.write(into[0], probe.header.pack(into[1]) + probe.data)
    came: list[Came] = []
    deadline = time.monotonic() + PATIENCE_S
    for _ in range(SKIPPED_MAX):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([out_of[0]], [], [], left)[0]:
            return judge(sent, came) if came else None
        with suppress(OSError):  # a frame that no header can describe is lost (spec LX-19)
            data = os.read(out_of[0], _READ_LEN)
            if mark in data:
                came.append((NetHeader.unpack(data[:_LEGACY_LEN]), data[out_of[1] :]))
                if judge(sent, came) == whole:
                    return whole
    return None


def _left_to_kernel(name: str) -> tuple[str, ...]:
    """What the interface's driver does not do; the kernel does it behind the packet socket."""
    asked = (
        (_ETHTOOL_GTXCSUM, "uplink_kernel_finishes", "finishes no checksums"),
        (_ETHTOOL_GTSO, "uplink_kernel_segments", "segments no TCP"),
    )
    off = [a for a in asked if _ethtool(name, a[0], 8)[4:] == bytes(4)]
    return tuple(f"{label}: {name} {does}; the host's kernel does it" for _, label, does in off)


def _ethtool(name: str, command: int, size: int) -> bytes:
    """The answer to one ethtool request, which it begins with; b"" where there is none."""
    value = ctypes.create_string_buffer(command.to_bytes(4, sys.byteorder), size)
    request = struct.pack("16sP16x", os.fsencode(name), ctypes.addressof(value))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        try:
            fcntl.ioctl(probe, _SIOCETHTOOL, request)
        except OSError:
            return b""
    return value.raw
