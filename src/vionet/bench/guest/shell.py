"""What can be asked of any place with a network stack: a guest, or a namespace of the host.

How it works: a `Shell` runs command lines, in the foreground with `run` or beside them with
`start`; all else is made of these two.
"""

import itertools
import re
from abc import ABC, abstractmethod


class Job(ABC):
    """A command that runs beside the others."""

    @abstractmethod
    def result(self, timeout: float = 90) -> str:
        """Wait for the end and return the output; a status other than 0 is an error."""

    @abstractmethod
    def await_output(self, text: str, timeout: float = 60) -> None:
        """Wait until the command has printed `text`."""


class Shell(ABC):
    """A place with a network stack where command lines can be run."""

    name: str
    interface: str = "eth0"
    address4: str = ""
    address6: str = ""

    @abstractmethod
    def run(self, command: str, timeout: float = 60) -> str:
        """Run `command` in `sh` and return its output; a status other than 0 is an error."""

    @abstractmethod
    def start(self, command: str) -> Job:
        """Start `command` and return at once."""

    def features(self) -> set[int]:
        """The bits that this guest's driver negotiated, as the guest's kernel shows them."""
        bits = self.run("cat /sys/class/net/" + self.interface + "/device/features").strip()
        return {bit for bit, value in enumerate(bits) if value == "1"}

    def bad_checksums(self) -> dict[str, int]:
        """The kernel's counters of bad checksums: all of them, by name."""
        lines = self.run("cat /proc/net/snmp /proc/net/snmp6").splitlines()
        found = {}
        for names, values in itertools.pairwise(lines):
            if "InCsumErrors" in names and (protocol := names.split(":")[0]) in values:
                pairs = zip(names.split()[1:], values.split()[1:], strict=True)
                found[f"{protocol}InCsumErrors"] = int(dict(pairs)["InCsumErrors"])
        for line in lines:
            if re.match(r"\w*6InCsumErrors", line):
                found[line.split()[0]] = int(line.split()[1])
        return found

    def configure(self, number: int, mac: str = "") -> None:
        """Give the interface the test network's addresses of host `number`, and set it up."""
        self.address4 = f"192.0.2.{number}"
        self.address6 = f"fd00:76::{number:x}"
        link = f"ip link set {self.interface}"
        self.run(
            (f"{link} address {mac} ; " if mac else "")
            + f"echo 0 >/proc/sys/net/ipv6/conf/{self.interface}/accept_dad ; {link} up && "
            f"ip addr add {self.address4}/24 dev {self.interface} && "
            f"ip -6 addr add {self.address6}/64 dev {self.interface}"
        )
