"""A control socket that answers `status` with what a test wants, and counts how often."""

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vionet.engine.status import LEDGER_KEYS

JOIN_S = 10


def port(name: str, **members: Any) -> dict[str, Any]:
    """A port's part of the document, with a ledger of zeros but for `ledger`."""
    ledger = dict.fromkeys(LEDGER_KEYS, 0) | members.pop("ledger", {})
    usual = {
        "name": name,
        "kind": "guest",
        "serial": 1,
        "state": "attached",
        "mac": None,
        "policy": "uniform",
        "offload": "full",
        "features": ["VIRTIO_NET_F_CSUM"],
        "worker": 0,
        "link": "up",
        "warnings": [],
        "drops": {},
    }
    return usual | members | {"ledger": ledger}


def talk(source: str, target: str, frames: int, elided: int, computed: int) -> dict[str, Any]:
    """A pair that talks, 1000 bytes a frame."""
    counts = {"frames": frames, "bytes": 1000 * frames, "elided": elided, "computed": computed}
    return {"from": source, "to": target, **counts}


def fabric(name: str, *ports: dict[str, Any], **members: Any) -> dict[str, Any]:
    """A fabric's part of the document."""
    usual = {"name": name, "kind": "switch", "time_ns": 10**9, "talks": [], "captures": []}
    names = [one["name"] for one in ports]
    workers = [{"number": 0, "cpu_ns": 10**6, "ports": names}]
    return usual | {"workers": workers} | members | {"ports": list(ports)}


class Scripted:
    """The socket, while it is open."""

    def __init__(self, path: Path, *fabrics: dict[str, Any]) -> None:
        self.path = path
        self.fabrics = list(fabrics)
        self.line: bytes | None = None  # said instead of the document
        self.silent = False
        self.before_each: Callable[[], None] = lambda: None  # answer
        self.asked = 0
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        """Answer."""
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(os.fspath(self.path))
        self._listening.listen(8)
        self._run(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Hang up, and remove the socket as a vionet does that ends."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(JOIN_S)
        for one in self._connections:
            with contextlib.suppress(OSError):  # its other end hung up
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(JOIN_S)
            assert not thread.is_alive()
        self._listening.close()
        self.path.unlink()

    @property
    def connected(self) -> int:
        """How many clients it has."""
        return sum(one.is_alive() for one in self._threads[1:])

    def _run(self, function: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self._connections.append(connection)
            self._run(self._converse, connection)

    def _converse(self, connection: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),  # its other end hung up
            connection,
            connection.makefile("rb") as lines,
        ):
            for line in lines:
                assert "status" == json.loads(line)["request"]
                self.asked += 1
                if self.silent:
                    continue
                self.before_each()
                status = {"version": 1, "fabrics": deepcopy(self.fabrics)}
                answer = {"version": 1, "reply": "status", "status": status}
                connection.sendall(self.line or json.dumps(answer).encode() + b"\n")
