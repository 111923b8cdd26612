"""Settings of a host's network interface: address, MTU, link state, IP addresses, group.

How it works: the old ioctls on any socket, and one rtnetlink request where they cannot do it (IPv6,
several addresses, groups).  All of it in the namespace of the calling thread.  Needs CAP_NET_ADMIN
to change anything; raises OSError as the kernel does.
"""

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from pathlib import Path
from typing import Final

IFNAMSIZ: Final = 16
IFREQ_LEN: Final = 40
ADDRESSES_MAX: Final = 4096  # of one host that are looked at
IFF_UP: Final = 0x01
IFF_RUNNING: Final = 0x40

# linux/sockios.h
_SIOCGIFCONF: Final = 0x8912
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_SIOCGIFMTU: Final = 0x8921
_SIOCSIFMTU: Final = 0x8922
_SIOCSIFHWADDR: Final = 0x8924
_ARPHRD_ETHER: Final = 1

# linux/netlink.h, linux/rtnetlink.h, linux/if_addr.h, linux/if_link.h
_RTM_SETLINK: Final = 19
_RTM_NEWADDR: Final = 20
_NLM_F_REQUEST_ACK: Final = 0x1 | 0x4
_NLM_F_CREATE_EXCL: Final = 0x400 | 0x200
_IFLA_GROUP: Final = 27
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_IFA_FLAGS: Final = 8
_IFA_F_NODAD: Final = 0x02
_NLMSGHDR: Final = struct.Struct("=IHHII")
_IFADDRMSG: Final = struct.Struct("=BBBBI")
_IFINFOMSG: Final = struct.Struct("=BxHiII")
# Where iproute2 looks for the names of groups; the first one that knows a name decides.
GROUP_FILES: Final = (Path("/etc/iproute2/group"), Path("/usr/share/iproute2/group"))


def ifreq(name: str, flags: int = 0) -> bytes:
    """A `struct ifreq` with 16 bits of flags."""
    return struct.pack("=16sH22x", os.fsencode(name), flags)


def unpack_ifreq(request: bytes | bytearray) -> tuple[str, int]:
    """Name and flags of a `struct ifreq`."""
    name, flags = struct.unpack_from("=16sH", request)
    return os.fsdecode(name.rstrip(b"\0")), flags


def exists(name: str) -> bool:
    """Whether this network namespace has an interface of that name."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


def mtu(name: str) -> int:
    """The interface's MTU."""
    answer = _ioctl(_SIOCGIFMTU, ifreq(name))
    return int(struct.unpack_from("=i", answer, IFNAMSIZ)[0])


def set_mtu(name: str, value: int) -> None:
    """Change the interface's MTU."""
    _ioctl(_SIOCSIFMTU, struct.pack("=16si20x", os.fsencode(name), value))


def set_mac(name: str, mac: int) -> None:
    """Change the interface's Ethernet address, 48 bits, the first octet highest."""
    octets = mac.to_bytes(6, "big")
    _ioctl(_SIOCSIFHWADDR, struct.pack("=16sH6s16x", os.fsencode(name), _ARPHRD_ETHER, octets))


def link_up(name: str) -> bool:
    """Whether the interface is set up."""
    return bool(_flags(name) & IFF_UP)


def running(name: str) -> bool:
    """Whether it is up, has a carrier, and the kernel has taken note of that."""
    return bool(_flags(name) & IFF_RUNNING)


def set_link_up(name: str) -> None:
    """Set the interface up."""
    _ioctl(_SIOCSIFFLAGS, ifreq(name, _flags(name) | IFF_UP))


def _flags(name: str) -> int:
    return unpack_ifreq(_ioctl(_SIOCGIFFLAGS, ifreq(name)))[1]


def _ioctl(request: int, argument: bytes) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        return fcntl.ioctl(probe, request, argument)


def has_address(ip: IPv4Address | IPv6Address) -> bool:
    """Whether an interface here has that address; link-local ones every interface may have."""
    if ip.version == 4:
        found = ctypes.create_string_buffer(IFREQ_LEN * ADDRESSES_MAX)
        answer = _ioctl(_SIOCGIFCONF, struct.pack("@iP", len(found), ctypes.addressof(found)))
        (size,) = struct.unpack_from("=i", answer)
        # Each a `struct ifreq` with a `struct sockaddr_in`.
        return any(found.raw[at + 20 : at + 24] == ip.packed for at in range(0, size, IFREQ_LEN))
    with contextlib.suppress(FileNotFoundError):
        lines = Path("/proc/thread-self/net/if_inet6").read_text().splitlines()
        return not ip.is_link_local and any(line.startswith(ip.packed.hex()) for line in lines)
    return False


def add_address(name: str, address: IPv4Interface | IPv6Interface) -> None:
    """Give the interface an IP address; usable at once (no duplicate address detection)."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    index = socket.if_nametoindex(name)
    body = _IFADDRMSG.pack(family, address.network.prefixlen, 0, 0, index)
    for kind in (_IFA_LOCAL, _IFA_ADDRESS):
        body += _attribute(kind, address.ip.packed)
    if family == socket.AF_INET6:
        body += _attribute(_IFA_FLAGS, struct.pack("=I", _IFA_F_NODAD))
    _request(_RTM_NEWADDR, _NLM_F_CREATE_EXCL, body)


def set_group(name: str, group: int) -> None:
    """Put the interface into a group, by which firewall rules and `ip link` can name it."""
    index = socket.if_nametoindex(name)
    group_attribute = _attribute(_IFLA_GROUP, struct.pack("=I", group))
    _request(_RTM_SETLINK, 0, _IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, 0, 0) + group_attribute)


def group_number(group: str) -> int | None:
    """The number of an interface group given by number or name; None: nobody knows the name."""
    if group.isascii() and group.isdigit():
        return int(group) if int(group) < 1 << 32 else None
    for path in GROUP_FILES:
        with contextlib.suppress(OSError):
            for line in path.read_text(errors="replace").splitlines():
                number, *names = line.partition("#")[0].split()[:2] or [""]
                with contextlib.suppress(ValueError):
                    if names == [group] and 0 <= int(number, 0) < 1 << 32:
                        return int(number, 0)
    return None


def set_ipv6(name: str, setting: str, value: int) -> None:
    """Change what the kernel's IPv6 does by itself at the interface."""
    Path(f"/proc/sys/net/ipv6/conf/{name}/{setting}").write_text(f"{value}\n")


def _request(kind: int, flags: int, body: bytes) -> None:
    header = _NLMSGHDR.pack(_NLMSGHDR.size + len(body), kind, _NLM_F_REQUEST_ACK | flags, 1, 0)
    with contextlib.closing(
        socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
    ) as netlink:
        netlink.settimeout(5)
        netlink.sendto(header + body, (0, 0))
        answer = netlink.recv(4096)
    # struct nlmsgerr follows the header: 0, or a negative errno.
    (code,) = struct.unpack_from("=i", answer, _NLMSGHDR.size)
    if code:
        raise OSError(-code, os.strerror(-code))


def _attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)
