"""The tests' own ground: what `conftest` promises is kept, shown by sessions that break it."""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tools
from tests.conftest import RUN_DIR_LEN_MAX
from tests.process import ChildError, Children
from tests.tools import ROOT


def session(folder: Path, test: str, **env: str) -> tuple[int, str]:
    """Run a session of one test file under our conftest: its status and output."""
    (folder / "tests").mkdir()
    for name in ("conftest.py", "process.py", "tools.py", "debian-packages.txt"):
        shutil.copy(ROOT / "tests" / name, folder / "tests")
    (folder / "tests" / "test_one.py").write_text(test)
    (folder / "pyproject.toml").write_text("[tool.pytest.ini_options]\npythonpath = ['.']\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--import-mode=importlib", "-q", "-rs", "tests"],
        cwd=folder,
        env={**os.environ, "CI": "", **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


MISSING = """
def test_one(need, monkeypatch):
    monkeypatch.setattr("tests.tools.SYSTEM_FOLDERS", "/nowhere")
    monkeypatch.setenv("PATH", "/nowhere")
    need("tshark")
"""


def test_missing_program_skips_and_names_its_package(tmp_path: Path) -> None:
    """Outside CI a test that misses a program is skipped, and says how to get it."""
    status, output = session(tmp_path, MISSING)
    assert 0 == status
    assert "tshark is missing: apt-get install tshark" in output
    assert "1 skipped" in output


def test_missing_program_fails_in_ci(tmp_path: Path) -> None:
    """In CI nothing may be missing."""
    status, output = session(tmp_path, MISSING, CI="true")
    assert 1 == status
    assert "apt-get install tshark" in output


def test_descriptor_left_open_fails_the_session(tmp_path: Path) -> None:
    """A test that leaves a descriptor open is named at the end of the session."""
    leak = "import os\ndef test_one():\n    os.memfd_create('forgotten')\n"
    status, output = session(tmp_path, leak)
    assert 1 == status
    assert "memfd:forgotten" in output
    assert "tests/test_one.py::test_one" in output


def test_process_left_running_fails_the_session(tmp_path: Path) -> None:
    """A process that outlives its test, even in a session of its own, is named and killed."""
    orphan = (
        "import subprocess\ndef test_one():\n"
        "    subprocess.run(['sh', '-c', 'setsid sleep 7654 >/dev/null 2>&1 &'], check=True)\n"
    )
    status, output = session(tmp_path, orphan)
    assert 1 == status
    assert "processes left running" in output
    assert "sleep 7654" in output


def test_children_end_with_their_test_and_show_what_they_said(tmp_path: Path) -> None:
    """A child that ignores SIGTERM is killed with its group; a failed test shows its output."""
    stubborn = (
        "def test_one(start):\n"
        "    child = start('sh', '-c', \"trap '' TERM; echo standing >&2; sleep 7655 & wait\")\n"
        "    child.wait_for('standing')\n"
        "    assert False\n"
    )
    status, output = session(tmp_path, stubborn)
    assert 1 == status
    assert "1 failed" in output
    assert "error" not in output.splitlines()[-1]
    assert "--- stderr\nstanding" in output


def test_waiting_has_an_end(start: Children) -> None:
    """Waiting for a line that never comes ends with what the child said instead."""
    silent = start("sh", "-c", "echo something else; exec sleep 60")
    with pytest.raises(ChildError, match="something else"):
        silent.wait_for("^ready$", timeout=0.5)
    short = start("sh", "-c", "echo over; exit 3")
    with pytest.raises(ChildError, match="ended before"):
        short.wait_for("^ready$", timeout=10)
    assert 3 == short.wait()


CHILD = """
from tests.process import Children
start = Children()
child = start("sh", "-c", "echo $$; exec sleep 7656")
pid = child.wait_for("^[0-9]+$")[0]
"""
GRANDCHILD = """
from pathlib import Path
from tests.interop.peers.process import Peer
peer = Peer(["sh", "-c", "sleep 7657 & echo $!. ; wait"], Path("log"), family=True)
peer.await_line(".", 10)
pid = peer.output().strip().strip(".")
"""


@pytest.mark.parametrize("script", [CHILD, GRANDCHILD], ids=["child", "grandchild"])
def test_processes_die_with_the_tests(script: str, tmp_path: Path) -> None:
    """When the test process is killed, so are its children, and theirs where it is asked for."""
    tools.need("setpriv")
    script += "print(pid, flush=True)\nimport os\nos.kill(os.getpid(), 9)\n"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert -signal.SIGKILL == done.returncode, done.stderr
    with contextlib.suppress(ProcessLookupError):
        process = os.pidfd_open(int(done.stdout))
        ended, _, _ = select.select([process], [], [], 10)
        os.close(process)
        assert [process] == ended


def test_run_dir_leaves_room_for_a_socket(run_dir: Path) -> None:
    """A socket in `run_dir` fits into the 108 bytes of a socket address, and children see it."""
    assert len(str(run_dir)) <= RUN_DIR_LEN_MAX
    assert str(run_dir) == os.environ["XDG_RUNTIME_DIR"]
    assert [] == list(run_dir.iterdir())
