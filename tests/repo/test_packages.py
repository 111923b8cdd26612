"""The Debian package list is true."""

import pytest

from tests.tools import need, packages


@pytest.mark.parametrize("tool", sorted(packages()))
def test_package_has_its_programs(tool: str) -> None:
    """Every program that the list promises is found where its package is installed."""
    assert need(tool).exists()
