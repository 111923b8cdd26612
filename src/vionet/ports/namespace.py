"""Taps and interfaces in another network namespace.

How it works: what belongs to a namespace stays there however far its descriptor travels: a tap and
a packet socket are read and written from anywhere.  Only opening them, their settings and their
self-test go by a name that must be looked up inside.  So a child process (this module as a
program) enters the namespace, opens there as `ports.tap` and `ports.interface` do, and hands over
the descriptor with what it found out, as one message; then it ends.  A process of its own, because
a user namespace is entered by processes with one thread only.

A namespace is named as `ip netns` does, or is a path, as /proc/PID/ns/net.  One that a user made
belongs to a user namespace of theirs (NS_GET_USERNS); where it cannot be entered directly, that
is entered first, which gives its owner every right inside and none outside.

Invariants: at most `PATIENCE_S` are waited; the child is gone and reaped when `open_tap_in` and
`open_interface_in` return or raise; a failure is one line and leaves nothing open.
Trust: the host's kernel, the person who chose the namespace, and the child, which runs our code.
"""

import ctypes
import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
from ipaddress import ip_interface
from pathlib import Path
from typing import Any, Final

from vionet.ports.interface import Interface, InterfaceError, interface_from, open_interface
from vionet.ports.tap import Tap, TapError, open_tap, tap_from

PATIENCE_S: Final = 20.0  # the self-test alone may take two
_ANSWER_LEN: Final = 1 << 16
_NAMED: Final = Path("/run/netns")  # where iproute2 keeps them
# linux/nsfs.h, linux/sched.h
_NS_GET_USERNS: Final = 0xB701
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000


class _NamespaceError(Exception):
    """Why a namespace cannot be entered, or nothing opened there."""


_ERRORS: Final = {"tap": TapError, "interface": InterfaceError}


def open_tap_in(netns: str, name: str, **settings: Any) -> Tap:
    """`open_tap` inside the namespace `netns`, with the same settings."""
    settings["address"] = [str(one) for one in settings.get("address", ())]
    return tap_from(*_ask(netns, "tap", name, settings))


def open_interface_in(netns: str, name: str, *, header: bool = True) -> Interface:
    """`open_interface` inside the namespace `netns`."""
    return interface_from(*_ask(netns, "interface", name, {"header": header}))


def _ask(netns: str, kind: str, name: str, wanted: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Have a child open it; the descriptor and what the child found out."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        argv = [sys.executable, "-P", "-m", __name__, str(theirs.fileno())]
        argv += [netns, kind, name, json.dumps(wanted)]
        passed = [theirs.fileno()]
        try:
            with subprocess.Popen(argv, stdin=subprocess.DEVNULL, pass_fds=passed) as child:
                theirs.close()
                ours.settimeout(PATIENCE_S)
                try:
                    flags = socket.MSG_CMSG_CLOEXEC
                    data, fds, _, _ = socket.recv_fds(ours, _ANSWER_LEN, 1, flags)
                finally:
                    child.kill()  # it has nothing more to do
        except TimeoutError:
            problem = f"nothing came of it within {PATIENCE_S:g} s"
        except OSError as error:
            problem = str(error)
        else:
            if fds:
                return fds[0], json.loads(data)
            problem = json.loads(data) if data else f"who was to open it in {netns} died"
    raise _ERRORS[kind](f"{kind}:{name}: {problem}")


def enter(netns: str) -> None:
    """Go into the network namespace `netns`, the whole process; it must have one thread only."""
    named = "/" not in netns
    where = f"network namespace {netns}"
    try:
        fd = os.open(_NAMED / netns if named else netns, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        mend = f"as root: ip netns add {netns}" if named else "start what it belongs to"
        raise _NamespaceError(f"{where}: {error.strerror}; {mend}") from None
    try:
        _enter(fd)
    except OSError as error:
        if error.errno == errno.EPERM:
            raise _NamespaceError(f"{where}: belongs to another user; run as root") from None
        raise _NamespaceError(f"{where}: is none; `ip netns list` shows them") from None
    finally:
        os.close(fd)


def _enter(fd: int) -> None:
    """Enter a network namespace, if need be by way of the user namespace that it belongs to."""
    try:
        _setns(fd, _CLONE_NEWNET)
    except PermissionError:
        owner = fcntl.ioctl(fd, _NS_GET_USERNS)
        try:
            if os.path.samestat(os.fstat(owner), Path("/proc/self/ns/user").stat()):
                raise
            _setns(owner, _CLONE_NEWUSER)
        finally:
            os.close(owner)
        _setns(fd, _CLONE_NEWNET)


def _setns(fd: int, kind: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, kind):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _open(netns: str, kind: str, name: str, wanted: dict[str, Any]) -> Tap | Interface:
    enter(netns)
    try:
        if kind == "interface":
            return open_interface(name, **wanted)
        wanted["address"] = [ip_interface(one) for one in wanted["address"]]
        return open_tap(name, **wanted)
    except (TapError, InterfaceError) as error:
        line = str(error).removeprefix(f"{kind}:{name}: ")
        raise _NamespaceError(f"{line} (in network namespace {netns})") from None


def _main(number: str, netns: str, kind: str, name: str, wanted: str) -> None:
    """The child: open it and hand it over; the parent is told of every failure in one line."""
    with socket.socket(fileno=int(number)) as parent:
        try:
            held = _open(netns, kind, name, json.loads(wanted))
        except _NamespaceError as error:
            parent.send(json.dumps(str(error)).encode())
            return
        # Not closed in order: it belongs to the parent now, as it is.
        socket.send_fds(parent, [json.dumps(held.described()).encode()], [held.fd])


if __name__ == "__main__":
    _main(*sys.argv[1:])
