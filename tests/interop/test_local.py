"""The services of a local interface before real clients, of distributions.

How it works: two namespaces joined by a veth.  One is the host: its kernel is the gateway, and
`local_service` answers as the engine's service port would.  The other is the guest, whose
checksums its kernel finishes; clients run there with an /etc and a host name of their own.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.asking import GUEST
from tests.interop.lab import Lab
from tests.interop.peers.netns import Capture, ChildJob, Namespace
from tests.interop.peers.process import until
from tests.interop.peers.shell import Shell
from tests.interop.peers.traffic import converse
from tests.tools import ROOT, need

pytestmark = pytest.mark.root

IP = "/sbin/ip"  # in a guest's shell `ip` is busybox's
ADDRESS, HOST, PREFIX = "100.64.0.3", "100.64.0.2", "fd00:1:2:"
MADE6 = f"{PREFIX}0:5054:ff:fe00:ff"  # of the prefix and the guest's MAC
SCRIPTS = {  # as distributions have them for udhcpc: with `ip`, and with what was before it
    "ip": "ip -4 addr add $ip/$mask dev $interface; ip link set $interface mtu $mtu\n"
    "for r in $router; do ip route add default via $r dev $interface; done",
    "ifconfig": "busybox ifconfig $interface $ip netmask $subnet mtu $mtu\n"
    "for r in $router; do busybox route add default gw $r dev $interface; done",
}
NETWORK = """[Match]
Name=eth0
[Network]
DHCP=yes
IPv6AcceptRA=yes
[DHCPv4]
UseDomains=yes
UseMTU=yes
UseHostname=no
SendRelease=no
"""


@dataclass(frozen=True)
class Ends:
    """A host and a guest."""

    host: Namespace
    guest: Shell
    folder: Path

    def up(self) -> None:
        """Connect the guest; its kernel then looks for a router, and finds it alone on its link."""
        link = "until grep -q 1 /sys/class/net/eth0/carrier ; do sleep 0.02 ; done"
        self.guest.run(f"{IP} link set eth0 addrgenmode eui64 && {IP} link set eth0 up && {link}")

    def udhcpc(self, script: str, told: Path) -> dict[str, str]:
        """Run busybox's client with one of SCRIPTS; returns what that was told."""
        need("busybox")
        file = self.folder / "udhcpc.sh"
        file.write_text(f'#!/bin/sh\n[ "$1" = bound ] || exit 0\nenv >{told}\n{SCRIPTS[script]}\n')
        file.chmod(0o700)
        self.guest.run(f"busybox udhcpc -i eth0 -n -q -f -T 20 -O mtu -O search -s {file}")
        lines = self.guest.run(f"cat {told}").splitlines()
        return dict(line.split("=", 1) for line in lines)

    def addresses(self) -> str:
        """What the guest has: addresses, then routes."""
        return self.guest.run(f"{IP} addr show dev eth0; {IP} route; {IP} -6 route")

    def settle(self) -> None:
        """Wait until the guest's own IPv6 addresses are its own."""
        own = "the guest's own addresses"
        until(lambda: f"inet6 {MADE6}/64" in self.addresses(), 60, own, 0.1)
        until(lambda: "tentative" not in self.addresses(), 60, own, 0.1)

    def check(self) -> None:
        """The guest has the lease's address and route and its kernel's own; bulk traffic flows."""
        self.settle()
        for line in (
            f"inet {ADDRESS}/31 ",
            f"default via {HOST} dev eth0",
            "default via fe80::1 dev eth0 proto ra",
        ):
            until(lambda line=line: line in self.addresses(), 60, line, 0.1)  # type: ignore[misc]
        assert " mtu 1400 " in self.addresses().splitlines()[0]
        self.guest.address4, self.guest.address6 = ADDRESS, MADE6
        self.host.address4, self.host.address6 = HOST, f"{PREFIX}:1"
        converse(self.guest, self.host, largest=100)


class Local(Ends):
    """Two namespaces."""

    guest: Namespace

    def start(self, script: str) -> ChildJob:
        """Start `script` in the guest; what it writes to /etc goes to a copy."""
        file = self.folder / "private.sh"
        file.write_text(
            f"set -e; cd {self.folder}; mount --make-rprivate /\n"
            "mkdir -p etc lib; touch leases; cp -a /etc/. etc; mount --bind etc /etc\n"
            "mkdir -p /var/lib/dhcp; mount --bind lib /var/lib/dhcp\n"
            "umount /etc/resolv.conf 2>/dev/null || true; rm -f /etc/resolv.conf\n"
            f": >/etc/resolv.conf; hostname localhost\n{script}\n"
        )
        return self.guest.start(f"unshare -mu sh {file}")

    def dhclient(self, options: str, ends: str) -> str:
        """Start ISC's client with `options`, wait until it says `ends`; returns what it said."""
        need("dhclient")
        hook = "/etc/dhcp/dhclient-exit-hooks.d/told"
        client = f"exec dhclient {options} -d -v -pf pid -lf leases eth0"
        job = self.start(f"mkdir -p {Path(hook).parent}; echo 'hostname >name' >{hook}\n{client}")
        job.await_output(ends)
        return job.child.output()

    def resolv_conf(self) -> list[str]:
        """The lines of the guest's resolv.conf."""
        return (self.folder / "etc" / "resolv.conf").read_text().splitlines()


@pytest.fixture
def local(lab: Lab) -> Local:
    """A host with its service running, and a guest whose link is down."""
    host, guest = lab.namespace("lhost"), lab.namespace("lguest")
    host.run(f"ip link add vhost mtu 1400 type veth peer name eth0 netns {guest.name}")
    guest.run(f"ethtool -K eth0 tx off && ip link set eth0 address {GUEST}")
    host.run(
        f"ip addr add {HOST}/31 dev vhost && ip addr add fe80::1/64 dev vhost nodad && "
        f"ip addr add {PREFIX}:1/64 dev vhost nodad && ip link set vhost up"
    )
    host.interface = "vhost"
    program = ROOT / "tests" / "interop" / "local_service.py"
    command = f"env PYTHONPATH={ROOT} {sys.executable} {program} vhost {GUEST}"
    host.start(command).await_output("ready")
    return Local(host, guest, lab.folder)


@pytest.fixture
def fabric(lab: Lab) -> Ends:
    """A real local interface: User Mode Linux, which offloads, and a tap at the host's side."""
    host = lab.namespace("lhost")
    program = ROOT / "tests" / "interop" / "local_fabric.py"
    job = host.start(f"env PYTHONPATH={ROOT} {sys.executable} {program} {lab.folder}")
    job.await_output("ready", 200)  # a cold cache compiles first
    host.interface = "local"
    guest = lab.uml("web.0")
    guest.await_boot()
    assert {0, 1, 3, 7, 8, 11, 12} <= guest.features(), "checksums, MTU, TSO both ways"
    return Ends(host, guest, lab.folder)


@pytest.mark.parametrize("script", SCRIPTS)
def test_udhcpc(local: Local, script: str) -> None:
    """Busybox's client is told everything, and all on the wire is well-formed with right sums."""
    capture = Capture(local.host, "vhost", local.folder / "capture")
    local.up()
    found = local.udhcpc(script, local.folder / "told")
    expected = {
        "ip": ADDRESS,
        "subnet": "255.255.255.254",
        "router": HOST,
        "serverid": HOST,
        "siaddr": HOST,
        "dns": "192.0.2.53 192.0.2.54",
        "domain": "example.org",
        "search": "example.org lab.example.net",
        "hostname": "web",
        "mtu": "1400",
        "boot_file": "auto_install",
        "lease": "4294967295",
    }
    assert expected == {key: found.get(key) for key in expected}
    until(lambda: MADE6 in local.addresses(), 60, "address of the kernel's own", 0.1)
    capture.stop()
    assert 4 == capture.count("dhcp")
    assert 4 == capture.judged("dhcp"), "with right sums"
    assert 1 <= capture.count("icmpv6.type == 134")
    assert 0 == capture.count('_ws.malformed or icmpv6.checksum.status == "Bad"')
    assert 0 == capture.bad("dhcp or dhcpv6")
    local.check()


def test_dhclient(local: Local) -> None:
    """ISC's client, which reads raw frames, sets up address, route, MTU, resolvers, host name."""
    local.up()
    local.dhclient("-4", "bound to")
    assert "web" == (local.folder / "name").read_text().strip()
    domains = ["domain example.org", "search example.org. lab.example.net."]
    assert [*domains, "nameserver 192.0.2.53", "nameserver 192.0.2.54"] == local.resolv_conf()
    local.check()


def test_dhclient_with_an_old_lease(local: Local) -> None:
    """A client that still has a lease of another address is refused it, and takes the right one."""
    local.up()
    lease = (
        'lease { interface "eth0"; fixed-address 100.64.0.9; option subnet-mask 255.255.255.254; '
        "option dhcp-server-identifier 100.64.0.8; option dhcp-message-type 5; "
        "option dhcp-lease-time 4294967295; renew never; rebind never; expire never; }"
    )
    (local.folder / "leases").write_text(lease)
    log = local.dhclient("-4", "bound to")
    refused = rf"DHCPREQUEST for 100\.64\.0\.9.*DHCPNAK from {HOST}.*DHCPACK of {ADDRESS} "
    assert re.search(refused, log, re.DOTALL)
    local.check()


def test_dhclient_without_addresses(local: Local) -> None:
    """Stateless DHCPv6 gives resolvers and domains."""
    local.up()
    local.settle()
    local.dhclient("-6 -S", "PRC: Done")
    told = ["nameserver 2001:db8::53", "nameserver 2001:db8::54"]
    expected = ["search example.org. lab.example.net.", *told]
    until(lambda: expected == local.resolv_conf(), 60, "resolvers", 0.1)


def test_dhclient_that_wants_an_address(local: Local) -> None:
    """Who asks DHCPv6 for an address is told that there is none."""
    local.up()
    local.settle()
    local.dhclient("-6", "Status code of no addrs")


def test_kernel_and_rdisc6(local: Local) -> None:
    """The kernel finds prefix, router and MTU by itself; rdisc6 shows what it was told."""
    need("rdisc6")
    local.up()
    local.settle()
    assert re.search(r"default via fe80::1 dev eth0 proto ra .*mtu 1400", local.addresses())
    found = local.guest.run("rdisc6 -1 eth0")
    for line in (
        r"Stateful address conf\. *: *No",
        r"Stateful other conf\. *: *Yes",
        r"Router lifetime *: *65535 ",
        r"MTU *: *1400 ",
        r"Prefix *: fd00:1:2::/64",
        r"Autonomous address conf\. *: *Yes",
        r"Valid time *: *infinite",
        r"Recursive DNS server *: 2001:db8::53",
        r"DNS search list *: example\.org lab\.example\.net",
        r"from fe80::1",
    ):
        assert re.search(line, found), line


def test_networkd(local: Local) -> None:
    """systemd-networkd gets both families with resolvers and domains."""
    need("/lib/systemd/systemd-networkd")
    (local.folder / "eth0.network").write_text(NETWORK)
    script = (
        "mount -o remount,ro /sys; mount -t tmpfs tmpfs /run\n"  # without udev, as in a container
        "rm -rf /etc/systemd/network; mkdir -p /etc/systemd/network /run/systemd/netif\n"
        "cp eth0.network /etc/systemd/network; mkdir state; mount --bind state /run/systemd/netif\n"
        "mkdir state/links state/leases state/lldp; chown -R systemd-network state; chmod 755 .\n"
        "exec env SYSTEMD_LOG_TARGET=console /lib/systemd/systemd-networkd"
    )
    local.guest.run("ip link set eth0 addrgenmode eui64")
    local.start(script).await_output(f"DHCPv4 address {ADDRESS}/31, gateway {HOST}")
    index = local.guest.run("cat /sys/class/net/eth0/ifindex").strip()
    link = local.folder / "state" / "links" / index
    resolvers = {"192.0.2.53", "192.0.2.54", "2001:db8::53", "2001:db8::54"}  # in any order

    def told(key: str) -> list[str]:
        text = link.read_text() if link.exists() else ""
        return " ".join(re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)).split()

    until(lambda: resolvers == set(told("DNS")), 60, "resolvers", 0.1)
    domains = {"example.org", "lab.example.net"}
    until(lambda: domains == set(told("DOMAINS")), 60, "domains", 0.1)
    local.check()


@pytest.mark.parametrize("script", SCRIPTS)
def test_udhcpc_in_a_guest(fabric: Ends, script: str) -> None:
    """A guest gets its addresses through the engine, and bulk traffic flows to its gateway."""
    fabric.up()
    found = fabric.udhcpc(script, Path("/dev/shm/told"))
    assert (ADDRESS, HOST, "1400") == (found["ip"], found["router"], found["mtu"])
    fabric.check()


def test_dhclient_in_a_guest(fabric: Ends) -> None:
    """ISC's client reads raw frames in a guest that takes partial checksums."""
    need("dhclient")
    fabric.up()
    fabric.guest.run(
        "cp -a /etc /dev/shm && mount --bind /dev/shm/etc /etc && rm -f /etc/resolv.conf && "
        ": >/etc/resolv.conf && : >/dev/shm/leases && hostname localhost"
    )
    fabric.guest.run("dhclient -4 -1 -pf /dev/shm/pid -lf /dev/shm/leases eth0", 90)
    assert "web" == fabric.guest.run("hostname").strip()
    assert "nameserver 192.0.2.53" in fabric.guest.run("cat /etc/resolv.conf")
    fabric.check()
