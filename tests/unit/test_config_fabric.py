"""The ports of one command together."""

import os
import re
import subprocess
import sys

import pytest

from vionet.config import ConfigError, parse_switch, parse_wire
from vionet.config.option import WORKERS_MAX
from vionet.engine import layout
from vionet.engine.status import FabricKind


def test_switch_keeps_names_and_order() -> None:
    """`NAME=PORT` gives ports in the order of the command line; WHERE may hold an equals sign."""
    fabric = parse_switch("lan", ["a=guest:/run/x=y.sock", "b=tap:vio0"])
    assert fabric.kind is FabricKind.SWITCH
    assert fabric.name == "lan"
    assert [(port.name, port.where) for port in fabric.ports] == [
        ("a", "/run/x=y.sock"),
        ("b", "vio0"),
    ]


def test_switch_may_have_one_port() -> None:
    """A switch with a single port is a start."""
    assert len(parse_switch("s", ["a=guest:/a"]).ports) == 1


def test_wire_names_its_ends() -> None:
    """The two ends of a wire are a and b unless they are named."""
    assert [port.name for port in parse_wire("w", ["guest:/x=1", "tap:t"]).ports] == ["a", "b"]
    named = parse_wire("w", ["vm=guest:/x", "tap:t"])
    assert [port.name for port in named.ports] == ["vm", "b"]


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["guest:/a"], "write a=guest:/a"),
        (["guest:/a=b"], "needs a name"),
        (["=guest:/a"], "cannot be a name"),
        (["a b=guest:/a"], "cannot be a name"),
        (["../x=guest:/a"], "cannot be a name"),
        (["a=guest:/a", "a=guest:/b"], "the name a is taken by port a too"),
        (["a=guest:/a", "b=guest:/a"], "guest:/a is taken by port a too"),
        (["a=tap:t", "b=tap:t"], "tap:t is taken"),
        (["a=tap:,fd=3", "b=tap:,fd=3"], "fd=3 is taken"),
        (
            ["a=guest:/a,mac=52:54:00:00:00:01", "b=guest:/b,mac=52:54:00:00:00:01"],
            "mac=52:54:00:00:00:01 is taken",
        ),
        (["a=guest:/a,wat"], "wat: no such option"),
    ],
)
def test_switch_mistakes(texts: list[str], says: str) -> None:
    """Ports without names, and ports that claim the same thing, are refused."""
    with pytest.raises(ConfigError) as caught:
        parse_switch("s", texts)
    assert says in str(caught.value)


@pytest.mark.parametrize("vlans", ["vlan=10", "trunk=all"])
def test_wire_has_no_vlans(vlans: str) -> None:
    """A wire looks at no tag, and says so."""
    with pytest.raises(ConfigError, match=f"b: {vlans[:4]}.*passes every frame as it is"):
        parse_wire("w", ["guest:/a", f"tap:t,{vlans}"])


@pytest.mark.parametrize(
    ("passing", "octets"),
    [
        ("stp+lacp+dot1x+lldp", {0, 2, 3, 14}),
        ("pause", {1}),
        ("all", set(range(16))),
        ("none", set()),
        ("8+15+lacp", {2, 8, 15}),
    ],
)
def test_w66_reserved_multicast(passing: str, octets: set[int]) -> None:
    """Names, numbers, all and none say which reserved addresses pass a switch (W66)."""
    assert parse_switch("s", ["a=guest:/a"], passing).reserved == sum(1 << i for i in octets)


def test_reserved_by_default() -> None:
    """Without a word STP, LACP, 802.1X and LLDP pass and PAUSE does not; a wire passes all."""
    assert parse_switch("s", ["a=guest:/a"]).reserved == 0x400D
    assert parse_wire("w", ["guest:/a", "tap:t"]).reserved == 0xFFFF


@pytest.mark.parametrize(
    ("passing", "says"),
    [
        ("lcap", "--reserved lcap: lcap: no reserved address; did you mean lacp?"),
        ("16", "0 to 15"),
        ("stp+", "empty: no reserved address"),
    ],
)
def test_reserved_mistakes(passing: str, says: str) -> None:
    """An unknown reserved address is one line."""
    with pytest.raises(ConfigError) as caught:
        parse_switch("s", ["a=guest:/a"], passing)
    assert says in str(caught.value)


@pytest.mark.parametrize("texts", [[], ["tap:t"], ["tap:t", "tap:u", "tap:v"]])
def test_wire_joins_two(texts: list[str]) -> None:
    """A wire has two ends."""
    with pytest.raises(ConfigError, match="exactly two"):
        parse_wire("w", texts)


def test_grammar_needs_no_compiler() -> None:
    """Reading a command line imports neither Numba nor NumPy."""
    code = "import sys, vionet.config; print({'numba', 'numpy'} & sys.modules.keys() or 'none')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "none\n"


def test_workers_and_cores() -> None:
    """Threads and the cores of the first of them; one core each, none that is not ours."""
    core = min(os.sched_getaffinity(0))
    assert (1, ()) == (parse_switch("s", ["a=guest:/a"]).workers, parse_switch("s", []).cores)
    fabric = parse_switch("s", ["a=guest:/a"], threads="2", pin=str(core))
    assert (2, (core,)) == (fabric.workers, fabric.cores)
    assert (1, (core,)) == (parse_wire("w", ["guest:/a", "tap:t"], str(core)).workers, (core,))
    for threads, pin, problem in (
        ("0", None, "--workers 0: out of range; use a number from 1 to 16"),
        ("1", "9999", "--pin 9999: 9999: no core that we may use, which are "),
        ("2", f"{core},{core}", f"core {core} is named twice"),
        ("2", "", "--pin : empty: no core"),
    ):
        with pytest.raises(ConfigError, match=re.escape(problem)):
            parse_switch("s", ["a=guest:/a"], threads=threads, pin=pin)
    assert WORKERS_MAX == layout.WORKERS_MAX


def test_more_cores_than_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each core that is named is some worker's."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 5})
    assert (0, 5) == parse_switch("s", ["a=guest:/a"], threads="3", pin="0,5").cores
    with pytest.raises(ConfigError, match="--pin 0,1: 2 cores for 1 worker; name fewer"):
        parse_wire("w", ["guest:/a", "tap:t"], "0,1")
    with pytest.raises(ConfigError, match="which are 0-2,5"):
        parse_wire("w", ["guest:/a", "tap:t"], "3")
