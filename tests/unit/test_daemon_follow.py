"""A running fabric becomes another one, as a changed file has it: who notices, and who does not."""

import asyncio

import pytest

from tests.unit.still_fabric import StillPort
from tests.unit.test_daemon_running import Lan
from vionet.config import parse_switch
from vionet.daemon.control import RequestError
from vionet.ports.tap import TapError


def follow(lan: Lan, *ports: str, reserved: str = "stp+lacp+dot1x+lldp") -> None:
    """Have the fabric become one with these ports."""
    config = parse_switch("lan", ports, reserved)
    asyncio.run(asyncio.wait_for(lan.running.follow(config), 60))
    assert config == lan.running.config


def test_the_same_again_touches_nothing() -> None:
    """No port is told anything, none is unplugged."""
    lan = Lan()
    follow(lan, "b=tap:t", "a=guest:/a")  # in another order
    assert ([], [], []) == (lan.ports["a"].changes, lan.ports["b"].changes, lan.plugs.removed)
    assert lan.ports == lan.plugs.live


def test_what_can_change_is_changed_in_place() -> None:
    """Options that a port in use can take are told to it; its session goes on."""
    lan = Lan()
    follow(lan, "a=guest:/a,policy=complete,offload=csum,vlan=7", "b=tap:t", reserved="none")
    (told,) = lan.ports["a"].changes
    assert ("complete", 7) == (told.policy.name.lower(), told.vlan)
    assert lan.ports["a"] is lan.plugs.live["a"]
    assert ([], [0]) == (lan.plugs.removed, lan.plugs.reserved)


@pytest.mark.parametrize(
    "changed", ["guest:/other", "guest:/a,mtu=1400", "guest:/a,-mrg_rxbuf", "tap:u"]
)
def test_what_cannot_change_is_replaced(changed: str) -> None:
    """Another socket, or what a driver has been told: the port is made anew, the other is left."""
    lan = Lan()
    follow(lan, f"a={changed}", "b=tap:t")
    assert (["a"], []) == (lan.plugs.removed, lan.ports["a"].changes)
    assert lan.ports["a"] is not lan.plugs.live["a"]
    assert lan.ports["b"] is lan.plugs.live["b"]
    assert [] == lan.ports["b"].changes


def test_come_and_go() -> None:
    """A port that is gone is unplugged before a new one takes its socket."""
    lan = Lan()
    follow(lan, "c=guest:/a", "b=tap:t")
    assert ["a"] == lan.plugs.removed
    assert {"b", "c"} == set(lan.plugs.live)


def test_what_the_host_refuses_is_told_and_the_rest_follows() -> None:
    """One tap cannot be had: it is named, every other change is made, and it is not claimed."""
    lan = Lan()
    lan.plugs.refusal = TapError("u: in use")
    config = parse_switch("lan", ["a=guest:/a,vlan=9", "c=tap:u"])
    with pytest.raises(RequestError, match="c: u: in use"):
        asyncio.run(asyncio.wait_for(lan.running.follow(config), 60))
    assert ["a"] == [port.name for port in lan.running.config.ports]
    assert 9 == lan.ports["a"].changes[0].vlan
    lan.plugs.refusal = None
    asyncio.run(asyncio.wait_for(lan.running.follow(config), 60))
    assert config == lan.running.config
    assert isinstance(lan.plugs.live["c"], StillPort)


def test_a_change_that_is_refused_is_no_change() -> None:
    """A port cannot take its new options: it keeps those that it had, the others follow, and the
    next change begins from there."""
    lan = Lan()
    lan.ports["a"].refuses = True
    config = parse_switch("lan", ["a=guest:/a,vlan=9", "c=guest:/c"])
    with pytest.raises(RequestError, match="a: Operation not permitted; as it was"):
        asyncio.run(asyncio.wait_for(lan.running.follow(config), 60))
    assert [9, None] == [told.vlan for told in lan.ports["a"].changes]
    assert [("a", None), ("c", None)] == [(one.name, one.vlan) for one in lan.running.config.ports]
    lan.ports["a"].refuses = False
    asyncio.run(asyncio.wait_for(lan.running.follow(config), 60))
    assert config == lan.running.config
