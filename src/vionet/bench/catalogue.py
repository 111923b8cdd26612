"""The names of all benches, and what each is about, known without importing any."""

from typing import Final

BENCHES: Final[dict[str, str]] = {}
