"""Programs that tests need: found, or the test says which Debian package has them.

Outside CI a missing program skips its test; with CI=true it fails, so that nothing is left
untested in silence.
"""

import os
import shutil
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE_LIST = ROOT / "tests" / "debian-packages.txt"
GUEST_KERNEL = ROOT / ".cache" / "guest-kernel"
SYSTEM_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"


def in_ci() -> bool:
    """Whether a missing program is a failure."""
    return os.environ.get("CI") == "true"


def absent(what: str) -> NoReturn:
    """End the test because the machine lacks something: skip, or fail in CI."""
    if in_ci():
        pytest.fail(f"{what} (in CI nothing may be missing)", pytrace=False)
    pytest.skip(what)


@cache
def packages() -> dict[str, str]:
    """Program or file -> the Debian package that has it."""
    found: dict[str, str] = {}
    for line in PACKAGE_LIST.read_text().splitlines():
        package, *tools = line.partition("#")[0].split() or [""]
        found |= dict.fromkeys(tools, package)
    return found


def find(tool: str) -> Path | None:
    """Where a program (or a file, with a leading slash) is."""
    if tool.startswith("/"):
        return Path(tool) if Path(tool).exists() else None
    path = shutil.which(tool) or shutil.which(tool, path=SYSTEM_FOLDERS)
    return Path(path) if path else None


def need(tool: str) -> Path:
    """The path of `tool`; without it the test is skipped, or fails in CI."""
    path = find(tool)
    if path is None:
        package = packages().get(tool)
        if package is None:
            pytest.fail(f"{tool}: not in {PACKAGE_LIST.name}, add the package that has it")
        absent(f"{tool} is missing: apt-get install {package}")
    return path


def need_root() -> None:
    """Without root the test is skipped, or fails in CI."""
    if os.geteuid() != 0:
        absent("needs root: run the tests as root")


def need_guest_kernel() -> tuple[Path, Path]:
    """The kernel image and the module folder that `make packages` unpacked for QEMU guests."""
    images = sorted(GUEST_KERNEL.glob("boot/vmlinuz-*"))
    if not images:
        absent(f"{GUEST_KERNEL}: no kernel for guests: run `make packages`")
    version = images[-1].name.removeprefix("vmlinuz-")
    return images[-1], GUEST_KERNEL / "lib" / "modules" / version
