"""A user's own network namespace: made, entered, used for a tap, gone with its process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process import Child, Children
from tests.unprivileged import UID, python, words
from vionet.bench.guest.process import until
from vionet.vm import holder

# An unprivileged user's vionet in short: a holder, a tap in its namespace, until it is killed.
USER = """
import signal, subprocess, sys, time
from ipaddress import ip_interface
from vionet.ports.namespace import open_tap_in
from vionet.vm import holder
assert holder.refusal() is None
child = subprocess.Popen(holder.holder_command(forward=False))
while not holder.ready(child.pid):
    assert child.poll() is None
    time.sleep(0.01)
address = [ip_interface(one) for one in ("100.64.0.2/31", "fe80::1/64")]
tap = open_tap_in(holder.network_namespace(child.pid), "hh0", address=address)
print("holder", child.pid, tap.findings.takes_partial, flush=True)
sys.stdin.read()
child.kill()
child.wait()
"""


def begin(start: Children, forward: bool) -> Child:
    """A ready holder of the test's own user."""
    child = start(*holder.holder_command(forward=forward))
    until(lambda: holder.ready(child.pid) or not child.running, 60, "holder")
    assert child.running, str(child)
    return child


def inside(pid: int, command: str) -> str:
    """A shell's command line in the holder's namespace."""
    argv = [*holder.enter_command(pid), "sh", "-c", command]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


@pytest.mark.parametrize("forward", [False, True])
def test_namespace_is_set_up(start: Children, forward: bool) -> None:
    """Loopback up, forwarding as asked, everything allowed inside; it ends with its process."""
    child = begin(start, forward)
    assert "127.0.0.1/8" in inside(child.pid, "ip -4 -br address show dev lo up")
    for setting in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        assert f"{forward:d}\n" == inside(child.pid, f"cat /proc/sys/net/{setting}")
    assert "0\n" == inside(child.pid, "id -u")
    inside(child.pid, "ip link add hbridge type bridge && ip link set hbridge up")
    link = Path(f"/proc/{child.pid}/ns/net").readlink()
    assert Path("/proc/self/ns/net").readlink() != link
    child.stop(with_signal=signal.SIGKILL)
    assert not holder.ready(child.pid)


def test_who_is_not_ready() -> None:
    """Neither a process of another name nor one that is not there."""
    assert not holder.ready(os.getpid())
    assert not holder.ready(2**22 + 1)


@pytest.mark.root
def test_unprivileged_user(start: Children) -> None:
    """A user without rights makes a tap in a namespace of their own, and other programs of this
    user, and only of this user, go in with the documented words."""
    user = start(*python(), "-c", USER)
    pid = int(user.wait_for(r"holder (\d+) True")[1])
    assert UID == Path(f"/proc/{pid}").stat().st_uid
    enter = holder.enter_command(pid)
    shown = start(*words(), *enter, "ip", "address", "show", "dev", "hh0")
    assert 0 == shown.wait(), str(shown)
    assert "inet 100.64.0.2/31" in shown.stdout
    other = start("setpriv", f"--reuid={UID - 1}", "--clear-groups", "--", *enter, "true")
    assert 1 == other.wait()
    assert "Permission denied" in other.stderr
    user.close_input()
    assert 0 == user.wait(), str(user)
    assert not holder.ready(pid)


@pytest.mark.root
def test_it_dies_with_who_started_it(start: Children) -> None:
    """A holder that is to die with its parent (PR_SET_PDEATHSIG) still does after it became root in
    a namespace of its own."""
    argv = [*python(), *holder.holder_command(forward=False)[1:]]
    guarded = ["setpriv", "--pdeathsig", "KILL", "--", *argv[len(words()) :]]
    shell = start(*words(), "sh", "-c", '"$@" & echo child $!; wait', "sh", *guarded)
    pid = int(shell.wait_for(r"child (\d+)")[1])
    until(lambda: holder.ready(pid), 60, "holder")
    shell.process.kill()
    shell.wait()
    until(lambda: not holder.ready(pid), 60, "end of the holder")


def test_refusal(start: Children) -> None:
    """Where users may not have such namespaces one line says so, with what allows it; where they
    may, nothing is said and nothing is left."""
    assert holder.refusal() is None
    asks = "from vionet.vm import holder; print(holder.refusal())"
    none = 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"'
    child = start("unshare", "-Ur", "sh", "-c", none, "sh", sys.executable, "-c", asks)
    assert 0 == child.wait(), str(child)
    assert child.stdout.startswith("a network namespace of one's own: cannot be made: No space")
    assert "sysctl user.max_user_namespaces" in child.stdout
    assert 1 == child.stdout.count("\n")
