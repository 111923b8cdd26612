"""Machines without a file: what was asked for, kept so that a successor of this process knows them.

How it works: the request's own table, and the template that it builds on, are written into the
runtime folder, which is as lasting as the machines are.  They are judged again when they are read,
against the file of that day: a machine that can no longer be is left out, and said so by whoever
finds its QEMU running.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vionet.site import across
from vionet.site.model import Site, SiteError, VmEntry
from vionet.site.toml_vm import vm_from_table


class Defined:
    """By name, as they were asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            self._known = dict(json.loads(path.read_text()))

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def add(self, name: str, table: Mapping[str, Any], template: str | None) -> None:
        """Remember one."""
        self._known[name] = {"table": dict(table), "template": template}
        self._write()

    def forget(self, name: str) -> None:
        """Forget one."""
        if self._known.pop(name, None) is not None:
            self._write()

    def entries(self, site: Site) -> Iterator[VmEntry]:
        """Those that can be beside the machines of `site`, and each other; the file goes first."""
        bases = {entry.vm.name: entry for entry in site.vms}
        for name, one in self._known.items():
            if name not in bases and (one["template"] is None or one["template"] in bases):
                with contextlib.suppress(SiteError):
                    base = bases.get(one["template"])
                    entry = vm_from_table(name, one["table"], base, Path("/"))
                    beside = replace(site, vms=(*site.vms, entry))
                    if not any(across.faults(beside)):
                        site = beside
                        yield entry

    def _write(self) -> None:
        temporary = self._path.with_suffix(".new")
        temporary.write_text(json.dumps(self._known))
        temporary.replace(self._path)
