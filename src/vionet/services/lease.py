"""What one local interface is told: its addresses, its gateway, its resolvers.

A lease is one guest NIC's and never changes while the NIC is there.  Both sides of the NIC are in
it: the guest's own addresses, and the gateway's on the host side.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

GATEWAY_LINK_LOCAL = IPv6Address("fe80::1")  # of every local interface's host side
RESOLVERS_MAX = 8  # told of either family


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One local interface; Ethernet addresses are 48 bits, the first octet highest."""

    mac: int  # the guest's
    gateway_mac: int  # the host side's
    address: IPv4Interface  # the guest's, 100.64.0.3/31
    gateway: IPv4Address  # 100.64.0.2, on the host side
    address6: IPv6Interface | None = None  # the /64 in which the guest chooses; None: no IPv6
    resolvers: tuple[IPv4Address, ...] = ()
    resolvers6: tuple[IPv6Address, ...] = ()
    domains: tuple[str, ...] = ()  # searched
    host_name: str | None = None
    boot_file: str | None = None  # told to who boots from the network (vmd: auto_install)
    mtu: int | None = None

    @property
    def service_mac(self) -> int:
        """From which answers come: the guest's with the last octet plus one, as vmd has it."""
        return self.mac & ~0xFF | (self.mac + 1) & 0xFF
