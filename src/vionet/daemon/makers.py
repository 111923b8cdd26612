"""Whose the names of instances are: a machine's log and disks outlive it, under its name.

How it works: who makes an instance takes its name, which is written down beside the logs and disks.
From then on nobody else but who runs vionet can have a machine of that name, and see what the first
one left, until an administrator removes those files.

Invariants: a name with remains and without a maker is nobody's; a user holds at most `NAMES_MAX`.
"""

import contextlib
import json
from collections.abc import Container
from pathlib import Path
from typing import Final

NAMES_MAX: Final = 64
_DISKS: Final = [
    f"-{number}.{kind}" for number in ("[0-9]", "[0-9][0-9]") for kind in ("qcow2", "raw")
]
_REMAINS: Final = (".log", ".stderr", "-seed.iso", *_DISKS)  # as `SitePlaces` calls them


class Makers:
    """User numbers by names, in the folder where logs and disks are."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / "makers.json"
        self._known: dict[str, int] = {}
        with contextlib.suppress(OSError, ValueError):
            self._known = {str(k): int(v) for k, v in json.loads(self._path.read_text()).items()}

    def names(self, uid: int) -> list[str]:
        """Those that a user holds."""
        return [name for name, one in self._known.items() if one == uid]

    def refusal(self, name: str, uid: int) -> str | None:
        """Why a user cannot have this name (which is one), if that is so."""
        if name in self._known and self._known[name] != uid:
            return "that name was another user's; choose another"
        if name in self._known:
            return None
        if self._remains(name):
            return "something of that name is left over; choose another name"
        if len(self.names(uid)) >= NAMES_MAX:
            return f"you have used {NAMES_MAX} names; take one of those again"
        return None

    def take(self, name: str, uid: int | None, used: Container[str]) -> None:
        """Give the name to a user; None: to who runs vionet.

        Names that are not `used` now and left nothing are free again.
        """
        before = dict(self._known)
        held = {one: its for one, its in before.items() if one in used or self._remains(one)}
        known = {one: its for one, its in held.items() if one != name}
        self._known = known if uid is None else {**known, name: uid}
        if self._known != before:
            temporary = self._path.with_suffix(".new")
            temporary.write_text(json.dumps(self._known))
            temporary.replace(self._path)

    def _remains(self, name: str) -> bool:
        return any(any(self._folder.glob(name + end)) for end in _REMAINS)
