"""Taps, opened for real in a network namespace of the test's own."""

import ctypes
import fcntl
import os
import select
import socket
import struct
import subprocess
from collections.abc import Iterator
from ipaddress import ip_interface
from pathlib import Path

import pytest

from vionet.engine.status import GSO_ALL, GSO_ECN, GSO_TCP4, GSO_TCP6, GSO_UDP4, GSO_UDP6
from vionet.ports import link
from vionet.ports import tap as tap_module
from vionet.ports.probe import MARK_LEN, Seen, compare, probes
from vionet.ports.tap import Tap, TapError, name_fault, open_tap
from vionet.ports.uplink import Findings, packet_socket
from vionet.spec.virtio_net import VIRTIO_NET_HDR_F_NEEDS_CSUM, NetHeader

TUNSETIFF = 0x400454CA
TUNSETVNETHDRSZ = 0x400454D8
TUNGETVNETHDRSZ = 0x800454D7
TAP_FLAGS = 0x5002  # IFF_TAP, IFF_NO_PI, IFF_VNET_HDR

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("namespace")]


@pytest.fixture
def tap() -> Iterator[Tap]:
    """A tap that we made, with an address."""
    made = open_tap("vt0", address=[ip_interface("192.0.2.1/24")])
    yield made
    made.close()


def ip(*arguments: str) -> str:
    """Run iproute2 in the thread's namespace."""
    done = subprocess.run(
        ["ip", *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def raw_tap(name: str, flags: int = TAP_FLAGS) -> int:
    """A tap opened without the code under test."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    return fd


def next_frame(fd: int, wanted: bytes) -> tuple[NetHeader, bytes]:
    """The next frame that holds `wanted`, within a minute; others are passed over."""
    for _ in range(100):
        ready, _, _ = select.select([fd], [], [], 60)
        assert ready, f"no frame with {wanted!r} came"
        data = os.read(fd, 70000)
        if wanted in data:
            return NetHeader.unpack(data[:12]), data[12:]
    raise AssertionError(f"100 frames, none with {wanted!r}")


def udp_header_and_frame(tap_mac: bytes, payload: bytes) -> bytes:
    """A UDP frame to 192.0.2.1:9 whose checksum is partial, behind its virtio-net header."""
    source, target = socket.inet_aton("192.0.2.2"), socket.inet_aton("192.0.2.1")
    length = 8 + len(payload)
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + length, 1, 0, 64, 17, 0, source, target)
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF) + head[12:]
    seed = sum(struct.unpack("!4H", source + target)) + 17 + length
    seed = (seed & 0xFFFF) + (seed >> 16)
    datagram = struct.pack("!HHHH", 7, 9, length, seed) + payload
    vnet = NetHeader(flags=VIRTIO_NET_HDR_F_NEEDS_CSUM, csum_start=34, csum_offset=6)
    return vnet.pack() + tap_mac + bytes.fromhex("525400000002") + b"\x08\x00" + head + datagram


def test_made_tap_is_complete() -> None:
    """A tap that did not exist is made with address, MTU and IP addresses of both families, up."""
    tap = open_tap(
        "vt0",
        mac=0x525400000009,
        mtu=1400,
        address=[ip_interface("192.0.2.1/24"), ip_interface("fd00::1/64")],
    )
    try:
        assert (tap.name, tap.header_len, tap.mtu, tap.made) == ("vt0", 12, 1400, True)
        assert Findings() == tap.findings
        assert not os.get_blocking(tap.fd)
        assert not os.get_inheritable(tap.fd)
        shown = ip("address", "show", "vt0")
        for part in ("52:54:00:00:00:09", "mtu 1400", "192.0.2.1/24", "fd00::1/64", ",UP"):
            assert part in shown
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as bound:
            bound.bind(("fd00::1", 9))
    finally:
        tap.close()
    assert not link.exists("vt0")


def test_kernel_gives_partial_checksums(tap: Tap) -> None:
    """What the kernel sends through the tap is partial, and its header says so."""
    assert 0 == tap.give(partial=True, gso=0)
    ip("neigh", "add", "192.0.2.2", "lladdr", "52:54:00:00:00:02", "dev", "vt0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"partial, please", ("192.0.2.2", 9))
    header, frame = next_frame(tap.fd, b"partial, please")
    assert header.flags == VIRTIO_NET_HDR_F_NEEDS_CSUM
    assert (header.csum_start, header.csum_offset) == (34, 6)
    assert len(frame) == 14 + 20 + 8 + 15


def test_without_partial_the_kernel_finishes(tap: Tap) -> None:
    """A tap that is asked for no partial checksum has the kernel finish them before we read."""
    assert 0 == tap.give(partial=False, gso=GSO_ALL)
    ip("neigh", "add", "192.0.2.2", "lladdr", "52:54:00:00:00:02", "dev", "vt0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"finished, please", ("192.0.2.2", 9))
    header, _ = next_frame(tap.fd, b"finished, please")
    assert header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM == 0


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        (GSO_ALL, GSO_ALL),
        (0, 0),
        (GSO_TCP4 | GSO_ECN, GSO_TCP4 | GSO_ECN),
        (GSO_ECN, 0),
        (GSO_TCP6 | GSO_UDP4, GSO_TCP6),
        (GSO_UDP4 | GSO_UDP6, GSO_UDP4 | GSO_UDP6),
    ],
)
def test_kernel_gives_what_it_may(tap: Tap, asked: int, given: int) -> None:
    """ECN goes with TSO only, USO for both families or none (TP-05, TP-06); what was allowed comes
    whole, and everything else in pieces no longer than the MTU."""
    assert given == tap.give(partial=True, gso=asked)
    mark = os.urandom(MARK_LEN)
    with packet_socket("vt0") as kernel:
        for probe in probes(mark, GSO_ALL):
            os.write(kernel.fileno(), probe.header.pack(10) + probe.data)
    came: list[tuple[NetHeader, bytes]] = []
    while select.select([tap.fd], [], [], 0.1)[0]:
        data = os.read(tap.fd, 70000)
        if mark in data:
            came.append((NetHeader.unpack(data[:12]), data[12:]))
    assert Seen(True, given, True) == compare(probes(mark, GSO_ALL), came)
    for header, data in came:
        wanted = {0: 0, 1: GSO_TCP4, 4: GSO_TCP6, 0x81: GSO_ECN, 5: GSO_UDP4 | GSO_UDP6}
        assert not wanted[header.gso_type] & ~given
        assert header.gso_type or len(data) < 14 + 40 + 20 + 101


def test_kernel_takes_partial_checksums(tap: Tap) -> None:
    """A partial frame behind a header of 12 bytes reaches a socket of the host."""
    mac = bytes.fromhex(ip("-br", "link", "show", "vt0").split()[2].replace(":", ""))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("192.0.2.1", 9))
        receiver.settimeout(60)
        os.write(tap.fd, udp_header_and_frame(mac, b"from a guest"))
        assert receiver.recv(100) == b"from a guest"


def test_the_self_test_stays_here() -> None:
    """All frames of the self-test go to the group that bridges keep to themselves."""
    ip("tuntap", "add", "dev", "vt0", "mode", "tap")
    ip("link", "set", "vt0", "up")
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as listener:
        listener.bind(("vt0", 0))
        listener.setblocking(False)
        tap = open_tap("vt0")
        try:
            assert Findings() == tap.findings
            frames = []
            try:
                while True:
                    frames.append(listener.recvfrom(100))
            except BlockingIOError:
                pass
            # Frames of the kernel itself (kind 4: outgoing) may be there.
            came_in = {data[:6] for data, where in frames if where[2] != socket.PACKET_OUTGOING}
            assert {bytes.fromhex("0180c2000001")} == came_in
        finally:
            tap.close()


def test_deleted_tap_is_told_nothing(tap: Tap) -> None:
    """Somebody deletes the tap of a running fabric: what a guest agrees to later is no error."""
    ip("link", "delete", "vt0")
    assert 0 == tap.give(partial=True, gso=0)
    assert GSO_ALL == tap.give(partial=True, gso=GSO_ALL)


def test_probes_can_say_no() -> None:
    """A tap without header does not judge one, and a pipe has no offloads at all."""
    bare = raw_tap("vt1", 0x1002)
    assert Findings(False, 0, True, GSO_ALL) == tap_module._ask(bare)
    os.close(bare)
    reading, writing = os.pipe()
    assert Findings(False, 0, False, 0) == tap_module._ask(writing)
    os.close(reading)
    os.close(writing)


def test_existing_tap_is_left_as_it_was() -> None:
    """A tap that existed stays, with its MTU, its link state and the header length it had."""
    ip("tuntap", "add", "dev", "vt0", "mode", "tap", "vnet_hdr")
    ip("link", "set", "vt0", "mtu", "1300")
    tap = open_tap("vt0", mtu=1400)
    assert not tap.made
    assert tap.mtu == 1300
    assert not link.link_up("vt0")
    tap.close()
    assert link.exists("vt0")
    fd = raw_tap("vt0")
    try:
        answer = bytearray(4)
        fcntl.ioctl(fd, TUNGETVNETHDRSZ, answer)
        assert int.from_bytes(answer, "little") == 10
    finally:
        os.close(fd)


def test_existing_multi_queue_tap() -> None:
    """A tap that was made for several queues is opened as one of them."""
    ip("tuntap", "add", "dev", "vt0", "mode", "tap", "multi_queue")
    tap = open_tap("vt0")
    assert tap.findings.takes_partial
    tap.close()


def test_descriptor_is_adopted() -> None:
    """`fd=N` takes an open tap of any header length and reads its name from the kernel."""
    fd = raw_tap("vt7")
    fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", 10))
    tap = open_tap("", fd=fd)
    assert (tap.fd, tap.name, tap.header_len, tap.made) == (fd, "vt7", 12, False)
    assert not os.get_blocking(fd)
    tap.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_descriptor_that_is_no_tap(tmp_path: Path) -> None:
    """A plain file, a closed number, a tun and a tap without header are told apart."""
    plain = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(TapError, match="not a tap"):
        open_tap("", fd=plain)
    os.close(plain)
    with pytest.raises(TapError, match="not open"):
        open_tap("", fd=plain)
    bare = raw_tap("vt1", 0x1002)
    with pytest.raises(TapError, match="opened without IFF_VNET_HDR"):
        open_tap("", fd=bare)
    os.close(bare)
    tunnel = raw_tap("vt2", 0x5001)
    with pytest.raises(TapError, match="opened without IFF_TAP"):
        open_tap("", fd=tunnel)
    os.close(tunnel)
    other = raw_tap("vt3")
    with pytest.raises(TapError, match="is the tap vt3; write tap:vt3,fd="):
        open_tap("vt4", fd=other)
    os.close(other)


def test_locked_destination_is_filtered_by_the_kernel() -> None:
    """After the filter only frames to the address and to groups can be read."""
    tap = open_tap("vt0", address=[ip_interface("192.0.2.1/24")])
    try:
        for last in ("2", "3"):
            ip("neigh", "add", f"192.0.2.{last}", "lladdr", f"52:54:00:00:00:0{last}",
               "dev", "vt0")  # fmt: skip
        tap.filter_destination(0x525400000003)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sender.sendto(b"not for us", ("192.0.2.2", 9))
            sender.sendto(b"for everyone", ("192.0.2.255", 9))
            sender.sendto(b"for us", ("192.0.2.3", 9))
        seen: list[str] = []
        while not seen or seen[-1] != "525400000003":
            _, frame = next_frame(tap.fd, b"")
            seen.append(frame[:6].hex())
        assert "525400000002" not in seen
        assert "ffffffffffff" in seen
    finally:
        tap.close()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "no interface"),
        ("a-name-of-16-chr", "at most 15 bytes"),
        ("vt%d", "cannot be the name"),
        ("a b", "cannot be the name"),
    ],
)
def test_bad_names(name: str, says: str) -> None:
    """A name that the kernel would cut or expand is refused before it is asked."""
    assert says in str(name_fault(name))
    with pytest.raises(TapError, match=says):
        open_tap(name)
    assert name_fault("vio0") is None


def test_interface_that_is_no_tap() -> None:
    """An existing interface of another kind, and a tun, are not taken."""
    with pytest.raises(TapError, match="exists, but is no tap; choose another name"):
        open_tap("lo")
    ip("tuntap", "add", "dev", "vt0", "mode", "tun")
    with pytest.raises(TapError, match="exists, but is no tap"):
        open_tap("vt0")


def test_busy_tap() -> None:
    """A tap that another process has open is named as busy."""
    fd = raw_tap("vt0")
    with pytest.raises(TapError, match="another process uses it"):
        open_tap("vt0")
    os.close(fd)


def test_address_of_an_existing_tap_is_refused() -> None:
    """vionet sets up only what it makes, and says so."""
    ip("tuntap", "add", "dev", "vt0", "mode", "tap")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with pytest.raises(TapError, match="leave address= out"):
        open_tap("vt0", address=[ip_interface("192.0.2.1/24")])
    assert before == len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_refused_address_leaves_nothing() -> None:
    """Where setting up fails, the tap that was made for it is gone again."""
    with pytest.raises(TapError, match=r"address=192.0.2.1/24 was refused: File exists"):
        open_tap("vt0", address=[ip_interface("192.0.2.1/24")] * 2)
    assert not link.exists("vt0")


def test_no_permission() -> None:
    """Without the right to make a tap the error has the command that an administrator types."""
    capabilities = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("=Ii", 0x20080522, 0)
    saved = ctypes.create_string_buffer(24)
    assert capabilities.capget(header, saved) == 0
    words = list(struct.unpack("=6I", saved.raw))
    words[0] &= ~(1 << 12)  # CAP_NET_ADMIN of the effective set, this thread only
    assert capabilities.capset(header, struct.pack("=6I", *words)) == 0
    try:
        with pytest.raises(TapError, match=r"no permission .*ip tuntap add dev vt0 mode tap user"):
            open_tap("vt0")
    finally:
        assert capabilities.capset(header, saved.raw) == 0
