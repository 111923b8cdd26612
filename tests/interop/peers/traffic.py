"""Traffic between two shells, and what has to be true of it afterwards.

How it works: every function runs the endpoint at both ends and asserts what the *receiver* says:
the hash of the bytes that arrived, the number of good datagrams.  Sizes are kept small because
guests without KVM are slow; a transfer beside which something else happens lasts until that has
happened, not for a time.
"""

import itertools
import os
from dataclasses import dataclass
from typing import Any

from tests.interop.peers.shell import EndpointJob, Shell

PORT = 5201
_numbers = itertools.count(1)


def addresses(shell: Shell) -> tuple[str, str]:
    """The IPv4 and the IPv6 address of `shell`."""
    return shell.address4, shell.address6


@dataclass
class Transfer:
    """A bulk TCP transfer under way, of so many bytes, or until it is enough."""

    size: int
    serving: EndpointJob
    sending: EndpointJob
    repeated: bool = False  # see `check_bulk`
    sender: Shell | None = None  # who makes a file when it is enough
    until: str = ""

    def check(self, timeout: float = 90) -> None:
        """Say that it is enough and wait for the end; every byte has to have arrived."""
        if self.sender is not None:
            self.sender.run(f": >{self.until}")
        (sent,), (received,) = self.sending.results(timeout), self.serving.results(timeout)
        size = self.size if self.sender is None else sent["bytes"]
        check_bulk(size, sent, received, repeated=self.repeated)


def check_bulk(
    size: int, sent: dict[str, Any], received: dict[str, Any], *, repeated: bool = False
) -> None:
    """`size` bytes were sent, arrived, and have the same hash at both ends.

    `repeated`: passt was between them; that of 2023 sometimes says a last word again, with new
    sequence numbers, to a guest that has closed its side, as a capture of its own shows.
    """
    assert (size, size) == (sent["bytes"], received["bytes"])
    remote = sent["remote"][:64] if repeated else sent["remote"]
    assert sent["sha256"] == received["sha256"] == remote


def check_datagrams(largest: int, asked: dict[str, Any], served: dict[str, Any]) -> None:
    """A good datagram of every size 0 to `largest` arrived at either end, and no bad one."""
    assert (largest + 1, 0) == (asked["sizes"], asked["wrong"])
    assert 0 == served["wrong"]
    assert largest + 1 <= served["good"]


def transfer(
    sender: Shell,
    receiver: Shell,
    address: str,
    size: int,
    *,
    port: int = PORT,
    timeout: int = 60,
) -> Transfer:
    """Start sending `size` bytes to `receiver` at `address`."""
    serving = receiver.start_endpoint(f"tcp-serve {address} {port} timeout={timeout}")
    arguments = f"tcp-send {address} {port} bytes={size} timeout={timeout}"
    return Transfer(size, serving, sender.start_endpoint(arguments))


def lasting(
    sender: Shell,
    receiver: Shell,
    address: str,
    rate: int,
    *,
    port: int = PORT,
    repeated: bool = False,
) -> Transfer:
    """Start sending `rate` bytes a second to `receiver` at `address`, until `check` is called."""
    serving = receiver.start_endpoint(f"tcp-serve {address} {port} timeout=90")
    return lasting_to(serving, sender, address, rate, port=port, repeated=repeated)


def lasting_to(
    serving: EndpointJob, sender: Shell, address: str, rate: int, *, port: int, repeated: bool
) -> Transfer:
    """The same, to somebody who listens."""
    until = f"/dev/shm/vionet-enough-{os.getpid()}-{next(_numbers)}"
    arguments = f"tcp-send {address} {port} rate={rate} until={until} timeout=90"
    sending = sender.start_endpoint(arguments)
    return Transfer(0, serving, sending, repeated, sender, until)


def datagrams(one: Shell, other: Shell, address: str, *, largest: int = 1472) -> None:
    """Datagrams of every size 0 to `largest`, both ways."""
    serving = other.start_endpoint(f"udp-serve {address} {PORT}")
    asked = one.endpoint(f"udp-send {address} {PORT} largest={largest}", 90)
    (served,) = serving.results()
    check_datagrams(largest, asked, served)


def converse(one: Shell, other: Shell, *, size: int = 3_000_000, largest: int = 1472) -> None:
    """Bulk TCP and datagrams of every size, both ways, over IPv4 and IPv6; no bad checksum.

    One run of the endpoint at either end, because starting Python is slow in a guest without KVM.
    """
    words: tuple[list[str], list[str]] = [], []
    for mine, theirs in zip(addresses(one), addresses(other), strict=True):
        words[0].append(f"tcp-send {theirs} {PORT} bytes={size}")
        words[1].append(f"tcp-serve {theirs} {PORT}")
        words[0].append(f"tcp-serve {mine} {PORT}")
        words[1].append(f"tcp-send {mine} {PORT} bytes={size}")
        words[0].append(f"udp-send {theirs} {PORT} largest={largest}")
        words[1].append(f"udp-serve {theirs} {PORT}")
    jobs = [
        shell.start_endpoint(" + ".join(w)) for shell, w in zip((one, other), words, strict=True)
    ]
    results = [job.results(90) for job in jobs]
    for there, back, asked in (range(3), range(3, 6)):
        check_bulk(size, results[0][there], results[1][there])
        check_bulk(size, results[1][back], results[0][back])
        check_datagrams(largest, results[0][asked], results[1][asked])
    no_bad_checksums(one, other)


def no_bad_checksums(*shells: Shell) -> None:
    """No kernel has counted a bad checksum."""
    for shell in shells:
        counted = shell.bad_checksums()
        assert {"TcpInCsumErrors", "UdpInCsumErrors", "Udp6InCsumErrors"} <= counted.keys()
        assert {} == {name: count for name, count in counted.items() if count}, shell.name
