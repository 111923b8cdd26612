"""`set` on the control socket: what is changed, and that a mistake changes nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_daemon_control import StillPort
from vionet.config import parse_switch, parse_wire
from vionet.daemon.control import Control, RequestError, set_port
from vionet.daemon.running import Running
from vionet.engine.status import Policy
from vionet.vhost_user.listener import Listener


class Lan:
    """A switch with two ports that nobody uses."""

    def __init__(self, *ports: str) -> None:
        self.ports = {"a": StillPort("attached", 1 << 32), "b": StillPort()}
        self.config = parse_switch("lan", ports or ["a=guest:/a", "b=tap:t"])
        self.running = Running(self.config, self.ports)

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to `set`."""
        return self.running.requests["set"](request)["port"]  # type: ignore[no-any-return]

    def shown(self, name: str) -> dict[str, Any]:
        """The port in the status document."""
        (fabric,) = self.running.requests["status"]({})["status"]["fabrics"]
        (port,) = [port for port in fabric["ports"] if port["name"] == name]
        return port  # type: ignore[no-any-return]


def test_set_changes_one_port() -> None:
    """The port is told, the answer and the status show it, and the other port is left alone."""
    lan = Lan()
    answer = lan.ask(port="a", options=["policy=complete", "offload=off", "link=down"])
    assert ("complete", "off", "down") == (answer["policy"], answer["offload"], answer["link"])
    assert answer == lan.shown("a")
    (told,) = lan.ports["a"].changes
    assert (Policy.COMPLETE, False) == (told.policy, told.link_up)
    assert [] == lan.ports["b"].changes
    assert "uniform" == lan.shown("b")["policy"]


def test_changes_add_up() -> None:
    """A second change starts from the first."""
    lan = Lan()
    lan.ask(port="a", options=["vlan=7"])
    lan.ask(port="a", options=["trunk=10+11", "isolated"])
    first, second = lan.ports["a"].changes
    assert replace(first, trunk=3 << 10, isolated=True) == second
    assert (7, "10-11", True) == tuple(lan.shown("a")[key] for key in ("vlan", "trunk", "isolated"))


@pytest.mark.parametrize(
    ("request_members", "says"),
    [
        ({}, 'set needs "port"'),
        ({"port": "a"}, 'set needs "port"'),
        ({"port": "a", "options": []}, 'set needs "port"'),
        ({"port": "a", "options": "link=up"}, 'set needs "port"'),
        ({"port": 1, "options": ["link=up"]}, 'set needs "port"'),
        ({"port": "a", "options": ["link=up", 1]}, 'each of "options" is a text'),
        ({"port": "aa", "options": ["link=up"]}, "aa: no such port; did you mean a?"),
        ({"port": "c", "options": ["link=up"]}, "c: no such port; use one of a, b"),
        ({"port": "a", "options": ["policy=natural", "mtu=9000"]}, "mtu cannot change while in"),
        ({"port": "a", "options": ["vlan=7", "link=off"]}, "a: link=off: neither; use up or down"),
        ({"port": "a", "options": ["offload=off", "+guest_ecn"]}, "needs +guest_tso4 or"),
    ],
)
def test_mistakes_change_nothing(request_members: dict[str, Any], says: str) -> None:
    """One wrong option among right ones: one line, and neither port nor configuration moved."""
    lan = Lan()
    with pytest.raises(RequestError) as caught:
        lan.ask(**request_members)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [] == lan.ports["a"].changes
    assert lan.config == lan.running.config


def test_wire_takes_no_vlan() -> None:
    """What a wire refuses at its start it refuses later too."""
    ports = {"a": StillPort(), "b": StillPort()}
    running = Running(parse_wire("w", ["guest:/a", "tap:t"]), ports)
    with pytest.raises(RequestError, match="a: vlan: a wire passes every frame as it is"):
        running.requests["set"]({"port": "a", "options": ["vlan=3"]})
    assert [] == ports["a"].changes


def test_port_that_cannot_goes_back() -> None:
    """Where the host refuses, the port gets its former options again and the reason is told."""
    lan = Lan()
    lan.ports["b"].refuses = True
    with pytest.raises(RequestError, match="b: Operation not permitted; nothing changed"):
        lan.ask(port="b", options=["offload=csum"])
    former = lan.config.ports[1]
    assert former == lan.ports["b"].changes[-1]
    assert lan.config == lan.running.config


async def test_set_over_the_socket(run_dir: Path) -> None:
    """The same through the socket: the port's new state, or the line as a RequestError."""
    import asyncio

    lan = Lan()
    control = Control(Listener(run_dir / "c", 0o600), lan.running.requests)
    await control.open()
    try:
        answer = await asyncio.to_thread(set_port, run_dir / "c", "a", ["-host_uso"])
        assert "custom" == answer["offload"]
        with pytest.raises(RequestError, match="did you mean link"):
            await asyncio.to_thread(set_port, run_dir / "c", "a", ["lnik=up"])
    finally:
        await control.close()
