"""Reading a vm.conf that a test writes."""

from pathlib import Path

from vionet.site.model import Site, SiteError
from vionet.site.vmconf import read_vmconf

PATH = Path("/etc/vm.conf")


def site(text: str, path: Path = PATH) -> Site:
    """What a vm.conf says; the test ends where it has mistakes."""
    return read_vmconf(path, text)


def mistakes(text: str, path: Path = PATH) -> list[str]:
    """What is wrong with it, without the path in front."""
    try:
        found = read_vmconf(path, text)
    except SiteError as error:
        return [problem.removeprefix(f"{path}:") for problem in error.problems]
    raise AssertionError(f"no mistake in {found}")


def warnings(text: str, path: Path = PATH) -> list[str]:
    """What it is told to do differently here, save that files are not there."""
    said = [warning.removeprefix(f"{path}:") for warning in site(text, path).warnings]
    return [warning for warning in said if "no such file" not in warning]
