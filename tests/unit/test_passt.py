"""The command line of passt, and the folder of its sockets; passt itself is in tests/interop."""

import os
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface
from pathlib import Path

import pytest

from vionet.services.lease import Lease
from vionet.vm.passt import PasstError, find_passt, passt_command, socket_folder

LEASE = Lease(
    mac=0x525400000001,
    gateway_mac=0x025400000101,
    address=IPv4Interface("100.64.0.3/31"),
    gateway=IPv4Address("100.64.0.2"),
    address6=IPv6Interface("fd00:64:0:1::/64"),
)
SITE = f"h-{os.getpid()}"
BOTH = (
    "passt --foreground --stderr --quiet --no-dhcp --no-dhcpv6 --no-ra --no-map-gw "
    "--tcp-ports none --udp-ports none --socket /run/p "
    "--mac-addr 02:54:00:00:01:01 --address 100.64.0.3 "
    "--netmask 255.255.255.254 --gateway 100.64.0.2 --dns-forward 100.64.0.2 "
    "--address fd00:64:0:1::2 --gateway fe80::1"
)


def test_command() -> None:
    """Both families as the lease says; IPv4 alone; another program; another user from the start."""
    assert BOTH.split() == passt_command(LEASE, Path("/run/p"))
    alone = passt_command(replace(LEASE, address6=None), Path("/run/p"), program="/opt/passt")
    assert [*BOTH.replace("passt", "/opt/passt", 1).split()[:-4], "--ipv4-only"] == alone
    dropped = passt_command(LEASE, Path("/run/p"), user=65534)
    setpriv = "setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs --pdeathsig=KILL"
    assert [*setpriv.split(), "--", *BOTH.split()] == dropped


def test_program_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line with the package that has it."""
    monkeypatch.setattr("vionet.vm.passt.PROGRAM", "passt-of-nobody")
    with pytest.raises(PasstError, match=r"passt-of-nobody is missing; as root: apt-get install"):
        find_passt()


@pytest.mark.root
def test_folder() -> None:
    """It belongs to who runs passt alone; one that is anybody else's is not used."""
    path = socket_folder(SITE, 65534)
    try:
        assert (0o40700, 65534) == (path.stat().st_mode, path.stat().st_uid)
        assert path == socket_folder(SITE, 65534)
        with pytest.raises(PasstError, match=f"{path}: belongs to somebody else.*; remove it"):
            socket_folder(SITE)
        path.chmod(0o755)
        with pytest.raises(PasstError, match="or to others too"):
            socket_folder(SITE, 65534)
    finally:
        path.rmdir()
    assert 0 == socket_folder(SITE).stat().st_uid
    path.rmdir()
    path.symlink_to("/dev")
    with pytest.raises(PasstError, match="belongs to somebody else"):
        socket_folder(SITE, 65534)
    path.unlink()
    with pytest.raises(PasstError, match="No such file or directory; passt needs it"):
        socket_folder("no/such")
