"""What several unit tests need, and which of them one lane is enough for."""

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tools

HERE = Path(__file__).parent
CLONE_NEWNET = 0x40000000
# test_TOPIC*.py: the control plane, in which nothing is compiled and where coverage has no floor.
# Where such a test starts a fabric, it is the one that people run.
ONE_LANE = (
    "cli", "daemon", "explain", "holder", "namespace", "passt", "services", "site", "vm", "web",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs in the compiled lane only."""
    for item in items:
        if item.path.is_relative_to(HERE) and one_lane(item.path.stem):
            item.add_marker("one_lane")


def one_lane(stem: str) -> bool:
    """Whether a file of this name is about one of these topics."""
    return stem.removeprefix("test_").startswith(ONE_LANE)


@pytest.fixture
def namespace() -> Iterator[None]:
    """A network namespace for this thread and its children; it dies with its last user."""
    tools.need_root()
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        yield
    finally:
        assert libc.setns(home, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        os.close(home)
