"""`vionet web` as a process: who gets what over real HTTP."""

import http.client
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.process import Child, Children
from tests.scripted import Scripted, fabric, port
from vionet.cli import main
from vionet.web.feed import VIEWERS_MAX

WAIT_S = 30
TOKEN = "a token that is long enough"
POSTED = {"X-Vionet": "1", "Sec-Fetch-Site": "same-origin"}


class Answer(NamedTuple):
    """To one request."""

    status: int
    headers: dict[str, str]
    body: bytes


class Page:
    """A running server, and the cookie for it."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.address = child.wait_for(r"^http://\S+$", WAIT_S)[0]
        child.wait_for("^ready$", WAIT_S)
        self.host = self.address.split("/")[2]
        self.token = self.address.partition("#")[2] or TOKEN
        self.area, self.cookie = "", ""

    def ask(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: str = ""
    ) -> Answer:
        """One request on a connection of its own, with the Host that is right unless given."""
        connection = http.client.HTTPConnection(self.host, timeout=WAIT_S)
        try:
            connection.request(method, path, body or None, headers or {})
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, headers, response.read())
        finally:
            connection.close()

    def post(self, path: str, body: str, **headers: str) -> Answer:
        """As the page does."""
        usual = POSTED | {"Origin": f"http://{self.host}", "Cookie": self.cookie}
        return self.ask("POST", path, usual | headers, body)

    def sign_in(self) -> Answer:
        """Exchange the token."""
        answer = self.post("/session", self.token)
        self.area = json.loads(answer.body)["area"]
        self.cookie = answer.headers["set-cookie"].partition(";")[0]
        return answer

    @contextmanager
    def listening(self) -> Iterator[http.client.HTTPResponse]:
        """The stream of events."""
        connection = http.client.HTTPConnection(self.host, timeout=WAIT_S)
        try:
            connection.request("GET", f"{self.area}events", headers={"Cookie": self.cookie})
            yield connection.getresponse()
        finally:
            connection.close()


def event(response: http.client.HTTPResponse) -> tuple[str, str]:
    """The next one: its name and its data."""
    lines = []
    while line := response.readline().decode().strip():
        lines.append(line)
    fields = dict(line.split(": ", 1) for line in lines)
    return fields["event"], fields["data"]


def served(start: Children, *arguments: str) -> Page:
    """A server on a port of its own."""
    return Page(start(sys.executable, "-m", "vionet", "web", "--listen=127.0.0.1:0", *arguments))


def test_requests_that_are_refused(run_dir: Path, start: Children) -> None:
    """Without the cookie, under a foreign name, from another page, by GET: by real HTTP each is
    refused, and every answer forbids to be kept, framed, sniffed or to run anything foreign."""
    page = served(start)
    shown = page.ask("GET", "/")
    assert 200 == shown.status
    page.sign_in()
    cookie, capture = {"Cookie": page.cookie}, f"{page.area}capture"
    form = {"Content-Type": "application/x-www-form-urlencoded", "Origin": "http://evil.example"}
    refused = {
        "no cookie": page.ask("GET", f"{page.area}events"),
        "a wrong cookie": page.ask("GET", f"{page.area}events", {"Cookie": page.cookie + "0"}),
        "another place": page.ask("GET", "/events"),
        "a foreign name": page.ask("GET", "/", {"Host": "evil.example"}),
        "a foreign name with the cookie": page.ask("GET", page.area, cookie | {"Host": "a.b:80"}),
        "a form of another page": page.ask("POST", capture, cookie | form, "name=a"),
        "a form without origin": page.ask("POST", capture, cookie, "name=a"),
        "another port's page": page.post(capture, "{}", Origin="http://127.0.0.1:1"),
        "not allowed": page.post(capture, "{}"),
        "a change by GET": page.ask("GET", capture, cookie),
        "a question before": page.ask("OPTIONS", capture, form),
        "a wrong token": page.post("/session", "x" * 43),
        "a long token": page.post("/session", "x" * 100_000),
        "nothing there": page.ask("GET", f"{page.area}no", cookie),
    }
    wanted = [401, 401, 401, 403, 403, 403, 403, 403, 403, 405, 405, 403, 403, 404]
    assert wanted == [answer.status for answer in refused.values()], refused
    for answer in (shown, *refused.values()):
        headers = answer.headers
        assert "set-cookie" not in headers
        assert "access-control-allow-origin" not in headers
        assert ("no-store", "no-referrer", "nosniff", "DENY") == tuple(
            headers[name]
            for name in (
                "cache-control", "referrer-policy", "x-content-type-options", "x-frame-options",
            )
        )  # fmt: skip
        policy = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
        assert ("'none'", "'none'") == (policy["default-src"], policy["frame-ancestors"])
        assert "unsafe" not in headers["content-security-policy"]
        assert page.token.encode() not in answer.body
    assert 0 == page.child.stop()
    assert page.token not in page.child.stderr


def test_events_are_for_a_few(run_dir: Path, start: Children) -> None:
    """`hello` says what the page may do and what counters mean, then come samples; one viewer too
    many is told so; the end of the server ends the streams, with status 0."""
    with Scripted(run_dir / "s.control", fabric("s", port("a"))) as control:
        page = served(start, f"--control={control.path}", "--allow-capture")
        assert "HttpOnly; SameSite=Strict" in page.sign_in().headers["set-cookie"]
        streams = []
        with page.listening() as first:
            name, data = event(first)
            assert ("hello", True) == (name, json.loads(data)["capture"])
            assert json.loads(data)["meanings"]["rx_ring_full"]["mend"]
            name, data = event(first)
            assert "sample" == name
            streams = [page.listening() for _ in range(VIEWERS_MAX - 1)]
            opened = [stream.__enter__() for stream in streams]
            assert {("hello", "sample")} == {(event(one)[0], event(one)[0]) for one in opened}
            with page.listening() as late:
                assert ("full", str(VIEWERS_MAX)) == event(late)
                assert b"" == late.read()
            assert 0 == page.child.stop()
            first.read()  # to its proper end
        for stream in streams:
            stream.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("argument", "status", "words"),
    [
        (
            "--listen=0.0.0.0:0",
            2,
            "loopback address, and it tells everything to whoever reaches it; "
            "listen on 127.0.0.1, and come by `ssh -L",
        ),
        ("--listen=192.0.2.1:0", 2, "loopback"),
        ("--listen=[::]:0", 2, "loopback"),
        ("--listen=example.org:80", 2, "loopback"),
        ("--listen=8080", 2, "write 127.0.0.1:8080 or [::1]:8080"),
        ("--listen=/run/web.sock", 2, "HOST:PORT"),
        ("--token-file=none", 1, "none: No such file"),
        ("--token-file=open", 1, "chmod 600 open"),
        ("--token-file=short", 1, "16 to 256"),
    ],
)
def test_mistakes_are_one_line(
    argument: str,
    status: int,
    words: str,
    run_dir: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is wrong and how to mend it; nothing is bound, nothing is printed."""
    for name, text, mode in (("open", TOKEN, 0o644), ("short", "12345", 0o600)):
        (run_dir / name).write_text(text)
        (run_dir / name).chmod(mode)
    monkeypatch.chdir(run_dir)
    assert status == main.main(["web", argument], standalone_mode=False)
    printed = capsys.readouterr()
    assert "" == printed.out
    (line,) = printed.err.splitlines()
    assert words in line


def test_token_of_a_file_outlives_the_server(run_dir: Path, start: Children) -> None:
    """It is not printed; with it, a page that was signed in goes on after a new start."""
    path = run_dir / "token"
    path.touch(0o600)
    path.write_text(TOKEN + "\n")
    first = served(start, f"--token-file={path}")
    assert TOKEN not in first.child.stdout
    first.sign_in()
    assert 0 == first.child.stop(with_signal=signal.SIGINT)
    second = served(start, f"--token-file={path}")
    assert 200 == second.ask("GET", first.area, {"Cookie": first.cookie}).status
    assert 0 == second.child.stop()


def test_without_its_libraries_it_says_how_to_have_them(run_dir: Path, start: Children) -> None:
    """The extra is not installed: one line."""
    program = (
        "import sys; sys.modules['uvicorn'] = None; from vionet.cli import main; main(['web'])"
    )
    child = start(sys.executable, "-c", program)
    assert 1 == child.wait(WAIT_S)
    assert "vionet: web: starlette and uvicorn are missing: pip install 'vionet[web]'\n" == (
        child.stderr
    )
