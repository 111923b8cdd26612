"""One test's machines: a fabric, guests, namespaces; all of it gone when the test ends."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

from tests.interop.peers import dpdk, netns, vionet
from tests.interop.peers.netns import Namespace
from tests.interop.peers.qemu import Qemu
from tests.interop.peers.shell import Console
from tests.interop.peers.uml import NET_MODULES, Uml
from tests.interop.peers.vionet import Vionet


class Lab:
    """What a test builds its network from; everything is ended in reverse order."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self.stack = stack

    def socket(self, name: str) -> Path:
        """The vhost-user socket of guest `name`."""
        return self.folder / f"{name}.sock"

    def guest(self, name: str, options: str = "") -> str:
        """The PORT text of guest `name` for a wire; with `NAME=` before it, for a switch."""
        return f"guest:{self.socket(name)}" + (f",{options}" if options else "")

    def switch(
        self, guests: Mapping[str, str], *ports: str, place: Namespace | None = None
    ) -> Vionet:
        """A running switch with a port for each guest (name: options) and other `ports`."""
        texts = [f"{name}={self.guest(name, options)}" for name, options in guests.items()]
        enter = place.enter if place else []
        made = vionet.fabric("switch", self.folder, *texts, *ports, enter=enter)
        return self.stack.enter_context(made)

    def wire(self, one: str, other: str, *, place: Namespace | None = None) -> Vionet:
        """A running wire between two PORTs, started in namespace `place`."""
        enter = place.enter if place else []
        return self.stack.enter_context(vionet.fabric("wire", self.folder, one, other, enter=enter))

    def uml(
        self, name: str, *, connected: bool = True, modules: tuple[str, ...] = NET_MODULES
    ) -> Uml:
        """A booting User Mode Linux guest."""
        guest = Uml(name, self.socket(name) if connected else None, self.folder, modules=modules)
        self.stack.callback(guest.kill)
        return guest

    def qemu(
        self,
        name: str,
        properties: Mapping[str, str] | None = None,
        *,
        reconnect: bool = False,
        listens: bool = False,
        reboots: bool = False,
        queues: int = 1,
    ) -> Qemu:
        """A booting QEMU guest whose device has `properties`."""
        mac = "52:54:00:00:00:" + bytes(name[-1], "ascii").hex()
        socket = self.socket(name)
        guest = Qemu(
            name,
            socket,
            self.folder,
            mac=mac,
            reconnect=reconnect,
            listens=listens,
            reboots=reboots,
            queues=queues,
            cpus=queues,
            properties=properties,
        )
        self.stack.callback(guest.kill)
        return guest

    def boot(self, *guests: Console, first: int = 1) -> None:
        """Wait for `guests` and give them the addresses `first`, `first` + 1 and so on."""
        for guest in guests:
            guest.await_boot()
        for number, guest in enumerate(guests, first):
            guest.configure(number)

    def namespace(self, label: str) -> Namespace:
        """A network namespace."""
        return self.stack.enter_context(netns.namespace(label, self.folder))

    def hugepages(self) -> Path:
        """Huge pages for DPDK."""
        return self.stack.enter_context(dpdk.hugepages(self.folder))
