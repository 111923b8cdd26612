"""Traffic between two shells, and what has to be true of it afterwards.

How it works: every function runs the endpoint at both ends and asserts what the *receiver* says:
the hash of the bytes that arrived, the number of good datagrams.  Sizes are kept small because
guests without KVM are slow; a transfer that has to last is paced with `rate`.
"""

from dataclasses import dataclass
from typing import Any

from tests.interop.peers.shell import Job, Shell

PORT = 5201


def addresses(shell: Shell) -> tuple[str, str]:
    """The IPv4 and the IPv6 address of `shell`."""
    return shell.address4, shell.address6


@dataclass
class Transfer:
    """A bulk TCP transfer under way."""

    size: int
    serving: Job
    sending: Job

    def check(self, timeout: float = 60) -> dict[str, Any]:
        """Wait for the end; every byte has to have arrived. Returns what the sender says."""
        sent: dict[str, Any] = self.sending.literal(timeout)
        received = self.serving.literal(timeout)
        assert (self.size, self.size) == (sent["bytes"], received["bytes"])
        assert sent["sha256"] == received["sha256"] == sent["remote"]
        return sent


def transfer(
    sender: Shell,
    receiver: Shell,
    address: str,
    size: int,
    *,
    rate: int = 0,
    port: int = PORT,
    timeout: int = 30,
) -> Transfer:
    """Start sending `size` bytes to `receiver` at `address`, at most `rate` bytes a second."""
    serving = receiver.start_endpoint(f"tcp-serve {address} {port} timeout={timeout}")
    arguments = f"tcp-send {address} {port} bytes={size} rate={rate} timeout={timeout}"
    return Transfer(size, serving, sender.start_endpoint(arguments))


def datagrams(one: Shell, other: Shell, address: str, *, largest: int = 1472) -> int:
    """Datagrams of every size 0 to `largest`, both ways; returns how many had to be sent again."""
    serving = other.start_endpoint(f"udp-serve {address} {PORT}")
    asked = one.endpoint(f"udp-send {address} {PORT} largest={largest} timeout=50", 60)
    served = serving.literal()
    assert (largest + 1, 0) == (asked["sizes"], asked["wrong"])
    assert 0 == served["wrong"]
    assert largest + 1 <= served["good"]
    return int(asked["resent"])


def converse(one: Shell, other: Shell, *, size: int = 3_000_000, largest: int = 1472) -> None:
    """Bulk TCP and datagrams of every size, both ways, over IPv4 and IPv6; no bad checksum."""
    for family in (0, 1):
        transfer(one, other, addresses(other)[family], size).check()
        transfer(other, one, addresses(one)[family], size).check()
        datagrams(one, other, addresses(other)[family], largest=largest)
    no_bad_checksums(one, other)


def no_bad_checksums(*shells: Shell) -> None:
    """No kernel has counted a bad checksum."""
    for shell in shells:
        counted = shell.bad_checksums()
        assert {"TcpInCsumErrors", "UdpInCsumErrors", "Udp6InCsumErrors"} <= counted.keys()
        assert {} == {name: count for name, count in counted.items() if count}, shell.name
