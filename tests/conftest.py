"""What every test may ask for, and what every session must leave behind: nothing.

Fixtures: `need` (a program, else skip or fail), `run_dir` (a folder with a path short enough for
sockets), `start` (child processes that end with the test).  At the end of the session no file
descriptor and no process may be left over.
"""

import contextlib
import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import tools
from tests.process import Children

# sun_path holds 108 bytes with the final zero; this leaves room for the name of a socket.
RUN_DIR_LEN_MAX = 60
MARK = "VIONET_TEST_SESSION"  # in the environment of every process that a session starts
SPARED = ("/dev/null", "anon_inode:[eventpoll]", "/dev/urandom")
failed = pytest.StashKey[bool]()
# What is found by chance is found again: the same examples in every run, however slow the machine.
# `--hypothesis-profile=default` looks for others.
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")
_growth: dict[str, int] = {}
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell has it in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # children are told to end by it


@pytest.fixture(scope="session")
def need() -> Callable[[str], Path]:
    """`need("tshark")` is the program's path, or the end of this test."""
    return tools.need


@pytest.fixture
def run_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder for sockets, also the XDG_RUNTIME_DIR of the test and its children."""
    base = os.environ.get("TMPDIR", "/tmp")
    path = Path(tempfile.mkdtemp(prefix="vn-", dir=base if len(base) < 40 else "/tmp"))
    assert len(os.fsencode(path)) <= RUN_DIR_LEN_MAX
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def start(request: pytest.FixtureRequest) -> Iterator[Children]:
    """`start("program", "argument")` is a running `tests.process.Child`."""
    children = Children()
    yield children
    children.end()
    if request.node.stash.get(failed, False):
        for child in children.all:
            print(f"\n=== {child}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Remember a failure for `start`, which then shows what its children said."""
    report: pytest.TestReport = yield  # type: ignore[assignment, misc]
    if report.failed:
        item.stash[failed] = True
    return report  # type: ignore[return-value]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `root` need root."""
    if item.get_closest_marker("root"):
        tools.need_root()


@pytest.fixture(autouse=True)
def _descriptor_growth(request: pytest.FixtureRequest) -> Iterator[None]:
    """Note which tests end with more open descriptors than they found."""
    before = len(_descriptors())
    yield
    growth = len(_descriptors()) - before
    if growth > 0:
        _growth[request.node.nodeid] = growth


@pytest.fixture(scope="session", autouse=True)
def nothing_left_over() -> Iterator[None]:
    """No descriptor and no process outlives the session."""
    mark = f"{os.getpid()}"
    os.environ[MARK] = mark
    before = _descriptors()
    yield
    gc.collect()
    after = _descriptors()
    left = {fd: target for fd, target in after.items() if before.get(fd) != target}
    left = {fd: target for fd, target in left.items() if target not in SPARED}
    orphans = _processes_marked(mark)
    for pid in orphans:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not orphans, f"processes left running: {orphans}"
    assert len(after) <= len(before) or not left, (
        f"descriptors left open: {left}; tests that ended with more than they found: {_growth}"
    )


def _descriptors() -> dict[int, str]:
    """This process's open descriptors and what they are."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found[int(entry.name)] = str(entry.readlink())
    return found


def _processes_marked(mark: str) -> dict[int, str]:
    """Processes that this session started and that still run, with their command lines."""
    wanted = f"{MARK}={mark}".encode()
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(folder.name) == os.getpid() or _state(folder) == "Z":
                continue
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(folder.name)] = command.decode(errors="replace").strip()
    return found


def _state(folder: Path) -> str:
    return (folder / "stat").read_text().rpartition(")")[2].split()[0]
