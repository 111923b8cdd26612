"""The namespace of a user without rights, that `vionet.vm.holder` keeps, entered as documented."""

from pathlib import Path

from tests.interop.peers.netns import Namespace
from tests.unprivileged import python, words
from vionet.vm import holder


class Inside(Namespace):
    """A shell in there."""

    def __init__(self, pid: int, folder: Path, interface: str = "") -> None:
        """It is there as long as process `pid`."""
        self.name, self.folder, self.pid, self.interface = f"inside-{pid}", folder, pid, interface
        self._jobs = []
        self.python = python()[-1]

    @property
    def enter(self) -> list[str]:
        """The words that the documentation has."""
        return [*words(), *holder.enter_command(self.pid)]

    def delete(self) -> None:
        """Kill what still runs here; the namespace is the holder's."""
        for child in self._jobs:
            child.kill()
