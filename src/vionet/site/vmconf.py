"""A vm.conf as a `Site`: what each statement means here, or that it means nothing.

How it works: `vmconf_lexer` cuts the text into words, `vmconf_grammar` those into statements, and
each section becomes an object of `site.model`.  docs/vm.conf.md says of every statement what it
becomes and where that differs from OpenBSD; what differs in a file is in `Site.warnings` too.

Invariants: a statement is used, warned of or refused; a run finds every mistake, in their order.

Trust: the text is of whoever may say what vionet runs, but it may be any text: what it costs to
read is bounded by `TEXT_MAX`, whatever its macros and includes.
"""

import re
from collections.abc import Collection
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Final

from vionet.config.fabric import parse_name, parse_switch
from vionet.config.option import suggest
from vionet.site import across
from vionet.site.model import Local, Site, SiteError, Switch, VmEntry
from vionet.site.source import site_name
from vionet.site.toml import LOCAL
from vionet.site.vmconf_grammar import Statement, read_statements
from vionet.site.vmconf_lexer import Enough, Place, Reading
from vionet.site.vmconf_machine import machine
from vionet.site.vmconf_value import Judge, says

_OPENBSD_SWITCH: Final = re.compile(r"(bridge|switch|veb)[0-9]+")


def read_vmconf(path: Path, text: str) -> Site:
    """What the vm.conf at `path` says; a SiteError has all its mistakes."""
    reading = Reading()
    sections = _Sections(reading)
    site = Site(name=site_name(path))
    try:
        for statement in read_statements(reading, path, text):
            sections.read(statement)
        site = sections.site(path)
    except Enough:
        pass
    if reading.problems:
        raise SiteError(reading.problems)
    return replace(site, warnings=reading.warnings)


class _Sections:
    """Statements become parts of a site, one section after the other."""

    def __init__(self, reading: Reading) -> None:
        self._judge = Judge(reading)
        self._local = Local()
        self._switches: dict[str, Switch] = {}
        self._vms: dict[str, VmEntry] = {}
        self._places: dict[tuple[str | int, ...], Place] = {}  # by what `across` calls it
        self._told = 0  # mistakes before the statement that is read
        self._broken: set[tuple[str | int, ...]] = set()  # what is not whole anyway

    def read(self, statement: Statement) -> None:
        """One statement of the file."""
        if self._judge.meaningless(statement):
            return
        sections = {
            "local inet6": self._read_local,
            "local prefix": self._read_local,
            "switch": self._read_switch,
            "vm": self._read_vm,
        }
        sections[statement.key](statement)
        self._told = self._judge.reading.mistakes

    def site(self, path: Path) -> Site:
        """What was read, as a whole."""
        site = Site(
            name=site_name(path),
            switches=tuple(self._switches.values()),
            vms=tuple(self._vms.values()),
            local=self._local,
        )
        top = Place(0, str(path), 1)
        for where, problem in across.faults(site):
            sizes = range(len(where), 0, -1)
            near = next((where[:size] for size in sizes if where[:size] in self._places), ())
            if near not in self._broken:
                self._judge.reading.mistake(self._places.get(near, top), problem)
        return site

    def _name(self, statement: Statement, word: str, taken: Collection[str]) -> str | None:
        """The name of a section, which no other may have."""
        name = self._judge.attempt(statement, lambda: parse_name(statement.values[word], ""))
        if name is None:
            return None
        if name in taken:
            first = self._places[statement.key, name]
            self._judge.refuse(statement, f"{name} is there already, at {first}; rename one")
            return None
        self._places[statement.key, name] = statement.place
        return name

    def _read_local(self, statement: Statement) -> None:
        key = statement.key.split()[1]
        if before := self._places.get(("local", key)):
            self._judge.reading.warn(
                before, f"{statement.key}: the one at {statement.place} holds; leave this one out"
            )
        self._places["local", key] = statement.place
        given = "PREFIX" in statement.values
        value = self._judge.value(statement, "PREFIX", LOCAL[key][1]) if given else None
        if key == "inet6" and (value or not given):
            self._local = replace(self._local, random6=not given, prefix6=value)
        elif value:
            self._local = replace(self._local, prefix=value)

    def _read_switch(self, statement: Statement) -> None:
        name = self._name(statement, "NAME", self._switches)
        given = self._judge.by_key(statement.block)
        group = self._judge.group(given.get("group"))
        if group:
            nothing = "machines have no tap on the host here, so none is in it; leave it out"
            self._judge.warn(given["group"], f"{group}: {nothing}")
        outside = self._outside(given["interface"], name) if "interface" in given else []
        fabric = self._judge.attempt(
            given.get("interface", statement), lambda: parse_switch(name or "switch", outside)
        )
        rdomain = self._judge.rdomain(given.get("rdomain"))
        if name:
            self._switches[name] = Switch(
                fabric=fabric or parse_switch(name, []),
                enabled=not (says(given, "disable") or says(given, "down")),
                locked="locked lladdr" in given,
                rdomain=rdomain,
                group=group,
            )

    def _outside(self, statement: Statement, switch: str | None) -> list[str]:
        """The port by which a switch reaches the host's network, if there is one."""
        name = statement.values["INTERFACE"]
        if not _OPENBSD_SWITCH.fullmatch(name):
            port = name if ("port", name) not in self._places else f"{switch}-{name}"
            self._places["port", port] = statement.place
            return [f"{port}=interface:{name}"]
        nothing = "a device of OpenBSD; vionet is the switch itself, and the host is not on it"
        self._judge.warn(statement, f"{name}: {nothing}; to reach outside name a NIC of this host")
        return []

    def _read_vm(self, statement: Statement) -> None:
        made = "INSTANCE" in statement.values
        name = self._name(statement, "INSTANCE" if made else "NAME", self._vms)
        base = None
        if made:
            template = statement.values["NAME"]
            base = self._vms.get(template)
            if base is None:
                hint = suggest(template, self._vms) if self._vms else "write it first"
                self._judge.refuse(statement, f"{template}: no such machine above; {hint}")
        entry = machine(self._judge, statement, name or "vm", base)
        if name is None:
            return
        self._vms[name] = entry
        if self._judge.reading.mistakes > self._told:
            self._broken.add(("vm", name))
        numbers = {"disk": count(), "interface": count()}
        for one in statement.block:
            key = one.key.split()[0]
            where = (key, next(numbers[key])) if key in numbers else (key,)
            self._places["vm", name, *where] = one.place
