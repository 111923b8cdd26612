"""A file that describes a site, in whichever format it is written."""

import re
from pathlib import Path
from typing import Final

from vionet.site.model import Site, SiteError

SOURCE_LEN_MAX: Final = 1 << 20
# How a line of vm.conf may begin, and none of TOML.
_VMCONF: Final = re.compile(
    r'^[ \t]*(include\s+"|(vm|switch)\s+["\w$]|local\s+(prefix|inet6)\b)', re.MULTILINE
)


def site_name(path: Path) -> str:
    """What a site is called after its file: its stem, with what no name can have replaced."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", path.stem)[:32]
    return re.sub(r"^[^A-Za-z0-9_]+", "", name) or "site"


def read_site(path: Path) -> Site:
    """Read a file; *raises* `SiteError` with all that is wrong in it, or OSError."""
    with path.open("rb") as file:
        data = file.read(SOURCE_LEN_MAX + 1)
    if len(data) > SOURCE_LEN_MAX:
        raise SiteError([f"{path}:1: more than {SOURCE_LEN_MAX >> 20} MiB; is it the right file?"])
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SiteError([f"{path}:{line}: not UTF-8; write the file in UTF-8"]) from None
    if path.suffix == ".conf" or (path.suffix != ".toml" and _VMCONF.search(text)):
        from vionet.site.vmconf import read_vmconf

        return read_vmconf(path, text)
    from vionet.site.toml import read_toml

    return read_toml(path, text)
