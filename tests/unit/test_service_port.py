"""The service port on a running fabric: the control plane's end of a pair of sockets."""

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.recorder import descriptors
from tests.reference.frame import MACS
from tests.reference.locked import ASKS, DATA, LOCKED, v4
from tests.reference.plug import NO_OPTIONS
from tests.reference.stream import Parser, packed
from vionet.config.port import Kind, PortConfig
from vionet.daemon.status import port_document
from vionet.fabric import Fabric
from vionet.ports.service_port import BUFFER, ServicePort

TIMEOUT = 60.0
DISCOVER, GOOD = ASKS["discover"], v4(DATA)


class Ground:
    """A switch with a locked stream, a stream that is not, and a service."""

    def __init__(self) -> None:
        self.fabric = Fabric()
        self.guest = self.stream(replace(LOCKED, name="guest"))
        self.host = self.stream(replace(NO_OPTIONS, name="host"))
        config = PortConfig(name="service", kind=Kind.SERVICE, where="")
        self.config, self.port = config, self.fabric.add_service(config)
        self.fabric.start()

    def stream(self, options: object) -> socket.socket:
        """A stream port; *returns* its peer's end."""
        port = self.fabric.add_stream(options)  # type: ignore[arg-type]
        peer, ours = socket.socketpair()
        port.attach(ours)
        peer.settimeout(TIMEOUT)
        return peer

    def close(self) -> None:
        """All that there is."""
        self.fabric.close()
        self.guest.close()
        self.host.close()


@pytest.fixture
def ground() -> Iterator[Ground]:
    """A running switch."""
    made = Ground()
    yield made
    made.close()


def read(peer: socket.socket, count: int = 1) -> list[bytes]:
    """The next frames from an end that waits for them."""
    peer.settimeout(TIMEOUT)
    parser, found = Parser(), list[bytes]()
    while len(found) < count:
        found += parser.feed(peer.recv(1 << 17))
    return found


def test_request_and_answer(ground: Ground) -> None:
    """A guest's question comes out at `end` and at no other port; the answer finds the guest."""
    ground.guest.sendall(packed(DISCOVER, GOOD))
    assert [DISCOVER] == read(ground.port.end)
    assert [GOOD] == read(ground.host)
    answer = MACS[0] + MACS[5] + GOOD[12:]
    ground.port.end.sendall(packed(answer))
    assert [answer] == read(ground.guest)
    assert 1 == ground.port.ledger()["rx_frames"]


def test_status_says_what_it_is(ground: Ground) -> None:
    """Kind service, attached from the beginning."""
    shown = port_document(ground.config, ground.port)
    assert ("service", "attached", []) == (shown["kind"], shown["state"], shown["warnings"])


def test_guest_cannot_fill_memory(ground: Ground) -> None:
    """Nobody reads: what waits is bounded, the rest is counted, and other frames go their way."""
    for _ in range(20):
        ground.guest.sendall(packed(*[DISCOVER] * 50, GOOD))
        assert [GOOD] == read(ground.host)
    lost = ground.port.drops()["stream_full"]
    kept = 20 * 50 - lost
    assert lost > 0 and 0 < kept * (len(DISCOVER) + 4) <= 2 * BUFFER
    assert [DISCOVER] * kept == read(ground.port.end, kept)
    ground.guest.sendall(packed(GOOD))
    assert [GOOD] == read(ground.host)


def test_service_goes_with_its_port(ground: Ground) -> None:
    """Without it requests are frames as any; its end is closed."""
    ground.fabric.remove(ground.port)
    assert -1 == ground.port.end.fileno()
    ground.guest.sendall(packed(DISCOVER))
    assert [DISCOVER] == read(ground.host)


def test_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of a fabric that closes, nor where the pair of sockets cannot be had."""
    before = descriptors()
    Ground().close()
    assert before == descriptors()
    fabric = Fabric()
    with monkeypatch.context() as broken, contextlib.suppress(OSError):
        broken.setattr(socket, "socketpair", _no_more)
        fabric.add_service(NO_OPTIONS)
    assert [] == fabric.ports
    assert isinstance(fabric.add_service(NO_OPTIONS), ServicePort)
    fabric.close()
    assert before == descriptors()


def _no_more() -> None:
    raise OSError(24, "Too many open files")
