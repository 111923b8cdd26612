"""Where metrics are served, how they are asked for, and who is refused."""

import asyncio
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from http import HTTPStatus
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families as families

from tests.process import Children
from tests.serving import READY_S, starter
from tests.unit.test_daemon_metrics import document, page, values
from vionet.daemon.endpoint import Address, AnyListener, TcpListener, listen, local_host, parse
from vionet.daemon.scrape import CONNECTIONS_MAX, HEAD_MAX, Scrapes, judge
from vionet.vhost_user.listener import SocketError

WAIT_S = 10
LOCAL = Address(host="127.0.0.1")


@pytest.mark.parametrize(
    ("text", "host", "port", "path"),
    [
        ("127.0.0.1:9464", "127.0.0.1", 9464, None),
        ("127.1.2.3:0", "127.1.2.3", 0, None),
        ("[::1]:9464", "::1", 9464, None),
        ("localhost:1", "127.0.0.1", 1, None),
        ("unix:m.sock", "", 0, "m.sock"),
        ("/run/vionet/m.sock", "", 0, "/run/vionet/m.sock"),
    ],
)
def test_addresses(text: str, host: str, port: int, path: str | None) -> None:
    """A loopback address with a port, or a path."""
    found = parse(text)
    assert (host, port) == (found.host, found.port)
    assert (path and Path(path)) == found.path


def test_socket_options() -> None:
    """Whom a Unix socket is for is said behind its path; by default for nobody else."""
    assert (0o600, None) == (parse("/m").mode, parse("/m").group)
    found = parse("unix:/run/m,mode=0660,group=kvm")
    assert (Path("/run/m"), 0o660, "kvm") == (found.path, found.mode, found.group)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0.0.0.0:9464", "not a loopback address.*reverse proxy"),
        ("192.0.2.1:9464", "not a loopback address.*reverse proxy"),
        (":9464", "not a loopback address.*reverse proxy"),
        ("[::]:9464", "not a loopback address.*reverse proxy"),
        ("[::ffff:127.0.0.1]:9464", "not a loopback address"),
        ("[fe80::1%lo]:9464", "not a loopback address"),
        ("[::1%lo]:9464", "not a loopback address"),
        ("example.org:9464", "not a loopback address"),
        ("127.0.0.1:65536", "65535 ports"),
        ("127.0.0.1:123456", "neither an address"),
        ("127.0.0.1", "neither an address"),
        ("9464", "neither an address.*write 127.0.0.1:9464"),
        ("::1:9464", "neither an address"),
        ("", "neither an address"),
        ("unix:", "without a path"),
        ("/m,mode=9", "permission bits"),
        ("/m,owner=x", "owner: no option.*mode, group"),
    ],
)
def test_addresses_that_are_refused(text: str, says: str) -> None:
    """One line: what is wrong, and what to write."""
    with pytest.raises(ValueError, match=says) as refused:
        parse(text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True),
        ("LocalHost:9464", True),
        ("127.0.0.1:1", True),
        ("127.8.8.8", True),
        ("[::1]:9464", True),
        ("::1", False),
        ("evil.example:9464", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("192.0.2.1:9464", False),
        ("0.0.0.0", False),
        ("2130706433", False),
        ("localhost:80:80", False),
        ("", False),
    ],
)
def test_hosts(host: str, local: bool) -> None:
    """Only the words for this very host, with any port."""
    assert local is local_host(host)


GOOD = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (GOOD, 200),
        ("HEAD /metrics?x=1 HTTP/1.0\r\nhost:[::1]:9\r\nAccept: */*\r\n", 200),
        (GOOD + "Content-Length: 0\r\n", 200),
        (GOOD + "Content-Length: 5\r\n", 413),
        (GOOD + "Content-Length: 0\r\nContent-Length: 0\r\n", 413),
        (GOOD + "Transfer-Encoding: chunked\r\n", 400),
        (GOOD + "Host: localhost\r\n", 400),
        ("GET /metrics HTTP/1.1\r\n", 400),
        (GOOD + " folded\r\n", 400),
        (GOOD + ": y\r\n", 400),
        (GOOD.replace("\r\n", "\n"), 400),
        (GOOD + "X : y\r\n", 400),
        (GOOD + "X: \x01\r\n", 400),
        (GOOD + "X: é\r\n", 400),
        (GOOD + "X: a\nb\r\n", 400),
        ("GET  /metrics HTTP/1.1\r\nHost: localhost\r\n", 400),
        ("GET http://localhost/metrics HTTP/1.1\r\nHost: localhost\r\n", 400),
        ("GET /metrics HTTP/2.0\r\nHost: localhost\r\n", 400),
        ("get /metrics HTTP/1.1\r\nHost: localhost\r\n", 400),
        ("\r\n" + GOOD, 400),
        (GOOD.replace("localhost", "evil.example"), 403),
        (GOOD.replace("/metrics", "/"), 404),
        (GOOD.replace("/metrics", "/metrics/../metrics"), 404),
        (GOOD.replace("GET", "POST") + "Content-Length: 5\r\n", 405),
    ],
)
def test_requests(head: str, status: int) -> None:
    """What is answered and what is not, down to the byte."""
    assert status == judge(f"{head}\r\n".encode("latin-1"), tcp=True).status


def test_host_matters_to_browsers_only() -> None:
    """On a Unix socket, which no page in a browser reaches, any Host will do."""
    head = GOOD.replace("localhost", "vionet").encode() + b"\r\n"
    assert [403, 200] == [judge(head, tcp=tcp).status for tcp in (True, False)]


@asynccontextmanager
async def served(
    status: Callable[[], Any] = document,
    patience_s: float = WAIT_S,
    listener: AnyListener | None = None,
) -> AsyncIterator[tuple[Scrapes, int]]:
    """The page on a loopback port; the port comes with it."""
    listener = listener or listen(LOCAL)
    port = listener.socket.getsockname()[1] if isinstance(listener, TcpListener) else 0
    with closing(listener):
        async with Scrapes(listener, status, patience_s) as scrapes:
            yield scrapes, port


async def asked(port: int, method: str = "GET", path: str = "/metrics", **fields: str) -> Any:
    """The answer that Python's own client sees: status, head, body."""

    def ask() -> tuple[int, HTTPResponse, bytes]:
        connection = HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
        try:
            connection.request(method, path, headers=fields)
            answer = connection.getresponse()
            return answer.status, answer, answer.read()
        finally:
            connection.close()

    return await asyncio.to_thread(ask)


async def test_page_over_http() -> None:
    """GET has the page, in the format that is asked for; HEAD its length; others a line that says
    why; all of it is counted."""
    async with served() as (_, port):
        status, head, body = await asked(port)
        assert (200, page(document()).split("\n")[0]) == (status, body.decode().split("\n")[0])
        assert "text/plain; version=0.0.4; charset=utf-8" == head.getheader("Content-Type")
        assert head.getheader("Access-Control-Allow-Origin") is None
        _, head, body = await asked(port, Accept="application/openmetrics-text; version=1.0.0")
        assert body.endswith(b"# EOF\n")
        kind = head.getheader("Content-Type") or ""
        assert kind.startswith("application/openmetrics-text; version=1.0.0")
        status, head, body = await asked(port, "HEAD")
        assert (200, b"") == (status, body)
        assert 1000 < int(head.getheader("Content-Length") or 0)
        status, head, _ = await asked(port, "DELETE")
        assert (405, "GET, HEAD") == (status, head.getheader("Allow"))
        assert [404, 403, 431] == [
            (await asked(port, path="/"))[0],
            (await asked(port, Host="evil.example"))[0],
            (await asked(port, X="x" * HEAD_MAX))[0],
        ]
        _, _, body = await asked(port)
        counts = {
            dict(labels)["code"]: value
            for (name, labels), value in values(families(body.decode())).items()
            if name == "vionet_scrapes_total"
        }
        assert {"200": 4, "405": 1, "404": 1, "403": 1, "431": 1} == counts


async def test_half_a_request_is_not_waited_for() -> None:
    """It is told, and rid of."""
    async with served(patience_s=0.05) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GOOD.encode())
        async with asyncio.timeout(WAIT_S):
            assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
        writer.close()


async def test_who_does_not_read_is_not_waited_for(run_dir: Path) -> None:
    """An answer that nobody takes is thrown away."""
    large = document()
    large["fabrics"][0]["ports"][0]["netdev"] = "x" * 4_000_000  # more than a socket holds
    found: list[Scrapes] = []

    def status() -> Any:
        found[0]._patience_s = 0.05  # from here on: the request is complete
        return large

    async with served(status, listener=listen(Address(path=run_dir / "m"))) as (scrapes, _):
        found.append(scrapes)
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.connect(str(run_dir / "m"))
            deaf.sendall(GOOD.encode() + b"\r\n")
            async with asyncio.timeout(WAIT_S):
                while not scrapes._counts[HTTPStatus.OK] or scrapes._open:
                    await asyncio.sleep(0.01)
            deaf.settimeout(WAIT_S)
            assert 0 < len(deaf.makefile("rb").read()) < 4_000_000


async def test_many_connections_delay_nobody() -> None:
    """Beyond so many the one goes that has been silent longest, and a scrape is answered."""
    async with served() as (scrapes, port):
        kept = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS_MAX)]
        assert 200 == (await asked(port))[0]
        async with asyncio.timeout(WAIT_S):
            assert b"" == await kept[0][0].read()
        assert 1 == scrapes._counts[HTTPStatus.SERVICE_UNAVAILABLE]
        assert not kept[-1][0].at_eof()
        for _, writer in kept:
            writer.close()


async def test_failure_is_an_answer() -> None:
    """A fault of ours is a line and status 500, and the next scrape is answered."""
    faults = [1]

    def status() -> Any:
        return document() if not faults else faults.pop() / 0

    with structlog.testing.capture_logs() as logs:
        async with served(status) as (_, port):
            assert [500, 200] == [(await asked(port))[0] for _ in range(2)]
    assert ["error"] == [one["log_level"] for one in logs if "failed" in one["event"]]


async def test_closed_while_somebody_is_connected() -> None:
    """The end waits for nobody."""
    async with served() as (scrapes, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(WAIT_S):
            while not scrapes._open:
                await asyncio.sleep(0.01)
    async with asyncio.timeout(WAIT_S):
        assert b"" == await reader.read()
    writer.close()


def test_port_in_use_is_said() -> None:
    """One line, and what to do."""
    taken = listen(LOCAL)
    assert isinstance(taken, TcpListener)
    try:
        port = taken.socket.getsockname()[1]
        with pytest.raises(SocketError, match=rf"127.0.0.1:{port}: .*in use; choose another port"):
            listen(parse(f"127.0.0.1:{port}"))
    finally:
        taken.close()


def fetched(path: Path) -> str:
    """The whole answer on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(WAIT_S)
        client.connect(str(path))
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: vionet\r\n\r\n")
        return client.makefile("rb").read().decode()


def test_switch_with_metrics(start: Children, run_dir: Path) -> None:
    """On a Unix socket in place of a stale one, with its mode; what is said of where it is; gone at
    the end.  Whoever reaches for more than loopback is told so before anything is made."""
    vionet = starter(start)
    path = run_dir / "m"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    arguments = "switch", "--name", "lan", f"a=guest:{run_dir}/a", "--metrics"
    child = vionet(*arguments, f"unix:{path},mode=0660")
    child.wait_for(rf"metrics +address=unix:{path}", READY_S)
    assert "srw-rw----" == stat.filemode(path.stat().st_mode)
    answer = fetched(path)
    assert answer.startswith("HTTP/1.1 200 OK\r\n")
    assert 'vionet_port_up{fabric="lan",port="a"} 0.0\n' in answer
    assert 0 == child.stop()
    assert not path.exists()
    refused = vionet(*arguments, "0.0.0.0:9464", ready=False)
    assert 2 == refused.wait(READY_S)
    assert 1 == refused.stderr.count("\n")
    assert "vionet switch: --metrics 0.0.0.0:9464: not a loopback address" in refused.stderr


def test_site_with_metrics(start: Children, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`vionet up` serves all its fabrics on one page."""
    monkeypatch.setenv("XDG_STATE_HOME", str(run_dir))
    file = run_dir / "home.toml"
    port = '[port.{0}]\nswitch = "{1}"\nguest = "{2}/{0}"\n'
    ports = [port.format(name, switch, run_dir) for name, switch in (("a", "lan"), ("b", "dmz"))]
    file.write_text("\n".join(["[switch.lan]\n[switch.dmz]", *ports]))
    child = starter(start)("up", str(file), "--metrics", f"{run_dir}/m")
    answer = fetched(run_dir / "m")
    for fabric, name in (("lan", "a"), ("dmz", "b")):
        assert f'vionet_port_up{{fabric="{fabric}",port="{name}"}} 0.0\n' in answer
    assert 0 == child.stop()
    assert not (run_dir / "m").exists()
