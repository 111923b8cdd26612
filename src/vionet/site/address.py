"""Addresses and names that nobody wrote down: of NICs, of local interfaces, of their taps.

How it works: Ethernet addresses and names of taps follow from a hash of site, machine and number.
IP addresses follow from the number k that a local interface keeps: 2k and 2k + 1 of the prefix are
gateway and guest, /64 number k - 1 of the IPv6 prefix is the guest's.  So nothing of one machine
depends on the others, save where two hashes are the same.
"""

import hashlib
import itertools
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, IPv6Network
from typing import Final

from vionet.config.port import PortConfig
from vionet.services.lease import GATEWAY_LINK_LOCAL, Lease
from vionet.site.model import Local
from vionet.vm.model import Boot, Vm

Address = IPv4Address | IPv6Address
_TAP_STEM_MAX: Final = 10  # of 15 characters, before a dash and four of the hash
_GUEST_OUI: Final = 0x525400 << 24  # as QEMU has it
_GATEWAY_OCTET: Final = 0x02 << 40  # locally administered, never a guest's


def guest_mac(site: str, machine: str, number: int, taken: set[int]) -> int:
    """Of a NIC for which the file has none; not in `taken`, where it is noted."""
    macs = (_GUEST_OUI | _digest(site, machine, number, salt, 3) for salt in itertools.count())
    mac = next(mac for mac in macs if mac not in taken)
    taken.add(mac)
    return mac


def tap_name(site: str, machine: str, number: int) -> str:
    """Of a local interface: the end of the NIC's name, and what tells it from others'."""
    stem = f"{machine}-{number}".replace(".", "-")[-_TAP_STEM_MAX:]
    return f"{stem}-{_digest(site, machine, number, 'tap', 2):04x}"


def local_lease(
    site: str,
    local: Local,
    vm: Vm,
    number: int,
    port: PortConfig,
    k: int,
    prefix6: IPv6Network | None,
) -> Lease:
    """What local interface `number` of a machine is told; resolvers as far as the file has them."""
    gateway = local.prefix.network_address + 2 * k
    address6 = None
    if prefix6:
        address6 = IPv6Interface((int(prefix6.network_address) + ((k - 1) << 64), 64))
    assert port.mac is not None
    return Lease(
        mac=port.mac,
        gateway_mac=_GATEWAY_OCTET | _digest(site, vm.name, number, "gateway", 5),
        address=IPv4Interface((gateway + 1, 31)),
        gateway=gateway,
        address6=address6,
        host_name=vm.seed.host_name if vm.seed else vm.name,
        boot_file="auto_install" if vm.boot is Boot.NETWORK else None,
        mtu=port.mtu,
    )


def gateway_addresses(lease: Lease) -> tuple[IPv4Interface | IPv6Interface, ...]:
    """What the host's side of a local interface has."""
    found: list[IPv4Interface | IPv6Interface] = [IPv4Interface((lease.gateway, 31))]
    if lease.address6:
        found.append(IPv6Interface((GATEWAY_LINK_LOCAL, 64)))
        found.append(IPv6Interface((lease.address6.network[1], 64)))
    return tuple(found)


def _digest(site: str, machine: str, number: int, salt: str | int, size: int) -> int:
    """A number of `size` bytes that is the same in every run."""
    text = "\0".join((site, machine, str(number), str(salt)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:size])
