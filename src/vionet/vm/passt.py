"""passt: the Internet for one local interface, by sockets of the user who runs vionet.

How it works: one passt for each interface, run beside the guests, listens on a socket of its own
(`socket_folder`); the interface's host side is a `stream:` port that connects there, again and
again.  passt is told both ends' addresses.  It answers ARP and neighbour discovery for the gateway
and, at the gateway's address, forwards DNS to the host's resolver, also to one on its loopback;
DHCP, DHCPv6 and router advertisements are the interface's own.  It does IPv6 where the host has a
default route for it, and ends where the host has none for IPv4 either.

It goes on listening when its peer is gone, and connections of the guest go on when one is there
again; whoever connects second is sent away.  As root it is run as another user from the start
(setpriv), because the kernel forgets who dies with whom when a process changes its user.

The guest reaches the host at the host's own addresses, and not what listens on its loopback.

Trust: passt serves a hostile guest; it goes into namespaces of its own, without rights, by itself.
"""

import contextlib
import os
import shutil
import stat
from pathlib import Path
from typing import Final

from vionet.services.lease import GATEWAY_LINK_LOCAL, Lease

PROGRAM: Final = "passt"
_NOBODY: Final = 65534
# Its own DHCP and advertisements off; no port of the host leads to the guest, nor the gateway's
# address to the host's loopback, where much listens that asks nobody's name; errors only, for the
# log of who runs it.
_FIXED: Final = ("--foreground", "--stderr", "--quiet", "--no-dhcp", "--no-dhcpv6", "--no-ra")
_UNREACHED: Final = ("--no-map-gw", "--tcp-ports", "none", "--udp-ports", "none")
_MODE: Final = 0o700


class PasstError(Exception):
    """Why there is no passt, and what a person can do about it."""


def passt_user() -> int | None:
    """Whom passt is to be run as: somebody else where vionet is root."""
    return None if os.geteuid() else _NOBODY


def passt_command(
    lease: Lease, socket: Path, *, user: int | None = None, program: str = PROGRAM
) -> list[str]:
    """The command line for one interface; it stays in the foreground and makes `socket`."""
    argv = []
    if user is not None:
        argv = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        argv += ["--no-new-privs", "--pdeathsig=KILL", "--"]
    argv += [program, *_FIXED, *_UNREACHED, "--socket", str(socket)]
    argv += ["--mac-addr", lease.gateway_mac.to_bytes(6, "big").hex(":")]
    argv += ["--address", str(lease.address.ip), "--netmask", str(lease.address.netmask)]
    argv += ["--gateway", str(lease.gateway), "--dns-forward", str(lease.gateway)]
    if lease.address6 is None:
        return [*argv, "--ipv4-only"]
    # Which address the guest chooses there passt sees when it speaks.
    anyone = lease.address6.network[2]
    return [*argv, "--address", str(anyone), "--gateway", str(GATEWAY_LINK_LOCAL)]


def find_passt() -> str:
    """The program's path."""
    path = shutil.which(PROGRAM, path=os.environ.get("PATH", os.defpath) + ":/usr/bin:/usr/sbin")
    if path is None:
        raise PasstError(f"{PROGRAM} is missing; as root: apt-get install passt")
    return path


def socket_folder(site: str, user: int | None = None) -> Path:
    """Make the folder for a site's sockets of passt, which is `user`'s alone.

    In /tmp, because AppArmor's profile of passt, which Debian and Ubuntu enforce, lets it make
    sockets there and in the home of who runs it, but not in /run.
    """
    me = os.geteuid()
    owner = me if user is None else user
    path = Path(f"/tmp/vionet-{me}-{site}")  # noqa: S108 - whose it is is looked at
    foreign = PasstError(f"{path}: belongs to somebody else, or to others too; remove it")
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(_MODE)
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(folder)
            if found.st_mode != stat.S_IFDIR | _MODE or found.st_uid not in (me, owner):
                raise foreign
            os.chown(folder, owner, -1)
        finally:
            os.close(folder)
    except (NotADirectoryError, PermissionError):
        raise foreign from None
    except OSError as error:
        raise PasstError(f"{path}: {error.strerror}; passt needs it for its sockets") from None
    return path
