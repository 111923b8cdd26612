"""The self-test of an uplink: kernels that do what they should, and some that do not (W18, W20).

Real taps and veths in a namespace of the test's own; for kernels that cannot be had here, only the
comparison is asked.
"""

import fcntl
import os
import select
import struct
from collections.abc import Callable

import pytest

from tests.reference import checksum
from tests.reference.capability import CAP_NET_RAW, without
from tests.reference.frame import BROADCAST, Layers
from tests.reference.header import parse
from tests.reference.segment import segment
from tests.reference.veth import FAR, NEAR, call, make_veth
from vionet.engine.status import GSO_ALL, GSO_ECN, GSO_TCP4, GSO_TCP6, GSO_UDP4, GSO_UDP6
from vionet.ports import uplink
from vionet.ports.probe import ALL_SEEN, MARK_LEN, Came, Probe, Seen, compare, probes, survivors
from vionet.ports.tap import Tap, open_tap
from vionet.ports.uplink import (
    Findings,
    examine_interface,
    examine_tap,
    packet_socket,
    verdict,
)
from vionet.spec.virtio_net import NetHeader

TUNSETOFFLOAD = 0x400454D0
TUNSETVNETHDRSZ = 0x400454D8
MARK = bytes(range(1, 1 + MARK_LEN))
SENT = probes(MARK, GSO_ALL)
AS_SENT: list[Came] = [(probe.header, probe.data) for probe in SENT]
USO = GSO_UDP4 | GSO_UDP6


def names(findings: Findings) -> list[str]:
    """The names of the warnings."""
    return [line.partition(":")[0] for line in findings.warnings]


# --- the comparison, for kernels that cannot be had here ------------------------------------


def test_frames_are_well_formed() -> None:
    """Every frame of the test is a correct one: lengths, IPv4 header, seed, and fields that agree;
    the control frame's sum is absent, as UDP over IPv4 may have it."""
    for probe in SENT:
        headers = parse(probe.data)
        assert not headers.bad_len
        assert len(probe.data) == headers.end
        assert "0180c2000001" == probe.data[:6].hex()
        if headers.ethertype == 0x0800:
            assert 0xFFFF == checksum.ones_sum(probe.data[14:34])
        if probe.gso < 0:
            assert NetHeader() == probe.header
            assert b"\0\0" == probe.data[40:42]
            continue
        assert headers.l4_off == probe.header.csum_start
        field = probe.header.csum_start + probe.header.csum_offset
        assert headers.seed() == int.from_bytes(probe.data[field : field + 2], "big")
    assert [0, GSO_TCP4, GSO_TCP6, GSO_ECN, GSO_UDP4, GSO_UDP6, -1] == [p.gso for p in SENT]


def without_metadata(came: list[Came]) -> list[Came]:
    """A tap that ignores the header: the same bytes, and nobody knows that sums are partial."""
    return [(NetHeader(), data) for _, data in came]


def without_gso(came: list[Came]) -> list[Came]:
    """A kernel that forgets only the size."""
    return [(header._replace(gso_type=0, gso_size=0), data) for header, data in came]


def without_udp(came: list[Came]) -> list[Came]:
    """A kernel without USO loses those frames."""
    return [(header, data) for header, data in came if header.gso_type != 5]


def shifted(came: list[Came]) -> list[Came]:
    """A header of another length: all bytes are off by two."""
    return [(header, b"\0\0" + data) for header, data in came]


def vouched(came: list[Came]) -> list[Came]:
    """Hints differ, and plain frames are said to be valid: nothing is wrong with that."""
    return [
        (header._replace(hdr_len=0, num_buffers=1, flags=header.flags or 2), data)
        for header, data in came
    ]


@pytest.mark.parametrize(
    ("kernel", "seen", "warnings"),
    [
        (vouched, ALL_SEEN, []),
        (without_metadata, Seen(False, 0, True), ["uplink_no_partial"]),
        (without_gso, Seen(True, 0, True), ["uplink_no_tso", "uplink_no_uso"]),
        (without_udp, Seen(True, GSO_ALL & ~USO, True), ["uplink_no_uso"]),
        (shifted, Seen(False, 0, False), ["uplink_mangles", "uplink_no_partial"]),
    ],
)
def test_w18_w20_kernels_that_fail(
    kernel: Callable[[list[Came]], list[Came]], seen: Seen, warnings: list[str]
) -> None:
    """What is lost on the way is taken off what the kernel says of itself, each with its name."""
    assert seen == compare(SENT, kernel(AS_SENT))
    for there, back in ((seen, ALL_SEEN), (ALL_SEEN, seen)):
        found = verdict("x0", Findings(), there, back)
        assert warnings == names(found)
        assert (there.partial, there.gso) == (found.takes_partial, found.takes_gso)
        assert (back.partial, back.gso) == (found.gives_partial, found.gives_gso)


def test_what_was_not_said_is_no_loss() -> None:
    """A kernel that is older than USO is not warned of."""
    said = Findings(takes_gso=GSO_ALL & ~USO, gives_gso=GSO_ALL & ~USO)
    assert said == verdict("x0", said, Seen(True, GSO_ALL & ~USO, True), ALL_SEEN)


def finished(came: list[Came], *, good: bool = True) -> list[Came]:
    """What a kernel makes of the frames in software, by the reference: complete, in segments."""
    made: list[Came] = []
    for header, data in came:
        if not header.flags:
            made.append((header, data))
            continue
        headers, size = parse(data), header.gso_size or len(data)
        pieces = segment(data, headers, size, partial=False)
        if not good:
            pieces = [piece[:-1] + bytes([piece[-1] ^ 1]) for piece in pieces]
        made += [(NetHeader(), piece) for piece in pieces]
    return made


def test_work_done_behind_the_interface_is_seen() -> None:
    """Sums finished and segments cut rightly are as good as passed on; wrong ones are not."""
    assert Seen(False, 0, True) == compare(SENT, finished(AS_SENT))
    assert ALL_SEEN == survivors(SENT, finished(AS_SENT))
    assert ALL_SEEN == survivors(SENT, AS_SENT)
    assert Seen(False, 0, True) == survivors(SENT, finished(AS_SENT, good=False))
    assert Seen(False, 0, True) == survivors(SENT, without_metadata(AS_SENT))
    assert not survivors(SENT, finished(AS_SENT)[:-3]).gso & GSO_UDP6


# --- real kernels ---------------------------------------------------------------------------


@pytest.fixture
def tap(namespace: None) -> Tap:
    """A tap of an ordinary kernel, closed with the namespace's last descriptor."""
    return open_tap("wt0")


@pytest.mark.root
def test_tap_of_this_kernel(tap: Tap) -> None:
    """It passes everything both ways."""
    assert Findings() == tap.findings
    tap.close()


@pytest.mark.root
def test_tap_in_a_bridge(namespace: None) -> None:
    """A tap that is a bridge's port is tested as well, and no frame reaches the other port."""
    make_veth()
    call("ip tuntap add wt0 mode tap && ip link add wbr type bridge && ip link set wbr up")
    call(f"ip link set {NEAR} master wbr && ip link set wt0 master wbr && ip link set wt0 up")
    with packet_socket(FAR) as listener:
        tap = open_tap("wt0")
        assert Findings() == tap.findings
        while select.select([listener], [], [], 0.05)[0]:
            assert "0180c2000001" != listener.recv(100)[10:16].hex()
        tap.close()


@pytest.mark.root
def test_tap_whose_header_has_another_length(tap: Tap) -> None:
    """A descriptor whose header was set to 10 bytes behind our back: named, and not trusted."""
    fcntl.ioctl(tap.fd, TUNSETVNETHDRSZ, struct.pack("i", 10))
    found = examine_tap(tap.fd, tap.name, 12, Findings())
    assert ["uplink_mangles", "uplink_no_partial"] == names(found)
    assert (False, 0, False, 0) == (
        found.takes_partial, found.takes_gso, found.gives_partial, found.gives_gso
    )  # fmt: skip
    tap.close()


@pytest.mark.root
def test_w20_tap_that_does_not_give_what_was_said(tap: Tap) -> None:
    """Offloads that are off although the kernel said that it has them: only that way is lost."""
    fcntl.ioctl(tap.fd, TUNSETOFFLOAD, 1)
    found = examine_tap(tap.fd, tap.name, 12, Findings())
    assert ["uplink_no_tso", "uplink_no_uso"] == names(found)
    assert (True, GSO_ALL, True, 0) == (
        found.takes_partial, found.takes_gso, found.gives_partial, found.gives_gso
    )  # fmt: skip
    fcntl.ioctl(tap.fd, TUNSETOFFLOAD, 0)
    found = examine_tap(tap.fd, tap.name, 12, Findings())
    assert ["uplink_no_partial"] == names(found)
    assert (True, False) == (found.takes_partial, found.gives_partial)
    tap.close()


@pytest.mark.root
def test_tests_that_cannot_be_made(namespace: None) -> None:
    """A tap that is down, and no right to packet sockets: the kernel is believed."""
    call("ip tuntap add wt0 mode tap")
    tap = open_tap("wt0")
    assert ["uplink_test_impossible"] == names(tap.findings)
    assert "it is down" in tap.findings.warnings[0]
    assert (True, GSO_ALL) == (tap.findings.takes_partial, tap.findings.takes_gso)
    call("ip link set wt0 up")
    with without(CAP_NET_RAW):
        found = examine_tap(tap.fd, tap.name, 12, Findings())
    assert "CAP_NET_RAW" in found.warnings[0]
    assert ["uplink_test_impossible"] == names(found)
    tap.close()


@pytest.mark.root
def test_a_flood_does_not_keep_the_test(tap: Tap, monkeypatch: pytest.MonkeyPatch) -> None:
    """What else is read meanwhile is bounded: after so many frames the test gives up."""
    monkeypatch.setattr(uplink, "SKIPPED_MAX", 3)
    found = examine_tap(tap.fd, tap.name, 12, Findings())
    assert ["uplink_test_impossible"] == names(found)
    assert "too many others" in found.warnings[0]
    tap.close()


@pytest.mark.root
@pytest.mark.parametrize(
    ("off", "warnings"),
    [
        ("", []),
        ("tso off", ["uplink_kernel_segments"]),
        ("tx off tso off gso off sg off", ["uplink_kernel_finishes", "uplink_kernel_segments"]),
    ],
)
@pytest.mark.parametrize("mtu", [1500, 9000])
def test_veth_with_and_without_offloads(
    namespace: None, off: str, warnings: list[str], mtu: int
) -> None:
    """What leaves a veth is right whatever its offloads are: the kernel does the rest."""
    make_veth(mtu)
    if off:
        call(f"ethtool -K {NEAR} {off}")
    found = examine_interface(NEAR)
    assert warnings == names(found)
    assert Findings() == Findings(
        found.takes_partial, found.takes_gso, found.gives_partial, found.gives_gso
    )


@pytest.mark.root
def test_interfaces_that_cannot_be_tested(namespace: None) -> None:
    """A veth that is down is believed; of another driver, only what it says is known."""
    make_veth()
    call(f"ip link set {NEAR} down")
    assert ["uplink_test_impossible"] == names(examine_interface(NEAR))
    assert Findings() == examine_interface("lo")


@pytest.mark.root
@pytest.mark.parametrize("up", [True, False])
def test_kernel_without_uso_behind_a_nic(
    namespace: None, monkeypatch: pytest.MonkeyPatch, up: bool
) -> None:
    """A type that this kernel does not know stands for USO in one before 6.2: UDP is segmented
    here then.  Where the test cannot be made the kernel is believed."""

    def unknown(mark: bytes, gso: int) -> list[Probe]:
        return [
            probe._replace(header=probe.header._replace(gso_type=6)) if probe.gso & USO else probe
            for probe in probes(mark, gso)
            if probe.gso >= 0
        ]

    if up:
        call("ip link set lo up")
    assert Findings() == examine_interface("lo")
    monkeypatch.setattr(uplink, "probes", unknown)
    found = examine_interface("lo")
    assert (GSO_ALL & ~USO if up else GSO_ALL) == found.takes_gso
    assert (["uplink_no_uso"] if up else []) == names(found)
    assert found.takes_partial


def test_frames_share_no_bytes_with_ours() -> None:
    """A frame of a guest is never taken for one of the test: its mark is random."""
    assert Seen(False, 0, False) == compare(
        SENT, [(NetHeader(), Layers(dst=BROADCAST).udp(b"").data)]
    )


@pytest.mark.root
@pytest.mark.usefixtures("namespace")
def test_no_bridge_hears_of_the_self_test() -> None:
    """A bridge that was told to forward LLDP and all else that it may, forwards no frame of the
    self-test, and learns no address from it."""
    for words in (
        "link add br0 type bridge stp_state 0 mcast_snooping 0 group_fwd_mask 0xfff8",
        "tuntap add dev vt0 mode tap",
        "link add ve0 type veth peer name ve1",
        "link set vt0 master br0 up",
        "link set ve0 master br0 up",
        "link set ve1 up",
        "link set br0 up",
    ):
        call(f"ip {words}")
    with packet_socket("ve1") as listener:
        listener.setblocking(True)
        listener.settimeout(60)
        tap = open_tap("vt0")
        try:
            assert tap.findings.takes_partial
            last = bytes.fromhex("025400000001")
            os.write(tap.fd, bytes(12) + BROADCAST + last + bytes(48))
            came = set()
            while last not in came:
                came.add(listener.recv(100)[16:22])
        finally:
            tap.close()
    assert SENT[0].data[6:12] not in came
    assert SENT[0].data[6:12].hex(":") not in call("bridge fdb show")
