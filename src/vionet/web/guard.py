"""Who may look, and what a browser may be talked into.

How it works: `refusal` judges a request by its head alone, before anything else sees it.  The
page's address carries a token, behind `#` so that no request and no Referer ever has it.  `POST
/session` exchanges it for a cookie, HttpOnly and SameSite=Strict.  Browsers show a cookie to every
port of a host, so this one is for a path that nobody else knows; path and cookie are made from the
token, so who has the same token after a new start goes on.

Invariants: without the cookie there is the sign-in page and nothing else; what changes anything is
a POST with a header that forms and foreign pages cannot send, from a page of this very origin; the
Host is a loopback name, whatever the resolver was talked into; secrets are compared in constant
time.
Trust: every program of this machine can connect, and every page that a browser shows can try.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Final

from vionet.daemon.endpoint import local_host

COOKIE: Final = "vionet"
HEADER: Final = "x-vionet"  # on every POST; makes a browser ask first, and nobody here says yes
SESSION: Final = "/session"
TOKEN_LEN_MAX: Final = 256
HEADERS: Final = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """What is said instead of an answer."""

    status: int
    reason: str


class Keys:
    """The token, and what is made from it."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._cookie = self._made("cookie")
        self.area = f"/{self._made('path')[:32]}"

    def _made(self, what: str) -> str:
        return hmac.digest(self._token.encode(), what.encode(), "sha256").hex()

    def opens(self, token: bytes) -> bool:
        """Whether this is the token."""
        return hmac.compare_digest(token, self._token.encode())

    @property
    def set_cookie(self) -> str:
        """The header of the answer to who had the token."""
        return f"{COOKIE}={self._cookie}; Path={self.area}/; HttpOnly; SameSite=Strict"

    def known(self, cookies: str) -> bool:
        """Whether the cookie is among those of a request."""
        try:
            held = SimpleCookie(cookies).get(COOKIE)
        except CookieError:
            return False
        return held is not None and hmac.compare_digest(held.value.encode(), self._cookie.encode())


def refusal(
    method: str, path: str, headers: Mapping[str, str], keys: Keys, twice: frozenset[str]
) -> Refusal | None:
    """Why a request is not answered; `twice` are the names of headers that came repeatedly."""
    host, origin = headers.get("host", ""), headers.get("origin")
    if not local_host(host) or {"host", "origin", "cookie"} & twice:
        return Refusal(403, "this page answers to names of this machine only: 127.0.0.1, localhost")
    if method not in ("GET", "POST"):
        return Refusal(405, "GET and POST only")
    if method == "GET" and path == "/":
        return None
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return Refusal(403, "asked for by another page")
    if origin != f"http://{host}" and (method == "POST" or origin is not None):
        return Refusal(403, "asked for by another page")
    if method == "POST" and HEADER not in headers:
        return Refusal(403, f"without the header {HEADER}")
    if path != SESSION and not keys.known(headers.get("cookie", "")):
        return Refusal(401, "open the address that vionet web printed")
    return None
