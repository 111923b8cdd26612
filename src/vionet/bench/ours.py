"""A vionet of ours as a process: how it is started, and what its control socket answers."""

import json
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

ASK_S: Final = 20.0
NO_ANSWER: Final = b'{"error": "it said nothing"}'


def vionet(fabric: str, control: str | Path, ports: Sequence[str]) -> list[str]:
    """The command line of a `switch` or a `wire`."""
    return [sys.executable, "-P", "-m", "vionet", fabric, "--control", str(control), *ports]


def ask(control: str | Path, request: str, **members: object) -> dict[str, Any]:
    """What it answers (docs/control.md); RuntimeError with what it refuses."""
    line = json.dumps({"version": 1, "request": request} | members)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(ASK_S)
        client.connect(str(control))
        client.sendall(line.encode() + b"\n")
        with client.makefile("rb") as answers:
            answer: dict[str, Any] = json.loads(answers.readline() or NO_ANSWER)
    if "error" in answer:
        raise RuntimeError(f"vionet refused {request}: {answer['error']}")
    return answer


def ports_of(control: str | Path) -> dict[str, dict[str, Any]]:
    """What its status says, by port."""
    (fabric,) = ask(control, "status")["status"]["fabrics"]
    return {port["name"]: port for port in fabric["ports"]}
