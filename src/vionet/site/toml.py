"""A site from TOML: `[switch.NAME]`, `[vm.NAME]`, `[port.NAME]`, `[local]` (docs/vionet.toml.md).

How it works: tomllib reads the document, `toml_line` finds where each key stands, tables of readers
(`toml_vm`, `toml_port` and here) make objects of it and note every mistake at its key, `across`
judges the whole.  Nothing is half right: with one mistake there is no site.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Any, Final

from vionet.config import option
from vionet.config.fabric import FabricConfig, parse_name
from vionet.config.option import suggest
from vionet.config.port import PortConfig
from vionet.engine.status import FabricKind
from vionet.site import across
from vionet.site.model import Local, Site, SiteError, Switch, Uplink
from vionet.site.source import site_name
from vionet.site.toml_line import Lines, Place, dotted
from vionet.site.toml_port import PORT, port
from vionet.site.toml_value import (
    PROBLEMS_MAX,
    Enough,
    Sheet,
    Table,
    Value,
    choice,
    each,
    flag,
    ifgroup,
    kind,
    network,
    noted,
    number,
    of,
    table,
    text,
)
from vionet.site.toml_vm import DISK, INTERFACE, SEED, VM, entries, host_name

NAMES_MAX: Final = 1024  # switches, machines, ports of one file
_AT: Final = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_DIGITS: Final = re.compile(r"[0-9][0-9_]{4000}")  # more than Python makes a number of
_DEEP: Final = re.compile(
    r"""(?>(?:(?<![\w-])[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){64}"""
)


def _cores(value: Value) -> tuple[int, ...]:
    return option.cores(",".join(map(str, each(number(0, 1 << 16))(value))))


def _resolver(text: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(text)
    except ValueError:
        raise ValueError(f"{text[:40]}: not an IP address; write it as 192.0.2.53") from None


def _prefix(text: str) -> IPv4Network:
    prefix = network(text)
    if not isinstance(prefix, IPv4Network) or prefix.prefixlen > 30:
        raise ValueError("not an IPv4 network of /30 or larger; write it as 100.64.0.0/10")
    return prefix


def _inet6(value: Value) -> IPv6Network | bool:
    if isinstance(value.raw, bool):
        return value.raw
    prefix = network(text(value))
    if not isinstance(prefix, IPv6Network) or prefix.prefixlen > 64:
        raise ValueError("not an IPv6 network of /64 or larger; write it as fd00:1:2::/48, or true")
    return prefix


SWITCH: Final[Table] = {
    "reserved": ("reserved", of(option.reserved)),
    "workers": ("workers", number(1, option.WORKERS_MAX)),
    "pin": ("cores", _cores),
    "enabled": ("enabled", flag),
    "locked": ("locked", flag),
    "netns": ("rdomain", of(option.netns)),
    "group": ("group", ifgroup),
}
LOCAL: Final[Table] = {
    "prefix": ("prefix", of(_prefix)),
    "inet6": ("inet6", _inet6),
    "uplink": ("uplink", lambda value: Uplink(choice(*Uplink)(value))),
    "isolated": ("isolated", flag),
    "resolvers": ("resolvers", each(of(_resolver))),
    "domains": ("domains", each(of(host_name))),
}


def _local(value: Value) -> Local:
    read = table(value, LOCAL)
    inet6 = read.pop("inet6", False)
    prefix6 = None if isinstance(inet6, bool) else inet6
    return Local(**read, prefix6=prefix6, random6=inet6 is True)


def _named(value: Value) -> dict[str, Value]:
    """The tables [KIND.NAME] by their names."""
    if not isinstance(value.raw, dict):
        raise ValueError(f"{kind(value)}, where tables belong; write [{value.key}.NAME]")
    if len(value.raw) > NAMES_MAX:
        raise ValueError(f"{len(value.raw)} of them, and {NAMES_MAX} at most; use several files")
    named = {name: value.item(name, raw) for name, raw in value.raw.items()}
    for name, item in named.items():
        with noted(item):
            parse_name(name, "")
    return named


TOP: Final[Table] = {
    "name": ("name", of(lambda name: parse_name(name, ""))),
    "switch": ("switch", _named),
    "vm": ("vm", _named),
    "port": ("port", _named),
    "local": ("local", _local),
}
# Every key there is, by the table that may have it.
KEYS: Final[Mapping[str, Iterable[str]]] = {
    "": TOP,
    "switch.NAME": SWITCH,
    "vm.NAME": VM,
    "vm.NAME.interface": INTERFACE,
    "vm.NAME.disk": DISK,
    "vm.NAME.seed": SEED,
    "port.NAME": PORT,
    "local": LOCAL,
}


def _switch(value: Value, ports: tuple[PortConfig, ...]) -> Switch:
    read = table(value, SWITCH)
    fabric = FabricConfig(
        name=value.key,
        kind=FabricKind.SWITCH,
        ports=ports,
        **{key: read.pop(key) for key in ("reserved", "workers", "cores") if key in read},
    )
    if len(fabric.cores) > fabric.workers and (pin := value.get("pin")):
        several = f"{len(fabric.cores)} cores for workers={fabric.workers}"
        pin.fail(f"{several}; name fewer, or have more workers")
    return Switch(fabric=fabric, **read)


def read_toml(path: Path, text: str) -> Site:
    """The site that a document describes; *raises* `SiteError` with all that is wrong in it."""
    try:
        if deep := _DEEP.search(text):  # of which tomllib makes the square
            raise SiteError([f"{path}:{_line(text, deep)}: a key of very many parts; use fewer"])
        document = tomllib.loads(text)
        lines = Lines(text)
    except RecursionError:
        raise SiteError([f"{path}:1: nested too deeply; there is no use for that here"]) from None
    except ValueError as error:
        raise SiteError([f"{path}:{_syntax(str(error), text)}"]) from None
    sheet = Sheet(path.parent.absolute())
    with suppress(Enough):
        site = _site(Value(document, (), sheet), site_name(path))
        across.judge(across.faults(site), sheet.problems)

    def told(found: list[tuple[Place, str]]) -> list[str]:
        placed = sorted(((lines.of(place), place, said) for place, said in found), key=_first)
        return [f"{path}:{line}: {dotted(place)}: {said}" for line, place, said in placed]

    if sheet.problems:
        more = [f"{path}:1: there may be more mistakes; mend these first"]
        full = len(sheet.problems) >= PROBLEMS_MAX
        raise SiteError(told(sheet.problems) + more * full)
    return replace(site, warnings=tuple(told(sheet.warnings)))


def _first(found: tuple[int, Any, Any]) -> int:
    return found[0]


def _syntax(message: str, text: str) -> str:
    """tomllib's complaint, with its line in front."""
    at = _AT.search(message)
    if at is None:  # only of numbers with thousands of digits
        long = _DIGITS.search(text)
        return f"{_line(text, long) if long else 1}: a number that is too long; shorten it"
    line = int(at[1]) if at[1] else text.count("\n") + 1
    column = f"column {at[2]}" if at[2] else "the end of the file"
    return f"{line}: not TOML: {message[: at.start()].replace(chr(10), '')}; mend it at {column}"


def _line(text: str, match: re.Match[str]) -> int:
    return text.count("\n", 0, match.start()) + 1


def _site(value: Value, name: str) -> Site:
    top = table(value, TOP)
    switches: dict[str, Value] = top.get("switch", {})
    plugged: dict[str, list[PortConfig]] = {one: [] for one in switches}
    for one in top.get("port", {}).values():
        switch, made = port(one)
        if switch is not None and switch not in switches:
            hint = suggest(switch, switches) if switches else f"add [switch.{switch}]"
            one.item("switch", switch).fail(f"{switch}: no such switch; {hint}")
        elif switch is not None and made:
            plugged[switch].append(made)
    return Site(
        name=top.get("name", name),
        switches=tuple(_switch(one, tuple(plugged[key])) for key, one in switches.items()),
        vms=entries(top.get("vm", {})),
        local=top.get("local", Local()),
    )
