"""Fixtures of the tests with real peers."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.lab import Lab
from tests.interop.peers.browser import Browser
from tests.interop.peers.browser import browser as running_browser

HERE = Path(__file__).parent
# DPDK polls a core for as long as it runs; the others stop one of their peers, trace it, or want
# its queues to be served at the same time.
ALONE = {f"test_{name}" for name in ("dpdk", "packed", "hostile", "full_receiver", "multiqueue")}
ALONE.add("test_wire_copies_nothing")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder talks to real peers."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("interop")
            if item.path.stem in ALONE:
                item.add_marker("alone")


@pytest.fixture
def lab(run_dir: Path) -> Iterator[Lab]:
    """The machines of one test."""
    with contextlib.ExitStack() as stack:
        yield Lab(run_dir, stack)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for all tests of a module."""
    with running_browser() as made:
        yield made
