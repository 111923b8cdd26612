"""A guest whose kernel ends while it boots is started again, once; init.sh waits until it can fork.

The kernels that end are real ones, with their device attached: their init is none.
"""

import os
import subprocess
from pathlib import Path

import pytest

from tests.interop.end import End
from tests.interop.lab import Lab
from tests.interop.peers.process import Peer, PeerError
from tests.interop.peers.qemu import Qemu
from tests.interop.peers.shell import Console
from tests.interop.peers.traffic import converse
from tests.interop.peers.uml import Uml
from tests.tools import need, need_root
from vionet.bench.guest.console import READY
from vionet.bench.guest.machine import INIT

KINDS = {"uml": Uml, "qemu": Qemu}
PROGRAMS = {"uml": "linux.uml", "qemu": "qemu-system-x86_64"}
WITHOUT_INIT = {
    "uml": "init=/bin/false",
    "qemu": "-append 'console=ttyS0 panic=-1 rdinit=/bin/false'",
}
NOBODY = "64876"  # a user who has no process


def dying(lab: Lab, kind: str, times: int) -> Console:
    """A guest on socket `a` whose kernel panics `times` times before it boots."""
    program, boots = lab.folder / "kernel", lab.folder / "boots"
    program.write_text(
        f"#!/bin/sh\necho >>{boots}\n"
        f'[ $(wc -l <{boots}) -gt {times} ] || exec {PROGRAMS[kind]} "$@" {WITHOUT_INIT[kind]}\n'
        f'exec {PROGRAMS[kind]} "$@"\n'
    )
    program.chmod(0o700)
    need(PROGRAMS[kind])
    guest = KINDS[kind]("a", lab.socket("a"), lab.folder, program=str(program))
    lab.stack.callback(guest.kill)
    return guest


@pytest.mark.parametrize("kind", KINDS)
def test_guest_that_panics_at_boot_is_started_again(lab: Lab, kind: str) -> None:
    """vionet takes the next one on the same socket; a warning has the panic, the record both."""
    vionet = lab.switch({"a": "", "b": ""})
    guest, other = dying(lab, kind, 1), lab.uml("b")
    with pytest.warns(UserWarning, match="(?s)died at boot.*Kernel panic"):
        lab.boot(guest)
    lab.boot(other, first=2)
    End.read(kind).check(guest, vionet.ports()["a"])
    converse(guest, other, size=300_000, largest=100)
    said = (lab.folder / "a.console").read_bytes()
    assert said.index(b"Kernel panic") < said.replace(b"\r", b"").index(READY)
    assert 2 == vionet.log.read_text().count("session opened fabric=switch port=a ")


@pytest.mark.parametrize("kind", KINDS)
def test_guest_that_panics_twice_is_an_error(lab: Lab, kind: str) -> None:
    """The second panic is what the error shows; nothing is started a third time."""
    lab.switch({"a": ""})
    guest = dying(lab, kind, 2)
    with pytest.warns(UserWarning, match="died at boot"), pytest.raises(PeerError, match="panic"):
        guest.await_boot()
    assert "\n\n" == (lab.folder / "boots").read_text()


def test_guest_that_booted_is_not_started_again(lab: Lab) -> None:
    """What ends a guest later is an error of the test that it happens in."""
    guest = lab.uml("a", connected=False)
    guest.await_boot()
    with pytest.raises(PeerError, match="ended"):
        guest.run("poweroff -f")
    with pytest.raises(PeerError, match="ended"):
        guest.await_boot(5)


@pytest.mark.root
def test_init_waits_until_it_can_fork(tmp_path: Path) -> None:
    """Without a process left init.sh tries again; a shell of its own would have ended."""
    need_root()
    need("busybox")
    nobody = ["setpriv", "--reuid", NOBODY, "--clear-groups"]
    other = Peer([*nobody, "sleep", "300"], tmp_path / "other")
    argv = [*nobody, "prlimit", "--nproc=2", "busybox", "sh", str(INIT)]
    child = Peer(argv, tmp_path / "log", stdin=subprocess.PIPE)
    try:
        child.await_line("can't fork", 60)
        other.kill()
        child.await_line(READY.decode(), 60)
    finally:
        other.kill()
        child.kill()


@pytest.mark.root
def test_line_in_pieces_is_read_whole(tmp_path: Path) -> None:
    """A background command that ends while half of a line has come does not take that half away."""
    need_root()  # to be nobody: as root, init.sh would mount over this machine
    need("busybox")
    nobody = ["setpriv", "--reuid", NOBODY, "--clear-groups"]
    child = Peer([*nobody, "busybox", "sh", str(INIT)], tmp_path / "log", stdin=subprocess.PIPE)
    try:
        child.await_line(READY.decode(), 60)
        assert child.process.stdin is not None
        os.write(stdin := child.process.stdin.fileno(), b"(sleep 1; echo over) &\n")
        os.write(stdin, b'echo "one ')
        child.await_line("over", 60)
        os.write(stdin, b'line"\n')
        child.await_line("one line", 60)
    finally:
        child.kill()
