"""`set` on the control socket: what is changed, and that a mistake changes nothing."""

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.still_fabric import Plugs, StillPort
from vionet.config import parse_switch, parse_wire
from vionet.daemon.access import Peer
from vionet.daemon.control import Control, RequestError, ask_port
from vionet.daemon.running import Running
from vionet.engine.status import Policy
from vionet.ports.tap import TapError
from vionet.vhost_user.listener import Listener, SocketError

ME = Peer(1, 0, 0)


class Lan:
    """A switch with two ports that nobody uses."""

    def __init__(self, *ports: str) -> None:
        self.ports = {"a": StillPort(state="attached", features=1 << 32), "b": StillPort()}
        self.config = parse_switch("lan", ports or ["a=guest:/a", "b=tap:t"])
        self.plugs = Plugs(self.ports)
        self.running = Running(self.config, self.plugs)

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to `set`."""
        answer: Any = self.running.requests["set"](request, ME)
        return answer["port"]  # type: ignore[no-any-return]

    def wait(self, what: str, **request: Any) -> dict[str, Any]:
        """The answer to what takes its time."""

        async def asked() -> Any:
            return await asyncio.wait_for(self.running.requests[what](request, ME), 60)  # type: ignore[arg-type]

        return asyncio.run(asked())["port"]  # type: ignore[no-any-return]

    def shown(self, name: str) -> dict[str, Any]:
        """The port in the status document."""
        status: Any = self.running.requests["status"]({}, ME)
        (fabric,) = status["status"]["fabrics"]
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
    running = Running(parse_wire("w", ["guest:/a", "tap:t"]), Plugs(ports))
    with pytest.raises(RequestError, match="a: vlan: a wire passes every frame as it is"):
        running.requests["set"]({"port": "a", "options": ["vlan=3"]}, ME)
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
        answer = await asyncio.to_thread(ask_port, run_dir / "c", "set", "a", options=["-host_uso"])
        assert "custom" == answer["offload"]
        with pytest.raises(RequestError, match="did you mean link"):
            await asyncio.to_thread(ask_port, run_dir / "c", "set", "a", options=["lnik=up"])
    finally:
        await control.close()


def test_add_and_remove_ports() -> None:
    """A port that is added is in the status, behind the others; one that is removed is not, and its
    name and socket can be had again."""
    lan = Lan()
    answer = lan.wait("add", port="c=guest:/c,policy=natural")
    assert ("c", "waiting", "natural") == (answer["name"], answer["state"], answer["policy"])
    assert ["a", "b", "c"] == [port.name for port in lan.running.config.ports]
    assert answer == lan.shown("c")
    assert "attached" == lan.wait("remove", port="a")["state"]
    assert (["a"], ["b", "c"]) == (lan.plugs.removed, [p.name for p in lan.running.config.ports])
    assert "a" == lan.wait("add", port="a=guest:/a")["name"]
    for name in ("a", "b", "c"):
        lan.wait("remove", port=name)
    assert () == lan.running.config.ports


@pytest.mark.parametrize(
    ("what", "port", "problem"),
    [
        ("add", "guest:/c", "guest:/c: the port needs a name; write a=guest:/c"),
        ("add", "a=guest:/c", "a: the name a is taken by port a too"),
        ("add", "c=guest:/a", "c: guest:/a is taken by port a too"),
        ("add", "c=guest:/c,polcy=x", "did you mean policy"),
        ("add", "c=tap:,fd=3", "fd=3: vionet runs already; give the tap's name"),
        ("add", 7, 'add needs "port":"NAME=PORT"'),
        ("remove", "x", "x: no such port; use one of a, b"),
        ("remove", None, 'remove needs "port":NAME'),
    ],
)
def test_wrong_ports_change_nothing(what: str, port: object, problem: str) -> None:
    """A mistake in what is added or removed is one line, and all ports are as before."""
    lan = Lan()
    with pytest.raises(RequestError, match=re.escape(problem)):
        lan.wait(what, port=port)
    assert ({"a", "b"}, [], lan.config) == (set(lan.plugs.live), [], lan.running.config)


def test_refused_port_changes_nothing() -> None:
    """What the host does not give is said in one line, and nothing is left of it."""
    lan = Lan()
    for refusal, says in (
        (SocketError("/c: in use"), "/c: in use"),
        (TapError("c: no tap"), "c: no tap"),
        (OSError(1, "not permitted"), "not permitted"),
        (ValueError("lan: a switch has at most 64 ports"), "lan: a switch has at most 64 ports"),
    ):
        lan.plugs.refusal = refusal
        with pytest.raises(RequestError, match=f"^{says}; nothing changed"):
            lan.wait("add", port="c=guest:/c")
        assert lan.config == lan.running.config


def test_wire_keeps_its_ports() -> None:
    """A wire has two ports for good."""
    lan = Lan()
    lan.running = Running(parse_wire("w", ["guest:/a", "tap:t"]), lan.plugs)
    for what, port in (("add", "c=guest:/c"), ("remove", "a")):
        with pytest.raises(RequestError, match="a wire keeps the two ports that it has"):
            lan.wait(what, port=port)
    assert [] == lan.plugs.removed


def test_change_goes_on_without_who_asked() -> None:
    """Who hangs up while a port is added has it added all the same, and the next change waits."""
    lan = Lan()

    async def hung_up() -> None:
        add: Any = lan.running.requests["add"]
        asked = [asyncio.ensure_future(add({"port": f"{name}=guest:/{name}"}, ME)) for name in "cd"]
        await asyncio.sleep(0)
        asked[0].cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        await lan.running.close()

    asyncio.run(hung_up())
    assert ["a", "b", "c", "d"] == [port.name for port in lan.running.config.ports]
