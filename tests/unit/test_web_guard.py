"""The page's guard: who is let in, and what a browser may be talked into."""

import pytest

from vionet.web.guard import COOKIE, HEADER, SESSION, Keys, refusal

TOKEN = "0123456789abcdef"
KEYS = Keys(TOKEN)
HOST = "127.0.0.1:8080"
COOKIES = KEYS.set_cookie.partition(";")[0]
SIGNED_IN = {"host": HOST, "cookie": COOKIES}
POSTED = SIGNED_IN | {"origin": f"http://{HOST}", HEADER: "1", "sec-fetch-site": "same-origin"}
EVENTS, CAPTURE = f"{KEYS.area}/events", f"{KEYS.area}/capture"


def status(
    method: str, path: str, headers: dict[str, str], twice: frozenset[str] = frozenset()
) -> int | None:
    """Of the refusal."""
    refused = refusal(method, path, headers, KEYS, twice)
    return refused.status if refused else None


def test_lets_in_who_has_the_cookie() -> None:
    """The page, its events and its requests pass, under any loopback name of this machine."""
    for host in (HOST, "localhost:9", "LOCALHOST", "[::1]:8080", "127.1.2.3"):
        headers = POSTED | {"host": host, "origin": f"http://{host}"}
        assert status("POST", CAPTURE, headers) is None
    for path in (f"{KEYS.area}/", EVENTS):
        assert status("GET", path, SIGNED_IN) is None


def test_sign_in_needs_no_cookie() -> None:
    """The page at `/` shows nothing; the token may be brought by that page only."""
    assert status("GET", "/", {"host": HOST, "sec-fetch-site": "cross-site"}) is None
    brought = {key: value for key, value in POSTED.items() if key != "cookie"}
    assert status("POST", SESSION, brought) is None
    assert 403 == status("POST", SESSION, brought | {"origin": "http://evil.example"})


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "127.0.0.1.evil.example", "192.0.2.1:80", "localhost.", "[::2]", "a:b:c",
     "127.0.0.1:x", "0x7f000001", "[::1", "localhost:80:80", "0.0.0.0"],
)  # fmt: skip
def test_a_host_that_is_not_loopback_is_refused(host: str) -> None:
    """A name that was made to resolve to this machine opens nothing, not even the sign-in page."""
    assert 403 == status("GET", "/", {"host": host})
    assert 403 == status("POST", CAPTURE, POSTED | {"host": host, "origin": f"http://{host}"})


@pytest.mark.parametrize(
    "cookie",
    ["", COOKIE, f"{COOKIE}=", f"{COOKIE}={TOKEN}", COOKIES[:-1], f"x{COOKIES}", ";;=;",
     COOKIES.upper(), f"{COOKIES}; {COOKIE}=0", f"{COOKIE}=\xe9"],
)  # fmt: skip
def test_without_the_cookie_nothing_is_answered(cookie: str) -> None:
    """Whatever is asked for, whether it exists or not."""
    for path in (EVENTS, f"{KEYS.area}/", "/no/such", "//", SESSION):
        assert 401 == status("GET", path, {"host": HOST, "cookie": cookie}) or path == SESSION
    assert 401 == status("POST", CAPTURE, POSTED | {"cookie": cookie})


@pytest.mark.parametrize(
    "change",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": f"https://{HOST}"},
        {"origin": "http://127.0.0.1:8081"},  # the same site, but another page
        {"origin": "http://localhost:8080"},
        {"origin": None},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {HEADER: None},
    ],
)
def test_other_pages_change_nothing(change: dict[str, str | None]) -> None:
    """A form or a script of another page has the wrong origin, or lacks the header, even where a
    browser sent the cookie along."""
    headers = {key: value for key, value in (POSTED | change).items() if value is not None}
    assert 403 == status("POST", CAPTURE, headers)


def test_other_pages_do_not_listen() -> None:
    """They could not read the events; they may not take the place of one who can, either."""
    for site in ("cross-site", "same-site"):
        assert 403 == status("GET", EVENTS, SIGNED_IN | {"sec-fetch-site": site})
    assert 403 == status("GET", EVENTS, SIGNED_IN | {"origin": "http://127.0.0.1:8081"})


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE", "get"])
def test_other_methods_are_refused(method: str) -> None:
    """A browser that asks first whether it may (OPTIONS) hears no."""
    assert 405 == status(method, CAPTURE, POSTED)


@pytest.mark.parametrize("name", ["host", "origin", "cookie"])
def test_a_header_that_comes_twice_is_refused(name: str) -> None:
    """It would be judged in one place and used in another."""
    assert 403 == status("POST", CAPTURE, POSTED, frozenset({name}))


def test_path_and_cookie_are_made_from_the_token() -> None:
    """Who kept the token stays signed in after a new start; another token shares nothing, and
    neither the path nor the cookie tells it."""
    assert (KEYS.area, KEYS.set_cookie) == (Keys(TOKEN).area, Keys(TOKEN).set_cookie)
    other = Keys(TOKEN[:-1] + "0")
    assert KEYS.area != other.area
    assert not other.known(COOKIES)
    assert TOKEN not in KEYS.area + KEYS.set_cookie
    assert KEYS.area.strip("/") not in COOKIES
    assert KEYS.opens(TOKEN.encode())
    assert not KEYS.opens(TOKEN[:-1].encode())
    assert KEYS.set_cookie.endswith(f"; Path={KEYS.area}/; HttpOnly; SameSite=Strict")
