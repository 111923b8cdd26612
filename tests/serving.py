"""`vionet switch` and `vionet wire` as processes, and what they answer."""

import select
import sys
import time
from pathlib import Path
from typing import Any, Protocol

from tests.process import Child, Children
from vionet.daemon.control import ask_status

READY_S = 250  # a cold cache compiles first


class Starter(Protocol):
    """Start a command line; it is ready when this returns, unless `ready` is false."""

    def __call__(self, *arguments: str, ready: bool = True) -> Child: ...


def starter(start: Children) -> Starter:
    """One whose processes end with the test."""

    def started(*arguments: str, ready: bool = True) -> Child:
        child = start(sys.executable, "-m", "vionet", *arguments)
        if ready:
            child.wait_for("^ready$", READY_S)
        return child

    return started


def only_port(path: Path) -> dict[str, Any]:
    """The first port of the fabric that answers at `path`."""
    port: dict[str, Any] = ask_status(path)["fabrics"][0]["ports"][0]
    return port


def until_state(path: Path, state: str) -> dict[str, Any]:
    """The first port once it is in `state`, within a minute."""
    deadline = time.monotonic() + 60
    while True:
        port = only_port(path)
        if port["state"] == state:
            return port
        assert time.monotonic() < deadline, f"still {port['state']}, not {state}"
        select.select([], [], [], 0.01)
