"""Who resolves names for the host, as far as a guest can reach them too: /etc/resolv.conf.

How it works: a resolver at a loopback address is the host's alone; where there are only such ones,
systemd-resolved has written those it asks itself into a file of its own.  Link-local ones are left
out: they mean nothing on the guest's link.

Trust: the files are the host's own; they are read up to a bound, and what is no address is skipped.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final

from vionet.services.lease import RESOLVERS_MAX

FILES: Final = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
FILE_LEN_MAX: Final = 65536
DOMAINS_MAX: Final = 8
_LABEL: Final = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
DOMAIN: Final = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")


@dataclass(frozen=True, slots=True)
class Resolvers:
    """Whom to ask for names, and the domains searched."""

    resolvers: tuple[IPv4Address, ...] = ()
    resolvers6: tuple[IPv6Address, ...] = ()
    domains: tuple[str, ...] = ()


def parse(text: str) -> Resolvers:
    """What resolv.conf(5) says that is of use to a guest."""
    found: list[IPv4Address | IPv6Address] = []
    domains: list[str] = []
    for line in text.splitlines():
        key, *values = re.split(r"[#;]", line, maxsplit=1)[0].split() or [""]
        if key == "nameserver" and values:
            with suppress(ValueError):
                address = ip_address(values[0])
                if not (address.is_loopback or address.is_link_local or address.is_unspecified):
                    found.append(address)
        elif key in ("search", "domain"):  # the last one counts
            domains = [name.rstrip(".") for name in values if DOMAIN.fullmatch(name.rstrip("."))]
    unique = dict.fromkeys(found)
    return Resolvers(
        tuple(a for a in unique if isinstance(a, IPv4Address))[:RESOLVERS_MAX],
        tuple(a for a in unique if isinstance(a, IPv6Address))[:RESOLVERS_MAX],
        tuple(domains[:DOMAINS_MAX]),
    )


def read(files: tuple[Path, ...] = FILES) -> Resolvers:
    """The host's resolvers, from the first of `files` that names one that a guest can reach."""
    told = Resolvers()
    for file in files:
        with suppress(OSError), file.open("rb") as stream:
            found = parse(stream.read(FILE_LEN_MAX).decode(errors="replace"))
            told = Resolvers(found.resolvers, found.resolvers6, found.domains or told.domains)
        if told.resolvers or told.resolvers6:
            break
    return told
