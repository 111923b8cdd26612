"""What a port locked to IP addresses may send: the engine against a model, on frames of scapy's.

Each way round the lock that was thought of has a case of its own (`tests.reference.locked`);
hypothesis looks for others.
"""

from collections.abc import Iterator

import pytest

from tests.reference.frame import MACS
from tests.reference.guard import Lock, verdict
from tests.reference.guest import DATA_GPA
from tests.reference.locked import ASKS, LOCKED, PASSES, REFUSED
from tests.reference.plug import FULL, GUEST_CSUM, PLAIN
from tests.reference.stream import StreamNetwork
from vionet.spec.virtio_net import NetHeader


class Ground:
    """A locked guest, one that hears everything, and perhaps a service."""

    def __init__(self, features: int = FULL, served: bool = False) -> None:
        self.network = StreamNetwork()
        self.source = self.network.guest(features, options=LOCKED)
        self.sink = self.network.guest(FULL & ~GUEST_CSUM)
        self.service = self.network.stream() if served else None
        if self.service is not None:
            self.service.record.service = 1

    def pass_on(self, frame: bytes, header: NetHeader = PLAIN) -> tuple[list[bytes], list[str]]:
        """What the other guest, or behind it the service, got; and the reasons counted."""
        before = self.source.port.drops()
        self.source.next_gpa = DATA_GPA
        if not self.sink.posted:
            self.sink.next_gpa = DATA_GPA
            self.sink.post(70_000)
        self.source.send(frame, header)
        assert 1 == self.network.run(self.source)
        found = [one.frame for one in self.sink.received()]
        self.source.tx.take_used()
        found += [] if self.service is None else [b"asked " + one for one in self.service.taken()]
        after = self.source.port.drops()
        return found, [reason for reason in after if after[reason] > before[reason]]


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    """Without a service: what a guest asks is flooded as anything else."""
    made = Ground()
    with made.network:
        yield made


@pytest.fixture(scope="module")
def served() -> Iterator[Ground]:
    """With a service."""
    made = Ground(served=True)
    with made.network:
        yield made


def lock() -> Lock:
    """What the model has to know."""
    return Lock(MACS[0], LOCKED.ip, LOCKED.keep_off, LOCKED.reach)


@pytest.mark.parametrize("name", PASSES)
def test_passes(ground: Ground, served: Ground, name: str) -> None:
    """What an honest guest says arrives, byte for byte, and no service hears of it."""
    frame = PASSES[name]
    assert set() == verdict(lock(), frame).reasons
    assert ([frame], []) == ground.pass_on(frame)
    assert ([frame], []) == served.pass_on(frame)


@pytest.mark.parametrize("name", ASKS)
def test_asks(ground: Ground, served: Ground, name: str) -> None:
    """What is asked of DHCP and routers goes to the service alone; without one, to everybody."""
    frame = ASKS[name]
    found = verdict(lock(), frame)
    assert (set(), True) == (found.reasons, found.asks)
    assert ([frame], []) == ground.pass_on(frame)
    assert ([b"asked " + frame], []) == served.pass_on(frame)


@pytest.mark.parametrize(("reason", "name", "frame"), REFUSED, ids=[one[1] for one in REFUSED])
def test_refused(ground: Ground, reason: str, name: str, frame: bytes) -> None:
    """What a guest says for others goes nowhere and is counted by its reason, at the guest."""
    assert ([], [reason]) == ground.pass_on(frame), name
    if len(frame) < 500:  # the model sees all headers
        assert reason in verdict(lock(), frame).reasons
