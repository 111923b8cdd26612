"""A site with its guests and its host, and the first thing that they do: ask for addresses.

How it works: `Cast` runs one site in a namespace, which is its host, and boots its machines and the
foreign guest; `on_switch` and `at_home` turn a guest's shell to one of its two networks.
"""

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from tests.interop.lab import Lab
from tests.interop.peers.netns import Namespace
from tests.interop.peers.process import PeerError
from tests.interop.peers.uml import Uml
from tests.interop.site_file import CLIENTS, NAMES, NUMBERS, PREFIX, PREFIX6, UML
from tests.interop.site_image import Images
from tests.interop.site_lab import WAIT_S, Machine, Site, host_of

Text = Callable[..., str]  # a file's, from the images and the names of machines
FORWARD = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")


@dataclass
class Home:
    """The two ends of a local interface."""

    guest: Machine
    gateway: Namespace


class Cast:
    """One site, and who takes part."""

    def __init__(self, lab: Lab, images: Images, text: Text, suffix: str) -> None:
        self.lab, self.images, self.text = lab, images, text
        self.place = self.host = lab.namespace("site")  # where vionet runs, where its taps are
        self.folder = lab.folder
        self.file = f"lab{os.getpid()}.{suffix}"  # of the site's name, too
        self.guests: dict[str, Machine] = {}

    def write(self, *names: str, **changes: Any) -> str:
        """Write the file with these machines; *returns* what it was before."""
        path = self.folder / self.file
        before = path.read_text() if path.exists() else ""
        path.write_text(self.text(self.images, *names, **changes))
        return before

    def begin(self, *, enter: Sequence[str] = (), **options: Any) -> None:
        """Start the site; `options` are those of `Site`."""
        self.write(*NAMES)
        words = [*self.place.enter, *enter]
        self.site = Site(self.folder / self.file, self.folder, enter=words, **options)
        self.lab.stack.callback(self.site.kill)
        self.add_foreign()

    def find_host(self) -> None:
        """Where the host's ends are, after they may have moved."""

    def forward(self) -> None:
        """Have a host that forwards what it is given: who keeps guests apart must be vionet."""
        self.host.run("sysctl -qw " + " ".join(f"{name}=1" for name in FORWARD))

    def add_foreign(self) -> None:
        """Have a port for the foreign guest, where the file cannot say so."""
        if self.file.endswith(".conf"):
            socket = self.lab.socket("uml")
            done = self.site.call("port add", f"uml=guest:{socket},{UML}")
            assert 0 == done.returncode, done.stderr

    def boot(self, *names: str) -> None:
        """Attach to the consoles of these, and give them their place on the switch."""
        for name in names:
            if name == "uml":
                self.uml = self.lab.uml("uml")
            else:
                self.guests[name] = Machine(name, self.site)
                self.lab.stack.callback(self.guests[name].kill)
        for name in names:
            (self.uml if name == "uml" else self.guests[name]).await_boot(WAIT_S)
        for name in names:
            self.on_switch(name).configure(NUMBERS[name])

    def on_switch(self, name: str) -> Machine | Uml:
        """This guest, for traffic over the switch."""
        if name == "uml":
            return self.uml
        number = NUMBERS[name]
        self.guests[name].use("eth1", f"192.0.2.{number}", f"fd00:76::{number:x}")
        return self.guests[name]

    def slot(self, name: str) -> int:
        """Which of the local interfaces it is: they are numbered in the order of the file."""
        return list(CLIENTS).index(name) + 1

    def address(self, name: str) -> str:
        """The guest's own on its local interface."""
        return str(PREFIX + 2 * self.slot(name) + 1)

    def gateway(self, name: str) -> str:
        """The other one on that interface."""
        return str(PREFIX + 2 * self.slot(name))

    def network6(self, name: str) -> IPv6Network:
        """Its /64."""
        return list(PREFIX6.subnets(new_prefix=64))[self.slot(name) - 1]

    def address6(self, name: str) -> str:
        """What the guest's kernel has made of what the router told."""
        said = self.guests[name].run("ip -6 addr show dev eth0 scope global")
        found = re.findall(r"inet6 (\S+)/64", said)
        assert 1 == len(found), said
        return str(found[0])

    def at_home(self, name: str) -> Home:
        """This guest and its host, for traffic over its local interface."""
        guest = self.guests[name]
        guest.use("eth0", self.address(name), self.address6(name))
        gateway6 = str(self.network6(name).network_address + 1)
        return Home(guest, host_of(self.host, self.gateway(name), gateway6))

    def await_address(self, guest: Machine, pattern: str) -> None:
        """Wait until the guest has such an address on its local interface."""
        deadline = time.monotonic() + WAIT_S
        while not re.search(pattern, said := guest.run("ip addr show dev eth0")):
            if time.monotonic() > deadline:
                said += guest.run("cat /proc/net/snmp6 | grep Icmp6 ; dmesg | tail -20")
                raise PeerError(f"{guest.name}: no {pattern!r}: {said}")
            time.sleep(0.05)

    def ask_addresses(self, *names: str) -> None:
        """Each machine asks by its own client, and its kernel asks routers; all get their own."""
        for name in names:
            self.guests[name].run("ip link set eth0 up")
        for name in names:
            self.guests[name].start(CLIENTS[name].format(nic="eth0"))
        for name in names:
            guest = self.guests[name]
            self.await_address(guest, rf"inet {re.escape(self.address(name))}/31 ")
            self.await_address(guest, r"inet6 \S+/64 scope global dynamic")
            for command, gateway in (("ip route", self.gateway(name)), ("ip -6 route", "fe80::1")):
                wanted = f"default via {gateway} dev eth0"
                guest.run(f"until {command} | grep -q '{wanted}' ; do usleep 20000 ; done")
            known = self.site.machines()[name]["interfaces"][0]["addresses"]
            assert [self.address(name), str(self.network6(name))] == known
            assert IPv6Address(self.address6(name)) in self.network6(name)
