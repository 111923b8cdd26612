"""The page: one file, and the policy that lets a browser run nothing else.

How it works: style and script stand in `page.html` as they are, and the Content-Security-Policy has
the hash of each; so a name that became markup could still not run, load or send anything.
"""

import base64
import hashlib
import re
from dataclasses import dataclass
from importlib import resources
from typing import Final

_PART: Final = r"<{0}>(.*?)</{0}>"


@dataclass(frozen=True, slots=True)
class Page:
    """What is sent, and under which policy."""

    html: bytes
    policy: str

    @classmethod
    def read(cls) -> "Page":
        """From the package."""
        text = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
        rules = {
            "default-src": "'none'",
            "script-src": _hash(text, "script"),
            "style-src": _hash(text, "style"),
            "img-src": "data:",  # its icon
            "connect-src": "'self'",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
        }
        return cls(text.encode(), "; ".join(f"{key} {value}" for key, value in rules.items()))


def _hash(text: str, tag: str) -> str:
    (part,) = re.findall(_PART.format(tag), text, re.DOTALL)
    digest = hashlib.sha256(part.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
