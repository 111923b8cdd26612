"""A network namespace of one's own: the process that keeps it, for who has no right to make taps.

How it works: `python -m vionet.vm.holder` takes a new user namespace, in which whoever starts it is
root, and a new network namespace that belongs to it; sets up the loopback there, switches
forwarding on or off, and sleeps until it is killed.  When all is done the process takes the name
`READY`, which anybody can read (`ready`), also who did not start it; where something is refused it
says so in one line and ends.  A person runs programs inside by `enter_command`.

Invariants: without forwarding the host side of one local interface does not lead to another.
Trust: the person who starts it.  It holds no right outside that this person has not.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from vionet.ports import link

READY: Final = "vionet-network"  # at most 15 bytes, as all names of processes
_CHECK_S: Final = 10.0
_CLONE_NEW: Final = 0x10000000 | 0x40000000  # linux/sched.h: NEWUSER, NEWNET
_PR_SET_NAME: Final = 15  # linux/prctl.h
_FORWARDING: Final = (
    Path("/proc/sys/net/ipv4/ip_forward"),
    Path("/proc/sys/net/ipv6/conf/all/forwarding"),
)
# What may forbid it: the kernel, Debian's before 11, Ubuntu's since 23.10.
_ALLOWED: Final = (
    "allow it (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, "
    "kernel.apparmor_restrict_unprivileged_userns), or run as root"
)
_WHAT: Final = "a network namespace of one's own"


def holder_command(*, forward: bool) -> list[str]:
    """What is to be run; `forward`: packets from one interface go out by another."""
    return [sys.executable, "-P", "-m", __name__, "forward" if forward else "hold"]


def ready(pid: int) -> bool:
    """Whether the holder `pid` has all done; False too while it is not there."""
    try:
        return Path(f"/proc/{pid}/comm").read_text() == f"{READY}\n"
    except OSError:
        return False


def network_namespace(pid: int) -> str:
    """The path of its namespace, for `netns=`."""
    return f"/proc/{pid}/ns/net"


def enter_command(pid: int) -> list[str]:
    """What goes before a command line that its user wants to run inside, as root there."""
    return ["nsenter", "--preserve-credentials", "-U", "-n", "-t", str(pid)]


def refusal() -> str | None:
    """Why this user cannot have such a namespace, in one line; found out by trying."""
    argv = [*holder_command(forward=False)[:-1], "check"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_CHECK_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{_WHAT}: {error}"
    return done.stderr.strip().rpartition("\n")[2] if done.returncode else None


class _Refused(Exception):
    """What the kernel did not allow."""


@contextmanager
def _explained(what: str, mend: str = _ALLOWED) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _Refused(f"{_WHAT}: {what}: {error.strerror}; {mend}") from None


def _prepare(forward: bool) -> None:
    """Take the namespaces and set them up."""
    uid, gid = os.geteuid(), os.getegid()
    with _explained("cannot be made"):
        _call("unshare", _CLONE_NEW)
        # One's own group may be mapped only by who gives up the choice of others.
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    with _explained("its loopback"):
        link.set_link_up("lo")
    for path in _FORWARDING:
        with _explained(f"{path}", "have /proc/sys writable"):
            # A new namespace may begin with the first one's settings.
            if path.exists() and path.read_text() != f"{forward:d}\n":
                path.write_text(f"{forward:d}\n")


def _call(name: str, *arguments: int | bytes) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _main(mode: str) -> int:
    try:
        _prepare(mode == "forward")
    except _Refused as refused:
        print(refused, file=sys.stderr, flush=True)
        return 1
    if mode != "check":
        _call("prctl", _PR_SET_NAME, READY.encode())
        signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
