"""The units under a real systemd, in namespaces of its own: what restart, crash, reload and stop do
to a machine that runs and to a tap."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.tools import ROOT, absent, need, need_root

WAIT_S = 100  # the engine may have to be compiled
UNIT = "vionet@home"
SITE = """\
[switch.lan]
[vm.web]
memory = "64M"
stop_timeout = 1.0
[[vm.web.interface]]
switch = "lan"
[port.host]
switch = "lan"
tap = "G-sysd0"
"""
MORE = """\
[vm.db]
memory = "64M"
stop_timeout = 1.0
[[vm.db.interface]]
switch = "lan"
"""
OWNED = """\
[switch.lan]
[vm.web]
memory = "64M"
owner = "daemon"
[[vm.web.interface]]
switch = "lan"
[vm.db]
memory = "64M"
[[vm.db.interface]]
switch = "lan"
[vm.base]
enabled = false
allow_instance = ["memory"]
instance_owner = ":daemon"
[[vm.base.interface]]
switch = "lan"
"""
# A vionet of somebody who may read neither our files nor, afterwards, anything else of ours.
AS_DAEMON = """
import os, sys
import vionet.cli.console, vionet.cli.table, vionet.cli.vm
os.setgroups([])
os.setgid(1)
os.setuid(1)
vionet.cli.main(sys.argv[1:])
"""
# The first process of its own world; /run and /var/lib are empty there.
BOOT = """
set -e
mount --make-rprivate /
for folder in /run /var/lib; do mount -t tmpfs tmpfs $folder; done
mkdir -p /run/systemd/system /run/lock
cp -r "$1"/units/* /run/systemd/system/
hostname G-systemd
exec env -i PATH="$PATH" container=lxc /lib/systemd/systemd --system --unit=test.target \
    --log-target=console --show-status=false
"""


class Systemd:
    """One that manages our unit only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.site = folder / "home.toml"
        self.log = folder / "vionet.log"
        units = folder / "units"
        units.mkdir()
        (units / "test.target").write_text("[Unit]\nDefaultDependencies=no\n")
        text = (ROOT / "contrib" / "systemd" / "vionet@.service").read_text()
        text = text.replace("/usr/local/bin/vionet", str(Path(sys.executable).parent / "vionet"))
        (units / "vionet@.service").write_text(text.replace("/etc/vionet/", f"{folder}/"))
        kept = {key: os.environ[key] for key in os.environ if key.startswith(("VIONET_", "HOME"))}
        dropped = units / "vionet@.service.d"
        more = [
            "[Unit]", "DefaultDependencies=no", "[Service]", "WatchdogSec=8",
            f"StandardOutput=append:{self.log}", f"StandardError=append:{self.log}",
            *(f"Environment={key}={value}" for key, value in kept.items()),
        ]  # fmt: skip
        dropped.mkdir()
        (dropped / "test.conf").write_text("\n".join(more) + "\n")
        with (folder / "console").open("wb") as console:
            self.process = subprocess.Popen(
                ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc",
                 "--cgroup", "--uts", "--ipc", "--net", "bash", "-c", BOOT, "boot", folder],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console,
            )  # fmt: skip
        self.inside = ["nsenter", "-t", str(self._init()), "-m", "-p", "-n", "-C"]

    def _init(self) -> int:
        """The first process in there, once it answers."""
        deadline = time.monotonic() + WAIT_S
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        while time.monotonic() < deadline and self.process.poll() is None:
            found = children.read_text().split()
            if found:
                self.inside = ["nsenter", "-t", found[0], "-m", "-p", "-n", "-C"]
                if "running" in self("systemctl", "is-system-running", check=False).stdout:
                    return int(found[0])
            time.sleep(0.05)
        self.end()
        absent(f"systemd does not start here: {(self.folder / 'console').read_text()[-500:]}")

    def __call__(self, *argv: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [*self.inside, *argv], capture_output=True, text=True, timeout=WAIT_S, check=False
        )
        said = self.log.read_text()[-3000:] if self.log.exists() else ""
        assert not check or done.returncode == 0, f"{argv}: {done.stderr}\n{said}"
        return done

    def show(self, name: str) -> str:
        """A property of our unit."""
        return self("systemctl", "show", UNIT, "-p", name, "--value").stdout.strip()

    def programs(self, name: str) -> list[int]:
        """Processes of that name in there."""
        return sorted(map(int, self("pgrep", "-f", name, check=False).stdout.split()))

    def guests(self) -> list[int]:
        """Every QEMU."""
        return self.programs("^[^ ]*qemu-system")

    def tap(self) -> str:
        """The tap's number, or nothing."""
        shown = self("ip", "-o", "link", "show", "G-sysd0", check=False).stdout
        return shown.partition(":")[0]

    def wait_for(self, what: str, wanted: str) -> None:
        """Until a property of the unit is so."""
        self.wait_until(lambda: self.show(what) == wanted)

    def wait_until(self, so: Callable[[], bool]) -> None:
        """Until that is so."""
        deadline = time.monotonic() + WAIT_S
        while not so():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def end(self) -> None:
        """Kill everything in there."""
        self.process.kill()
        self.process.wait(WAIT_S)


@pytest.fixture
def systemd(run_dir: Path) -> Iterator[Systemd]:
    """A systemd with our unit, not started."""
    need_root()
    for tool in ("/lib/systemd/systemd", "ip", "unshare", "nsenter", "qemu-system-x86_64"):
        need(tool)
    made = Systemd(run_dir)
    try:
        yield made
    finally:
        made.end()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.root
def test_machines_live_through_restart_and_crash(systemd: Systemd) -> None:
    """Started, it is ready when everything answers.  A reload adds a machine and leaves the other
    alone; with a mistake it fails and says so.  A restart, a kill and a hang give another vionet
    the same QEMUs and tap.  A stop leaves no process, no tap and nothing stored."""
    systemd.site.write_text(SITE)
    systemd("systemctl", "start", UNIT)
    assert ("active", "running") == (systemd.show("ActiveState"), systemd.show("SubState"))
    (web,) = systemd.guests()
    tap, main = systemd.tap(), systemd.show("MainPID")
    assert tap
    assert "1" == systemd.show("NFileDescriptorStore")

    systemd.site.write_text(SITE + "[vm.db]\nmemroy = 1\n")
    refused = systemd("systemctl", "reload", UNIT, check=False)
    assert 0 != refused.returncode
    assert "did you mean memory?" in systemd.log.read_text()
    systemd.site.write_text(SITE + MORE)
    systemd("systemctl", "reload", UNIT)
    guests = systemd.guests()
    assert (2, True, main) == (len(guests), web in guests, systemd.show("MainPID"))

    systemd("systemctl", "restart", UNIT)
    assert (guests, tap) == (systemd.guests(), systemd.tap())
    second = systemd.show("MainPID")
    assert main != second
    assert "0" == systemd.show("NRestarts")

    systemd("kill", "-KILL", second)
    systemd.wait_for("NRestarts", "1")
    systemd.wait_for("SubState", "running")
    assert (guests, tap) == (systemd.guests(), systemd.tap())

    systemd("kill", "-STOP", systemd.show("MainPID"))  # it feeds the watchdog no more
    systemd.wait_for("NRestarts", "2")
    systemd.wait_for("SubState", "running")
    assert (guests, tap) == (systemd.guests(), systemd.tap())
    assert "1" == systemd.show("NFileDescriptorStore")

    systemd("systemctl", "stop", UNIT)
    assert ("inactive", "success") == (systemd.show("ActiveState"), systemd.show("Result"))
    assert ([], "", "0") == (systemd.guests(), systemd.tap(), systemd.show("NFileDescriptorStore"))
    assert [] == systemd.programs("vionet")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.root
def test_owner_commands_what_is_theirs(systemd: Systemd) -> None:
    """The user daemon finds the host's site, sees one machine and the instance that it makes, and
    commands both; other machines, other keys and the site are not theirs.  An instance lives
    through a restart with its owner."""
    systemd.site.write_text(OWNED)
    systemd("systemctl", "start", UNIT)

    def daemon(*arguments: str, check: bool = True) -> str:
        done = systemd(sys.executable, "-c", AS_DAEMON, *arguments, check=check)
        return done.stdout + done.stderr

    def seen() -> list[tuple[str, str, str]]:
        (site,) = json.loads(daemon("vm", "list", "--json"))["sites"]
        return [(vm["name"], vm["state"], vm["owner"]) for vm in site["vms"]]

    assert [("web", "running", "daemon")] == seen()
    assert "web: paused\n" == daemon("vm", "pause", "web")
    assert "web: running\n" == daemon("vm", "unpause", "web")
    assert "web: stopped\n" == daemon("vm", "stop", "web", "--force", "--wait")
    assert "web: running\n" == daemon("vm", "start", "web")
    assert "mine: running\n" == daemon("vm", "start", "mine", "-t", "base", "-m", "96M")
    for arguments, says in (
        (["vm", "reset", "db"], "db: no such machine"),
        (["vm", "console", "base"], "base: no such machine"),
        (["vm", "start", "x", "-m", "64M", "-L"], "start machines without a template"),
        (["vm", "start", "x", "-t", "web"], "web: not a template for you"),
        (
            ["vm", "start", "x", "-t", "base", "--cpus", "2", "-d", "/etc/shadow"],
            "x: disk: not for",
        ),
        (["reload"], "only root and the user who runs vionet"),
        (["status", "--control", "/run/vionet/home.control"], "only root and the user who runs"),
    ):
        assert says in daemon(*arguments, check=False)
    line = [sys.executable, "-c", AS_DAEMON, "vm", "console", "mine"]
    begins = f"exec 3< <(exec {shlex.join(line)}); timeout 60 head -c 60 <&3; kill $!"
    assert "SeaBIOS" in systemd("bash", "-c", begins).stdout

    guests = systemd.guests()
    systemd("systemctl", "restart", UNIT)
    assert [("mine", "running", "daemon"), ("web", "running", "daemon")] == seen()
    assert (3, guests) == (len(guests), systemd.guests())
    assert "mine: stopped\n" == daemon("vm", "stop", "mine", "--force", "--wait")
    systemd.wait_until(lambda: [("web", "running", "daemon")] == seen())
    systemd("systemctl", "stop", UNIT)
    assert [] == systemd.guests()


@pytest.mark.parametrize("unit", ["vionet@.service", "user/vionet@.service"])
def test_units_are_well_formed(run_dir: Path, unit: str) -> None:
    """systemd itself finds nothing to say about them."""
    text = (ROOT / "contrib" / "systemd" / unit).read_text()
    text = re.sub(r"=\S+/bin/vionet ", f"={Path(sys.executable).parent / 'vionet'} ", text)
    (run_dir / "vionet@home.service").write_text(text)
    done = subprocess.run(
        [need("systemd-analyze"), *(["--user"] if "/" in unit else []), "verify", "--man=no",
         run_dir / "vionet@home.service"],
        capture_output=True, text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert (0, "") == (done.returncode, done.stderr)
