"""The control socket: its answers, and clients that do their worst."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.unit.still_fabric import Plugs, StillPort
from vionet.config import parse_switch
from vionet.daemon.access import Peer
from vionet.daemon.control import (
    CLIENTS_MAX,
    LINE_MAX,
    Control,
    Requests,
    ask_status,
)
from vionet.daemon.status import status_document
from vionet.engine.status import LEDGER_KEYS
from vionet.vhost_user.listener import Listener

WAIT_S = 60


def document() -> Any:
    """A switch with a guest that is attached and a tap that waits."""
    config = parse_switch(
        "lan",
        [
            "a=guest:/a,mac=52:54:00:00:00:01,locked,policy=complete,queues=4,vlan=7,trunk=10-12,"
            "link=down",
            "t=tap:t0",
        ],
    )
    attached = StillPort(
        state="attached",
        features=1 << 32 | 1 << 1,
        warnings=("self_test: it failed",),
        counts={"tx_frames": 3},
        lost={"rx_ring_full": 2},
    )
    tap = StillPort(serial=4, last_mac=0x0200000000FE, netdev="t0", mtu=1500, worker=1)
    shown = status_document([(config, Plugs({"a": attached, "t": tap}))])
    shown["fabrics"][0]["time_ns"] = 17  # the same in each
    return shown


@asynccontextmanager
async def opened(path: Path, **settings: float) -> AsyncIterator[Control]:
    """A control socket that answers with `document`."""
    requests = {"status": lambda request, peer: {"status": document()}}
    control = Control(Listener(path, 0o600), requests, **settings)
    await control.open()
    try:
        yield control
    finally:
        await control.close()


async def connected(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client."""
    async with asyncio.timeout(WAIT_S):
        return await asyncio.open_unix_connection(path)


async def said(reader: asyncio.StreamReader) -> Any:
    """The next answer."""
    async with asyncio.timeout(WAIT_S):
        return json.loads(await reader.readline())


async def hung_up(reader: asyncio.StreamReader) -> bool:
    """Whether nothing more comes and the connection ends."""
    async with asyncio.timeout(WAIT_S):
        try:
            return b"" == await reader.read()
        except ConnectionResetError:
            return True


def test_document_has_the_stable_shape() -> None:
    """The keys of the document are those of the documentation, and drops are non-zero only."""
    shown = document()
    assert 1 == shown["version"]
    (fabric,) = shown["fabrics"]
    assert {
        "name", "kind", "time_ns", "reserved", "workers", "ports", "talks", "captures",
    } == set(fabric)  # fmt: skip
    assert ("lan", "switch", []) == (fabric["name"], fabric["kind"], fabric["captures"])
    assert [
        {"number": 0, "cpu_ns": 5_000_000, "ports": ["a"]},
        {"number": 1, "cpu_ns": 7, "ports": ["t"]},
    ] == fabric["workers"]
    talk = {"from": "a", "to": "t", "frames": 3, "bytes": 200, "elided": 2, "computed": 1}
    assert [talk] == fabric["talks"]
    first, second = fabric["ports"]
    assert {
        "name", "kind", "serial", "netdev", "state", "mac", "last_mac", "mtu", "locked", "ip",
        "keep_off", "reach", "isolated", "offloads",
        "policy", "offload",
        "offered", "features", "refused", "queues", "queues_offered", "vlan", "trunk",
        "worker", "link", "warnings", "ledger", "drops",
    } == set(first)  # fmt: skip
    assert ("a", "guest", "attached") == (first["name"], first["kind"], first["state"])
    whose = ("serial", "netdev", "mtu", "last_mac")
    assert [(1, None, None, None), (4, "t0", 1500, "02:00:00:00:00:fe")] == [
        tuple(port[key] for key in whose) for port in fabric["ports"]
    ]
    assert ("52:54:00:00:00:01", True, "complete") == (
        first["mac"],
        first["locked"],
        first["policy"],
    )
    assert ["VIRTIO_NET_F_GUEST_CSUM", "VIRTIO_F_VERSION_1"] == first["features"]
    assert ["VIRTIO_NET_F_CSUM"] == first["refused"]
    assert ["VIRTIO_NET_F_CSUM", *first["features"]] == first["offered"]
    assert ("full", 1, 4, 7, "10-12", "down") == tuple(
        first[key] for key in ("offload", "queues", "queues_offered", "vlan", "trunk", "link")
    )
    assert ["self_test: it failed"] == first["warnings"]
    assert list(LEDGER_KEYS) == list(first["ledger"])
    assert 3 == first["ledger"]["tx_frames"]
    assert {"rx_ring_full": 2} == first["drops"]
    assert (None, False, [], [], {}, None, None, "up", []) == tuple(
        second[key]
        for key in (
            "mac", "locked", "features", "refused", "drops", "vlan", "trunk", "link", "warnings",
        )
    )  # fmt: skip


async def test_status_over_the_socket(run_dir: Path) -> None:
    """A client asks as often as it likes on one connection; the socket goes at the end."""
    path = run_dir / "c"
    async with opened(path):
        assert document() == await asyncio.to_thread(ask_status, path)
        reader, writer = await connected(path)
        for _ in range(3):
            writer.write(b'{"version":1,"request":"status"}\n')
            answer = await said(reader)
            assert (1, "status", document()) == (
                answer["version"],
                answer["reply"],
                answer["status"],
            )
        writer.close()
    assert not path.exists()


@pytest.mark.parametrize(
    ("request_line", "says"),
    [
        (b"hello\n", "not JSON"),
        (b"\xff\xfe\n", "not JSON"),
        (b"[" * 2000 + b"\n", "not JSON"),
        (b"[]\n", "not a JSON object"),
        (b"{}\n", "version 1"),
        (b'{"version":2,"request":"status"}\n', "version 1"),
        (b'{"version":1,"request":"reboot"}\n', "known: status"),
        (b'{"version":1,"request":["status"]}\n', "known: status"),
    ],
)
async def test_wrong_requests_are_answered(run_dir: Path, request_line: bytes, says: str) -> None:
    """Each wrong request gets an error, and the connection lives on."""
    async with opened(run_dir / "c"):
        reader, writer = await connected(run_dir / "c")
        writer.write(request_line)
        assert says in (await said(reader))["error"]
        writer.write(b'{"version":1,"request":"status"}\n')
        assert "status" in await said(reader)
        writer.close()


async def test_a_request_that_fails_is_answered(run_dir: Path) -> None:
    """A mistake of ours in meeting a request is said and logged, a few times; the connection goes
    on.  One whose answer is given up ends."""

    def fails(request: Mapping[str, Any], peer: Any) -> dict[str, Any]:
        raise TypeError("unhashable")

    async def given_up() -> dict[str, Any]:
        raise asyncio.CancelledError

    requests: Requests = {"status": fails, "reload": lambda request, peer: given_up()}
    control = Control(Listener(run_dir / "c", 0o600), requests)
    await control.open()
    try:
        reader, writer = await connected(run_dir / "c")
        with structlog.testing.capture_logs() as lines:
            for _ in range(20):
                writer.write(b'{"version":1,"request":"status"}\n')
                answer = await said(reader)
                assert "status: failed; the log of vionet says why" in answer["error"]
        assert 5 == len(lines)
        writer.write(b'{"version":1,"request":"reload"}\n')
        assert await hung_up(reader)
        writer.close()
    finally:
        await control.close()


async def test_endless_line_is_cut(run_dir: Path) -> None:
    """A request without end costs at most a line and its connection."""
    async with opened(run_dir / "c"):
        reader, writer = await connected(run_dir / "c")
        writer.write(b"x" * (4 * LINE_MAX))
        assert f"at most {LINE_MAX} bytes" in (await said(reader))["error"]
        assert await hung_up(reader)
        writer.close()


async def test_silent_client_is_dropped(run_dir: Path) -> None:
    """Who says nothing, or only half a line, is hung up on after the idle time."""
    async with opened(run_dir / "c", idle_s=0.05):
        for beginning in (b"", b'{"version":1'):
            reader, writer = await connected(run_dir / "c")
            writer.write(beginning)
            assert await hung_up(reader)
            writer.close()


async def test_client_that_does_not_read_stalls_nobody(run_dir: Path) -> None:
    """Thousands of requests without reading end that client; the others are served meanwhile."""
    async with opened(run_dir / "c", idle_s=1):
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(str(run_dir / "c"))
            deaf.setblocking(False)
            loop = asyncio.get_running_loop()
            request = b'{"version":1,"request":"status"}\n' * 1000
            async with asyncio.timeout(WAIT_S):
                with pytest.raises((BrokenPipeError, ConnectionResetError)):
                    while True:
                        await loop.sock_sendall(deaf, request)
            assert document() == await asyncio.to_thread(ask_status, run_dir / "c")


async def test_many_clients_push_out_the_oldest(run_dir: Path) -> None:
    """One client too many: the one that was there first goes, the newcomer is served."""
    async with opened(run_dir / "c"):
        clients = [await connected(run_dir / "c") for _ in range(CLIENTS_MAX)]
        for reader, writer in clients:
            writer.write(b'{"version":1,"request":"status"}\n')
            assert "status" in await said(reader)
        assert document() == await asyncio.to_thread(ask_status, run_dir / "c")
        assert await hung_up(clients[0][0])
        for _, writer in clients:
            writer.close()


async def test_many_users_do_not_push_out_an_administrator(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has as many user numbers as there is room for clients pushes out only themselves."""
    uids = iter([0, *range(5000, 5000 + CLIENTS_MAX)])
    monkeypatch.setattr("vionet.daemon.control.peer_of", lambda _: Peer(1, next(uids), 1))
    async with opened(run_dir / "c"):
        clients = []
        for _ in range(1 + CLIENTS_MAX):
            clients.append(await connected(run_dir / "c"))
            clients[-1][1].write(b'{"version":1,"request":"status"}\n')
            await said(clients[-1][0])
        assert await hung_up(clients[1][0])
        reader, writer = clients[0]
        writer.write(b'{"version":1,"request":"status"}\n')
        assert "status" in await said(reader)
        for _, writer in clients:
            writer.close()
