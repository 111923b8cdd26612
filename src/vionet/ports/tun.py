"""The kernel's device of taps: attaching to it by the name of an interface, taking a descriptor.

How it works: `/dev/net/tun` becomes an interface by TUNSETIFF, which makes one where there is none
of that name.  What the kernel refuses is told in words that say how to mend it.

Trust: the host's kernel and the person who chose the interface.
"""

import errno
import fcntl
import os
import re
import struct
import sys
from pathlib import Path
from typing import Final

from vionet.ports import link

# linux/if_tun.h
IFF_TAP: Final = 0x0002
IFF_MULTI_QUEUE: Final = 0x0100
IFF_NO_PI: Final = 0x1000
IFF_VNET_HDR: Final = 0x4000
_TUNSETIFF: Final = 0x400454CA
_TUNGETFEATURES: Final = 0x800454CF
_TUNGETIFF: Final = 0x800454D2
_TUNGETVNETHDRSZ: Final = 0x800454D7
_TUNSETVNETHDRSZ: Final = 0x400454D8
_TUNSETVNETLE: Final = 0x400454DC
_CAP_NET_ADMIN: Final = 12  # linux/capability.h
_DEVICE: Final = "/dev/net/tun"
_NEEDED: Final = {"IFF_TAP": IFF_TAP, "IFF_NO_PI": IFF_NO_PI, "IFF_VNET_HDR": IFF_VNET_HDR}
_FLAGS: Final = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
_NAME: Final = re.compile(r"[^\s/:%\0,]{1,15}")


class TapError(Exception):
    """Why a tap cannot be used, and what a person can do about it."""


def permitted() -> bool:
    """Whether this process may make taps where it is."""
    capabilities = re.search(r"^CapEff:\s*(\w+)$", Path("/proc/self/status").read_text(), re.M)
    able = capabilities is not None and int(capabilities[1], 16) >> _CAP_NET_ADMIN & 1
    return bool(able) and os.access(_DEVICE, os.R_OK | os.W_OK)


def name_fault(name: str) -> str | None:
    """What is wrong with `name` as the name of an interface; None where nothing is."""
    if not name:
        return "no interface"
    if len(os.fsencode(name)) > link.IFNAMSIZ - 1:
        return f"{name}: the name of an interface has at most {link.IFNAMSIZ - 1} bytes"
    if name in (".", "..") or not _NAME.fullmatch(name):
        return f"{name!r}: cannot be the name of an interface"
    return None


def attach(name: str) -> tuple[int, bool]:
    """Open the device for the interface `name`; also whether that made the interface."""
    fault = name_fault(name)
    if fault:
        raise TapError(f"tap:{name}: {fault}")
    try:
        fd = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise TapError(_no_device(name, error)) from None
    existed = link.exists(name)
    try:
        try:
            fcntl.ioctl(fd, _TUNSETIFF, link.ifreq(name, _FLAGS))
        except OSError as error:
            if error.errno != errno.EINVAL or not existed:
                raise
            # A tap made for several queues wants to hear it from everyone who opens one.
            fcntl.ioctl(fd, _TUNSETIFF, link.ifreq(name, _FLAGS | IFF_MULTI_QUEUE))
    except OSError as error:
        os.close(fd)
        raise TapError(_refused(name, error, existed)) from None
    return fd, not existed


def _no_device(name: str, error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"tap:{name}: {_DEVICE} may not be opened; ask for access to it, or run as root"
    return f"tap:{name}: {_DEVICE}: {error.strerror}; as root: modprobe tun"


def _refused(name: str, error: OSError, existed: bool) -> str:
    """The line for an attachment that the kernel refused."""
    make = f"ip tuntap add dev {name} mode tap user $USER && ip link set {name} up"
    if error.errno == errno.EPERM:
        if existed:
            make = f"ip link delete {name}; {make}"
            return f"tap:{name}: belongs to another user; as root, for yourself: {make}"
        return f"tap:{name}: no permission to make a tap; as root, for yourself: {make}"
    if error.errno == errno.EBUSY:
        return f"tap:{name}: another process uses it; stop that one, or choose another name"
    if existed:
        return f"tap:{name}: exists, but is no tap; choose another name"
    return f"tap:{name}: {error.strerror}; choose another name"


def adopt(fd: int, wanted: str) -> str:
    """Check that `fd` is an open tap with a header; the name of its interface."""
    where = f"tap:{wanted},fd={fd}"
    request = bytearray(link.IFREQ_LEN)
    try:
        supported = _read_int(fd, _TUNGETFEATURES)
        fcntl.ioctl(fd, _TUNGETIFF, request)
    except OSError as error:
        if error.errno == errno.EBADF:
            problem = "not open; pass an open tap, as a shell's 5<>… or QEMU's helper does"
        else:
            problem = "not a tap; open /dev/net/tun and TUNSETIFF it first"
        raise TapError(f"{where}: {problem}") from None
    name, flags = link.unpack_ifreq(request)
    if not supported & IFF_VNET_HDR:
        raise TapError(f"{where}: this kernel's taps have no virtio-net header; use a newer one")
    missing = [label for label, bit in _NEEDED.items() if not flags & bit]
    if missing:
        raise TapError(f"{where}: opened without {', '.join(missing)}; open it with them")
    if wanted and wanted != name:
        raise TapError(f"{where}: is the tap {name}; write tap:{name},fd={fd}")
    return name


def header_len(fd: int) -> int:
    """The length of the header in front of every frame."""
    return _read_int(fd, _TUNGETVNETHDRSZ)


def set_header_len(fd: int, length: int) -> None:
    """Change it; fields are little-endian, as guests' are and the host's usually anyway."""
    fcntl.ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("i", length))
    try:
        fcntl.ioctl(fd, _TUNSETVNETLE, struct.pack("i", 1))
    except OSError:
        if sys.byteorder != "little":
            raise


def _read_int(fd: int, request: int) -> int:
    buffer = bytearray(4)
    fcntl.ioctl(fd, request, buffer)
    return int.from_bytes(buffer, sys.byteorder)
