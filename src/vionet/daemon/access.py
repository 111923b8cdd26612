"""Who may ask for what: by the credentials of a control socket's peer, never by what it says.

How it works: the kernel tells who connected (SO_PEERCRED, SO_PEERGROUPS: as of that moment).  Root
and the user who runs vionet may ask for everything.  Anybody else may do with a machine what
`LEVELS` calls the owner's, if the machine names them or one of their groups; all other machines do
not exist for them.  An owner who makes an instance of a machine may choose what the file allows
(`CHOICES`), and name only files that nobody but root or who runs vionet can change and that the
owner can read: QEMU opens them with vionet's rights, so a path that the owner can swap, or an image
whose header the owner can write, would open any file of the host.

Invariants: everything here is a pure function of its arguments and the user database; a name that
the database does not know is nobody; more than 256 groups count as the first one only.
"""

import grp
import os
import pwd
import socket
import stat
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

from vionet.site.model import Owner, VmEntry

_SO_PEERGROUPS: Final = 59  # asm-generic/socket.h
_GROUPS_LEN: Final = 1024  # bytes; the most that Python's getsockopt returns


class Level(Enum):
    """Whose a request is."""

    ADMIN = "admin"  # root and the user who runs vionet
    OWNER = "owner"  # of the machine named, too


LEVELS: Final = {
    "status": Level.ADMIN,
    "set": Level.ADMIN,
    "capture": Level.ADMIN,
    "add": Level.ADMIN,
    "remove": Level.ADMIN,
    "reload": Level.ADMIN,
    "vm.list": Level.OWNER,
    "vm.start": Level.OWNER,
    "vm.stop": Level.OWNER,
    "vm.pause": Level.OWNER,
    "vm.unpause": Level.OWNER,
    "vm.reset": Level.OWNER,
    "vm.console": Level.OWNER,
    "vm.log": Level.OWNER,
}
# What `allow instance` permits -> the keys of a machine's description.
CHOICES: Final = {
    "boot": ("kernel", "initrd", "append", "boot"),
    "disk": ("disk",),
    "cdrom": ("cdrom",),
    "memory": ("memory",),
    "cpus": ("cpus",),
    "interface": ("interface",),
    "owner": ("owner",),
    "name": (),  # an instance has one of its own in any case
    "instance": (),  # it may be a template itself
}
INTERFACE_CHOICES: Final = ("switch", "local")  # the rest is the host's, or another's address


@dataclass(frozen=True, slots=True)
class Peer:
    """Whoever connected."""

    pid: int
    uid: int
    gid: int
    groups: frozenset[int] = frozenset()

    @property
    def admin(self) -> bool:
        """Root, or the user who runs vionet."""
        return self.uid in (0, os.geteuid())

    @property
    def name(self) -> str:
        """As the user database has it, else the number."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return str(self.uid)


def peer_of(connection: socket.socket) -> Peer:
    """The other end of a Unix socket."""
    ids = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, gid = struct.unpack("=iII", ids)
    try:
        groups = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_LEN)
    except OSError:
        groups = b""
    return Peer(
        pid, uid, gid, frozenset({gid, *(one for (one,) in struct.iter_unpack("=I", groups))})
    )


def may(peer: Peer, entry: VmEntry, verb: str) -> bool:
    """Whether a request `vm.<verb>` about this machine is the peer's to make."""
    level = LEVELS[f"vm.{verb}"]
    return peer.admin or (level is Level.OWNER and _is(peer, entry.owner))


def may_make(peer: Peer, template: VmEntry) -> bool:
    """Whether the peer may make instances of this machine."""
    if peer.admin:
        return True
    return template.allow_instance is not None and _is(
        peer, template.instance_owner or template.owner
    )


def not_allowed(template: VmEntry, table: Mapping[str, Any]) -> list[str]:
    """The keys of an instance's description that are not for its owner to choose."""
    chosen = {key for allowed in template.allow_instance or () for key in CHOICES.get(allowed, ())}
    refused = [key for key in table if key not in chosen]
    interfaces = table.get("interface", ()) if "interface" in chosen else ()
    for interface in interfaces if isinstance(interfaces, list) else ():
        if isinstance(interface, dict):
            refused += [f"interface.{key}" for key in interface if key not in INTERFACE_CHOICES]
    return refused


def open_to_others(entries: Iterable[VmEntry]) -> bool:
    """Whether somebody besides who runs vionet has a machine, and must reach the socket."""
    return any(entry.owner or entry.instance_owner for entry in entries)


def foreign_files(peer: Peer, table: Mapping[str, Any]) -> list[str]:
    """The files in a machine's description that vionet must not open for this peer."""
    disks = table.get("disk", [])
    named = [(table[key], True) for key in ("kernel", "initrd", "cdrom") if key in table]
    for disk in disks if isinstance(disks, list) else [disks]:
        if not isinstance(disk, dict):
            named.append((disk, False))
        elif "path" in disk:
            named.append((disk["path"], disk.get("read_only") is True))
    return [
        str(path)
        for path, read_only in named
        if not (read_only and isinstance(path, str) and _trusted(peer, Path(path)))
    ]


def _trusted(peer: Peer, path: Path) -> bool:
    """Whether only root or who runs vionet can change the file or any folder on its path, and the
    peer can read it; a path by way of symbolic links or `..` is not looked at."""
    try:
        real = path.resolve(strict=True)
        found = [one.stat() for one in (real, *real.parents)]
    except (OSError, RuntimeError, ValueError):
        return False
    if real != path or not stat.S_ISREG(found[0].st_mode):
        return False
    for number, status in enumerate(found):
        if status.st_uid not in (0, os.geteuid()) or not _permits(peer, status, 1 if number else 4):
            return False
        others = stat.S_IWOTH | (stat.S_IWGRP if status.st_gid else 0)
        # In a folder with the sticky bit (/tmp) nobody replaces what is not theirs.
        if status.st_mode & others and not (number and status.st_mode & stat.S_ISVTX):
            return False
    return True


def _permits(peer: Peer, status: os.stat_result, bit: int) -> bool:
    shift = 6 if peer.uid == status.st_uid else 3 if status.st_gid in peer.groups else 0
    return bool(status.st_mode >> shift & bit)


def owner_text(owner: Owner | None) -> str | None:
    """For people: user:group, with the name for a number that has one."""
    if owner is None:
        return None
    user = owner.user or ""
    if user.isdecimal():
        user = Peer(0, int(user), 0).name
    return f"{user}:{owner.group}" if owner.group else user


def _is(peer: Peer, owner: Owner | None) -> bool:
    if owner is None:
        return False
    if owner.user is not None and _number(owner.user, _user) == peer.uid:
        return True
    return owner.group is not None and _number(owner.group, _group) in peer.groups


def _user(name: str) -> int:
    return pwd.getpwnam(name).pw_uid


def _group(name: str) -> int:
    return grp.getgrnam(name).gr_gid


def _number(name: str, known: Callable[[str], int]) -> int | None:
    if name.isascii() and name.isdecimal():
        return int(name)
    try:
        return known(name)
    except KeyError:
        return None
