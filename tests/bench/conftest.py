"""Each bench runs for a moment; what it measures then means nothing, what it checks does."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Load and switch need a core each."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("alone")
