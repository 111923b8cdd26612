"""Interfaces, opened for real on a veth in a namespace of the test's own."""

import os
import re
import sys
from pathlib import Path

import pytest

from tests.process import Children
from tests.reference.capability import CAP_NET_RAW, without
from tests.reference.veth import FAR, NEAR, call, make_veth
from vionet.ports import interface as interface_module
from vionet.ports import uplink
from vionet.ports.interface import SLOTS, InterfaceError, open_interface
from vionet.ports.uplink import Findings

HOLDER = """
import sys
from vionet.ports.interface import open_interface
interface = open_interface(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("namespace")]


def promiscuity(name: str = NEAR) -> int:
    """How many want `name` to take every frame."""
    found = re.search(r"promiscuity (\d+)", call(f"ip -d link show {name}"))
    assert found
    return int(found[1])


@pytest.mark.parametrize("header", [True, False])
def test_open_and_close(header: bool) -> None:
    """It takes all that the kernel can, is promiscuous while it is open, and leaves nothing."""
    make_veth(mtu=1400)
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    maps = Path("/proc/self/maps").read_text().count("socket:")
    assert 0 == promiscuity()
    interface = open_interface(NEAR, header=header)
    assert (NEAR, 1400) == (interface.name, interface.mtu)
    assert 10 * header == interface.header_len
    assert (Findings() if header else Findings(False, 0)) == interface.findings
    assert not os.get_blocking(interface.fd)
    assert not os.get_inheritable(interface.fd)
    assert (1, 0) == (promiscuity(), promiscuity(FAR))
    assert maps + 1 == Path("/proc/self/maps").read_text().count("socket:")
    interface.close()
    assert 0 == promiscuity()
    assert maps == Path("/proc/self/maps").read_text().count("socket:")
    assert descriptors == len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@pytest.mark.parametrize("signal", ["TERM", "KILL"])
def test_no_promiscuous_mode_is_left(start: Children, signal: str) -> None:
    """However the process ends, the kernel takes promiscuous mode back."""
    make_veth()
    child = start(sys.executable, "-c", HOLDER, NEAR)
    child.wait_for("open", 20)
    assert 1 == promiscuity()
    call(f"kill -s {signal} {child.pid}")
    child.wait(60)
    assert 0 == promiscuity()


def test_names_that_are_none() -> None:
    """An interface that is not there, and a name that none can have."""
    with pytest.raises(InterfaceError, match=r"interface:wnone: no such interface; `ip link`"):
        open_interface("wnone")
    with pytest.raises(InterfaceError, match="at most 15 bytes"):
        open_interface("a-name-of-16-chr")


def test_no_permission() -> None:
    """Without CAP_NET_RAW the error says what is missing."""
    make_veth()
    with without(CAP_NET_RAW), pytest.raises(InterfaceError, match="run as root"):
        open_interface(NEAR, header=False)


def test_packet_sockets_without_a_header(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel refuses the header the interface works without, and says so; played by an
    option that no kernel has."""
    make_veth()
    monkeypatch.setattr(uplink, "PACKET_VNET_HDR", 0x7777)
    interface = open_interface(NEAR)
    assert (0, False, 0) == (
        interface.header_len,
        interface.findings.takes_partial,
        interface.findings.takes_gso,
    )
    (warning,) = interface.findings.warnings
    assert warning.startswith("uplink_no_partial: ")
    interface.close()


def test_ring_that_cannot_be_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a later step fails nothing is left open, and nothing promiscuous."""
    make_veth()
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    monkeypatch.setattr(interface_module, "_RING_LEN", (SLOTS + 1) * interface_module.SLOT_LEN)
    with pytest.raises(InterfaceError, match=f"interface:{NEAR}: Invalid argument"):
        open_interface(NEAR)
    assert 0 == promiscuity()
    assert descriptors == len(os.listdir("/proc/self/fd"))  # noqa: PTH208
