"""The session in the documentation is one that took place: docs/session.md, played again."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop import recording
from tests.interop.peers import initramfs
from tests.interop.peers.process import until
from tests.interop.terminal import Host, Terminal
from tests.interop.vm_lab import BUTTON
from tests.snippet import snippets
from tests.tools import ROOT, need
from vionet.bench.guest.initramfs import FOLDERS, Archive

pytestmark = [pytest.mark.root, pytest.mark.slow]
PAGE = ROOT / "docs" / "session.md"
RECORD = "VIONET_RECORD"  # in the environment: the page is written anew
MODULES = ("drivers/acpi/button", "drivers/input/evdev")
STAMP = "2026-01-01T10:00:00.5Z [info] "
ONE, OTHER, NEW = (digit * 32 for digit in "01a")
INIT = f"""#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
echo 1 >/proc/sys/kernel/printk
for module in /modules/*; do insmod $module; done
ip link set lo up
ip link set eth0 up
udhcpc -q -i eth0 -s /told >/dev/null 2>&1
{{ {BUTTON}; }} &
mkdir /home
cd /home
export HOME=/home TERM=dumb PS1='\\h# '
exec setsid cttyhack sh
"""
TOLD = """#!/bin/busybox sh
[ "$1" = bound ] || exit 0
hostname "$hostname"
ip address add "$ip/$mask" dev "$interface"
ip route add default via "$router" dev "$interface"
"""


def build_guest(folder: Path) -> None:
    """What the session's machines boot."""
    kernel = initramfs.kernel()
    archive = Archive()
    for name in FOLDERS:
        archive.folder(name)
    archive.console()
    archive.program("/bin/busybox", need("busybox"))
    archive.file("/init", INIT.encode())
    archive.file("/told", TOLD.encode())
    drivers = [kernel.modules / "kernel" / f"{name}.ko" for name in MODULES]
    for number, path in enumerate([*kernel.present, *(one for one in drivers if one.exists())]):
        archive.file(f"/modules/{number:02}-{path.name}", path)
    (folder / "initrd.img").write_bytes(archive.finish())
    (folder / "vmlinuz").symlink_to(kernel.image)


@pytest.fixture
def host(run_dir: Path) -> Iterator[Host]:
    """Where it takes place."""
    for program in ("qemu-system-x86_64", "ip", "ss", "curl", "pkill"):
        need(program)
    build_guest(run_dir)
    host = Host(run_dir)
    yield host
    host.end()


@pytest.fixture
def terminals(host: Host) -> Iterator[dict[str, Terminal]]:
    """Three of them."""
    env = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin",
        "XDG_RUNTIME_DIR": "",  # as root: /run
        "XDG_STATE_HOME": "/run/state",
    }
    found = {number: Terminal(host, env) for number in "123"}
    yield found
    for number, terminal in found.items():
        print(f"=== terminal {number}\n{terminal.text}")
        terminal.close()


def test_comparison() -> None:
    """Two pages are the same if their numbers or their drops differ, and not if their zeros or
    words do."""
    counts = "port sent received elided\nweb.0  9  1.2k  0\n"
    page = f"{STAMP}a\n{STAMP}b pid=12\n{counts}\nup 3s now\n{ONE} {OTHER}\n"
    for old, new in {
        STAMP: STAMP.replace("5", "07"),
        "1.2k": "87",
        "3s": "1m",
        "=12": "=3",
        OTHER: NEW,
    }.items():
        assert recording.same(page) == recording.same(page.replace(old, new)), new
    assert recording.same(page) == recording.same(f"{STAMP}frames dropped port=a\n{page}")
    for old, new in {" b": " c", "1.2k": "0", "  0": "  7", "now": "", OTHER: ONE}.items():
        assert recording.same(page) != recording.same(page.replace(old, new)), new


def test_session(host: Host, terminals: dict[str, Terminal]) -> None:
    """What the page says is typed leads to what the page says comes."""
    (file,) = (snippet for snippet in snippets(PAGE) if snippet.place)
    host.run("sh", "-c", file.script)

    def connected() -> None:
        until(lambda: host.run("ss", "-Htn", "state", "established"), 60, "a connection")

    page = PAGE.read_text()
    played = recording.play(page, terminals, connected)
    if os.environ.get(RECORD):
        PAGE.write_text(played)
        pytest.skip(f"{PAGE.name} is written anew")
    assert recording.same(page) == recording.same(played), f"{RECORD}=1 writes the page anew"
