"""Taps and interfaces in other network namespaces, made with iproute2 and unshare."""

import contextlib
import ctypes
import json
import os
import re
import select
import struct
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest

from tests.process import Children
from tests.tools import need
from tests.unprivileged import python, words
from vionet.engine.status import GSO_TCP4
from vionet.ports import link, namespace
from vionet.ports.interface import InterfaceError
from vionet.ports.namespace import open_interface_in, open_tap_in
from vionet.ports.tap import Tap, TapError, permitted, tap_from
from vionet.ports.uplink import Findings

NETNS = f"vionet-h-{os.getpid()}"
TAP, MAC = "hn0", 0x02_00_5E_10_00_01
ROUTER = [ip_interface(one) for one in ("100.64.0.2/31", "fd00:64::1/64", "fe80::1/64")]
ADOPTER = """
import json, sys
from vionet.ports.tap import tap_from
tap = tap_from(int(sys.argv[1]), json.loads(sys.argv[2]))
print(tap.name, tap.made, tap.give(partial=True, gso=1), flush=True)
sys.stdin.read()
"""
UNPRIVILEGED = """
import sys
from vionet.ports.namespace import open_interface_in, open_tap_in
tap = open_tap_in(sys.argv[1], "hn0")
interface = open_interface_in(sys.argv[1], "hn0")
print(tap.findings.takes_partial, tap.made, interface.header_len)
"""

pytestmark = pytest.mark.root


def call(command: str) -> str:
    """A shell's command line."""
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def inside(command: str) -> str:
    """The same in the namespace."""
    return call(f"ip netns exec {NETNS} {command}")


def descriptors() -> int:
    """How many are open here."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def netns() -> Iterator[str]:
    """A namespace by name."""
    need("ip")
    call(f"ip netns add {NETNS}")
    yield NETNS
    call(f"ip netns delete {NETNS}")


@pytest.fixture
def tap(netns: str) -> Iterator[Tap]:
    """A tap in it, set up as the host side of a local interface is."""
    made = open_tap_in(netns, TAP, mac=MAC, address=ROUTER)
    yield made
    with contextlib.suppress(OSError):
        made.close()


def solicitation(target: str) -> bytes:
    """A neighbour solicitation from fe80::2, with the header that a tap wants."""
    source, asked = ip_address("fe80::2").packed, ip_address(target).packed
    group = bytes.fromhex("ff0200000000000000000001ff") + asked[-3:]
    body = struct.pack("!BBHI", 135, 0, 0, 0) + asked + bytes.fromhex("0101 525400000002")
    words = struct.unpack(f"!{(40 + len(body)) // 2}H", source + group + bytes([0, 0, 0, len(body)])
                          + bytes([0, 0, 0, 58]) + body)  # fmt: skip
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    body = body[:2] + struct.pack("!H", total) + body[4:]
    head = struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + source + group
    ethernet = bytes.fromhex("3333ff") + asked[-3:] + bytes.fromhex("525400000002 86dd")
    return bytes(12) + ethernet + head + body


def advertised(fd: int, target: str) -> bytes:
    """The Ethernet source of the advertisement for `target`; others are passed over."""
    for _ in range(50):
        assert select.select([fd], [], [], 60)[0], f"nobody answers for {target}"
        frame = os.read(fd, 70000)[12:]
        if frame[54:55] == bytes([136]) and frame[62:78] == ip_address(target).packed:
            return frame[6:12]
    raise AssertionError("50 frames, no advertisement")


def test_tap_is_made_there_and_only_there(tap: Tap) -> None:
    """It is complete, tested, and works from here; it goes away with its descriptor."""
    assert (TAP, 1500, True, False) == (tap.name, tap.mtu, tap.made, tap.down)
    assert Findings() == tap.findings
    assert (False, False) == (os.get_blocking(tap.fd), os.get_inheritable(tap.fd))
    assert not link.exists(TAP)
    shown = inside(f"ip address show {TAP}")
    assert ["100.64.0.2/31", "fd00:64::1/64", "fe80::1/64"] == re.findall(r"inet6? (\S+)", shown)
    assert "02:00:5e:10:00:01" in shown
    assert "tentative" not in shown
    assert GSO_TCP4 == tap.give(partial=True, gso=GSO_TCP4)
    tap.filter_destination(0x525400000002)
    tap.close()
    assert TAP not in inside("ip -br link")


@pytest.mark.parametrize("target", ["fe80::1", "fd00:64::1"])
def test_router_answers_for_its_addresses(tap: Tap, target: str) -> None:
    """Who asks for the gateway's address is told the tap's: at once, no duplicate detection."""
    os.write(tap.fd, solicitation(target))
    assert MAC.to_bytes(6, "big") == advertised(tap.fd, target)
    assert "0" == inside(f"cat /proc/sys/net/ipv6/conf/{TAP}/accept_ra").strip()


def test_a_tap_that_is_no_router_keeps_what_the_kernel_does(netns: str) -> None:
    """Without a link-local address among its own, the kernel makes one as everywhere."""
    tap = open_tap_in(netns, TAP, address=ROUTER[:1])
    assert "1" == inside(f"cat /proc/sys/net/ipv6/conf/{TAP}/accept_ra").strip()
    assert "inet6 fe80:" in inside(f"ip address show {TAP}")
    tap.close()


def test_path_and_existing_tap(netns: str) -> None:
    """A path names a namespace too; a tap that is there stays, and is found to be down."""
    inside(f"ip tuntap add dev {TAP} mode tap")
    tap = open_tap_in(f"/run/netns/{netns}", TAP)
    assert (False, True) == (tap.made, tap.down)
    with pytest.raises(TapError, match=f"tap:{TAP}: another process uses it;"):
        open_tap_in(netns, TAP)
    tap.close()
    assert TAP in inside("ip -br link")


def test_interface(netns: str) -> None:
    """A veth there is promiscuous while it is open here, its ring is mapped here."""
    inside("ip link add hnear mtu 1400 type veth peer name hfar")
    before = descriptors()
    with pytest.raises(InterfaceError, match=r"interface:hnone: no such interface; .* \(in netw"):
        open_interface_in(netns, "hnone")
    for up in (False, True):
        if up:
            inside("ip link set hnear up")
            inside("ip link set hfar up")
        interface = open_interface_in(netns, "hnear")
        assert (1400, 10, not up) == (interface.mtu, interface.header_len, interface.down)
        assert "promiscuity 1" in inside("ip -d link show hnear")
        interface.filter_destination(MAC)
        interface.close()
    assert "promiscuity 0" in inside("ip -d link show hnear")
    assert before == descriptors()
    assert 0 == Path("/proc/self/maps").read_text().count("socket:")


def test_frames_through_the_ring(netns: str) -> None:
    """What arrives there before anybody here looks is in the first slot of the ring."""
    inside("ip link add hnear type veth peer name hfar")
    inside("sh -c 'ip link set hnear up && ip link set hfar up'")
    interface = open_interface_in(netns, "hnear")
    frame = bytes.fromhex("ffffffffffff 525400000009 88b5") + b"through the ring" + bytes(40)
    sender = "import socket,sys; s=socket.socket(17,3); s.bind(('hfar',0)); " \
        "s.send(bytes.fromhex(sys.argv[1]))"  # fmt: skip
    inside(f'{sys.executable} -ISc "{sender}" {frame.hex()}')
    assert select.select([interface.fd], [], [], 60)[0]
    assert frame in ctypes.string_at(interface.ring_hva, 16 * 69632)
    interface.close()


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("hn-none", "network namespace hn-none: No such file or directory; as root: ip netns add"),
        ("/proc/none/ns/net", "No such file or directory; start what it belongs to"),
        ("/proc/self/ns/uts", "is none; `ip netns list`"),
        ("/dev/null", "is none; `ip netns list`"),
        ("..", "is none; `ip netns list`"),
    ],
)
def test_namespaces_that_are_none(where: str, says: str) -> None:
    """The one line says which namespace, and how to have one; nothing is left open."""
    before = descriptors()
    for error, opened in ((TapError, open_tap_in), (InterfaceError, open_interface_in)):
        with pytest.raises(error, match=re.escape(says)) as caught:
            opened(where, TAP)
        assert "\n" not in str(caught.value)
    assert before == descriptors()


def test_a_child_that_hangs(netns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ended; a child that dies without an answer is noticed too."""
    before = descriptors()
    monkeypatch.setattr(namespace, "PATIENCE_S", 0.001)
    with pytest.raises(TapError, match=r"nothing came of it within 0.001 s"):
        open_tap_in(netns, TAP)
    monkeypatch.setattr(namespace, "PATIENCE_S", 60.0)
    monkeypatch.setattr(sys, "executable", "/bin/true")
    with pytest.raises(TapError, match=f"who was to open it in {netns} died"):
        open_tap_in(netns, TAP)
    monkeypatch.setattr(sys, "executable", "/bin/none")
    with pytest.raises(TapError, match="No such file"):
        open_tap_in(netns, TAP)
    assert before == descriptors()


def test_nothing_is_left_open(netns: str) -> None:
    """Ten taps and interfaces opened and closed: no descriptor, no child."""
    before = descriptors()
    for _ in range(5):
        tap = open_tap_in(netns, TAP)
        open_interface_in(netns, TAP, header=False).close()
        tap.close()
    assert before == descriptors()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_successor_takes_the_tap(tap: Tap) -> None:
    """Another process goes on with the tap as it is described; frames that came meanwhile are
    still there, and the tap stays until the last of them ends."""
    os.set_inheritable(tap.fd, True)
    description = json.dumps(tap.described())
    fd = os.dup(tap.fd)
    child = subprocess.Popen(
        [sys.executable, "-c", ADOPTER, str(tap.fd), description],
        pass_fds=[tap.fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with child:
        assert child.stdout is not None
        assert f"{TAP} True 1\n" == child.stdout.readline()
        tap.close()
        os.write(fd, solicitation("fe80::1"))
        again = tap_from(fd, json.loads(description))
        assert tap.described() == again.described()
        assert MAC.to_bytes(6, "big") == advertised(again.fd, "fe80::1")
        again.close()
        assert TAP in inside("ip -br link"), "the child still has it"
        child.stdin.close()  # type: ignore[union-attr]
        child.wait(60)
    assert TAP not in inside("ip -br link")


def test_a_predecessors_filter_is_taken_off(tap: Tap) -> None:
    """A wire's filter for a guest that is not there any more keeps nothing back."""
    tap.filter_destination(0x525400000077)
    again = tap_from(os.dup(tap.fd), tap.described())
    os.write(again.fd, solicitation("fe80::1"))
    assert MAC.to_bytes(6, "big") == advertised(again.fd, "fe80::1")
    again.close()


@pytest.mark.parametrize("change", [{"name": "hn1"}, {"findings": None}, {"more": 1}])
def test_descriptions_that_do_not_fit(tap: Tap, change: dict[str, object]) -> None:
    """Another tap's, half a one or one of a later version: refused and closed."""
    before = descriptors()
    fd = os.dup(tap.fd)
    with pytest.raises(TapError, match=r"is the tap hn0|is not understood"):
        tap_from(fd, {**tap.described(), **change})
    with pytest.raises(TapError, match="not a tap"):
        tap_from(os.open("/dev/null", os.O_RDONLY), tap.described())
    assert before == descriptors()


@pytest.mark.parametrize("group", ["hgroup", "4711"])
def test_interface_group(
    netns: str, group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel knows the tap by its group, given by number or by a name from iproute2's file."""
    files = tmp_path / "none", tmp_path / "group"
    files[1].write_text("# numbers\n0 default\n0x1267 hgroup # ours\n")
    monkeypatch.setattr(link, "GROUP_FILES", files)
    assert 4711 == link.group_number(group)
    tap = open_tap_in(netns, TAP, ifgroup="4711")
    assert TAP in inside("ip -br link show group 4711")
    assert () == tap.findings.warnings
    tap.close()


def test_interface_group_that_nobody_knows(netns: str) -> None:
    """The tap works without, and the warning has the line that mends it."""
    tap = open_tap_in(netns, TAP, ifgroup="hnogroup")
    (warning,) = tap.findings.warnings
    assert "ifgroup_unknown: hn0: " in warning
    assert "echo '100 hnogroup' >>/etc/iproute2/group" in warning
    tap.close()
    inside(f"ip tuntap add dev {TAP} mode tap")
    with pytest.raises(TapError, match="leave ifgroup= out"):
        open_tap_in(netns, TAP, ifgroup="4711")


def test_address_that_is_another_interfaces(netns: str) -> None:
    """Two sites with one prefix: the second tap works alone, and the warning says why it does not.
    Link-local addresses are every interface's own."""
    both = [ip_interface(text) for text in ("192.0.2.8/31", "2001:db8::1/64", "fe80::1/64")]
    first = open_tap_in(netns, TAP, address=both)
    assert () == first.findings.warnings
    second = open_tap_in(netns, f"{TAP}b", address=both)
    assert ["192.0.2.8", "2001:db8::1"] == [text.split()[2] for text in second.findings.warnings]
    assert all("address_taken: hn0b: " in text for text in second.findings.warnings)
    first.close()
    second.close()


@pytest.mark.parametrize("text", ["", "-1", "4294967296", "no such group"])
def test_groups_that_are_none(text: str) -> None:
    """Neither a number of 32 bits nor a known name."""
    assert link.group_number(text) is None


def users_namespace(start: Children) -> str:
    """A namespace that a user without rights made."""
    holder = start(*words(), need("unshare"), "-Urn", "sh", "-c", "echo in; exec sleep 300")
    holder.wait_for("in")
    return f"/proc/{holder.pid}/ns/net"


def test_unprivileged_user(start: Children) -> None:
    """A user without rights opens taps in a namespace of their own, and in no other."""
    opener = start(*python(), "-c", UNPRIVILEGED, users_namespace(start))
    assert 0 == opener.wait(), str(opener)
    assert "True True 10\n" == opener.stdout
    refused = start(*python(), "-c", UNPRIVILEGED, "/proc/self/ns/net")
    assert 1 == refused.wait()
    assert "/proc/self/ns/net: belongs to another user; run as root" in refused.stderr


def test_root_in_a_users_namespace(start: Children) -> None:
    """Root needs not become the user who owns it."""
    tap = open_tap_in(users_namespace(start), TAP, address=ROUTER)
    assert Findings() == tap.findings
    tap.close()


def test_permitted(start: Children) -> None:
    """Root may make taps; a user without rights may not, but in a namespace of their own."""
    asks = ["-c", "from vionet.ports import tap; print(tap.permitted())"]
    assert permitted()
    outside = start(*python(), *asks)
    own = start(*words(), need("unshare"), "-Urn", *python()[len(words()) :], *asks)
    assert (0, 0) == (outside.wait(), own.wait()), f"{outside}{own}"
    assert ("False\n", "True\n") == (outside.stdout, own.stdout)
