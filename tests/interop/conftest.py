"""Fixtures of the tests with real peers."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.lab import Lab

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder talks to real peers."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("interop")


@pytest.fixture
def lab(run_dir: Path) -> Iterator[Lab]:
    """The machines of one test."""
    with contextlib.ExitStack() as stack:
        yield Lab(run_dir, stack)
