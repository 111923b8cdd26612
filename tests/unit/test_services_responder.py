"""The responder on a real socket pair."""

import asyncio
import socket
from collections.abc import Iterator

import pytest
from scapy.layers.dhcp import BOOTP
from scapy.layers.inet6 import ICMPv6ND_RA
from scapy.layers.l2 import Ether
from structlog.testing import capture_logs

from tests.asking import LEASE, RICH, check_sums, dhcp, solicit
from vionet.services import responder
from vionet.services.responder import Responder

ASKED = bytes(dhcp())
LONG = bytes(65589)  # the largest frame that there is


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The engine's end and the responder's."""
    near, far = socket.socketpair()
    near.setblocking(False)
    with near, far:
        yield near, far


async def send(near: socket.socket, *frames: bytes) -> None:
    """Write records, as the engine does."""
    records = b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames)
    await asyncio.get_running_loop().sock_sendall(near, records)


async def take(near: socket.socket) -> bytes:
    """The next frame that comes out."""

    async def exactly(length: int) -> bytes:
        data = b""
        while len(data) < length:
            more = await asyncio.get_running_loop().sock_recv(near, length - len(data))
            assert more, "the responder hung up"
            data += more
        return data

    async with asyncio.timeout(60):
        return await exactly(int.from_bytes(await exactly(4), "big"))


async def until_counted(service: Responder, name: str, count: int) -> None:
    """Wait until the responder has counted that much."""
    async with asyncio.timeout(60):
        while service.counts[name] < count:
            await asyncio.sleep(0)


async def test_answers(pair: tuple[socket.socket, socket.socket]) -> None:
    """It advertises at the start, then answers; counted, and said in the log once."""
    near, far = pair
    service = Responder(far, LEASE, "web.0-dhcp")
    with capture_logs() as lines:
        service.start()
        assert ICMPv6ND_RA in Ether(await take(near))
        await send(near, ASKED, LONG, b"", bytes(dhcp(op=2)), bytes(solicit()))
        offer = await take(near)
        check_sums(offer)
        assert "100.64.0.3" == Ether(offer)[BOOTP].yiaddr
        assert ICMPv6ND_RA in Ether(await take(near))
    assert {"answered": 2, "length": 2, "op": 1} == dict(service.counts)
    assert [("info", "web.0-dhcp")] == [(line["log_level"], line["port"]) for line in lines]
    await service.close()
    assert -1 == far.fileno()
    await service.close()


async def test_record_in_pieces(pair: tuple[socket.socket, socket.socket]) -> None:
    """A record that comes byte by byte is a record."""
    near, far = pair
    service = Responder(far, RICH, "pieces")
    service.start()
    await take(near)
    for byte in len(ASKED).to_bytes(4, "big") + ASKED:
        near.send(bytes([byte]))
        await asyncio.sleep(0)
    check_sums(await take(near))
    await service.close()


async def test_another_lease(pair: tuple[socket.socket, socket.socket]) -> None:
    """A lease put in its place is told at once, and answers are of it."""
    near, far = pair
    service = Responder(far, LEASE, "other")
    service.start()
    await take(near)
    service.lease = RICH
    service.advertise()
    assert b"example" in await take(near)
    await send(near, ASKED)
    assert b"auto_install" in await take(near)
    await service.close()


async def test_advertises_again(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a router's lifetime is over it says again that it is there."""
    assert responder.ADVERTISE_S * 3 < 65535
    monkeypatch.setattr(responder, "ADVERTISE_S", 0.01)
    near, far = pair
    service = Responder(far, LEASE, "again")
    service.start()
    for _ in range(3):
        assert ICMPv6ND_RA in Ether(await take(near))
    await service.close()


async def test_guest_that_asks_all_day(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the budget the socket is not read, until time has passed; nothing is forgotten."""
    monkeypatch.setattr(responder, "FRAMES_BURST", 5)
    monkeypatch.setattr(responder, "FRAMES_PER_SECOND", 0.001)
    near, far = pair
    service = Responder(far, LEASE, "busy")
    service.start()
    await send(near, *[ASKED] * 7)
    await until_counted(service, "answered", 5)
    near.setblocking(False)
    with pytest.raises(BlockingIOError):
        for _ in range(10_000):
            near.send(len(ASKED).to_bytes(4, "big") + ASKED)
            await asyncio.sleep(0)
    assert 5 == service.counts["answered"]
    await service.close()


async def test_goes_on_after_the_pause(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read before the pause is answered after it, then what came during it."""
    monkeypatch.setattr(responder, "FRAMES_BURST", 1)
    monkeypatch.setattr(responder, "FRAMES_PER_SECOND", 1000.0)
    monkeypatch.setattr(responder, "PAUSE_S", 0.02)
    near, far = pair
    service = Responder(far, LEASE, "paused")
    service.start()
    await send(near, *[ASKED] * 5)
    await until_counted(service, "answered", 5)
    await service.close()


async def test_answer_without_room_is_dropped(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody reads the answers, they are dropped and counted; those sent are whole."""
    monkeypatch.setattr(responder, "FRAMES_BURST", 100_000)
    near, far = pair
    service = Responder(far, LEASE, "full")
    service.start()
    while not service.counts["dropped"]:
        await send(near, ASKED)
        await asyncio.sleep(0)
    for _ in range(service.counts["answered"] + 1):
        check_sums(await take(near))
    await send(near, ASKED)
    check_sums(await take(near))
    await service.close()


class Counted(socket.socket):
    """A socket that counts how often it is read."""

    reads = 0

    def recv(self, *args: int) -> bytes:
        self.reads += 1
        return super().recv(*args)


async def test_end_of_the_engine(pair: tuple[socket.socket, socket.socket]) -> None:
    """When the other end is gone it is read once more, and nothing is raised."""
    near, far = pair
    counted = Counted(fileno=far.detach())
    service = Responder(counted, LEASE, "gone")
    service.start()
    near.close()
    for _ in range(100):
        await asyncio.sleep(0)
    assert 1 == counted.reads
    service.advertise()
    assert 1 == service.counts["dropped"]
    await service.close()
