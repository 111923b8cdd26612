"""Where something that is only for this host listens: a loopback address, or a Unix socket.

How it works: `parse` reads what a person wrote, `listen` makes the socket; port 0 is any free one.
What listens on TCP is open to every user and every browser of this host.  Against pages that a
browser got from elsewhere (DNS rebinding) a request's Host has to be a `local_host`.
"""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final

from vionet.config import option
from vionet.vhost_user.listener import Listener, SocketError

_TCP: Final = re.compile(r"(?:\[([^\]]*)\]|([^:]*)):([0-9]{1,5})")
_HOST: Final = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::[0-9]{1,5})?")
_WRITE: Final = "write 127.0.0.1:9464, [::1]:9464 or unix:/run/vionet/metrics.sock"
_ELSEWHERE: Final = "listen on 127.0.0.1 behind a reverse proxy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A loopback address with its port, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: Path | None = None
    mode: int = 0o600
    group: str | None = None


class TcpListener:
    """A non-blocking listening TCP socket."""

    def __init__(self, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        shown = f"[{host}]" if ":" in host else host
        try:
            self.socket = socket.create_server((host, port), family=family)
        except OSError as error:
            problem = os.strerror(error.errno or 0)  # without Python's words around it
            remedy = "choose another port, or 0 for any that is free"
            raise SocketError(f"{shown}:{port}: {problem}; {remedy}") from None
        self.socket.setblocking(False)
        self.url = f"http://{shown}:{self.socket.getsockname()[1]}"

    def close(self) -> None:
        """Stop listening."""
        self.socket.close()


class UnixListener(Listener):
    """A listening Unix socket."""

    @property
    def url(self) -> str:
        """For people."""
        return f"unix:{self.path}"


AnyListener = TcpListener | UnixListener


def parse(text: str, write: str = _WRITE, elsewhere: str = _ELSEWHERE) -> Address:
    """An address from its text; *raises* ValueError with what is wrong and how to mend it: what to
    `write`, and how to be reached from `elsewhere`."""
    if text.startswith("unix:") or "/" in text:
        return _unix(*text.removeprefix("unix:").split(","))
    found = _TCP.fullmatch(text)
    if found is None:
        raise ValueError(f"{text}: neither an address with its port nor a path; {write}")
    host, port = found[1] or found[2], int(found[3])
    if port > 65535:
        raise ValueError(f"{text}: there are 65535 ports; choose one of those")
    if host == "localhost":
        host = "127.0.0.1"
    if not _loopback(host):
        problem = "not a loopback address, and it tells everything to whoever reaches it"
        raise ValueError(f"{text}: {problem}; {elsewhere}")
    return Address(host=host, port=port)


def _unix(path: str, *options: str) -> Address:
    if not path:
        raise ValueError(f"unix: without a path; {_WRITE}")
    read = {"mode": option.mode, "group": option.group}
    found = {}
    for key, _, value in (one.partition("=") for one in options):
        if key not in read:
            raise ValueError(f"{key}: no option of a Unix socket; {option.suggest(key, read)}")
        try:
            found[key] = read[key](value)
        except ValueError as error:
            raise ValueError(f"{key}={value}: {error}") from None
    return Address(path=Path(path), **found)  # type: ignore[arg-type]


def listen(address: Address) -> AnyListener:
    """A socket that listens there; *raises* SocketError."""
    if address.path is None:
        return TcpListener(address.host, address.port)
    return UnixListener(address.path, address.mode, address.group)


@contextmanager
def listening(address: Address | None) -> Iterator[AnyListener | None]:
    """The same until the end of the block, where somebody wants it."""
    listener = None if address is None else listen(address)
    try:
        yield listener
    finally:
        if listener:
            listener.close()


def local_host(value: str) -> bool:
    """Whether a request's Host names this host by way of loopback, whatever its port."""
    found = _HOST.fullmatch(value)
    return found is not None and (
        found[1].lower() == "localhost" or _loopback(found[1].strip("[]"))
    )


def _loopback(text: str) -> bool:
    try:
        address = ip_address(text)
    except ValueError:
        return False
    if isinstance(address, IPv4Address):
        return address.is_loopback
    return address == IPv6Address("::1")
