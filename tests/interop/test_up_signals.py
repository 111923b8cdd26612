"""`vionet up` told by signals while it is not ready yet.

In QEMU's place is a program that answers at its monitor only when the test lets it.
"""

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.process import Child, Children

WAIT_S = 60
QEMU = """#!{python} -IS
import json, os, socket, sys, time
if sys.argv[1] == "--version":
    sys.exit(print("QEMU emulator version 7.2.0"))
(monitor,) = (a for a in sys.argv if a.startswith("socket,id=monitor,"))
s = socket.socket(1)
s.bind(monitor.split("path=")[1].split(",")[0])
s.listen()
while True:
    c = s.accept()[0]
    while not os.path.exists({go!r}):
        time.sleep(0.01)
    say = lambda what: c.sendall(json.dumps(what).encode() + b"\\n")
    say({{"QMP": {{"version": {{}}, "capabilities": []}}}})
    while data := c.recv(1000):
        asked = json.loads(data)
        if asked["execute"] == "quit":
            sys.exit()
        say({{"return": {{"running": True, "status": "running"}}, "id": asked.get("id")}})
"""


class Lab:
    """A site of one machine, and how it is run."""

    def __init__(self, folder: Path, run_dir: Path, start: Children) -> None:
        self._start, self.go = start, folder / "go"
        program = folder / "bin" / "qemu-system-x86_64"
        program.parent.mkdir()
        program.write_text(QEMU.format(python=sys.executable, go=str(self.go)))
        program.chmod(0o755)
        (folder / "kernel").touch()
        self.file = folder / "ups.toml"
        self.file.write_text('[vm.t]\nkernel = "kernel"\naccel = "tcg"\nstop_timeout = 0\n')
        self._env = {
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "XDG_RUNTIME_DIR": str(run_dir),
            "XDG_STATE_HOME": str(folder),
        }

    def up(self) -> Child:
        """A vionet that runs it."""
        argv = [sys.executable, "-m", "vionet", "up", str(self.file)]
        return self._start(*argv, env=self._env)

    def begun(self, pattern: str) -> Child:
        """One that has come so far, while QEMU does not answer."""
        self.go.unlink(missing_ok=True)
        child = self.up()
        child.wait_for(pattern, WAIT_S)
        return child

    def guests(self) -> list[int]:
        """The process ids of QEMUs."""
        program = f"{self.file.parent}/bin/qemu-system-x86_64".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if program in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
            except OSError:
                pass  # gone
        return found


@pytest.fixture
def lab(tmp_path: Path, run_dir: Path, start: Children) -> Lab:
    """Nothing runs yet."""
    return Lab(tmp_path, run_dir, start)


def test_told_to_end_while_it_starts(lab: Lab) -> None:
    """SIGTERM does not wait for a machine that does not come up, and leaves nothing."""
    child = lab.begun("machine starting")
    assert 0 == child.stop(WAIT_S)
    assert "before all were started" in child.stderr
    assert "ready" not in child.stdout
    assert [] == lab.guests()


def test_told_to_reload_while_it_starts(lab: Lab) -> None:
    """SIGHUP is not lost, and kills nobody: the file is read again when all is set up."""
    child = lab.begun("machine starting")
    child.process.send_signal(signal.SIGHUP)
    lab.go.touch()
    child.wait_for("reloaded", WAIT_S)
    lab.file.unlink()
    child.process.send_signal(signal.SIGHUP)
    child.wait_for(f"not reloaded.*{lab.file.name}: No such file", WAIT_S)
    assert 0 == child.stop(WAIT_S)
    assert [] == lab.guests()


def test_told_to_leave_while_it_takes_over(lab: Lab) -> None:
    """A vionet that follows another is to make way for a third one before it has taken over the
    machine (`systemctl restart`, twice): the machine goes on, until the third one is to end."""
    first = lab.begun("machine starting")
    lab.go.touch()
    first.wait_for("^ready", WAIT_S)
    guests = lab.guests()
    assert 1 == len(guests)
    assert 0 == first.stop(WAIT_S, signal.SIGUSR2)
    second = lab.begun("machine starting.*adopted")
    second.process.send_signal(signal.SIGUSR2)
    lab.go.touch()
    assert 0 == second.wait(WAIT_S)
    assert guests == lab.guests()
    third = lab.up()
    third.wait_for("^ready", WAIT_S)
    assert guests == lab.guests()
    assert 0 == third.stop(WAIT_S)
    assert [] == lab.guests()
